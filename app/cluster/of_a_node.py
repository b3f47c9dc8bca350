"""What a Device of a cluster gets of the node that it runs on, and whether Ray was started there as it must be.

Does not know about models and requests.
"""

from typing import Any

import ray

from app.cluster.chosen_devices import settings_of_each
from app.cluster.ray_environment import differences
from app.errors import NotReady
from app.settings import Settings
from app.storage.opening import check_bucket, check_folder


def settings_on_this_node(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a Device here: memory and CPUs are divided by the Devices that have room on the node.

    Raises NotReady if Ray was started without what deploy/ray/environment says, and CacheDirError or CacheUrlError
    if what they share cannot be used here: `serve status` shows it, as the command would.
    """
    if lacking := differences():
        raise NotReady(
            f"'ray start' lacked {', '.join(lacking)} on node {ray.util.get_node_ip_address()}; "
            "start it with deploy/ray/environment"
        )
    settings = Settings(**given)
    check_folder(settings)
    check_bucket(settings)
    on_gpus = bool(ray.get_gpu_ids())
    count = _devices_on_this_node("GPU" if on_gpus else "CPU")
    each = settings_of_each(settings, count=count, on_gpus=on_gpus, cache_dir=settings.cache_dir)
    # A client's pictures are spread over all Devices, whose number may change, so each has the whole.
    return each | {"rate_pictures_per_minute": settings.rate_pictures_per_minute}


def _devices_on_this_node(kind: str) -> int:
    """Return how many Devices have room here: what Ray counts of a kind, by what this one was given of it.

    One that was given nothing may be alone.
    """
    context = ray.get_runtime_context()
    given = context.get_assigned_resources().get(kind, 0)
    here = context.get_node_id()
    there = sum(node["Resources"].get(kind, 0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(there // given)) if given else 1
