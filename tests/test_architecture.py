"""Who may import whom, and what may be said where: DESIGN.md, held by reading the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("app", "model", "model/gpu") for path in (ROOT / folder).glob("*.py"))
APP = {path.stem for path in FILES if path.parent.name == "app" and path.stem != "__init__"}

MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"access", "keys", "loading", "logs", "main", "request_heads", "service", "settings", "streams"},
    "main": {
        "access", "browsers", "callers", "connection", "errors", "image_routes", "keys", "loading", "metrics",
        "pages", "rates", "remote_pictures", "routes", "schemas", "segment_routes", "segmenter", "service",
        "settings", "shares", "stream_messages", "stream_routes", "streams", "tracing", "uploads", "version",
    },
    "routes": {
        "answers", "callers", "connection", "metrics", "prompts", "remote_pictures", "replies", "schemas",
        "service", "stages", "state", "store", "uploads",
    },
    "image_routes": {"callers", "schemas", "state", "store"},
    "decodings": {"answers", "batching", "device", "errors", "shares", "stages"},
    "encodings": {"batching", "deadlines", "errors", "images", "pace", "rates", "shares", "stages", "store"},
    "state": {"errors", "keys", "rates", "remote_pictures", "service", "stages", "uploads"},
    "service": {
        "answers", "batching", "deadlines", "decodings", "device", "encodings", "errors", "images", "memory",
        "metrics", "names", "opening", "prompts", "rates", "segmenter", "settings", "shares", "stages", "store",
        "watchdog",
    },
    "loading": {"segmenter", "settings"},
    "access": {"metrics", "stages"},
    "metrics": {"version"},
    "tracing": {"stages", "version"},
    "stages": {"batching"},
    "memory": {"errors"},
    "names": {"errors"},
    "watchdog": {"device", "errors"},
    "uploads": {"errors", "schemas", "shares"},
    "prompts": {"errors", "logits", "rle"},
    "answers": {"logits", "rle"},
    "batching": {"device", "errors", "pace", "shares"},
    "device": {"errors"},
    "store": {"disk_trouble", "embedding_files", "errors", "register", "register_file", "tiers"},
    "images": {"errors"},
    "callers": {"access", "errors", "keys", "rates"},
    "browsers": {"access", "errors"},
    "rates": {"errors"},
    "remote_pictures": {"errors"},
    "shares": {"errors"},
    "pace": {"errors"},
    "opening": {"errors", "metrics", "segmenter", "settings", "store", "tiers"},
    "deadlines": {"errors"},
    "tiers": {"disk_trouble", "embedding_files", "memory_tier"},
    "embedding_files": {"disk_trouble"},
    "register": {"disk_trouble", "errors", "register_file"},
    "segment_routes": {
        "answers", "callers", "connection", "deadlines", "replies", "routes", "schemas", "segment_forms",
        "service", "state", "uploads",
    },
    "stream_routes": {"access", "browsers", "callers", "errors", "state", "stream_prompts", "streams"},
    "stream_prompts": {"callers", "errors", "replies", "stages", "state", "stream_messages", "streams", "uploads"},
    "stream_messages": {"mask_fields", "schemas"},
    "streams": {"errors", "shares"},
    "segment_forms": {"errors", "schemas", "uploads"},
    "replies": {"answers", "callers", "mask_fields", "prompts", "schemas", "stages", "state"},
    "schemas": {"mask_fields"},
}  # fmt: skip
"""Of app/, by file; what is not here is a leaf."""

MODEL_NAMES: dict[str, set[str]] = {
    "__main__": {"model.errors"},
    "loading": {"model.download", "model.errors", "model.gpu.options", "model.runner"},
    "memory": {"model.errors"},
    "settings": {"model.config", "model.download"},
    "segmenter": {"model.types"},
    "image_routes": {"model.types"},
    "decodings": {"model.types"},
    "encodings": {"model.types"},
    "service": {"model.types"},
    "routes": {"model.types"},
    "store": {"model.types"},
    "prompts": {"model.masks", "model.types"},
    "answers": {"model.cleaning", "model.cropping", "model.masks", "model.simplifying", "model.types"},
    "tiers": {"model.types"},
    "memory_tier": {"model.types"},
    "opening": {"model.errors", "model.types"},
    "embedding_files": {"model.embedding_bytes", "model.types"},
}  # fmt: skip
"""What of model/ the files of app/ may import."""

ONLY_IN: dict[str, set[str]] = {
    "fastapi": {
        "app/__main__.py", "app/image_routes.py", "app/main.py", "app/pages.py", "app/replies.py",
        "app/routes.py", "app/segment_routes.py", "app/state.py", "app/stream_routes.py",
    },
    "starlette": {"app/browsers.py", "app/callers.py", "app/main.py", "app/stream_prompts.py", "app/uploads.py"},
    "uvicorn": {"app/__main__.py", "app/request_heads.py"},
    "pydantic": {
        "app/__main__.py", "app/main.py", "app/mask_fields.py", "app/schemas.py", "app/segment_forms.py",
        "app/settings.py", "app/stream_messages.py", "app/stream_prompts.py", "app/uploads.py",
    },
    "pydantic_settings": {"app/settings.py"},
    "prometheus_client": {"app/metrics.py"},
    "opentelemetry": {"app/tracing.py"},
    "httpcore": {"app/remote_pictures.py"},
    "sqlite3": {"app/register.py", "app/register_file.py", "app/tiers.py"},
}  # fmt: skip
"""Packages that stand for a subject, and the files whose subject it is."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            # `from app import schemas` imports app.schemas
            bare = node.module in ("app", "model")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if bare else {node.module}
    return found


def packages(path: Path) -> set[str]:
    """The top-level names among a file's imports."""
    return {module.split(".")[0] for module in imports(path)}


def name(path: Path) -> str:
    """As the rules write it: app/main.py."""
    return path.relative_to(ROOT).as_posix()


def test_the_rules_speak_of_files_that_exist() -> None:
    assert len(APP) > 10
    assert set(MAY_IMPORT) | set(MODEL_NAMES) <= APP
    assert {file for files in ONLY_IN.values() for file in files} <= {name(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports(path: Path) -> None:
    modules = imports(path)
    if name(path).startswith("model/"):
        assert not packages(path) & {"app", "asyncio", "pydantic", *ONLY_IN}
        return
    of_app = {module.removeprefix("app.") for module in modules if module.startswith("app.")}
    assert of_app <= MAY_IMPORT.get(path.stem, set())
    of_model = {module for module in modules if module.split(".")[0] == "model"}
    assert of_model <= MODEL_NAMES.get(path.stem, set())
    if path.name != "store.py":
        assert "torch" not in packages(path)
    for package, files in ONLY_IN.items():
        assert package not in packages(path) or name(path) in files


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if name(path) == "app/settings.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        said = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
        assert said not in ("environ", "environb", "getenv")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_one_file_knows_cuda_and_the_runner_chooses_it(path: Path) -> None:
    if name(path) not in ("model/gpu/cuda.py", "model/devices.py", "model/runner.py"):
        said = path.read_text().lower().replace("cuda.py", "").replace("no-cudagraphs", "")
        assert "cuda" not in said


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_has_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 320


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert not source or ast.get_docstring(ast.parse(source))
