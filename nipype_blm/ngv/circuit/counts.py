"""The table of what a circuit has: measured, against what was asked for."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.io.files import write_if_changed
from nipype_blm.ngv.circuit.capsules import Floats
from nipype_blm.ngv.circuit.targets import Target, judge

_MEAN, _SD = ", mean", ", sd"
_COLUMNS = ("stage", "what", "measured", "target", "unit", "fits", "note")


class Count(NamedTuple):
    """A row of the table."""

    stage: str  # as its command of ArchNGV is called
    what: str
    measured: float
    target: float | None = None
    unit: str = ""
    fits: str = ""  # "as asked", "above" or "below"; empty without a target
    note: str = ""


def compare(
    stage: str, what: str, values: NDArray[Any], unit: str, target: Target | None = None
) -> Iterator[Count]:
    """Give mean and standard deviation of values, against those that they are drawn from."""
    n = len(values)
    if n == 0:
        return
    mean = float(np.mean(values))
    if target is None:
        yield Count(stage, f"{what}{_MEAN}", mean, unit=unit)
    else:
        fits = judge(mean, target.mean, target.sd / n**0.5)
        yield Count(stage, f"{what}{_MEAN}", mean, target.mean, unit, fits)
    if n == 1:
        return
    sd = float(np.std(values, ddof=1))
    if target is None:
        yield Count(stage, f"{what}{_SD}", sd, unit=unit)
    else:
        error = target.sd * (max(target.kurtosis - (n - 3) / (n - 1), 0.0) / (4 * n)) ** 0.5
        yield Count(stage, f"{what}{_SD}", sd, target.sd, unit, judge(sd, target.sd, error))


def compare_median(
    stage: str, what: str, values: Floats, unit: str, target: Target | None
) -> Count:
    """Give a median: a single endfoot that has the largest area there may be is not seen in it."""
    median = float(np.median(values))
    if target is None:
        return Count(stage, f"{what}, median", median, unit=unit)
    fits = judge(median, target.median, target.sd * (np.pi / 2 / len(values)) ** 0.5)
    return Count(stage, f"{what}, median", median, target.median, unit, fits)


def write_counts(path: Path, counts: Iterable[Count]) -> None:
    """Write the table as TSV, in full precision; "n/a" is a target that there is none of."""
    lines = ["\t".join(_COLUMNS)]
    for count in counts:
        target = "n/a" if count.target is None else f"{count.target:.9g}"
        cells = [count.stage, count.what, f"{count.measured:.9g}", target]
        lines.append("\t".join([*cells, count.unit, count.fits or "n/a", count.note]))
    write_if_changed(path, "".join(f"{line}\n" for line in lines).encode())


def describe_counts(counts: Sequence[Count]) -> str:
    """Return the table as text for a terminal; mean and sd of the same are in one line."""
    if not counts:
        return "Nothing of this circuit has been built."
    shown: list[_Line] = []
    for count in counts:
        if shown and count.what.endswith(_SD) and shown[-1].what == count.what.removesuffix(_SD):
            shown[-1] = _add_sd(shown[-1], count)
        else:
            asked = "" if count.target is None else f"asked {_write(count.target)}"
            cells = (_write(count.measured), count.unit, asked, count.fits, count.note)
            shown.append(_Line(count.stage, count.what.removesuffix(_MEAN), *cells))
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    _, what, measured, unit, target, *_ = widths
    lines: list[str] = []
    for before, each in zip([None, *shown], shown, strict=False):
        if before is None or before.stage != each.stage:
            lines.append(each.stage)
        line = f"  {each.what:<{what}}  {each.measured:>{measured}} {each.unit:<{unit}}"
        line = f"{line}  {each.target:<{target}}  {each.fits}".rstrip()
        lines.append(f"{line}  ({each.note})" if each.note else line)
    return "\n".join(lines)


class _Line(NamedTuple):
    """A line of the table in a terminal."""

    stage: str
    what: str
    measured: str
    unit: str
    target: str
    fits: str
    note: str


def _add_sd(line: _Line, sd: Count) -> _Line:
    """Return the line of a mean, with the standard deviation behind it."""
    return line._replace(
        measured=f"{line.measured} ± {_write(sd.measured)}",
        target="" if sd.target is None else f"{line.target} ± {_write(sd.target)}",
        fits=line.fits if sd.fits == line.fits else f"{line.fits}, sd {sd.fits}",
    )


def _write(x: float) -> str:
    """Return a number of four digits, or a whole one with all of its own."""
    return f"{x:,.0f}" if x == round(x) or abs(x) >= 1000 else f"{x:.4g}"
