"""What a run has found so far, on disk after every figure: gpu.md and gpu.json are whole at any moment.

Does not know what is measured and in which order.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from tests.bench.report import Row, Target, markdown

Kind = Literal["wrong", "failed", "skipped", "cut", "said"]
"""A wrong answer, an exception, no time left, a signal, and what is only worth knowing."""

FAULTS = ("wrong", "failed", "cut")


@dataclass(frozen=True, slots=True)
class Note:
    """Something in words."""

    kind: Kind
    step: str
    text: str


class Results:
    """Rows, notes and steps of one run. Every change is written at once."""

    def __init__(self, folder: Path, *, machine: dict[str, object], targets: Sequence[Target]) -> None:
        self.folder = folder
        self.machine = machine
        self.targets = targets
        self.rows: list[Row] = []
        self.notes: list[Note] = []
        self.steps: dict[str, str] = {}
        """What became of each step: "running", seconds, or why it has none."""
        self.step = ""
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def begin(self, step: str) -> None:
        """What is added from now on belongs to this step."""
        self.step = step
        self.steps[step] = "running"
        self.write()

    def end(self, outcome: str) -> None:
        """What became of the step that runs."""
        self.steps[self.step] = outcome
        self.write()

    def add(self, section: str, case: str, side: str, values: dict[str, float]) -> None:
        """Keep a row, and say it at once."""
        self.rows.append(Row(section, case, side, values))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{section}: {case}: {side}: {shown}", flush=True)
        self.write()

    def note(self, kind: Kind, text: str) -> None:
        """Keep a sentence or a traceback, and say it at once."""
        self.notes.append(Note(kind, self.step, text))
        print(f"{kind.upper()} in {self.step}: {text}", flush=True)
        self.write()

    @property
    def missing(self) -> list[Target]:
        """Targets that have no figure."""
        found = {(row.section, row.case, row.side, value) for row in self.rows for value in row.values}
        return [t for t in self.targets if (t.section, t.case, t.side, t.value) not in found]

    @property
    def is_whole(self) -> bool:
        """Whether every answer was right, nothing failed, and no target is without its figure."""
        return not self.missing and not any(note.kind in FAULTS for note in self.notes)

    def markdown(self) -> str:
        """The report: machine, tables, targets, steps, notes."""
        lines = [markdown(self.rows, machine=self.machine, targets=self.targets)]
        lines += [f"No figure for {t.section}: {t.case}: {t.value}" for t in self.missing]
        lines += ["", "## steps", "", "| step | seconds |", "| --- | --- |"]
        lines += [f"| {step} | {outcome} |" for step, outcome in self.steps.items()]
        if self.notes:
            lines += ["", "## notes"]
        for note in self.notes:
            indented = note.text.strip().replace("\n", "\n    ")
            lines += ["", f"{note.kind} in {note.step}:", "", f"    {indented}"]
        return "\n".join([*lines, ""])

    def write(self) -> None:
        """Write both files. A signal in the middle leaves the ones before."""
        content = {
            "machine": self.machine,
            "steps": self.steps,
            "notes": [asdict(note) for note in self.notes],
            "rows": [asdict(row) for row in self.rows],
        }
        self.keep("gpu.json", json.dumps(content, indent=1))
        self.keep("gpu.md", self.markdown())

    def keep(self, name: str, text: str) -> None:
        """Write a file beside the others: whole, or not at all."""
        # A name of its own each time: a signal's handler may write while this is being written.
        with NamedTemporaryFile("w", dir=self.folder, prefix=f".{name}.", delete=False) as file:
            path = Path(file.name)
            try:
                file.write(text)
                file.flush()
                path.chmod(0o644)
                path.replace(self.folder / name)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
