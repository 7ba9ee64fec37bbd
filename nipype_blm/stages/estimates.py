"""Fit a block of voxels from the products of all batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.core.ols import Estimates, fit_ols
from nipype_blm.core.products import Products
from nipype_blm.core.threads import Threads
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.specfile import read_model
from nipype_blm.stages.progress import advance
from nipype_blm.stages.stamps import batch_stamp, block_stamp


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
    counts = [file.read("n_obs", columns) for file in files]
    n_obs = np.asarray(np.sum(counts, axis=0), np.int32)

    def batches() -> Iterator[tuple[slice, Products]]:
        for number, file in enumerate(files):
            yield spec.batch(number), Products(*(file.read(n, columns) for n in Products._fields))

    with Threads(n_threads) as threads:
        estimates = fit_ols(
            n_obs,
            batches(),
            spec.design,
            spec.minimum_n,
            spec.allowed[columns],
            spec.with_cov,
            threads,
        )
    advance("voxels", n_obs.size)
    return write_arrays(out_file, block_stamp(run_stamp, block), estimates._asdict())


def read_estimates(file: ArrayFile) -> Estimates:
    """Read what contrasts need; the covariances stay in the file."""
    arrays: dict[str, Any] = {name: file.read(name) for name in Estimates._fields if name != "cov"}
    return Estimates(**arrays, cov=np.empty((0, arrays["resms"].size)))
