"""What a Device of a cluster gets of its node. Needs the extra `cluster` (make test-cluster), but runs no Ray."""

from pathlib import Path

import pytest

from app.storage.opening import CacheDirError, CacheUrlError
from tests.server import free_port

pytest.importorskip("ray", reason="the extra cluster is not installed; make test-cluster does")
pytestmark = pytest.mark.cluster


class Node:
    """What Ray says of a node and of a Device on it."""

    def __init__(self, **given: float) -> None:
        self.given = given

    def get_node_id(self) -> str:
        """Its number."""
        return "this"

    def get_assigned_resources(self) -> dict[str, float]:
        """What the Device was given."""
        return self.given


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's imports
@pytest.mark.parametrize(
    ("given", "parts"),
    [({"CPU": 8.0}, 4), ({"CPU": 9.0}, 3), ({}, 1), ({"CPU": 32.0}, 1), ({"CPU": 1.0, "GPU": 1.0}, 2)],
)
def test_a_device_takes_its_part_of_its_node(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, float], parts: int
) -> None:
    from app.cluster import chosen_devices, of_a_node

    nodes = [
        {"NodeID": "this", "Resources": {"CPU": 32.0, "GPU": 2.0, "memory": 1e9}},
        {"NodeID": "another", "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(of_a_node.ray, "get_runtime_context", lambda: Node(**given))
    monkeypatch.setattr(of_a_node.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(of_a_node.ray, "get_gpu_ids", lambda: ["0"] if "GPU" in given else [])
    monkeypatch.setattr(of_a_node, "differences", list)
    monkeypatch.setattr(chosen_devices, "whole_cpus", lambda: 32)
    monkeypatch.setattr(chosen_devices, "memory_limit_bytes", lambda: 256 * 2**30)
    found = of_a_node.settings_on_this_node({"device": "auto" if "GPU" in given else "cpu"})
    assert found["host_cache_mib"] == 64 * 2**10 // parts
    assert found["workers"] == max(2, 32 // parts)
    if "GPU" not in given:
        assert found["threads"] == 32 // parts


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node on which Ray was started as it must be."""
    from app.cluster import of_a_node

    monkeypatch.setattr(of_a_node, "differences", list)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's imports
@pytest.mark.usefixtures("node")
def test_a_folder_that_no_waiting_mends_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    from app.cluster.of_a_node import settings_on_this_node

    (tmp_path / "file").touch()
    with pytest.raises(CacheDirError, match="cannot be written: Not a directory"):
        settings_on_this_node({"cache_dir": str(tmp_path / "file" / "cache")})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's imports
@pytest.mark.usefixtures("node")
def test_so_is_a_bucket_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from app.cluster.of_a_node import settings_on_this_node

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(CacheUrlError, match="cannot be reached"):
        settings_on_this_node({"cache_url": "s3://bucket/prefix", "cache_dir": str(tmp_path)})
