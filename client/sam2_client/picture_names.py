"""Finds the files of the pictures that a data set names, which are often not where the data set was made.

Never opens a file, and never names one that was not given. Does not know the formats of data sets.
"""

import unicodedata
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sam2_client.messages import named
from sam2_client.named_files import NamedFile

Parts = tuple[str, ...]

MISSING = "no such picture"
"""Why a name has no file, if there is none that it may mean."""
_MOST_NAMED = 3


def find(
    names: Sequence[str], files: Iterable[NamedFile], *, with_suffix: bool = True
) -> dict[str, Path | str]:
    """Return the file of each name, or why there is none.

    A name is a path within one of the folders, the end of a file's path, or a longer path that ends with a file's
    path within its folder. The first of these that is true for any file counts, and it must be true for one only.
    If there is none, the name may be an address, or be written in another case, unless another name means that
    file too. `with_suffix` says whether names have the suffix of the file.
    """
    known = list(files)
    sure = found = _find(names, known, with_suffix=with_suffix, form=str)
    for form in (str, str.casefold):
        left = {name: _of_address(name) for name, file in found.items() if file == MISSING}
        again = _find([*left.values()], known, with_suffix=with_suffix, form=form)
        found = found | {name: again[path] for name, path in left.items()}
    count = Counter(file for file in found.values() if isinstance(file, Path))
    others = {
        name: f"no such picture by this very name; {file} may be another one"
        for name, file in found.items()
        if isinstance(file, Path) and sure[name] == MISSING and count[file] > 1
    }
    return found | others


def _find(
    names: Sequence[str], files: Sequence[NamedFile], *, with_suffix: bool, form: Callable[[str], str]
) -> dict[str, Path | str]:
    """As `find`, of names and paths in one form."""
    if not names:
        return {}
    given: dict[Path, tuple[Parts, Parts]] = {}
    for path, root in {
        file.path.absolute(): file for file in files
    }.values():  # each once, however it is named
        stem = path if with_suffix else path.with_suffix("")
        given[path] = _parts(form(str(stem.relative_to(root)))), _parts(form(str(stem.absolute())))
    wanted = {name: _parts(form(name)) for name in names}
    within = _by([(its_own, path) for path, (its_own, _) in given.items()])
    ends = {
        length: _by([(whole[-length:], path) for path, (_, whole) in given.items()])
        for length in {len(parts) for parts in wanted.values()}
    }

    found: dict[str, Path | str] = {}
    guessed: dict[Path, list[str]] = defaultdict(list)
    for name, parts in wanted.items():
        sure = within.get(parts) or ends[len(parts)].get(parts, [])
        longer = (within[parts[at:]] for at in range(len(parts)) if parts[at:] in within)
        if matches := sure or next(longer, []):
            found[name] = matches[0] if len(matches) == 1 else _one_of(matches)
            if len(matches) == 1 and not sure:
                guessed[matches[0]].append(name)
        else:
            found[name] = MISSING
    certain = {path for name, path in found.items() if isinstance(path, Path) and name not in guessed[path]}
    for path, its_names in guessed.items():
        if len(its_names) > 1 or path in certain:
            found |= dict.fromkeys(its_names, f"no such picture in its own folder; {path} may be another one")
    return found


def find_labelled(names: Sequence[str], files: Sequence[NamedFile]) -> dict[str, Path | str]:
    """As `find`, for paths of label files without their suffix. If there is no such picture, the name has `images`
    where the path has `labels`: train/images/1.jpg for train/labels/1.txt, as Ultralytics and Roboflow have it.
    """
    found = find(names, files, with_suffix=False)
    others = {name: _among_images(name) for name, file in found.items() if file == MISSING}
    among_images = find([*others.values()], files, with_suffix=False)
    better = {name: among_images[other] for name, other in others.items()}
    return found | {name: file for name, file in better.items() if isinstance(file, Path)}


def shared(names: Sequence[str], found: Mapping[str, Path | str]) -> Iterator[str]:
    """Yield a line for each file that more than one of the names means, equal ones included."""
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        if isinstance(file := found[name], Path):
            by_file[file].append(name)
    for file, its_names in by_file.items():
        if len(its_names) > 1:
            yield (
                f"{len(its_names)} entries of images are one file, {file}: {named(its_names)}. Each gets its "
                "masks; check that they are not another picture's"
            )


def _one_of(files: Sequence[Path]) -> str:
    some = [*map(str, files[:_MOST_NAMED])]
    if more := len(files) - len(some):  # frames of all videos may have one name
        some.append(f"one of {more} more")
    return f"it may be {' or '.join(some)}"


def _of_address(name: str) -> str:
    """Return the path in an address, such as Label Studio's /data/local-files/?d=my%20photo.jpg."""
    path, _, query = name.partition("?")
    return urllib.parse.unquote(query.removeprefix("d=") if query.startswith("d=") else path)


def _among_images(name: str) -> str:
    before, labels, after = f"/{name}".rpartition("/labels/")
    return f"{before}/images/{after}" if labels else name


def _by(pairs: Iterable[tuple[Parts, Path]]) -> dict[Parts, list[Path]]:
    """Return the files of each path, or end of a path: many frames of videos have one name."""
    found: dict[Parts, list[Path]] = defaultdict(list)
    for parts, path in pairs:
        found[parts].append(path)
    return dict(found)


def _parts(name: str) -> Parts:
    """Return the parts of a path from any system, accents in one form."""
    plain = unicodedata.normalize("NFC", name).replace("\\", "/")
    return tuple(part for part in plain.split("/") if part not in ("", "."))
