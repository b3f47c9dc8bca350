"""The image and the compose files, as far as their texts tell."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.server import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
SETTINGS = {f"SAM2_{name.upper()}": setting for name, setting in Settings.model_fields.items()}


def test_docker_and_compose_name_only_settings_that_exist() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for name in re.findall(r"\bSAM2_[A-Z0-9_]+", DOCKERFILE + compose):
        assert name in SETTINGS


def test_image_copies_only_what_the_context_holds() -> None:
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE)
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)


def test_image_holds_page_and_javascript_client(tmp_path: Path) -> None:
    for source, target in re.findall(
        r"^COPY (\w\S*) \./(\S+)$", DOCKERFILE.split("\nFROM ")[-1], re.MULTILINE
    ):
        shutil.copytree(
            ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("weights", "__pycache__")
        )
    code = "from app.routes.pages import _FILES; print(*_FILES)"
    command = [sys.executable, "-c", code]
    served = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert {"page/index.html", "client.js", "client/index.js"} <= set(served)


def test_image_does_not_run_as_root() -> None:
    last_stage = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"^USER sam2$", last_stage, re.MULTILINE)


@pytest.mark.parametrize(("extras", "has_ray"), [("otel", False), ("otel cluster postgres s3", True)])
def test_image_installs_the_extras_that_it_is_built_with(tmp_path: Path, extras: str, has_ray: bool) -> None:
    step = re.search(r"^RUN (EXTRAS=.*?) > requirements.txt$", DOCKERFILE, re.MULTILINE | re.DOTALL)[1]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    variables = os.environ | {"EXTRAS": extras, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", step], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    )
    wanted = done.stdout.splitlines()
    assert "fastapi>=0.165" in wanted
    assert any(each.startswith("opentelemetry-sdk") for each in wanted)
    for package in ("ray[serve]==", "psycopg", "boto3"):
        assert any(each.startswith(package) for each in wanted) is has_ray
    assert f'"{extras}"' in DOCKERFILE or f"ARG EXTRAS={extras}" in DOCKERFILE


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Yield the port of a server that answers GET /readyz with this status, and everything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_healthcheck_of_the_image(status: int, healthy: bool) -> None:
    command = json.loads(re.search(r"HEALTHCHECK (?:.*\\\n)+ +CMD (\[.*\])", DOCKERFILE)[1])
    assert command[0] == "python"
    with answering(status) as port:
        done = subprocess.run(
            [sys.executable, *command[1:]], env=os.environ | {"SAM2_PORT": str(port)}, check=False
        )
    assert (done.returncode == 0) is healthy


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_serves_with_a_gpu_unless_asked_otherwise(compose: dict[str, Any]) -> None:
    services = compose["services"]
    (default,) = (name for name, service in services.items() if "profiles" not in service)
    (device,) = services[default]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert services[default]["environment"]["SAM2_DEVICES"] == "all"
    assert "cluster" in services[default]["build"]["args"]["EXTRAS"].split()
    assert services["sam2-cpu"]["profiles"] == ["cpu"]
    assert "deploy" not in services["sam2-cpu"]
    # With "auto", a host with an old driver would serve the large model on its CPU.
    assert services[default]["environment"]["SAM2_DEVICE"] == "cuda"
    assert services["sam2-cpu"]["environment"]["SAM2_DEVICE"] == "cpu"


def test_compose_gives_each_of_many_servers_a_gpu_of_its_own_and_opens_the_balancer_alone(
    compose: dict[str, Any],
) -> None:
    many = {name: each for name, each in compose["services"].items() if each.get("profiles") == ["many"]}
    balancer = many.pop("balancer")
    assert balancer["depends_on"] == list(many)
    assert "ports" in balancer
    gpus = []
    for service in many.values():
        assert "ports" not in service
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        gpus += device["device_ids"]
        assert service["environment"]["SAM2_DEVICES"] == ""
        assert service["environment"]["FORWARDED_ALLOW_IPS"] == "*"
        assert service["volumes"] == compose["services"]["sam2"]["volumes"]
    assert gpus == [str(number) for number in range(len(many))]
    (mounted,) = balancer["volumes"]
    assert (ROOT / mounted.split(":")[0]).is_file()
    assert mounted.endswith(":/usr/local/etc/haproxy/haproxy.cfg:ro")


def test_compose_leaves_the_balancer_no_rights(compose: dict[str, Any]) -> None:
    balancer = compose["services"]["balancer"]
    assert balancer["read_only"] is True
    assert balancer["cap_drop"] == ["ALL"]
    assert balancer["security_opt"] == ["no-new-privileges:true"]
    assert balancer["ports"] == ["127.0.0.1:8000:8000"]


def servers_of(compose: dict[str, Any]) -> list[dict[str, Any]]:
    return [service for service in compose["services"].values() if "build" in service]


def test_compose_leaves_the_server_no_rights_and_nothing_to_write_to(compose: dict[str, Any]) -> None:
    for service in servers_of(compose):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
        assert "user" not in service  # the user of the image, which is not root
        writable = [mount.split(":")[0] for mount in service["tmpfs"]]
        writable += [volume.split(":")[1] for volume in service["volumes"]]
        home = re.search(r"\bHOME=(\S+)", DOCKERFILE)[1]
        assert home in writable  # where libraries keep their caches


def test_compose_mounts_the_file_of_keys_that_it_names() -> None:
    """Once the lines are no comments any more: a setting alone would name a file that no container has."""
    text = (ROOT / "docker-compose.yml").read_text()
    compose = yaml.safe_load(re.sub(r"# (SAM2_API_KEYS: |- \./keys:)", r"\1", text))
    for service in servers_of(compose):
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        assert service["environment"]["SAM2_API_KEYS"] in mounted


def test_compose_gives_settings_that_the_server_accepts(compose: dict[str, Any]) -> None:
    for service in servers_of(compose):
        given = {name: value for name, value in service["environment"].items() if name.startswith("SAM2_")}
        Settings(**{name.removeprefix("SAM2_").lower(): value for name, value in given.items()})
        volumes = [volume.split(":")[1] for volume in service["volumes"]]
        assert volumes == [
            re.search(rf"SAM2_{name}_DIR=(\S+)", DOCKERFILE)[1] for name in ("WEIGHTS", "CACHE")
        ]
        # There are no keys, so the operator must allow other machines.
        assert service.get("ports", []) in ([], ["127.0.0.1:8000:8000"])
        assert {volume.split(":")[0] for volume in service["volumes"]} <= compose["volumes"].keys()
