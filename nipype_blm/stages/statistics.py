"""Test the contrasts at a block of voxels, from saved estimates."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nipype_blm.core.contrasts import compute_f_contrast, compute_t_contrast
from nipype_blm.core.threads import Threads
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.specfile import read_contrasts, read_model
from nipype_blm.stages.estimates import read_estimates
from nipype_blm.stages.stamps import block_stamp, statistics_stamp


def compute_statistics(
    model_file: Path | str,
    contrasts_file: Path | str,
    estimates_file: Path | str,
    block: int,
    run_stamp: str,
    out_file: Path,
    n_threads: int = 1,
) -> Path:
    """Write effect, variance, statistic, log p and z of every contrast for a block.

    The array of contrast i and quantity q is called ``i/q``.
    """
    _, spec = read_model(model_file)
    contrasts_stamp, tests = read_contrasts(contrasts_file)
    estimates = read_estimates(ArrayFile(estimates_file, block_stamp(run_stamp, block)))
    arrays: dict[str, NDArray[Any]] = {}
    with Threads(n_threads) as threads:
        for number, contrast in enumerate(tests.contrasts):
            L, R = contrast.matrix, spec.design.R
            if contrast.is_f:
                maps = compute_f_contrast(L, estimates, R, threads)
            else:
                maps = compute_t_contrast(L[0], estimates, R, tests.two_sided, threads)
            arrays |= {f"{number}/{name}": array for name, array in maps._asdict().items()}
    stamp = statistics_stamp(run_stamp, contrasts_stamp, block)
    return write_arrays(out_file, stamp, arrays)
