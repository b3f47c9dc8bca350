"""What `serve deploy deploy/ray/sam2.yaml` and `sam2-serve --cluster` say before anything runs.

Needs the extra `cluster` (make test-cluster).
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.app.cluster.running_cluster import START_S
from tests.server import ROOT, environment, free_port

pytest.importorskip("ray", reason="the extra cluster is not installed; make test-cluster does")
pytestmark = pytest.mark.cluster


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's imports
def test_a_wrong_setting_is_named() -> None:
    from app.cluster.deployed import devices

    with pytest.raises(ValueError, match="modle"):
        devices({"modle": "sam2.1_hiera_tiny"})
    with pytest.raises(ValueError, match="port: a setting of Fronts"):
        devices({"port": 8000})
    with pytest.raises(ValueError, match="Ray logs args"):
        devices({"register_url": "postgresql://db/sam2"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's imports
@pytest.mark.parametrize(("args", "gpus"), [({}, 1), ({"device": "cpu"}, 0), ({"device": "cuda"}, 1)])
def test_devices_on_cpus_ask_for_no_gpu_and_have_the_bound_of_cpus(
    monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], gpus: int
) -> None:
    from app.cluster import deployed

    asked: dict[str, Any] = {}
    monkeypatch.setattr(deployed, "application", lambda _given, **rest: asked.update(rest))
    deployed.devices(args)
    assert asked["gpus"] == gpus


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's imports
def test_what_is_shipped_is_what_one_machine_runs() -> None:
    from app.cluster.device_actor import application

    deployment = application({}, replicas=1, gpus=0, deadline_s=30)._bound_deployment
    config = yaml.safe_load((ROOT / "deploy/ray/sam2.yaml").read_text())
    (shipped,) = config["applications"][0]["deployments"]
    for name in ("max_ongoing_requests", "health_check_period_s", "health_check_timeout_s"):
        assert getattr(deployment._deployment_config, name) == shipped[name]


def test_a_ray_that_does_not_answer_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "--cluster", f"127.0.0.1:{free_port()}", "--port", "0"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=START_S
    )
    assert done.returncode == 1
    assert "cannot be joined" in done.stderr
    assert "Traceback" not in done.stderr
