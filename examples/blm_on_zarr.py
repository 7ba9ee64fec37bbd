"""A linear model at every voxel of a Zarr of images, block by block, by the engine of this package.

Usage: python examples/blm_on_zarr.py IMAGES.zarr DESIGN.csv OUT

The Zarr has axes images x z x y x x, NaN where an image has no voxel; the design has a header, and
a row for each image.  Writes the estimate, the T statistic and its degrees of freedom for each
column of the design, as NIfTI.
"""

import sys
from pathlib import Path

import numpy as np

from nipype_blm.blockmap import map_blocks
from nipype_blm.core.contrasts import compute_t_contrast
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.ols import fit_ols
from nipype_blm.core.products import WORD, ProductAccumulator
from nipype_blm.core.status import is_fitted


def fit_block(data: dict[str, np.ndarray], design: list[list[float]]) -> dict[str, np.ndarray]:
    """Fit the model to a block of shape (images, z, y, x)."""
    images = data["images"]
    n, shape = len(images), images.shape[1:]
    values = images.reshape(n, -1).astype(float)
    X = factorise_design(np.array(design, float))
    products = ProductAccumulator(X.Q, X.shift, values.shape[1])
    for first in range(0, n, WORD):
        rows = values[first : first + WORD]
        products.add(rows, np.isnan(rows).sum(axis=1))
    found = products.finish()
    estimates = fit_ols(found.n_obs, [(slice(0, n), found)], X, minimum_n=1)
    fitted = is_fitted(estimates.status)

    def place(numbers: np.ndarray) -> np.ndarray:
        whole = np.full(fitted.size, np.nan, np.float32)
        whole[fitted] = numbers
        return whole.reshape(shape)

    maps = {"dof": place(estimates.dof)}
    for i, vector in enumerate(np.eye(len(X.R))):
        maps[f"beta_{i + 1}"] = place(estimates.beta[i])
        maps[f"t_{i + 1}"] = place(compute_t_contrast(vector, estimates, X.R).stat)
    return maps


def main(images: Path, design: Path, out: Path) -> None:
    """Fit the model, and say where the maps are."""
    X = np.loadtxt(design, delimiter=",", skiprows=1, ndmin=2)
    n = X.shape[1]
    names = ["dof", *(f"{what}_{i + 1}" for what in ("beta", "t") for i in range(n))]
    result = map_blocks(
        fit_block,
        {"images": {"path": str(images), "axes": "nzyx", "keep": "n"}},
        out,
        block_size="auto",
        outputs={
            name: {"path": f"{name}.nii.gz", "dtype": "float32", "fill": np.nan} for name in names
        },
        arguments={"design": X.tolist()},
    )
    print("\n".join(result.outputs.values()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
