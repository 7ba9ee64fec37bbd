"""How it ran: steps and their nodes on a line of time, what they took, and how to repeat it."""

from typing import Any

from nipype_blm.report.charts.timeline import draw_timeline
from nipype_blm.report.reported import Reported
from nipype_blm.report.tables import Table, write_number
from nipype_blm.results.steps import Step, read_steps
from nipype_blm.units import GIB


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    # Others are of earlier results: a workflow has replaced them, and notes nothing here.
    steps = [step for step in read_steps(run.folder) if step.model in ("", run.results.stamp)]
    return {
        "steps": _tabulate(steps) if steps else None,
        "timeline": draw_timeline(steps) if steps else None,
        "versions": Table(
            "Versions when the model was fitted",
            ("What", "Version"),
            list(run.results.versions.items()),
        ),
        "command": steps[0].command if steps else "",
        "record": run.record,
    }


def _tabulate(steps: list[Step]) -> Table:
    columns = "Step", "Started", "Time, s", "CPU, s", "Most memory, GiB", "Host", "Ran by"
    rows = [
        (
            step.name,
            step.started,
            write_number(step.wall_s),
            write_number(step.cpu_s),
            f"{step.peak_bytes / GIB:.2f}",
            f"{step.host}, {step.n_cores} cores",
            step.plugin or "this process",
        )
        for step in steps
    ]
    return Table("What each command took", columns, rows)
