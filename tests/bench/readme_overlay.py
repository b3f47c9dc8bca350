"""Updates docs/overlay.jpg and the reply in README: `python -m tests.bench.readme_overlay`.

Run it when the weights of the built-in model have changed. It runs README's first /segment command against a server
with default settings, and draws the mask over the picture with the client. Does not know about the model.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

from sam2_client.masks import Mask
from tests.server import ROOT, running_server

PICTURE, OVERLAY = ROOT / "docs/hats.jpg", ROOT / "docs/overlay.jpg"
SHOWN_COUNTS = 24
"""Characters of the RLE that README shows."""
JSON_BLOCK = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def command_of(readme: str) -> str:
    """Return the curl line that sends the picture with its prompt."""
    (line,) = re.findall(rf"^curl .*@docs/{PICTURE.name} .*/segment$", readme, re.MULTILINE)
    return str(line)


def shown(reply: dict[str, object], mask: dict[str, object]) -> str:
    """Return the reply on few lines, with a shortened RLE."""
    rle = mask["rle"] | {"counts": f"{mask['rle']['counts'][:SHOWN_COUNTS]}..."}
    head = json.dumps({name: value for name, value in reply.items() if name != "predictions"})
    rest = json.dumps({name: value for name, value in mask.items() if name != "rle"})
    return (
        f'{head[:-1]},\n "predictions": [{{"masks": [\n   {{"rle": {json.dumps(rle)},\n    {rest[1:]}]}}]}}\n'
    )


def main() -> None:
    """Write both, and print the size of the file, and the mask's IoU and box."""
    path = ROOT / "README.md"
    readme = path.read_text()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), checkpoint="", deadline_s="600") as url,
    ):
        command = command_of(readme).replace("http://127.0.0.1:8000", url)
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=True)
    reply = json.loads(done.stdout)
    mask = reply["predictions"][0]["masks"][0]
    Mask.from_dict(mask).overlay(PICTURE).save(OVERLAY, quality=88)
    path.write_text(JSON_BLOCK.sub(lambda _: f"```json\n{shown(reply, mask)}```", readme, count=1))
    print(f"{OVERLAY}: {OVERLAY.stat().st_size / 1000:.0f} kB; IoU {mask['iou']}, {mask['bbox']}")


if __name__ == "__main__":
    main()
