"""What one file of the project imports from another exists, also in commands that no test starts.

Benchmarks and clients of other tools need packages that the tests do not have, so they cannot be imported here: a
name that had moved broke `make bench` unnoticed.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOTS = {"app": ROOT, "model": ROOT, "tests": ROOT, "sam2_client": ROOT / "client"}
FILES = [
    *(
        path
        for top in ("tests/bench", "tests/soak", "tests/tools", "examples")
        for path in sorted((ROOT / top).rglob("*.py"))
    )
]


def file_of(module: str) -> Path | None:
    base = ROOTS[module.split(".")[0]].joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return every name that a file binds, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found.update(alias.asname or alias.name.split(".")[0] for alias in names)
    return frozenset(found)


def missing(source: str) -> Iterator[str]:
    """Yield what a file imports from the project that is not there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.split(".")[0] in ROOTS]
            yield from (module for module in modules if file_of(module) is None and not is_folder(module))
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOTS and not node.level
        ):
            module = node.module or ""
            path = file_of(module)
            known = names_in(path) if path else frozenset()
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                if alias.name not in known and file_of(inner) is None and not is_folder(inner):
                    yield inner


def is_folder(module: str) -> bool:
    return ROOTS[module.split(".")[0]].joinpath(*module.split(".")).is_dir()


def test_imports_exist() -> None:
    found = {str(path.relative_to(ROOT)): list(missing(path.read_text())) for path in FILES}
    assert {file: names for file, names in found.items() if names} == {}


def test_what_is_not_there_is_found() -> None:
    source = "from app.main import create_nothing\nimport model.nothing\nfrom app import main, nothing"
    assert list(missing(source)) == ["app.main.create_nothing", "model.nothing", "app.nothing"]
