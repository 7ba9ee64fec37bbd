"""When the nodes of a run ran, drawn."""

import re
from collections.abc import Sequence

from nipype_blm.report.charts.drawing import COLOURS, Figure, drawing, finish
from nipype_blm.results.steps import Step

_MOST_ROWS = 40


def draw_timeline(steps: Sequence[Step]) -> Figure:
    """Draw a bar for each node, in a row for each kind of node; a step without nodes is a bar."""
    rows = [row for i, step in enumerate(steps) for row in _list_rows(i, step)][:_MOST_ROWS]
    total = sum(step.wall_s for step in steps)
    with drawing(8.5, 0.6 + 0.28 * len(rows)) as figure:
        axis = figure.subplots()
        for y, (number, _, bars) in enumerate(rows):
            offset = sum(step.wall_s for step in steps[:number])
            spans = [(offset + start, max(end - start, total / 400)) for start, end in bars]
            axis.broken_barh(spans, (y - 0.35, 0.7), color=COLOURS[number % len(COLOURS)])
        axis.set_yticks(range(len(rows)), [label for _, label, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlim(0, max(total, 1e-3) * 1.02)
        axis.set_xlabel("seconds; the steps one after the other, without what was between them")
        said = "; ".join(f"{step.name} took {step.wall_s:.3g} s" for step in steps)
        return finish(figure, f"Time line: {said}.")


def _list_rows(number: int, step: Step) -> list[tuple[int, str, list[tuple[float, float]]]]:
    if not step.nodes:
        return [(number, step.name, [(0.0, step.wall_s)])]
    kinds: dict[str, list[tuple[float, float]]] = {}
    for node in step.nodes:
        kind = re.sub(r"^_?([A-Za-z_]+?)\d*$", r"\1", node.name)
        kinds.setdefault(kind, []).append((node.start, node.end))
    return [
        (number, f"{step.name}: {kind}{f' ({len(bars)})' if len(bars) > 1 else ''}", bars)
        for kind, bars in kinds.items()
    ]
