"""CVAT's public packages against a server of this checkout: what the door answers, and the agents of cvat-cli.

CVAT's server is not among these packages. Its calls are made with requests, as it makes them, and masks are read
and written by cvat_sdk.masks. Agents are cvat-cli itself; a stand-in gives them work.
"""

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import requests
from cvat_sdk.masks import decode_mask, encode_mask
from PIL import Image

from tests.server import ROOT
from tests.tools.checking import SCENE, Checks, Reference, agreement, large_jpeg, print_times, serving
from tests.tools.cvat_stand_in import FUNCTION, StandIn, Wanted, standing_in

KEY = "anna-0123456789abcdef"
HEADERS = {
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "nuclio",
    "x-nuclio-invoke-via": "domain-name",
}
INVOKE = HEADERS | {"x-nuclio-function-name": "sam2", "x-nuclio-path": "/"}
LEAST_IOU = 0.99
"""With /decode. A busy machine gives the model fewer threads, and then sums round differently."""
HEAVY_BYTES = 22_500_000
"""30 MB in base64."""


def payload(data: bytes, inside: Any = (), outside: Any = (), box: Any = None) -> dict[str, Any]:
    """Return what CVAT sends to the function."""
    return {
        "image": base64.b64encode(data).decode(),
        "pos_points": list(inside),
        "neg_points": list(outside),
        "obj_bbox": box,
    }


def invoke(url: str, *args: Any, path: str = "/api/function_invocations", **fields: Any) -> Any:
    """Return the function's answer, as CVAT's server gets it."""
    reply = requests.post(url + path, headers=INVOKE, json=payload(*args, **fields), timeout=120)
    reply.raise_for_status()
    return reply.json()


def points_of(answer: Any) -> list[int]:
    (shape,) = answer["shapes"]
    assert shape["type"] == "mask"
    points: list[int] = shape["points"]
    return points


def as_decode(inside: Any = (), outside: Any = (), box: Any = None) -> dict[str, Any]:
    """Return the same prompt for /decode."""
    prompt: dict[str, Any] = {}
    if inside or outside:
        prompt["point_coords"] = [*inside, *outside]
        prompt["point_labels"] = [1] * len(inside) + [0] * len(outside)
    if box:
        prompt["box"] = [*box[0], *box[1]]
    return prompt


def prompts_for(width: int, height: int) -> dict[str, dict[str, Any]]:
    """Return prompts of all kinds by what they are."""
    middle, corner = [width / 2, height / 2], [width / 8, height / 8]
    box = [[width * 0.2, height * 0.2], [width * 0.8, height * 0.7]]
    return {
        "a click": {"inside": [middle]},
        "clicks of both kinds": {"inside": [middle, [width * 0.6, height * 0.4]], "outside": [corner]},
        "a box and a click": {"inside": [middle], "box": box},
        "a box alone": {"box": box},
        "a click in the corner": {"inside": [[0.5, 0.5]]},
    }


def check_mask(checks: Checks, what: str, mask: np.ndarray, expected: np.ndarray) -> None:
    iou = agreement(mask, expected)
    checks.check(f"{what}: the mask of /decode", iou >= LEAST_IOU, f"IoU {iou:.4f}")


def check_shapes(checks: Checks, url: str, data: bytes) -> None:
    listed = requests.get(f"{url}/api/functions", headers=HEADERS, timeout=10).json()
    alone = requests.get(f"{url}/api/functions/sam2", headers=HEADERS, timeout=10).json()
    checks.check("the function is listed, and alone the same", listed == {"sam2": alone})
    port = alone["status"]["httpPort"]
    checks.check("its port is the server's", url.endswith(f":{port}"), port)
    reference = Reference(url)
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        region = picture.convert("RGB").crop((width // 4, height // 4, width, height))
    image_id = reference.embed(data)
    for what, prompt in prompts_for(width, height).items():
        points = points_of(invoke(url, data, **prompt))
        expected = reference.mask(image_id, **as_decode(**prompt))
        mask = decode_mask(points, image_width=width, image_height=height)
        check_mask(checks, what, mask, expected)
        same = points == encode_mask(mask)
        checks.check(f"{what}: the numbers that cvat_sdk.masks writes", same, len(points))
    file = io.BytesIO()
    region.save(file, "JPEG", quality=95)
    click = [[region.width / 2, region.height / 2]]
    points = points_of(invoke(url, file.getvalue(), click))
    expected = reference.mask(reference.embed(file.getvalue()), **as_decode(click))
    mask = decode_mask(points, image_width=region.width, image_height=region.height)
    check_mask(checks, "a region of interest", mask, expected)
    click = [[width / 2, height / 2]]
    points = points_of(invoke(url, data, click, path="/"))
    mask = decode_mask(points, image_width=width, image_height=height)
    check_mask(checks, "the function itself at /", mask, reference.mask(image_id, **as_decode(click)))
    is_page = requests.get(url, timeout=10).headers["content-type"].startswith("text/html")
    checks.check("the page at /", is_page)
    error = requests.post(f"{url}/", json={"image": "&", "pos_points": []}, timeout=10)
    checks.check("an error", error.status_code == 422 and isinstance(error.json()["error"], str), error.text)


def check_crop(checks: Checks, url: str, data: bytes) -> None:
    reference = Reference(url)
    image_id = reference.embed(data)
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    for what, prompt in prompts_for(width, height).items():
        answer = invoke(url, data, **prompt)
        expected = reference.mask(image_id, **as_decode(**prompt))
        mask = np.zeros_like(expected)
        left, top, right, bottom = answer["bounds"]
        mask[top : bottom + 1, left : right + 1] = np.array(answer["mask"], np.uint8) == 255
        check_mask(checks, f"older form, {what}", mask, expected)


def check_keys(checks: Checks, url: str, data: bytes) -> None:
    for path in ("/api/functions", "/api/functions/sam2"):
        with_key = url.replace("://", f"://anna:{KEY}@") + path
        statuses = [
            requests.get(each, headers=HEADERS, timeout=10).status_code for each in (url + path, with_key)
        ]
        checks.check(f"{path} without a key, and with NAME:KEY@host", statuses == [401, 200], statuses)
    answer = invoke(url.replace("://", f"://anna:{KEY}@"), data, [[100, 100]])
    checks.check("an invocation with NAME:KEY@host", bool(points_of(answer)))
    for path in ("/api/function_invocations", "/"):
        status = requests.post(url + path, json=payload(data, [[100, 100]]), timeout=10).status_code
        checks.check(f"POST {path} without a key", status == 401, status)


def cvat_cli(host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run cvat-cli as a user does who has installed sam2_client."""
    variables = os.environ | {"CVAT_ACCESS_TOKEN": "token", "PYTHONPATH": str(ROOT / "client")}
    return subprocess.run(
        [sys.executable, "-m", "cvat_cli", "--server-host", host, *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def check_agent(checks: Checks, url: str, data: bytes, function: str) -> None:
    """Let agents work through a queue. `function` is the option that names our file."""
    reference = Reference(url, KEY)
    with Image.open(io.BytesIO(data)) as picture:
        pixels = picture.convert("RGB")
    width, height = pixels.size
    roi = (width // 4, height // 4, width, height)
    prompts = prompts_for(width, height)

    def evict() -> None:
        for image in httpx.get(f"{url}/images", headers={"X-API-Key": KEY}, trust_env=False).json()["images"]:
            httpx.delete(
                f"{url}/images/{image['image_id']}", headers={"X-API-Key": KEY}, trust_env=False
            ).raise_for_status()

    def wanted(prompt: dict[str, Any], before: Callable[[], object] = lambda: None, **more: Any) -> Wanted:
        sent = {
            "pos_points": prompt.get("inside", []),
            "neg_points": prompt.get("outside", []),
            "obj_bbox": prompt.get("box", []),
        }
        return Wanted(sent | more, before)

    server = StandIn(data, pixels.size)
    server.queue = [wanted(prompt) for prompt in prompts.values()]
    server.queue += [
        wanted(prompts["a click"], before=evict),
        wanted({"inside": [[100, 100]]}, roi=list(roi)),
        wanted({}),
    ]
    with standing_in(server) as host:
        created = cvat_cli(host, "function", "create-native", "SAM 2", function)
        made = created.stdout.strip() == str(FUNCTION)
        checks.check("create-native", made, "" if made else created.stderr[-2000:])
        parameters = ["-p", f"server=str:{url}", "-p", f"api_key=str:{KEY}"]
        ran = cvat_cli(host, "function", "run-agent", str(FUNCTION), function, *parameters, "--burst")
        checks.check("run-agent", ran.returncode == 0, "" if ran.returncode == 0 else ran.stderr[-2000:])
        *done, empty = server.answers
        whole = [*prompts.items(), ("a click on an evicted picture", prompts["a click"])]
        file = io.BytesIO()
        pixels.save(file, "PNG", compress_level=1)
        image_id = reference.embed(file.getvalue())
        for (what, prompt), answer in zip(whole, done, strict=False):
            mask = decode_mask(points_of(answer), image_width=width, image_height=height)
            check_mask(checks, f"agent, {what}", mask, reference.mask(image_id, **as_decode(**prompt)))
        checks.check("the frame was sent once, and once more for a region", server.frames_sent == 2)
        file = io.BytesIO()
        pixels.crop(roi).save(file, "PNG", compress_level=1)
        expected = reference.mask(reference.embed(file.getvalue()), **as_decode([[100, 100]]))
        mask = decode_mask(points_of(done[-1]), image_width=roi[2] - roi[0], image_height=roi[3] - roi[1])
        check_mask(checks, "agent, a region of interest", mask, expected)
        checks.check("agent, no prompt: the reason", "it is empty" in empty.get("exc_info", ""), empty)
        server.queue = [wanted(prompts["a click"])]
        ran = cvat_cli(host, "function", "run-agent", str(FUNCTION), function, *parameters[:2], "--burst")
        said = server.answers[-1].get("exc_info", "")
        checks.check("agent without a key: the reason", "requires an API key" in said, said)


def print_lags(url: str, data: bytes) -> None:
    """Post bodies with 30 MB of base64. Print how long the event loop stood still, and what /healthz took."""
    heavy = data + bytes(HEAVY_BYTES - len(data))
    body = payload(heavy, [[100, 100]])
    delays: list[float] = []
    ended = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
            while not ended.wait(0.005):
                started = perf_counter()
                client.get("/healthz")
                delays.append(1000 * (perf_counter() - started))

    def lags() -> tuple[int, int]:
        """How often the server looked at its event loop, and how often it stood still for less than 5 ms."""
        text = httpx.get(f"{url}/metrics", trust_env=False).text
        counted = re.search(r"^sam2_event_loop_lag_seconds_count (\S+)", text, re.MULTILINE)
        short = re.search(r'^sam2_event_loop_lag_seconds_bucket{le="0.005"} (\S+)', text, re.MULTILINE)
        assert counted is not None
        assert short is not None
        return int(float(counted[1])), int(float(short[1]))

    content = requests.Request("POST", f"{url}/api/function_invocations", headers=INVOKE, json=body).prepare()
    thread = threading.Thread(target=probe)
    with requests.Session() as session:
        session.send(content, timeout=120).raise_for_status()  # encoded from here on
        thread.start()
        looks, short = lags()
        for _ in range(10):
            session.send(content, timeout=120).raise_for_status()
        ended.set()
    looks_after, short_after = lags()
    thread.join()
    worst, typical = max(delays), float(np.median(delays))
    looks, short = looks_after - looks, short_after - short
    print(f"event loop beside bodies with 30 MB of base64: below 5 ms at {short} of {looks} looks")
    print(f"/healthz meanwhile: p50 {typical:.1f} ms, worst {worst:.1f} ms, {len(delays)} calls")


def main() -> None:
    checks = Checks()
    print(f"cvat-cli {version('cvat-cli')}, cvat-sdk {version('cvat-sdk')}, requests {version('requests')}")
    data = SCENE.read_bytes()
    large = large_jpeg()
    with serving() as (url, log):
        check_shapes(checks, url, data)
        check_shapes(checks, url, large)
        checks.check("the reason of an error is in the log", "for cvat: " in log.read_text())
        print_lags(url, data)
        session = requests.Session()

        @lru_cache(maxsize=1)  # CVAT's own time for writing base64 is not the door's
        def written(file: bytes) -> requests.PreparedRequest:
            body = payload(file, [[2000, 1500]])
            address = f"{url}/api/function_invocations"
            return requests.Request("POST", address, headers=INVOKE, json=body).prepare()

        def click(file: bytes) -> None:
            reply = session.send(written(file), timeout=120)
            reply.raise_for_status()
            points_of(reply.json())

        size = len(base64.b64encode(large))
        print_times(large, Reference(url), door=click, point=(2000, 1500), base64_bytes=size)
    with serving(cvat_answer="crop") as (url, _):
        check_crop(checks, url, data)
    with serving(api_keys=f"anna:{KEY}") as (url, _), tempfile.TemporaryDirectory() as folder:
        check_keys(checks, url, data)
        check_agent(checks, url, data, "--function-module=sam2_client.cvat")
        copied = Path(folder) / "function.py"
        copied.write_bytes((ROOT / "client" / "sam2_client" / "cvat.py").read_bytes())
        check_agent(checks, url, data, f"--function-file={copied}")
    checks.end()


if __name__ == "__main__":
    main()
