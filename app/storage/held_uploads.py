"""Picture files on their way to the disk or the bucket, also while that fails. Does not know where they go."""

MOST_BYTES = 256 * 2**20
"""Beyond it, an upload that cannot be written now is not kept."""


class HeldUploads:
    """Uploads by content."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._nbytes = 0

    def __contains__(self, content: str) -> bool:
        """Whether an upload is held."""
        return content in self._held

    def get(self, content: str) -> bytes | None:
        """Return an upload; None if it is not held."""
        return self._held.get(content)

    def hold(self, content: str, upload: bytes | None) -> None:
        """Hold an upload, if there is one."""
        if upload is not None:
            self.let_go(content)
            self._held[content] = upload
            self._nbytes += len(upload)

    def let_go(self, content: str) -> None:
        """Forget an upload."""
        self._nbytes -= len(self._held.pop(content, b""))

    def hold_if_there_is_room(self, content: str, upload: bytes | None) -> None:
        """Hold an upload that must wait for long, unless too many bytes do."""
        self.hold(content, upload)
        if self._nbytes > MOST_BYTES:
            self.let_go(content)
