"""Findings of checks as rows with figures, and rows as Markdown and JSON.

Does not know how anything is checked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that must hold, the observed value, and whether it holds."""

    check: str
    must_hold: str
    seen: str
    passed: bool


def at_most(check: str, what: str, value: float, limit: float, *, unit: str = "") -> Finding:
    """Return the finding that a figure is within its limit."""
    return Finding(check, f"{what} at most {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def none(check: str, what: str, of: Sequence[object]) -> Finding:
    """Return the finding that there is none of something. It shows the first few."""
    shown = "; ".join(str(one)[:200] for one in of[:3])
    return Finding(check, f"no {what}", f"{len(of)}: {shown}" if of else "0", not of)


def enough(check: str, what: str, count: int, least: int) -> Finding:
    """Return the finding that there was enough to check. A check of nothing proves nothing."""
    return Finding(check, f"at least {least} {what}", str(count), count >= least)


def markdown(findings: Sequence[Finding], *, head: Mapping[str, object]) -> str:
    """Return the report: the run, then a table."""
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in head.items())]
    lines += ["", "| check | must hold | seen | |", "| --- | --- | --- | --- |"]
    for one in findings:
        seen = one.seen.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {one.check} | {one.must_hold} | {seen} | {'holds' if one.passed else 'FAILS'} |")
    return "\n".join([*lines, ""])


def write(findings: Sequence[Finding], *, head: Mapping[str, object], folder: Path) -> None:
    """Write soak.md and soak.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.md").write_text(markdown(findings, head=head))
    content = {"run": dict(head), "findings": [asdict(one) for one in findings]}
    (folder / "soak.json").write_text(json.dumps(content, indent=1))
