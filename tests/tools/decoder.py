"""The exported decoder in onnxruntime and, in a page of another origin, in onnxruntime-web, against /decode.

The page's code is the example of docs/tools/browser-decoders.md. Needs npm and Chromium beside decoder.txt.
"""

import base64
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.server import ROOT, free_port
from tests.tools.checking import SCENE, Checks, Reference, agreement, large_jpeg, median_ms, serving

ORT_WEB = "onnxruntime-web@1.30.0"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ORT_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
EXAMPLE = re.search(r"```js\n(.*?)```", (ROOT / "docs/tools/browser-decoders.md").read_text(), re.DOTALL)
CLICK, SECOND = [161.0, 294.0], [20.0, 20.0]
BOX = [29.0, 178.0, 290.0, 383.0]
MOST_GAP = 2e-3
REPETITIONS = 20


class Site(SimpleHTTPRequestHandler):
    """Serves a folder, quietly, with the types that browsers want of modules and WebAssembly."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def hosting(folder: Path, port: int) -> Iterator[str]:
    """Yield the origin of a folder: another host than the server's, and another port."""
    with ThreadingHTTPServer(("127.0.0.1", port), partial(Site, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{port}"
        finally:
            server.shutdown()
            thread.join()


def npm_package() -> Path:
    """Return the folder of onnxruntime-web's files, installed once into .tools/decoder."""
    folder = ROOT / ".tools" / "decoder" / ORT_WEB
    files = folder / "node_modules" / "onnxruntime-web" / "dist"
    if not all((files / name).is_file() for name in ORT_FILES):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "npm",
                "install",
                "--silent",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
                folder,
                ORT_WEB,
            ],
            check=True,
        )
    return files


def export(output: Path) -> None:
    """Run the command, as a user does."""
    python = os.environ.get("SERVER_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    environment = os.environ | {"SAM2_DTYPE": "float32", "SAM2_LOG_LEVEL": "warning"}
    command = [python, "-m", "app", "export-decoder", "--output", str(output)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def full_size(logits: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the mask (height, width) of logits (h, w)."""
    image = Image.fromarray(np.asarray(logits, np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image) > 0


def single(masks: np.ndarray, iou: np.ndarray) -> int:
    """Choose as Meta's predictor does without multimask_output: the single mask or, if unstable, the best other."""
    outer, inner = (masks[0] > -0.05).sum(), (masks[0] > 0.05).sum()
    return 0 if not outer or inner / outer >= 0.98 else 1 + int(iou[1:].argmax())


class Compared:
    """Answers of a decoder against those of /decode for the same prompts."""

    def __init__(self, checks: Checks, url: str, image_id: str, name: str) -> None:
        self.checks, self.name, self._image_id = checks, name, image_id
        self._reference = Reference(url)
        self._url = url

    def check(self, what: str, iou: float, logits: np.ndarray, **prompt: Any) -> str:
        """Compare one mask with the best of /decode. Return the logits that /decode hands out."""
        theirs = self._reference.decode(self._image_id, return_logits=True, **prompt)
        mask = self._reference.mask(self._image_id, **prompt)
        gap, same = abs(iou - theirs["iou"]), agreement(full_size(logits, *mask.shape[::-1]), mask)
        detail = f"predicted IoU {iou:.4f}, off by {gap:.1e}; masks agree to {same:.5f}"
        self.checks.check(f"{self.name}: {what}", gap < MOST_GAP and same > 1 - MOST_GAP, detail)
        return str(theirs["logits"])


def read_safetensors(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the float32 tensors of a file, and its metadata."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    said = header.pop("__metadata__")
    maps = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        maps[name] = np.frombuffer(content[begin:end], np.float32).reshape(entry["shape"])
    return maps, said


def check_onnxruntime(checks: Checks, url: str, path: Path, image_id: str) -> str:
    """Decode in Python. Return the fingerprint in the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        model = client.get("/model").json()
        image = client.get(f"/images/{image_id}").json()
        reply = client.get(f"/images/{image_id}/embedding?format=safetensors")
    maps, of_maps = read_safetensors(reply.content)
    fingerprint = str(model["fingerprint"])
    named = [said["fingerprint"], of_maps["fingerprint"], reply.headers["x-sam2-fingerprint"]]
    checks.check("one fingerprint in /model, the header, the maps and the graph", set(named) == {fingerprint})
    named = [said["model"], of_maps["model"], reply.headers["x-sam2-model"]]
    checks.check("one name", set(named) == {model["model"]}, model["model"])

    side = int(said["image_size"])
    scale = np.float32([side / image["width"], side / image["height"]])
    empty = np.zeros((1, 1, side // 4, side // 4), np.float32)

    def run(points: list[list[float]], labels: list[int], mask: np.ndarray | None = None) -> tuple[Any, Any]:
        coords = (np.float32(points).reshape(-1, 2) * scale)[None]
        prompt = {
            "point_coords": coords,
            "point_labels": np.float32(labels)[None],
            "mask_input": empty if mask is None else mask[None, None],
            "has_mask_input": np.float32([mask is not None]),
        }
        masks, iou = session.run(None, {**maps, **prompt})
        return masks[0], iou[0]

    compared = Compared(checks, url, image_id, "onnxruntime")
    masks, iou = run([CLICK], [1])
    best = 1 + int(iou[1:].argmax())
    click = {"point_coords": [CLICK], "point_labels": [1]}
    logits = compared.check("a click", iou[best], masks[best], **click)
    first = masks[best]
    masks, iou = run([CLICK, SECOND], [1, 0], first)
    two = {
        "point_coords": [CLICK, SECOND],
        "point_labels": [1, 0],
        "mask_input": logits,
        "multimask_output": False,
    }
    best = single(masks, iou)
    compared.check("refinement with a second click", iou[best], masks[best], **two)
    masks, iou = run([], [], first)
    best = 1 + int(iou[1:].argmax())
    compared.check("a mask alone", iou[best], masks[best], mask_input=logits, multimask_output=True)
    masks, iou = run([BOX[:2], BOX[2:]], [2, 3])
    best = single(masks, iou)
    compared.check("a box", iou[best], masks[best], box=BOX, multimask_output=False)
    masks, iou = run([BOX[:2], BOX[2:], SECOND], [2, 3, 0])
    both = {"box": BOX, "point_coords": [SECOND], "point_labels": [0], "multimask_output": False}
    best = single(masks, iou)
    compared.check("a box and a click", iou[best], masks[best], **both)
    print(f"       one click in onnxruntime, one thread: {median_ms(lambda _: run([CLICK], [1])):.1f} ms")
    return fingerprint


def check_browser(checks: Checks, url: str, page: Page, image_id: str, fingerprint: str) -> None:
    """Run the example of the documentation in a page of another origin."""
    picture = base64.b64encode(SCENE.read_bytes()).decode()
    page.evaluate("() => { ort.env.wasm.numThreads = 1; }")
    upload = """async ([url, picture, fingerprint]) => {
        const bytes = Uint8Array.from(atob(picture), (c) => c.charCodeAt(0));
        const file = new Blob([bytes], { type: "image/jpeg" });
        return load(url, file, fingerprint).then(() => "", String);
    }"""
    said = page.evaluate(upload, [url, picture, "0" * 64])
    checks.check("another fingerprint is refused, the model named", "builtin" in said, said)
    said = page.evaluate(upload, [url, picture, fingerprint])
    checks.check("the page loads the graph and the maps", said == "", said)
    answer = """async ([points, labels, refine]) => {
        const answer = await click(points, labels, refine ? window.last : undefined);
        window.last = answer.logits;
        return { ...answer, logits: [...answer.logits] };
    }"""
    compared = Compared(checks, url, image_id, "onnxruntime-web")

    def run(
        points: list[list[float]], labels: list[int], *, refine: bool = False
    ) -> tuple[float, np.ndarray]:
        got = page.evaluate(answer, [points, labels, refine])
        return got["iou"], np.float32(got["logits"]).reshape(got["side"], got["side"])

    click = {"point_coords": [CLICK], "point_labels": [1], "multimask_output": True}
    logits = compared.check("a click", *run([CLICK], [1]), **click)
    two = {
        "point_coords": [CLICK, SECOND],
        "point_labels": [1, 0],
        "mask_input": logits,
        "multimask_output": True,
    }
    compared.check("refinement with a second click", *run([CLICK, SECOND], [1, 0], refine=True), **two)
    corners = [BOX[:2], BOX[2:]]
    compared.check("a box", *run(corners, [2, 3]), box=BOX, multimask_output=True)
    timed = """async (point) => { const began = performance.now();
        for (let i = 0; i < 20; i++) await click([point], [1]); return (performance.now() - began) / 20; }"""
    later = page.evaluate(timed, CLICK)
    first = """async ([url, picture, fingerprint, times]) => {
        const bytes = Uint8Array.from(atob(picture), (c) => c.charCodeAt(0)), all = [];
        for (let i = 0; i < times; i++) {
            const file = new Blob([bytes, String(i)], { type: "image/jpeg" }), began = performance.now();
            await load(url, file, fingerprint);
            await click([[2000, 1500]], [1]);
            all.push(performance.now() - began);
        }
        return all;
    }"""
    data = large_jpeg()
    times = page.evaluate(first, [url, base64.b64encode(data).decode(), fingerprint, REPETITIONS])
    reference = Reference(url)
    large_id, prompt = reference.embed(data), {"point_coords": [[2000, 1500]], "point_labels": [1]}
    own = median_ms(lambda _: reference.decode(large_id, **prompt))
    print(f"       12 megapixels: first click {statistics.median(times):.0f} ms, later ones {later:.0f} ms")
    print(f"       in the page's wasm, one thread; /decode: {own:.1f} ms")


def main() -> None:
    """Run all checks."""
    checks = Checks()
    print(f"onnxruntime {version('onnxruntime')}, {ORT_WEB}, Python {sys.version.split()[0]}")
    assert EXAMPLE is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder / "decoder.onnx")
        for file in ORT_FILES:
            shutil.copy(npm_package() / file, folder / file)
        (folder / "index.html").write_text(
            '<!doctype html><link rel="icon" href="data:,"><script src="ort.wasm.min.js"></script>'
            f"<script>{EXAMPLE[1]}</script>"
        )
        port = free_port()
        with serving(dtype="float32", cors_origins=f"http://localhost:{port}") as (url, _):
            image_id = Reference(url).embed(SCENE.read_bytes())
            fingerprint = check_onnxruntime(checks, url, folder / "decoder.onnx", image_id)
            with hosting(folder, port) as site, sync_playwright() as playwright:
                executable = next(filter(None, map(shutil.which, BROWSERS)), None)
                browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
                print(f"Chromium {browser.version}")
                page = browser.new_page()
                page.on("console", lambda message: print(f"       page: {message.text}"))
                page.goto(site)
                check_browser(checks, url, page, image_id, fingerprint)
                browser.close()
    checks.end()


if __name__ == "__main__":
    main()
