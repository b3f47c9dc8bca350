"""deploy/kubernetes and deploy/ray, as far as their texts tell: what names what, and what the code knows of it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from app.main import create_app
from app.settings import Settings
from tests.server import ROOT

TEXT = (ROOT / "deploy/kubernetes/sam2.yaml").read_text()
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
RAY = yaml.safe_load((ROOT / "deploy/ray/sam2.yaml").read_text())
AGENT_PORT = 52365
"""Where Ray says that a node is well."""


def the(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


SERVICE, FRONT = the("RayService", "sam2"), the("Deployment", "sam2-front")
GROUPS = [
    SERVICE["spec"]["rayClusterConfig"]["headGroupSpec"],
    *SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"],
]
TEMPLATES: list[dict[str, Any]] = [*(group["template"] for group in GROUPS), FRONT["spec"]["template"]]


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every container, after the specification of its pod."""
    for template in TEMPLATES:
        for container in template["spec"]["containers"]:
            yield template["spec"], container


def chosen(selector: dict[str, str]) -> list[dict[str, Any]]:
    """Return the templates of the pods that a selector chooses."""
    return [each for each in TEMPLATES if selector.items() <= each["metadata"]["labels"].items()]


def test_devices_are_deployed_as_without_kubernetes() -> None:
    here = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    args, theirs = here["applications"][0].pop("args"), RAY["applications"][0] | {}
    assert args.keys() == theirs.pop("args").keys()
    assert here == RAY | {"applications": [theirs]}
    for folder in ("weights_dir", "cache_dir"):
        (mounted,) = GROUPS[1]["template"]["spec"]["containers"]
        assert args[folder] in [mount["mountPath"] for mount in mounted["volumeMounts"]]


def test_devices_get_settings_that_the_server_accepts() -> None:
    (application,) = RAY["applications"]
    settings = Settings(**application["args"])
    (device,) = application["deployments"]
    assert device["graceful_shutdown_timeout_s"] > settings.deadline_s
    assert (ROOT / (application["import_path"].split(":")[0].replace(".", "/") + ".py")).is_file()


def test_devices_know_where_names_are() -> None:
    """Without it, SQLite would lie in a folder that all mount."""
    (device,) = GROUPS[1]["template"]["spec"]["containers"]
    (given,) = device["env"]
    secret = given["valueFrom"]["secretKeyRef"]
    assert given["name"] == "SAM2_REGISTER_URL"
    assert f"secret generic {secret['name']} --from-literal={secret['key']}=postgresql://" in TEXT
    extras = re.search(r'EXTRAS="(.*?)"', TEXT)
    assert extras is not None
    assert {"cluster", "postgres"} <= set(extras[1].split())


def test_every_variable_is_a_setting_or_of_ray() -> None:
    said = (ROOT / "deploy/ray/environment").read_text()
    assert the("ConfigMap", "sam2-environment")["data"] == dict(
        re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE)
    )
    (front,) = FRONT["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value", "") for each in front["env"]}
    assert given.pop("RAY_AUTH_TOKEN") == ""
    known = {f"SAM2_{name.upper()}" for name in Settings.model_fields}
    assert given.keys() <= known
    for name in re.findall(r"\bSAM2_[A-Z0-9_]+", TEXT):
        assert name in known


def test_services_do_not_become_settings() -> None:
    """Without this, the Service `sam2` gives later pods SAM2_PORT=tcp://..., and no Front starts again."""
    assert the("Service", "sam2")
    for pod, _ in containers():
        assert pod["enableServiceLinks"] is False


def test_all_pods_are_of_one_image_one_ray_and_one_token() -> None:
    (image,) = {container["image"] for _, container in containers()}
    assert f"-t {image} ." in TEXT
    config = SERVICE["spec"]["rayClusterConfig"]
    assert f"ray=={config['rayVersion']}\n" in (ROOT / "constraints-cluster.txt").read_text()
    (front,) = FRONT["spec"]["template"]["spec"]["containers"]
    token = next(each for each in front["env"] if each["name"] == "RAY_AUTH_TOKEN")["valueFrom"][
        "secretKeyRef"
    ]
    assert config["authOptions"] == {"mode": "token", "secretName": token["name"]}
    assert f"secret generic {token['name']} --from-literal={token['key']}=" in TEXT
    for _, container in containers():
        assert container["envFrom"] == [{"configMapRef": {"name": "sam2-environment"}}]


def test_fronts_join_the_head_that_kuberay_names() -> None:
    (front,) = FRONT["spec"]["template"]["spec"]["containers"]
    (script,) = front["args"]
    gcs = next(
        each
        for each in GROUPS[0]["template"]["spec"]["containers"][0]["ports"]
        if each["name"] == "gcs-server"
    )
    assert f"--address={SERVICE['metadata']['name']}-head-svc:{gcs['containerPort']} " in script
    assert "--num-gpus=0" in script
    assert script.endswith("&& exec python -m app --cluster auto")


def test_selectors_choose_pods_and_ports_are_open() -> None:
    assert FRONT["spec"]["selector"]["matchLabels"] == FRONT["spec"]["template"]["metadata"]["labels"]
    service = the("Service", "sam2")["spec"]
    (template,) = chosen(service["selector"])
    names = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert [port["targetPort"] for port in service["ports"]] == names
    for budget in [each for each in OBJECTS if each["kind"] == "PodDisruptionBudget"]:
        (template,) = chosen(budget["spec"]["selector"]["matchLabels"])
        # The only form that counts where no Deployment or the like has the pods, as with those of KubeRay.
        assert type(budget["spec"]["minAvailable"]) is int
    assert len(chosen(the("NetworkPolicy", "sam2-ray")["spec"]["podSelector"]["matchLabels"])) == len(
        TEMPLATES
    )
    policy = the("NetworkPolicy", "sam2-front")["spec"]
    (template,) = chosen(policy["podSelector"]["matchLabels"])
    ports = [port["containerPort"] for port in template["spec"]["containers"][0]["ports"]]
    assert [port["port"] for port in policy["ingress"][0]["ports"]] == ports
    dashboard = the("NetworkPolicy", "sam2-ray")["spec"]["ingress"][1]["ports"]
    head = {port["containerPort"] for port in GROUPS[0]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["port"] for port in dashboard} <= head


def test_probes_ask_for_what_there_is() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    for _, container in containers():
        probes = [each["httpGet"] for name, each in container.items() if name.endswith("Probe")]
        assert probes
        for probe in probes:
            if probe["port"] == AGENT_PORT:
                assert probe["path"] == "/api/healthz"
            else:
                assert probe["port"] in [port["name"] for port in container["ports"]]
                assert probe["path"] in paths


def test_what_is_mounted_is_there() -> None:
    for spec, container in containers():
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes.keys()
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                the("PersistentVolumeClaim", claim["claimName"])
            if secret := volume.get("secret"):
                assert f"secret generic {secret['secretName']} " in TEXT


def test_pods_have_no_rights_and_time_to_finish() -> None:
    for spec, container in containers():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    for template in TEMPLATES[1:]:
        assert template["spec"]["terminationGracePeriodSeconds"] > Settings().deadline_s + 10


@pytest.mark.parametrize("group", GROUPS[1:], ids=lambda group: str(group["groupName"]))
def test_a_pod_of_devices_has_the_gpus_that_one_needs(group: dict[str, Any]) -> None:
    (device,) = RAY["applications"][0]["deployments"]
    (container,) = group["template"]["spec"]["containers"]
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == device["ray_actor_options"]["num_gpus"]
    scaling = device["autoscaling_config"]
    assert (group["minReplicas"], group["maxReplicas"]) == (scaling["min_replicas"], scaling["max_replicas"])
