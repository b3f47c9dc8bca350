"""What a server imports, and when: imports cost time at the start, and hold the event loop after it."""

import json
import os
import subprocess
import sys

import pytest

from tests.server import ROOT

SCRIPT = """
import json, sys
from pathlib import Path
from app.main import create_app
from model.runner import load_runner
from tests.fakes import FakeSegmenter
create_app(segmenter=FakeSegmenter())
load_runner("builtin", checkpoint=Path("model/weights/builtin.safetensors"), device="cpu", dtype="float32")
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_without_otel_nothing_of_it_is_imported(imported: set[str]) -> None:
    """FastAPI imports the OpenTelemetry API, which is cheap. The SDK and the exporter are not."""
    assert "app.main" in imported
    assert not imported & {
        "app.telemetry.tracing",
        "opentelemetry.sdk",
        "opentelemetry.exporter",
        "google.protobuf",
        "requests",
    }


def test_a_model_is_loaded_without_the_compiler(imported: set[str]) -> None:
    """It takes 2 seconds and 70 MB, and nothing is compiled."""
    assert "model.network.sam2" in imported
    assert not imported & {"torch._dynamo", "torch._inductor", "sympy"}


def test_the_first_picture_from_label_studio_imports_nothing(imported: set[str]) -> None:
    """What httpx imports with its first connection would hold the event loop for 20 ms."""
    assert "anyio._core._sockets" in imported
