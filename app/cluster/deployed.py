"""The Devices of a cluster, as `serve deploy deploy/ray/sam2.yaml` builds them: settings from its `args`.

Ray imports this on a node. Does not know about Fronts.
"""

from typing import Any

from ray import serve

from app.cluster.chosen_devices import OF_THE_FRONT, SECRETS
from app.cluster.device_actor import Load, application
from app.service.loading import load_segmenter
from app.settings import Settings


def devices(args: dict[str, Any]) -> serve.Application:
    """Return the application. `args` are settings by their names without SAM2_, over SAM2_* of each node.

    Raises ValueError, which `serve status` shows, for a name or a value that is none.
    """
    return devices_with(args, load_segmenter)


def devices_with(args: dict[str, Any], load: Load) -> serve.Application:
    """Return the application with another model."""
    of_fronts = sorted(OF_THE_FRONT & args.keys())
    if of_fronts:
        raise ValueError(
            f"{', '.join(of_fronts)}: a setting of Fronts (sam2-serve --cluster), not of Devices"
        )
    if "register_url" in args:
        raise ValueError(
            "register_url: Ray logs args; set SAM2_REGISTER_URL where 'ray start' runs, on each node"
        )
    given = args | dict.fromkeys(SECRETS, "")
    settings = Settings(**given)
    return application(
        given,
        replicas=1,
        gpus=int(settings.device != "cpu"),
        deadline_s=settings.deadline_s,
        load=load,
        is_divided=False,
    )
