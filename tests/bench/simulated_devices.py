"""`sam2-serve` with devices that only sleep, as a process of its own. simulated_cluster.py starts it.

    python -m tests.bench.simulated_devices FOLDER OPTIONS
    python -m tests.bench.simulated_devices FOLDER --join OPTIONS

FOLDER and what it holds are those of tests/app/cluster/fake_server.py. Once FOLDER/replicas has a number, there are
so many devices; the engine's scaler, which the command does not use, does it. FOLDER/engine says how another Front
joins: with --join, this is one.
"""

import json
import os
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

from app.cluster import ray_environment
from app.settings import Settings

ENGINE, REPLICAS = "engine", "replicas"
_AUTH_VARIABLE = "RAY_AUTH_TOKEN"
_LOOK_S = 0.1


def keep_scaling(folder: Path) -> None:
    """Look at a file again and again, and have as many replicas as it says."""
    # Here, because Ray reads its variables when it is imported.
    from ray.serve._private.common import DeploymentID
    from ray.serve.context import _get_global_client

    from app.cluster.device_actor import APPLICATION, DEPLOYMENT

    done = ""
    while True:
        with suppress(FileNotFoundError):
            wanted = (folder / REPLICAS).read_text()
            if wanted and wanted != done:
                controller: Any = _get_global_client()._controller
                controller.update_deployment_replicas.remote(
                    DeploymentID(DEPLOYMENT, APPLICATION), int(wanted)
                )
                done = wanted
        sleep(_LOOK_S)


def run_devices(folder: Path, options: list[str]) -> int:
    """Run the command with simulated devices."""
    import app.cluster.machine
    import app.main as main_module
    import app.service.loading
    from tests.app.cluster import fake_server

    machine_for = app.cluster.machine.machine_for

    def scalable_machine_for(settings: Settings) -> Any:
        machine: Any = machine_for(settings)
        if machine is not None:
            import ray
            from ray import serve

            run = partial(serve.run, external_scaler_enabled=True)

            def run_and_tell(*arguments: Any, **named: Any) -> Any:
                found = run(*arguments, **named)
                said = {
                    "address": ray.get_runtime_context().gcs_address,
                    "token": os.environ[_AUTH_VARIABLE],
                    "folder": str(machine._folder),
                }
                (folder / ENGINE).write_text(json.dumps(said))
                threading.Thread(target=keep_scaling, args=(folder,), daemon=True).start()
                return found

            serve.run = run_and_tell
        return machine

    app.cluster.machine.machine_for = scalable_machine_for
    app.service.loading.load_segmenter = fake_server.load  # of Devices
    vars(main_module)["load_segmenter"] = fake_server.load  # of a server alone
    import app.__main__

    return app.__main__.main(["--checkpoint", "untrained", "--cache-dir", str(folder / "cache"), *options])


def join(folder: Path, options: list[str]) -> int:
    """Run another Front of the same devices."""
    engine = json.loads((folder / ENGINE).read_text())
    os.environ[_AUTH_VARIABLE] = engine["token"]
    ray_environment.prepare_to_join()
    from ray._private import services

    import app.__main__

    services.resolve_ip_for_localhost = lambda host: host  # as one_machine.py does: it listens there only
    return app.__main__.main(["--cluster", engine["address"], *options])


def main() -> int:
    """Run the command."""
    folder, options = Path(sys.argv[1]), sys.argv[2:]
    if options[:1] == ["--join"]:
        return join(folder, options[1:])
    return run_devices(folder, options)


if __name__ == "__main__":
    sys.exit(main())
