"""What R, lme4 and emmeans make of formulas, for many in one run of R."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).with_name("formulas.R")
PACKAGES = ("lme4", "emmeans")


class Case(NamedTuple):
    """A call of a function of formulas.R."""

    function: str  # such as give_fixed
    formula: str  # in R's words
    frame: str  # the name of a data frame
    more: str = ""  # R code of further arguments


class Answer:
    """Lines that R wrote for a case, to be taken one after the other."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)

    def take_texts(self) -> list[str]:
        return self._lines.pop(0).split("\t")

    def take_numbers(self) -> np.ndarray:
        return np.array([float(text.replace("NA", "nan")) for text in self.take_texts()])

    def take_matrix(self, n_rows: int) -> np.ndarray:
        return self.take_numbers().reshape(n_rows, -1, order="F")


@cache
def _find_problem() -> str | None:
    """Return why R cannot be used."""
    advice = "apt-get install r-base-core r-cran-lme4 r-cran-emmeans"
    if shutil.which("Rscript") is None:
        return f"Rscript is not installed: {advice}"
    names = ", ".join(f"'{name}'" for name in PACKAGES)
    code = f"cat(all(nzchar(sapply(c({names}), function(p) system.file(package=p)))))"
    found = subprocess.run(
        ["Rscript", "--vanilla", "-e", code], capture_output=True, text=True, check=False
    )
    return None if found.stdout == "TRUE" else f"R lacks one of {', '.join(PACKAGES)}: {advice}"


requires_emmeans = pytest.mark.skipif(_find_problem() is not None, reason=str(_find_problem()))


def run_r(frames: dict[str, pd.DataFrame], cases: Sequence[Case]) -> list[Answer]:
    """Return R's answers.

    Raises
    ------
    ValueError
        If R fails; the message is R's.
    """
    lines = [f"{name} <- {_write_frame(frame)}" for name, frame in frames.items()]
    for case in cases:
        more = f", {case.more}" if case.more else ""
        lines += [f"{case.function}({case.formula}, {case.frame}{more})", 'give_text("--")']
    with tempfile.TemporaryDirectory(prefix="formulas_") as folder:
        source, target = Path(folder, "cases.R"), Path(folder, "output")
        source.write_text("\n".join(lines), encoding="utf-8")
        run = subprocess.run(
            ["Rscript", "--vanilla", SCRIPT, source, target],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise ValueError(f"R ended with {run.returncode}: {run.stderr.strip()}")
        records = target.read_text(encoding="utf-8").split("--\n")
    return [Answer(record.splitlines()) for record in records[: len(cases)]]


def _write_frame(frame: pd.DataFrame) -> str:
    """Return R code of a data frame."""
    columns = []
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            values = f"factor({_write(column)}, levels={_write(column.cat.categories)})"
        else:
            values = f"c({', '.join(map(repr, column.to_list()))})"
        columns.append(f"`{name}` = {values}")
    return f"data.frame({', '.join(columns)}, check.names = FALSE)"


def _write(texts: Sequence[str]) -> str:
    return f"c({', '.join(f'{chr(34)}{text}{chr(34)}' for text in texts)})"
