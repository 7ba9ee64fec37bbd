"""Test the contrasts at a block of voxels, from saved estimates."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nipype_blm.core.contrasts import ContrastMaps, compute_f_contrast, compute_t_contrast
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.lmm.estimates import MixedEstimates, MixedOptions
from nipype_blm.core.ols import Estimates
from nipype_blm.core.threads import Threads
from nipype_blm.data.specfile import read_contrasts, read_model
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.stamps import block_stamp, statistics_stamp
from nipype_blm.model.contrasts import Contrast
from nipype_blm.stages.compiling import TESTING_S, announcing_compilation
from nipype_blm.stages.estimates import read_estimates


def compute_statistics(
    model_file: Path | str,
    contrasts_file: Path | str,
    estimates_file: Path | str,
    block: int,
    run_stamp: str,
    out_file: Path,
    n_threads: int = 1,
) -> Path:
    """Write effect, variance, statistic, log p, z and more of every contrast for a block.

    The array of contrast i and quantity q is called ``i/q``.
    """
    _, spec = read_model(model_file)
    contrasts_stamp, tests = read_contrasts(contrasts_file)
    file = ArrayFile(estimates_file, block_stamp(run_stamp, block))
    test: Callable[..., Any]
    if spec.options is None:
        test = partial(_test, read_estimates(file, Estimates))
    else:
        test = partial(_test_mixed, read_estimates(file, MixedEstimates), spec.options)
    arrays: dict[str, NDArray[Any]] = {}
    with Threads(n_threads) as threads, announcing_compilation("tests contrasts", TESTING_S):
        for number, contrast in enumerate(tests.contrasts):
            maps = test(spec.design.R, contrast, tests.two_sided, threads)
            arrays |= {f"{number}/{name}": array for name, array in maps._asdict().items()}
    stamp = statistics_stamp(run_stamp, contrasts_stamp, block)
    return write_arrays(out_file, stamp, arrays)


def _test(
    estimates: Estimates, R: FloatArray, contrast: Contrast, two_sided: bool, threads: Threads
) -> ContrastMaps:
    if contrast.is_f:
        return compute_f_contrast(contrast.matrix, estimates, R, threads)
    return compute_t_contrast(contrast.matrix[0], estimates, R, two_sided, threads)


def _test_mixed(
    estimates: MixedEstimates,
    options: MixedOptions,
    R: FloatArray,
    contrast: Contrast,
    two_sided: bool,
    threads: Threads,
) -> Any:
    from nipype_blm.core.lmm.inference import compute_f_contrast, compute_t_contrast

    if contrast.is_f:
        return compute_f_contrast(contrast.matrix, estimates, R, options.reml, threads)
    vector = contrast.matrix[0]
    return compute_t_contrast(vector, estimates, R, options.reml, two_sided, threads)
