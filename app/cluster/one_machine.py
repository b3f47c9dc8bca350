"""Ray on this machine alone, from the start of the command to its end.

Does not know about requests.
"""

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Self

import ray
from ray import serve
from ray._private import services

from app.cluster.chosen_devices import Chosen, ClusterError, settings_of_each
from app.cluster.device_actor import APPLICATION, DEPLOYMENT, LOGGING, LOOPBACK, Load, application
from app.cluster.ray_devices import RayDevices
from app.service.loading import load_segmenter
from app.settings import Settings

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 80 * 2**20
"""The least that Ray accepts. Calls do not go through it."""
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans among the descendants become children of this process."""
_WRITING_S = 20.0
"""For devices to write what they promised. A Ray that was told to stop at the same time says nothing for ever."""
_ENDING_S = 5.0


class OneMachine:
    """A Ray that runs while this is entered. `connect` starts the Devices on it.

    Enter it on the main thread: Ray's processes end when the thread that started them does.
    """

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        self._settings = settings
        self._chosen = Chosen.of(settings.devices)
        self._load = load or load_segmenter
        self._folder: Path
        self._is_running = False

    def __enter__(self) -> Self:
        """Start Ray on 127.0.0.1. Raises ClusterError if it does not start, or if there are no such devices."""
        self._folder = Path(tempfile.mkdtemp(prefix="sam2-ray-"))
        if sys.platform == "linux":  # elsewhere, Ray itself ends what it started
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            # Ray would take this machine's address in its network, and listen there.
            services.resolve_ip_for_localhost = lambda host: host
            self._start_ray()
            if not self._count():
                raise ClusterError(
                    "Ray finds no GPU on this machine. SAM2_DEVICES=cpu:2 tries it with the CPUs."
                )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all that was started."""
        self._end()

    async def connect(self) -> RayDevices:
        """Start the Devices, and return them when all are warm. Raises what keeps them from that."""
        settings, count, on_gpus = self._settings, self._count(), self._chosen.on_gpus
        cache_dir = settings.cache_dir
        if not cache_dir:
            cache_dir = str(self._folder / "cache")
            log.info("The devices share %s, which is deleted at the end; SAM2_CACHE_DIR keeps it", cache_dir)
        given = settings_of_each(settings, count=count, on_gpus=on_gpus, cache_dir=cache_dir)
        app = application(
            given, replicas=count, gpus=int(on_gpus), deadline_s=settings.deadline_s, load=self._load
        )
        log.info("Starting %d devices", count)

        logging.getLogger("ray.serve").setLevel(logging.WARNING)

        def run() -> None:
            serve.start(proxy_location="Disabled", logging_config=LOGGING)
            serve.run(app, name=APPLICATION, route_prefix=None)

        try:
            await _in_a_thread(run)
        except RuntimeError as error:  # Ray says that a replica could not be made, but not why
            raise ClusterError(f"A device did not start; its lines above say why. ({error})") from error
        self._is_running = True
        return RayDevices(serve.get_deployment_handle(DEPLOYMENT, APPLICATION))

    def _start_ray(self) -> None:
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                num_cpus=1,
                num_gpus=0 if self._chosen.cpus else None,
                configure_logging=False,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(self._folder),
            )
        except Exception as error:  # Ray's errors have no common type; each says what it waited for
            raise ClusterError(
                f"Ray does not start on this machine: {error} It gives up after 30 s, so try again when the "
                "machine is less busy, and see that it has memory, and room in /tmp and /dev/shm."
            ) from error

    def _count(self) -> int:
        return self._chosen.cpus or int(ray.cluster_resources().get("GPU", 0))

    def _end(self) -> None:
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # it misses the event loop, which has ended
        deleting = threading.Thread(target=_delete_devices, name="end of the devices", daemon=True)
        if self._is_running:
            deleting.start()
            deleting.join(_WRITING_S)
        if deleting.is_alive():
            log.error(
                "Ray does not end the devices, as if it were ended too; what they promised may be lost."
            )
            self._end_rest()
            logging.shutdown()
            os._exit(1)  # Ray's own end would crash while that thread waits in it
        with suppress(Exception):
            ray.shutdown()
        self._end_rest()

    def _end_rest(self) -> None:
        _end_descendants()
        shutil.rmtree(self._folder, ignore_errors=True)


async def _in_a_thread(job: Callable[[], None]) -> None:
    """Run a job that may take minutes in a thread that the end of the command does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(failure: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            return
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)

    def run() -> None:
        failure: BaseException | None = None
        try:
            job()
        except Exception as error:  # raised where it is waited for
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, name="start of the devices", daemon=True).start()
    await done


def _delete_devices() -> None:
    with suppress(Exception):  # whatever is wrong with Ray, it is ended anyway
        serve.delete(APPLICATION)


def _end_descendants() -> None:
    """End what is left of this process's descendants, each by its number."""
    until = monotonic() + _ENDING_S
    while (left := _children()) and monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        sleep(0.02)  # the children of those become ours


def _children() -> list[int]:
    pids = []
    for folder in Path("/proc/self/task").glob("*"):
        with suppress(OSError):
            pids += [int(pid) for pid in (folder / "children").read_text().split()]
    return pids
