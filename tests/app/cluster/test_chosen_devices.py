"""SAM2_DEVICES: what it may say, what each device gets of the machine, and what is set before a Ray starts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app import __main__ as command
from app.cluster import chosen_devices, machine, ray_environment
from app.cluster.chosen_devices import Chosen, settings_of_each
from app.cluster.machine import machine_for
from app.settings import Settings
from tests.server import ROOT, environment

pytestmark = pytest.mark.usefixtures("restored_process")  # one of them runs the command


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", Chosen()),
        ("cpu:2", Chosen(cpus=2)),
        ("0", Chosen(gpus=("0",))),
        (" 3, 1", Chosen(gpus=("3", "1"))),
    ],
)
def test_devices_are_named(text: str, chosen: Chosen) -> None:
    assert Chosen.of(Settings(devices=text).devices) == chosen


@pytest.mark.parametrize("text", ["cpu", "cpu:0", "cpu:100", "0,0", "1,", "gpu", "all,1", "-1", "cuda:0"])
def test_other_names_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValidationError, match=r"must be all, numbers of GPUs|names a GPU twice"):
        Settings(devices=text)


@pytest.fixture
def _machine_of_8_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_devices, "whole_cpus", lambda: 8)
    monkeypatch.setattr(chosen_devices, "memory_limit_bytes", lambda: 64 * 2**30)


@pytest.mark.usefixtures("_machine_of_8_cpus")
def test_the_machine_is_divided() -> None:
    each = settings_of_each(Settings(devices="cpu:4"), count=4, on_gpus=False, cache_dir="/cache")
    wanted = Settings(**each)
    assert (wanted.threads, wanted.workers, wanted.device) == (2, 2, "cpu")
    assert wanted.device_cache_mib == wanted.host_cache_mib == 4096
    assert (wanted.cache_dir, wanted.devices) == ("/cache", "")
    assert wanted.track_memory_mib == Settings().track_memory_mib // 4
    told = settings_of_each(Settings(track_memory_mib=64), count=4, on_gpus=False, cache_dir="/cache")
    assert Settings(**told).track_memory_mib == 64
    on_a_gpu = Settings(**settings_of_each(Settings(), count=2, on_gpus=True, cache_dir="/cache"))
    numbered = settings_of_each(Settings(device="cuda:1"), count=2, on_gpus=True, cache_dir="/cache")
    assert numbered["device"] == "cuda"
    assert on_a_gpu.track_memory_mib == Settings().track_memory_mib  # each GPU has its own memory
    assert (on_a_gpu.device, on_a_gpu.device_cache_mib, on_a_gpu.host_cache_mib) == ("cuda", "auto", 8192)


@pytest.mark.parametrize(
    ("visible", "named"),
    [("", "3,1"), ("4,5,6,7", "7,5"), ("GPU-a, GPU-b, MIG-c, GPU-d", "GPU-d,GPU-b")],
)
def test_numbers_count_the_gpus_that_cuda_lets_through(
    monkeypatch: pytest.MonkeyPatch, visible: str, named: str
) -> None:
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    ray_environment.prepare(gpus=("3", "1"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == named


@pytest.mark.parametrize("given", [{"devices": "cpu:2"}, {"cluster": "auto"}])
def test_an_upload_that_no_call_can_carry_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(chosen_devices.ClusterError, match=r"SAM2_MAX_UPLOAD_MIB=961, .* of 960 MiB at most"):
        machine_for(Settings(**given, max_upload_mib=961))
    monkeypatch.setitem(sys.modules, "ray", None)
    for module in ("one_machine", "joined"):
        monkeypatch.delitem(sys.modules, f"app.cluster.{module}", raising=False)
    with pytest.raises(chosen_devices.ClusterError, match=r"\[cluster\]"):  # it was the only thing wrong
        machine_for(Settings(**given, max_upload_mib=960))


@pytest.mark.parametrize(("devices", "said"), [("0,2", "GPU 2, but torch can use 2"), ("5", "GPU 5")])
def test_a_gpu_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, devices: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 2)
    assert command.main(["--devices", devices, "--port", "0"]) == 1
    assert said in capsys.readouterr().err
    prepared: list[tuple[str, ...]] = []
    monkeypatch.setattr(ray_environment, "prepare", lambda *, gpus, **_: prepared.append(gpus))
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "app.cluster.one_machine", raising=False)
    with pytest.raises(chosen_devices.ClusterError, match=r"\[cluster\]"):
        machine_for(Settings(devices="1"))
    assert prepared == [("1",)]


@pytest.mark.usefixtures("_machine_of_8_cpus")
def test_what_is_set_counts_and_secrets_stay_with_the_front() -> None:
    said = Settings(
        devices="cpu:2",
        threads=3,
        workers=5,
        device_cache_mib=100,
        host_cache_mib=0,
        max_prompts=7,
        rate_pictures_per_minute=60,
        api_keys="anna:0123456789abcdef",  # type: ignore[arg-type]
        label_studio_url="http://studio",
        label_studio_api_key="0123456789abcdef",  # type: ignore[arg-type]
    )
    wanted = Settings(**settings_of_each(said, count=2, on_gpus=False, cache_dir="/cache"))
    assert (wanted.threads, wanted.workers, wanted.device_cache_mib) == (3, 5, 100)
    assert (wanted.host_cache_mib, wanted.max_prompts) == (0, 7)
    assert wanted.rate_pictures_per_minute == 30
    assert not wanted.says_model
    assert wanted.api_keys.get_secret_value() == wanted.label_studio_api_key.get_secret_value() == ""


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_environment, "prepare", lambda **_: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "app.cluster.one_machine", raising=False)
    assert command.main(["--devices", "cpu:2", "--port", "0"]) == 1
    assert "pip install '.[cluster]'" in capsys.readouterr().err


def test_without_the_settings_nothing_of_ray_and_postgresql_is_imported() -> None:
    assert machine_for(Settings()) is None
    script = """
import sys
import app.__main__
from app.cluster.machine import machine_for
from app.main import create_app
from app.settings import Settings
machine_for(Settings())
create_app()
unwanted = ("ray", "grpc", "psycopg")
print([name for name in sys.modules if name.split(".")[0] in unwanted or name == "app.cluster.one_machine"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_ray_asks_for_a_token_says_nothing_to_its_makers_and_sees_the_chosen_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_ADDRESS": "elsewhere:6379", "PATH": "/bin"})
    ray_environment.prepare(gpus=("1", "3"))
    said = dict(os.environ)
    assert (said["RAY_AUTH_MODE"], len(said["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert said["RAY_USAGE_STATS_ENABLED"] == "0"
    assert said["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert "RAY_ADDRESS" not in said
    ray_environment.prepare(gpus=())
    assert os.environ["RAY_AUTH_TOKEN"] != said["RAY_AUTH_TOKEN"]


def test_a_ray_that_is_joined_keeps_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_TOKEN": "theirs", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"})
    ray_environment.prepare_to_join()
    assert os.environ["RAY_AUTH_TOKEN"] == "theirs"  # noqa: S105
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"  # as on all nodes


def test_nodes_and_fronts_are_started_with_the_same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / "deploy/ray/environment").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    monkeypatch.setattr(os, "environ", {})
    ray_environment.prepare_to_join()
    assert os.environ == said
    assert ray_environment.differences() == []


def test_what_a_node_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"})
    lacking = ray_environment.differences()
    assert lacking == ["RAY_SERVE_ENABLE_DIRECT_INGRESS=0"]


@pytest.mark.parametrize("text", ["auto", " auto", "10.0.0.5:6379", "sam2-head-svc:6379", "[fd00::5]:6379"])
def test_a_cluster_is_named_by_the_address_of_its_head(text: str) -> None:
    assert Settings(cluster=text).cluster == text.strip()


@pytest.mark.parametrize("text", ["10.0.0.5", "ray://10.0.0.5:10001", "http://head:8265", "all"])
def test_other_addresses_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValidationError, match=r"such as 10\.0\.0\.5:6379"):
        Settings(cluster=text)


def test_devices_are_started_or_joined() -> None:
    with pytest.raises(ValidationError, match="set one of them"):
        Settings(devices="all", cluster="auto")


def test_a_front_of_a_cluster_needs_no_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unreachable:
        """A cluster that cannot be joined."""

        connect = None

        def __enter__(self) -> None:
            raise chosen_devices.ClusterError("no such cluster")

        def __exit__(self, *_: object) -> None:
            """Never entered."""

    monkeypatch.setattr(command, "machine_for", lambda _: Unreachable())
    assert command.main(["--cluster", "auto", "--port", "0", "--checkpoint", "/nowhere.pt"]) == 1
    assert "no such cluster" in capsys.readouterr().err


def test_a_front_that_joins_devices_says_which_of_its_settings_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(machine.ray_environment, "prepare_to_join", lambda: None)
    given = {
        "cache_dir": "",
        "rate_pictures_per_minute": 60.0,
        "workers": 2,
        "max_upload_mib": 1000,
    }  # too much for a Front
    for idle in ({}, {"max_prompts": 60, "model": "sam2.1_hiera_tiny"}):
        with pytest.raises(chosen_devices.ClusterError):
            machine_for(Settings(cluster="auto", **given, **idle))
    (said,) = [each.getMessage() for each in caplog.records if each.name == machine.__name__]
    assert said.startswith("SAM2_MAX_PROMPTS, SAM2_MODEL: settings of devices")
    assert Settings.model_fields.keys() > chosen_devices.OF_DEVICES_ALONE


def test_one_gpu_is_a_plain_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 1)
    assert machine_for(Settings(devices="all")) is None


def test_ray_is_pinned_with_all_that_it_needs() -> None:
    pins = Path(ROOT / "constraints-cluster.txt").read_text()
    (version,) = [line for line in pins.splitlines() if line.startswith("ray==")]
    assert f'"ray[serve]=={version.removeprefix("ray==")}"' in (ROOT / "pyproject.toml").read_text()
