"""Requests that schemathesis generates from openapi.json: no reply is a server error, and all match the schema."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from tests.soak.effort import Effort
from tests.soak.process import known_answers, serving
from tests.soak.verdict import Finding, enough, none

NAME = "requests"
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
_LATE_S = 120
"""Extra time for schemathesis beyond its limit, because it finishes a scenario first."""


def _command() -> str:
    """Return the path of schemathesis in this environment, or else in PATH."""
    beside = Path(sys.executable).parent
    command = shutil.which("st", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        raise FileNotFoundError("schemathesis is not installed: run make soak, or pip install '.[soak]'")
    return command


def check(effort: Effort) -> list[Finding]:
    """Run up to 10,000 cases or 20 minutes."""
    seconds = effort.seconds(full=1200, quick=60)
    # On a busy machine the coverage phase takes minutes before its first request.
    phases = "examples,fuzzing" if effort.quick else "examples,coverage,fuzzing,stateful"
    report = effort.folder / "requests.json"
    with serving(known_answers(), effort.folder, deadline_s="10") as server:
        document = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
        operations = sum(len(methods) for methods in document["paths"].values())
        done = subprocess.run(
            [
                *(_command(), "run", f"{server.url}/openapi.json"),
                *("--checks", ",".join(_CHECKS), "--continue-on-failure", "--no-color", "--warnings", "off"),
                *("--max-time", f"{seconds:.0f}", "--max-examples", str(10_000 // operations)),
                *("--phases", phases, "--request-timeout", "15"),
                *("--suppress-health-check", "all", "--generation-database", "none"),
                *("--report", "json", "--report-json-path", str(report)),
            ],
            cwd=effort.folder,
            capture_output=True,
            text=True,
            timeout=seconds + _LATE_S,
            check=False,
        )
        (effort.folder / "requests.txt").write_text(done.stdout + done.stderr)
        alive = server.process.poll() is None
    said = done.stdout
    cases = re.search(r"([\d,]+) (?:generated|test cases)", said)
    count = int(cases[1].replace(",", "")) if cases else 0
    failed = re.findall(r"^- (.+)$", said, re.MULTILINE)
    if done.returncode and not failed:
        failed = [(said + done.stderr)[-500:]]
    faults = [line for line in server.log.read_text().splitlines() if "Traceback" in line]
    return [
        enough(NAME, "requests", count, effort.times(full=5000, quick=200)),
        none(NAME, "replies that are server errors or do not match openapi.json", failed),
        none(NAME, "exceptions in the log", faults),
        Finding(NAME, "the server is still running", json.dumps(alive), alive),
    ]
