"""The command `sam2-serve`: reads the settings, logs one line for each step, then serves."""

if __name__ == "__main__":
    from app.process import await_imports

    await_imports()  # those that follow

import argparse
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app.cluster.chosen_devices import ClusterError
from app.cluster.machine import machine_for
from app.listening import CannotListen, bind, listen
from app.main import create_app, prepare_routes
from app.middleware.access import RequestIdFilter
from app.middleware.hosts import is_loopback
from app.middleware.keys import ApiKeys, KeysError
from app.middleware.request_heads import most_connections, patient_protocol
from app.middleware.websockets import patient_websocket
from app.process import has_a_terminal, hold_standard_streams, spare_what_stays, tune
from app.routes.streams import Streams
from app.service.exporting import export
from app.service.loading import locate_weights
from app.service.segmentation import Segmentation
from app.settings import HIDDEN, Settings, unknown_variables, unusable_proxies
from app.storage.opening import CacheDirError, CacheUrlError, SharingError, check_bucket, check_folder
from app.telemetry.logs import formatter
from model.errors import CheckpointError, ExportError

EXPORT_DECODER = "export-decoder"
_USER_OF_A_URL = re.compile(r"(?<=//)[^\s'\"]+(?=@)")
"""A name and a password, which may have slashes as AWS's have."""

log = logging.getLogger("app")


class Server(uvicorn.Server):
    """Uvicorn, but on a stop signal the requests waiting in the queues are answered at once."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, deadline_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._deadline_s = deadline_s
        self.last_resort: threading.Timer | None = None
        """Ends the process; set when it begins to stop."""
        self._is_settled = False

    def stop_soon(self, *_: object) -> None:
        """Stop as soon as it runs, or if it has stopped, do nothing. A handler of signals."""
        self.should_exit = True
        self._set_last_resort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the address. Only now is the port known if SAM2_PORT is 0."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                log.info("Listening on %s; open it in a browser, or see %s/docs", url, url)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop. A model that cannot be loaded also stops the server, which is useless without one."""
        service: Segmentation = self._app.state.service
        if not self._is_settled and service.is_loaded:
            self._is_settled = True
            spare_what_stays()
        return await super().on_tick(counter) or service.failure is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, and see that it ends: a thread within a library cannot be stopped but with the process."""
        super().handle_exit(sig, frame)
        self._set_last_resort()

    def _set_last_resort(self) -> None:
        if self.last_resort is None:
            self.last_resort = threading.Timer(self._deadline_s, end_process)
            self.last_resort.daemon = True
            self.last_resort.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all waiting requests, then let Uvicorn wait for the running ones."""
        service: Segmentation = self._app.state.service
        service.drain()
        for budget in (self._app.state.body_budget, self._app.state.strangers_budget):
            budget.drain()
        streams: Streams = self._app.state.streams
        await streams.close(patience_s=self._deadline_s)
        await super().shutdown(sockets)
        if self.force_exit:  # a second Ctrl-C: the requests are not waited for, but what was promised is kept
            await self.lifespan.shutdown()


def end_process() -> None:
    """End the process where it stands, with 1."""
    log.error("Stopping took longer than SAM2_DEADLINE_S; the process ends with work undone.")
    logging.shutdown()
    os._exit(1)


def leave(sig: int, _: FrameType | None) -> None:
    """End the start, a download above all. Without a handler, the first process of a container gets no SIGTERM."""
    raise SystemExit(128 + sig)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until a signal. Return 0 after a clean stop, 1 if it cannot start, 2 for bad settings.

    A signal before it listens ends the process with 128 and its number, as without a handler.
    watchdog.py ends the process with 3 if the device hangs. `sam2-serve export-decoder` writes a file instead.
    """
    hold_standard_streams()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, leave)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == [EXPORT_DECODER]:
        return export_decoder(arguments[1:])
    try:
        settings = read_settings(arguments)
    except ValidationError as error:
        report(error)
        return 2
    configure_logging(settings)
    for name in unknown_variables():
        log.warning("%s is not a setting; 'sam2-serve --help' lists all settings.", name)
    for part in unusable_proxies():
        log.warning(
            "FORWARDED_ALLOW_IPS: no proxy has the address %r, so what it says of clients does not count. Use "
            "addresses such as 10.0.0.5, networks such as 10.0.0.0/24 (no bits beyond the mask), or * alone.",
            part,
        )
    try:
        return serve(settings)
    except KeysError as error:
        sys.stderr.write(f"SAM2_API_KEYS: {error}\n")
        return 2
    except (
        CacheDirError,
        CacheUrlError,
        CannotListen,
        CheckpointError,
        ClusterError,
        SharingError,
    ) as error:
        log.critical("%s", error)
        return 1


def serve(settings: Settings) -> int:
    """Serve until a signal. Return 0 after a clean stop, 1 if the model cannot be loaded.

    Raises the error of whatever is missing at the start, and KeysError for keys that cannot be read.
    """
    machine = machine_for(settings)
    app = create_app(settings, connect=machine.connect if machine else None)
    keys: ApiKeys = app.state.keys
    if keys.path is not None or not has_a_terminal():
        signal.signal(signal.SIGHUP, lambda *_: keys.reload())
    with ExitStack() as running:
        listeners = bind(settings.host, settings.port)  # first of all: a second server ends at once
        for listener in listeners:
            running.callback(listener.close)
        if not keys and not is_loopback(settings.host):
            log.warning(
                "SAM2_HOST=%s accepts other machines, and without SAM2_API_KEYS any client that reaches the port "
                "may do everything. Set SAM2_API_KEYS.",
                settings.host,
            )
        if not settings.cluster:
            check_folder(settings)
            check_bucket(settings)
            # Before the server starts: a download shows progress, and a failure ends here.
            locate_weights(settings)
        running.enter_context(machine or nullcontext())
        listen(listeners)
        server = make_server(app, settings)
        for stop in (signal.SIGINT, signal.SIGTERM):
            # Uvicorn catches these, stops, and raises them again for the previous handler. With this one the exit
            # is clean. It also hears those that come before Uvicorn listens for them.
            signal.signal(stop, server.stop_soon)
        prepare_routes(app)
        tune()
        try:
            server.run(listeners)
        except SystemExit:  # Uvicorn has logged why; its 3 is the watchdog's here
            return 1
    service: Segmentation = app.state.service
    if server.last_resort is not None and not service.is_working:
        server.last_resort.cancel()
    return 0 if server.started and service.failure is None else 1


def export_decoder(arguments: Sequence[str]) -> int:
    """Write the decoder as ONNX. Return 0, 1 if it cannot be written, 2 for bad settings."""
    parser = settings_parser(
        f"sam2-serve {EXPORT_DECODER}",
        "Write the mask decoder of a model as ONNX, for browsers and other programs. The settings of the server "
        "say which model.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="Where to write it.")
    given = vars(parser.parse_args(arguments))
    output: Path = given.pop("output")
    try:
        settings = settings_of(given)
    except ValidationError as error:
        report(error)
        return 2
    configure_logging(settings)
    try:
        export(settings, output)
    except (CheckpointError, ExportError, ValueError) as error:
        log.critical("%s", error)
        return 1
    return 0


def report(error: ValidationError) -> None:
    """Write a line for each bad setting."""
    for problem in error.errors():
        name = "_".join(map(str, problem["loc"]))
        # An error without a location has all settings as its input, secrets among them.
        shows = bool(name) and name not in HIDDEN
        got = f" (got {problem['input']!r})" if shows else ""
        what = problem["msg"].removeprefix("Value error, ")  # pydantic's, before the words of our own checks
        line = f"SAM2_{name.upper()}: {what}{got}\n"
        sys.stderr.write(_USER_OF_A_URL.sub("***", line))


def make_server(app: FastAPI, settings: Settings) -> Server:
    """Return the server of an application, not yet running."""
    config = uvicorn.Config(
        app,
        http=patient_protocol(patience_s=settings.deadline_s, most=most_connections()),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.deadline_s) + 5,
        ws=patient_websocket(patience_s=settings.deadline_s),
        ws_per_message_deflate=False,  # a few kilobytes would unpack to megabytes, on the event loop
    )
    return Server(config, app, deadline_s=settings.deadline_s)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read settings from the command line, then the environment, then the defaults."""
    parser = settings_parser(
        "sam2-serve",
        "Serve SAM 2. Each option is also an environment variable: SAM2_ and its name in upper case. "
        f"sam2-serve {EXPORT_DECODER} --help: write the decoder for browsers instead.",
    )
    return settings_of(vars(parser.parse_args(arguments)))


def settings_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with an option for each setting."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    for name, setting in Settings.model_fields.items():
        default = "" if setting.default_factory else f" Default: {setting.default or 'none'}."
        text = f"{setting.description}{default} [SAM2_{name.upper()}]".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=name.split("_")[-1].upper(), help=text)
    return parser


def settings_of(options: Mapping[str, object]) -> Settings:
    """Return the settings of parsed options; those that are not given come from the environment."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    return Settings(**given)  # pydantic converts and checks them


def configure_logging(settings: Settings) -> None:
    """Log everything, including Python's warnings, in one format to standard error, with the request's id."""
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(formatter(settings.log_format))
    logging.captureWarnings(capture=True)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
