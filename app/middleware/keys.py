"""API keys: which keys are valid, and the client name of each.

Keeps SHA-256 digests, never a key. No message contains a key. Does not know about HTTP.
"""

import hashlib
import hmac
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from app.setting_checks import check_path

MIN_KEY_LENGTH = 16
"""Keys are hashed without key stretching, so they must be long themselves. 24 random bytes in hex are 48 long."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")

log = logging.getLogger(__name__)


class KeysError(ValueError):
    """The keys cannot be used. The message says where the mistake is, but never quotes the text there."""


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    digest: bytes = field(repr=False)


class ApiKeys:
    """The keys of SAM2_API_KEYS: name:key pairs, or a file that `reload` reads again.

    Raises KeysError if they cannot be read or the file holds none.
    """

    def __init__(self, setting: str) -> None:
        given_here = ":" in setting
        self.path = _path_of(setting) if setting and not given_here else None
        """The file of keys, if they come from one."""
        self._keys: tuple[_Key, ...] = ()
        if self.path is not None:
            self._keys = _read(self.path)
        elif given_here:
            self._keys = _parse_pairs(setting)

    def __bool__(self) -> bool:
        """Whether the server requires a key."""
        return bool(self._keys)

    def owner(self, key: str) -> str | None:
        """Return the name of a key's client, or None for an unknown key. Takes equally long for every key."""
        digest = _digest(key)
        owner = None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                owner = known.name
        return owner

    def reload(self) -> None:
        """Read the file again. If that fails, or if there is none, log that and keep the current keys."""
        if self.path is None:
            log.warning("SIGHUP has the file of SAM2_API_KEYS read again. It names none, so nothing is read.")
            return
        try:
            self._keys = _read(self.path)
        except KeysError as error:
            log.error("The API keys were not reloaded; the current ones stay valid: %s", error)
        else:
            log.info("Reloaded the API keys: %d.", len(self._keys))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _parse_pairs(text: str) -> tuple[_Key, ...]:
    keys = []
    for number, pair in enumerate(text.split(","), 1):
        name, colon, key = (part.strip() for part in pair.partition(":"))
        if not colon or not _NAME.fullmatch(name):
            raise KeysError(f"pair {number} is not name:key; a name is 1 to 64 of A-Z a-z 0-9 . _ -")
        if not _can_be_sent(key):
            raise KeysError(
                f"the key of {name!r} has characters that no header can carry, such as line ends, or bytes that "
                "are not UTF-8; pairs are separated by commas"
            )
        if len(key) < MIN_KEY_LENGTH:
            raise KeysError(
                f"the key of {name!r} has fewer than {MIN_KEY_LENGTH} characters; "
                "create one with 'openssl rand -hex 24'"
            )
        keys.append(_Key(name, _digest(key)))
    return _checked(keys)


def _can_be_sent(key: str) -> bool:
    """Whether HTTP's headers take it (RFC 9110, 5.5), in UTF-8."""
    return not any(each < " " or each == "\x7f" or "\ud800" <= each <= "\udfff" for each in key)


def _path_of(setting: str) -> Path:
    try:
        return Path(check_path(setting)).expanduser()
    except ValueError as error:
        raise KeysError(str(error)) from None


def _read(path: Path) -> tuple[_Key, ...]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # editors of Windows write a mark at its beginning
    except (OSError, UnicodeDecodeError) as error:
        # The setting is not quoted: it may be a key without its name.
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise KeysError(f"the value is neither name:key pairs nor a readable file ({reason})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, _, digest = (part.strip() for part in text.partition(":"))
        digest = digest.removesuffix("-").rstrip()  # sha256sum's name for what it read: "DIGEST  -"
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise KeysError(
                f"line {number} of the file is not name:digest; create the digest with 'printf %s KEY | sha256sum'"
            )
        keys.append(_Key(name, bytes.fromhex(digest)))
    if not keys:
        raise KeysError("the file holds no keys")
    return _checked(keys)


def _checked(keys: list[_Key]) -> tuple[_Key, ...]:
    """Return the keys. A name may have several keys, e.g. while one replaces another, but a key only one name."""
    names: dict[bytes, str] = {}
    for key in keys:
        if names.setdefault(key.digest, key.name) != key.name:
            raise KeysError(f"{names[key.digest]!r} and {key.name!r} have the same key")
    return tuple(keys)
