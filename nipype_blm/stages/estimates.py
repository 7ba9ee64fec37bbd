"""Fit a block of voxels from the products of all batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.lmm.estimates import MixedEstimates
from nipype_blm.core.ols import Estimates, fit_ols
from nipype_blm.core.products import Products
from nipype_blm.core.threads import Threads
from nipype_blm.core.zeros import ZeroCounts, count_gaps
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.stamps import batch_stamp, block_stamp
from nipype_blm.progress import advance
from nipype_blm.stages.compiling import FITTING_S, MIXED_S, announcing_compilation

EstimatesT = TypeVar("EstimatesT", Estimates, MixedEstimates)


def compute_estimates(
    model_file: Path | str,
    batch_files: Sequence[Path | str],
    products_files: Sequence[Path | str],
    block: int,
    run_stamp: str,
    out_file: Path,
    n_threads: int = 1,
) -> Path:
    """Fit the model at the voxels of a block and write the estimates.

    Parameters
    ----------
    batch_files, products_files : sequences of paths
        Of all batches, in the same order.
    run_stamp : str
        Fingerprint of the model and all images.
    """
    stamp, spec = read_model(model_file)
    columns = spec.block(block)
    files = [
        ArrayFile(products, batch_stamp(stamp, batch))
        for products, batch in zip(products_files, batch_files, strict=True)
    ]
    n_obs = np.zeros(columns.stop - columns.start, np.int32)
    for file in files:
        n_obs += file.read("n_obs", columns)
    batches = _Batches(spec, files, columns, n_obs)
    seconds = FITTING_S if spec.options is None else MIXED_S
    with Threads(n_threads) as threads, announcing_compilation("fits voxels", seconds):
        estimates = _fit(spec, n_obs, batches, spec.allowed[columns], threads)
    advance("voxels", count_candidates(spec, block, n_obs))
    arrays = estimates._asdict() | batches.zeros._asdict()
    return write_arrays(out_file, block_stamp(run_stamp, block), arrays)


def count_candidates(spec: ModelSpec, block: int, n_obs: NDArray[np.int32]) -> int:
    """Return how many voxels of a block have data and are to be fitted."""
    is_candidate = (n_obs >= max(spec.minimum_n, 1)) & spec.allowed[spec.block(block)]
    return int(np.count_nonzero(is_candidate))


class _Batches:
    """The rows of each batch and its products in a block, read one after the other.

    `zeros` is complete once they have been taken.
    """

    def __init__(
        self,
        spec: ModelSpec,
        files: Sequence[ArrayFile],
        columns: slice,
        n_obs: NDArray[np.int32],
    ) -> None:
        self._spec, self._files, self._columns, self._n_obs = spec, files, columns, n_obs
        self._positions = spec.space.positions[columns]
        self._is_counted = False
        self.zeros = ZeroCounts(*np.zeros((len(ZeroCounts._fields), spec.n_obs), np.int32))

    def __iter__(self) -> Iterator[tuple[slice, Products]]:
        for number, file in enumerate(self._files):
            rows = self._spec.batch(number)
            products = Products(*(file.read(name, self._columns) for name in Products._fields))
            if not self._is_counted:
                self._count(rows, file, products)
            yield rows, products
            del products  # before the next batch is read
        self._is_counted = True

    def _count(self, rows: slice, file: ArrayFile, products: Products) -> None:
        self.zeros.zeros[rows] = file.read("zeros")
        of_batch = ZeroCounts(*(counts[rows] for counts in self.zeros))
        count_gaps(products.presence, self._n_obs, self._spec.n_obs, self._positions, of_batch)


def _fit(
    spec: ModelSpec,
    n_obs: NDArray[np.int32],
    batches: _Batches,
    allowed: NDArray[np.bool_],
    threads: Threads,
) -> Estimates | MixedEstimates:
    """Fit the model, with random effects or without."""
    rest = (spec.minimum_n, allowed, spec.with_cov, threads)
    if spec.options is None:
        return fit_ols(n_obs, batches, spec.design, *rest)
    from nipype_blm.core.lmm.fit import fit_lmm

    return fit_lmm(n_obs, batches, spec.design, spec.factors, spec.options, *rest)


def read_estimates(file: ArrayFile, kind: type[EstimatesT]) -> EstimatesT:
    """Read what contrasts need; what is for maps alone stays in the file."""
    needed = [name for name in kind._fields if name not in ("cov", "estimable")]
    arrays: dict[str, Any] = {name: file.read(name) for name in needed}
    nothing = (0, arrays["resms"].size)
    return kind(**arrays, cov=np.empty(nothing), estimable=np.empty(nothing, bool))
