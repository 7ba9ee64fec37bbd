"""Short scripts of R, given arrays and returning numbers."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

requires_r = pytest.mark.skipif(
    shutil.which("Rscript") is None, reason="Rscript is not installed: apt-get install r-base-core"
)


def run_r(script: str, **arrays: np.ndarray) -> np.ndarray:
    """Return the numbers that a script writes to the file named `output`.

    Arrays of one dimension are vectors there, of two matrices.

    Raises
    ------
    ValueError
        If R fails; the message is R's.
    """
    with tempfile.TemporaryDirectory(prefix="r_") as name:
        folder = Path(name)
        lines = ["options(digits = 15)", f"output <- '{folder / 'output'}'"]
        for key, array in arrays.items():
            path = folder / key
            np.asarray(array, float).ravel(order="F").tofile(path)
            read = f"readBin('{path}', 'double', {array.size})"
            is_matrix = np.ndim(array) == 2
            lines.append(f"{key} <- " + (f"matrix({read}, {len(array)})" if is_matrix else read))
        file = folder / "script.R"
        file.write_text("\n".join([*lines, script]))
        run = subprocess.run(
            ["Rscript", "--vanilla", file], capture_output=True, text=True, check=False
        )
        if run.returncode != 0:
            raise ValueError(f"R ended with {run.returncode}: {run.stderr.strip()}")
        return np.loadtxt(folder / "output")
