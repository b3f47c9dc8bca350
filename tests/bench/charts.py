"""Rows as bar charts: SVG for light and dark pages. People look before they read.

Does not know how anything is measured. `python -m tests.bench.charts .bench/bench.json FOLDER` draws a run again.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tests.bench.report import OURS, Row

VALUE = "median_ms"
WIDTH, LABEL, BAR, GAP, HEAD = 720, 250, 20, 8, 40
"""Pixels: of the chart, of the names of sides, of a bar's height, between bars, above them."""

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.head { font-weight: 600 }
.ours { fill: #1a7f37 } .peer { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .ours { fill: #3fb950 } .peer { fill: #6e7681 }
}
"""


def chart(title: str, values: Mapping[str, float]) -> str:
    """Return a chart with a bar for each side; `values` are milliseconds by name."""
    widest = WIDTH - LABEL - 90
    longest = max(values.values())
    height = HEAD + len(values) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="head" x="0" y="18">{escape(title)}, ms (less is better)</text>',
    ]
    for i, (side, value) in enumerate(values.items()):
        y = HEAD + i * (BAR + GAP)
        kind = "ours" if side in OURS or side == "ours" else "peer"
        length = max(1, round(widest * value / longest))
        digits = 0 if value >= 100 else 1
        parts += [
            f'<text x="{LABEL - 10}" y="{y + 15}" text-anchor="end">{escape(side)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length}" height="{BAR}" rx="2"/>',
            f'<text x="{LABEL + length + 6}" y="{y + 15}">{value:.{digits}f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write a chart for each case that times several sides, and return the files."""
    cases: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if VALUE in row.values:
            cases.setdefault((row.section, row.case), {})[row.side] = row.values[VALUE]
    paths = []
    for (section, case), values in cases.items():
        if len(values) > 1:
            folder.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^a-z0-9]+", "-", f"{section} {case}".lower()).strip("-")
            paths.append(folder / f"{name}.svg")
            paths[-1].write_text(chart(f"{section}: {case}", values))
    return paths


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    for path in draw([Row(**row) for row in json.loads(source.read_text())["rows"]], target):
        print(path)
