"""What routes ask of videos, whether their files are read in this process or in others.

Does not know who reads them.
"""

from typing import Protocol

from app.codecs.picture_files import PictureKind
from app.codecs.video_times import Sampling
from app.service.named_videos import NamedVideo
from app.storage.register_file import ImageName
from app.telemetry.stages import StageTimes


class VideoService(Protocol):
    """The videos of all tenants, who see only their own. videos.py says what each method raises."""

    async def add(
        self,
        data: bytes,
        sampling: Sampling,
        *,
        tenant: str,
        video_id: str | None,
        replace: bool,
        times: StageTimes,
        share: str,
    ) -> NamedVideo:
        """Keep a video file under its id, or under the SHA-256 of its bytes and of the options."""

    async def describe(self, video_id: str, *, tenant: str, share: str) -> NamedVideo:
        """Return what is known of a video."""

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[ImageName]:
        """Return at most `limit` names that follow `after`, newest first."""

    async def delete(self, video_id: str, *, tenant: str, share: str) -> None:
        """Forget a video, even during its upload."""

    async def frame(
        self, video_id: str, number: int, kind: PictureKind, *, tenant: str, times: StageTimes, share: str
    ) -> bytes:
        """Return a frame as a file."""

    async def frame_id(self, video_id: str, number: int, *, tenant: str, share: str) -> str:
        """Return the image id of a frame, embedded or not."""
