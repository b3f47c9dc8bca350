"""Finds and downloads the released files: once, safely, and resuming an interrupted download.

Does not know about settings, or about the contents of a file.
"""

import logging
import os
import re
import time
from dataclasses import dataclass
from hashlib import file_digest
from io import FileIO
from pathlib import Path

import httpx
from tqdm import tqdm

from model.checkpoints.part_file import part_of, size_of
from model.errors import CheckpointError, WeightsUnavailable
from model.network.config import BUILTIN

logger = logging.getLogger(__name__)

RELEASE_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
"""Meta's URL of its release (Apache-2.0)."""

BUILTIN_PATH = Path(__file__).parents[1] / "weights" / f"{BUILTIN}.safetensors"
"""The built-in model's weights, which come with this package."""

RETRY_WAITS_S = (1.0, 2.0, 4.0)
"""Pauses between attempts without progress; after the last one the download fails."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_USER = re.compile(r"(?<=://)[^/\s]*@")
"""A name and a password or token in a URL, of a mirror that wants them."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class Release:
    """One file of Meta's release."""

    folder: str
    file_name: str
    sha256: str
    size_bytes: int | None = None
    """None if it is not known."""


RELEASES: dict[str, Release] = {
    "sam2.1_hiera_tiny": Release(
        "092824",
        "sam2.1_hiera_tiny.pt",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        156_008_466,
    ),
    "sam2.1_hiera_small": Release(
        "092824",
        "sam2.1_hiera_small.pt",
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    "sam2.1_hiera_base_plus": Release(
        "092824",
        "sam2.1_hiera_base_plus.pt",
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    "sam2.1_hiera_large": Release(
        "092824",
        "sam2.1_hiera_large.pt",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        898_083_611,
    ),
    "sam2_hiera_tiny": Release(
        "072824",
        "sam2_hiera_tiny.pt",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
        155_906_050,
    ),
    "sam2_hiera_small": Release(
        "072824",
        "sam2_hiera_small.pt",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    "sam2_hiera_base_plus": Release(
        "072824",
        "sam2_hiera_base_plus.pt",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    "sam2_hiera_large": Release(
        "072824",
        "sam2_hiera_large.pt",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
        897_952_466,
    ),
}
"""The released file of each variant. Several independent public projects list the same SHA-256."""


class _Cut(Exception):
    """The attempt failed; another may succeed."""


class _Refused(Exception):
    """No further attempt can help."""


class _Progress(tqdm):  # type: ignore[type-arg]  # not subscriptable at run time
    monitor_interval = 0  # without this, tqdm starts a thread that outlives the bar


def locate(variant: str, *, weights_dir: Path, base_url: str = RELEASE_URL) -> Path:
    """Find the weights of `variant` in `weights_dir`, or download the released file into it.

    Those of the built-in model are in this package, and nowhere else.

    `<variant>.safetensors` is preferred to the released .pt. An existing file is checked by size, if the
    released size is known, and not by its hash, because reading it all would slow down each start. A download
    goes to `<file>.part`, which is kept after an interruption, for this run or a later one. It is locked, so
    that one of several processes downloads and the others wait. It gets its final name only if its SHA-256 is
    right.

    Raises WeightsUnavailable if the file cannot be obtained, and CheckpointError if it exists with the wrong
    size.
    """
    if variant == BUILTIN:
        return _builtin()
    release = RELEASES.get(variant)
    if release is None:
        raise WeightsUnavailable(
            f"No model is called {variant!r}. Released are: {', '.join(RELEASES)}; "
            f"{BUILTIN} comes with this package."
        )
    url = f"{base_url.rstrip('/')}/{release.folder}/{release.file_name}"
    try:
        weights_dir.mkdir(parents=True, exist_ok=True)
        while (path := _present(variant, release, weights_dir)) is None:
            _download_or_wait(url, weights_dir / release.file_name, release)
    except OSError as error:
        reason = f"cannot write to {weights_dir} ({error})"
    except (_Refused, httpx.HTTPError, httpx.InvalidURL) as error:
        reason = _reason(error)
    else:
        return path
    raise WeightsUnavailable(
        f"Cannot get the weights of {variant}: {reason}. What you can do:  "
        f"fetch {_USER.sub('***@', url)} yourself and put it into {weights_dir}; "
        "or set SAM2_CHECKPOINT=PATH to a file you have; "
        "or set SAM2_CHECKPOINT=untrained to try the service with random weights."
    )


def _builtin() -> Path:
    if not BUILTIN_PATH.is_file():
        raise WeightsUnavailable(
            f"The weights of the built-in model should be in {BUILTIN_PATH}, and are not: this installation is "
            "incomplete. What you can do:  get the repository whole; or set SAM2_MODEL to a released model; "
            "or set SAM2_CHECKPOINT=PATH to a file you have; "
            "or set SAM2_CHECKPOINT=untrained to try the service with random weights."
        )
    return BUILTIN_PATH


def _present(variant: str, release: Release, weights_dir: Path) -> Path | None:
    converted = weights_dir / f"{variant}.safetensors"
    if converted.is_file():
        return converted
    released = weights_dir / release.file_name
    if not released.is_file():
        return None
    size = released.stat().st_size
    if release.size_bytes is not None and size != release.size_bytes:
        raise CheckpointError(
            f"{released} has {size:,} bytes, the released file {release.size_bytes:,}. "
            "Delete it to download it again, or set SAM2_CHECKPOINT to its path to use it as it is."
        )
    return released


def _download_or_wait(url: str, target: Path, release: Release) -> None:
    """Create `target`, unless another process does so first. The caller looks again either way."""
    with part_of(target) as found:
        if found is None or target.is_file():
            return
        part, place = found
        logger.info("downloading %s to %s", _USER.sub("***@", url), target)
        _fetch(url, part, release)
        os.fsync(part.fileno())
        place.replace(target)
        _sync_folder(target.parent)
        logger.info("%s: downloaded, SHA-256 as released", target)


def _fetch(url: str, part: FileIO, release: Release) -> None:
    """Append to `part` until it is the released file, with as many attempts as make progress."""
    furthest = start = size_of(part)
    failures = 0
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        while True:
            try:
                _receive(client, url, part, release)
                break
            except (_Cut, httpx.TransportError) as error:
                unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if unreached and furthest == start:
                    raise  # offline: say so at once
                progressed = size_of(part) > furthest
                furthest = max(furthest, size_of(part))
                failures = 1 if progressed else failures + 1
                if failures > len(RETRY_WAITS_S):
                    raise _Refused(f"{_reason(error)}, after {failures} tries") from error
                wait = RETRY_WAITS_S[failures - 1]
                logger.warning(
                    "download cut at %s bytes (%s); next try in %g s",
                    f"{size_of(part):,}",
                    _reason(error),
                    wait,
                )
                time.sleep(wait)
    digest = _sha256(part)
    if digest != release.sha256:
        part.truncate(0)
        raise _Refused(
            f"what came from there has SHA-256 {digest}, not {release.sha256}, and was removed "
            "(start again to download it afresh)"
        )


def _receive(client: httpx.Client, url: str, part: FileIO, release: Release) -> None:
    """Send one request for the missing part. Raises _Cut or httpx.TransportError if another attempt may help."""
    offset = size_of(part)
    headers = {"Accept-Encoding": "identity"}  # offsets count the bytes of the file itself
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if _sha256(part) == release.sha256:
                return  # an earlier run was stopped between the last byte and the new name
            part.truncate(0)
            raise _Cut("the partial file is no part of the released one; starting over")
        if status >= 500 or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS):
            raise _Cut(f"the server answers {status} {response.reason_phrase}")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise _Refused(f"the server answers {status} {response.reason_phrase}")
        begin, total = _extent(response)
        if total is not None and release.size_bytes not in (None, total):
            raise _Refused(f"the server offers {total:,} bytes, the released file has {release.size_bytes:,}")
        if begin != offset:
            part.truncate(0)
            if begin != 0:  # a range is ignored by some servers, but never moved
                raise _Cut("the server sends another range than requested; starting over")
        _append(response, part, total=total, name=release.file_name)
        if total is not None and size_of(part) < total:
            raise _Cut("the server sent less than it promised")


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """First byte of the body within the file (-1 where that is unclear), and size of the file if told."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (int(match[1]), int(match[2])) if match else (-1, None)


def _append(response: httpx.Response, part: FileIO, *, total: int | None, name: str) -> None:
    with _Progress(
        desc=name,
        total=total,
        initial=size_of(part),
        unit="B",
        unit_scale=True,
        disable=None,  # no bar where standard error is not a terminal
    ) as progress:
        for chunk in response.iter_raw():
            rest = memoryview(chunk)
            while rest:
                rest = rest[part.write(rest) :]
            progress.update(len(chunk))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__  # some time-outs carry no text


def _sha256(file: FileIO) -> str:
    file.seek(0)
    return file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
