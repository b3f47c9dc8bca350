"""What a Device of a cluster gets of the node that it runs on, and whether Ray was started there as it must be.

Does not know about models and requests.
"""

from typing import Any

import ray

from app.cluster.chosen_devices import settings_of_each
from app.cluster.ray_environment import differences
from app.errors import NotReady
from app.settings import Settings


def settings_on_this_node(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a Device here: memory and CPUs are divided by the GPUs of the node.

    Raises NotReady if Ray was started without what deploy/ray/environment says.
    """
    if lacking := differences():
        raise NotReady(
            f"'ray start' lacked {', '.join(lacking)} on node {ray.util.get_node_ip_address()}; "
            "start it with deploy/ray/environment"
        )
    settings = Settings(**given)
    here = ray.get_runtime_context().get_node_id()
    gpus = sum(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["NodeID"] == here)
    on_gpus = bool(ray.get_gpu_ids())
    each = settings_of_each(
        settings, count=max(1, gpus) if on_gpus else 1, on_gpus=on_gpus, cache_dir=settings.cache_dir
    )
    # A client's pictures are spread over all Devices, whose number may change, so each has the whole.
    return each | {"rate_pictures_per_minute": settings.rate_pictures_per_minute}
