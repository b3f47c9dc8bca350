"""API keys: who may come in, and under which name.

Keeps SHA-256 digests, never a key; says nothing of keys in any message. Knows nothing of HTTP.
"""

import hashlib
import hmac
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

MIN_KEY_LENGTH = 16
"""Keys are not stretched, so they must be long by themselves; 24 random bytes in hex are 48."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")

log = logging.getLogger(__name__)


class KeysError(ValueError):
    """Keys that cannot be used; the message says where, and never what stands there."""


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    digest: bytes = field(repr=False)


class ApiKeys:
    """The keys that SAM2_API_KEYS names: pairs, or a file that `reload` reads anew.

    Raises KeysError where they cannot be read, or are none.
    """

    def __init__(self, setting: str) -> None:
        given_here = ":" in setting
        self.path = Path(setting).expanduser() if setting and not given_here else None
        """The file of keys, if they come from one."""
        self._keys: tuple[_Key, ...] = ()
        if self.path is not None:
            self._keys = _read(self.path)
        elif given_here:
            self._keys = _parse_pairs(setting)

    def __bool__(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self._keys)

    def owner(self, key: str) -> str | None:
        """The name a key was given under; None for one that is not known. Takes as long for each key as for any."""
        digest = _digest(key)
        owner = None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                owner = known.name
        return owner

    def reload(self) -> None:
        """Read the file anew. Where that fails, the log says why and the keys of before stay."""
        if self.path is None:
            return
        try:
            self._keys = _read(self.path)
        except KeysError as error:
            log.error("The API keys stay as they were: %s", error)
        else:
            log.info("Read the API keys anew: %d.", len(self._keys))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _parse_pairs(text: str) -> tuple[_Key, ...]:
    keys = []
    for number, pair in enumerate(text.split(","), 1):
        name, colon, key = (part.strip() for part in pair.partition(":"))
        if not colon or not _NAME.fullmatch(name):
            raise KeysError(f"pair {number} is not name:key; a name is 1 to 64 of A-Z a-z 0-9 . _ -")
        if len(key) < MIN_KEY_LENGTH:
            raise KeysError(
                f"the key of {name!r} has fewer than {MIN_KEY_LENGTH} characters; "
                "'openssl rand -hex 24' makes a good one"
            )
        keys.append(_Key(name, _digest(key)))
    return _checked(keys)


def _read(path: Path) -> tuple[_Key, ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        # What the setting holds is not shown: it may be a key whose name was forgotten.
        reason = getattr(error, "strerror", None) or "it is not text"
        raise KeysError(f"it is neither name:key pairs nor a file that can be read ({reason})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, _, digest = (part.strip() for part in text.partition(":"))
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise KeysError(
                f"line {number} of its file is not name:digest; 'printf %s KEY | sha256sum' makes the digest"
            )
        keys.append(_Key(name, bytes.fromhex(digest)))
    if not keys:
        raise KeysError("its file holds no keys")
    return _checked(keys)


def _checked(keys: list[_Key]) -> tuple[_Key, ...]:
    """The keys. Several may have one name, as while one replaces another, but no key may have two."""
    names: dict[bytes, str] = {}
    for key in keys:
        if names.setdefault(key.digest, key.name) != key.name:
            raise KeysError(f"{names[key.digest]!r} and {key.name!r} have the same key")
    return tuple(keys)
