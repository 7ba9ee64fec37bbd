"""Images for the benchmarks: BLM's own test design, and smooth brains with ragged edges."""

import gzip
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
import blm_designs

MNI_SHAPE = (91, 109, 91)  # 2 mm
MNI_VOXELS = 221_000  # of a brain mask


def make_blm_design(folder: Path, n_obs: int, n_params: int, dim: int) -> None:
    """Write X.csv, Y_files.txt and the images of one of BLM's tests, unless they are there."""
    if not is_complete(folder):
        blm_designs.simulate_data(folder, n_obs, n_params, dim, seed=1)


def is_complete(folder: Path) -> bool:
    listed = folder / "Y_files.txt"
    return listed.exists() and all(path.exists() for path in read_list(listed))


class _Brains(NamedTuple):
    """What all images share."""

    folder: Path
    radius: NDArray[np.float64]  # squared, 1 at the edge of the mask
    affine: NDArray[np.float64]
    seed: int
    ragged: bool
    n_visits: int


def make_brains(
    folder: Path,
    n_distinct: int = 100,
    seed: int = 2,
    shape: Sequence[int] = MNI_SHAPE,
    n_voxels: int = MNI_VOXELS,
    ragged: bool = True,
    n_visits: int = 1,
) -> None:
    """Write compressed 2 mm float32 images, and mask.nii.

    With ragged edges four voxels in ten miss some of 100 images.  `n_visits` images in turn have
    half of their variance in common.
    """
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = (grid[0] / 0.78) ** 2 + (grid[1] / 0.88) ** 2 + (grid[2] / 0.80) ** 2
    limit = np.sort(radius, axis=None)[n_voxels]
    mask = radius < limit
    (folder / "data").mkdir(parents=True, exist_ok=True)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 90, -126, -72
    save_image(mask.astype(np.uint8), affine, folder / "data" / "mask.nii")
    brains = _Brains(folder, radius / limit, affine, seed, ragged, n_visits)
    make_all(partial(_make_brain, brains), range(n_distinct))


def _make_brain(brains: _Brains, number: int) -> Path:
    path = brains.folder / "data" / f"brain{number}.nii.gz"
    if path.exists():
        return path
    shape = brains.radius.shape
    rng = np.random.default_rng([brains.seed, number])
    noise = _smooth(rng, shape, 1.5)
    present = brains.radius < 1
    if brains.ragged:
        present &= brains.radius < 0.95 + 0.1 * _smooth(rng, shape, 4)
    if brains.n_visits > 1:
        subject = np.random.default_rng([brains.seed, 1, number // brains.n_visits])
        noise += _smooth(subject, shape, 1.5)
    values = np.where(present, 100 + 10 * noise, 0).astype(np.float32)
    return save_image(values, brains.affine, path)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float64]:
    """Return smooth noise with variance 1."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    return noise / noise.std()


def link_brains(folder: Path, n_obs: int) -> list[Path]:
    """Give the images of `make_brains` `n_obs` names, and write list and design for them."""
    originals = sorted((folder / "data").glob("brain*.nii.gz"))
    links = folder / "links"
    links.mkdir(exist_ok=True)
    paths = [links / f"{i:05d}.nii.gz" for i in range(n_obs)]
    for i, path in enumerate(paths):
        if not path.exists():
            path.hardlink_to(originals[i % len(originals)])
    return paths


def compress(folder: Path, out: Path) -> None:
    """Write a design of `make_blm_design` once more, with compressed images."""
    if is_complete(out):
        return
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "X.csv").write_bytes((folder / "X.csv").read_bytes())
    paths = make_all(partial(_compress, out / "data"), read_list(folder / "Y_files.txt"))
    (out / "Y_files.txt").write_text("\n".join(map(str, paths)))


def _compress(folder: Path, path: Path) -> Path:
    target = folder / f"{path.name}.gz"
    target.write_bytes(gzip.compress(path.read_bytes(), 6))  # 6: what FSL does
    return target


def read_list(path: Path) -> list[Path]:
    return [Path(line) for line in path.read_text().splitlines() if line]


def make_tiny(folder: Path, n_obs: int = 12) -> list[Path]:
    """Write images so small that only the start of a command takes time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    paths = [folder / f"tiny{i}.nii.gz" for i in range(n_obs)]
    for path in paths:
        values = rng.standard_normal((4, 4, 4)).astype(np.float32)
        save_image(values, np.eye(4), path)
    return paths


def make_covariates(folder: Path, n_obs: int, n_params: int, seed: int = 3) -> Path:
    """Write a design with an intercept and uniform columns; return its file."""
    X = np.random.default_rng(seed).uniform(-0.5, 0.5, (n_obs, n_params))
    X[:, 0] = 1
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "X.csv"
    np.savetxt(path, X, delimiter=",", fmt="%.17g")
    return path


def write_config(path: Path, paths: Sequence[Path], X: Path, outdir: Path, **fields: Any) -> Path:
    """Write a configuration that both BLM-py and ``blm`` read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = path.with_suffix(".txt")
    listed.write_text("\n".join(map(str, paths)))  # no newline at the end: BLM-py fails on it
    config = {
        "Y_files": str(listed),
        "X": str(X),
        "outdir": str(outdir),
        "clusterType": "local",
        "MAXMEM": "2**34",
        "sim": 1,
    }
    path.write_text(yaml.safe_dump(config | fields, sort_keys=False))
    return path


def t_contrasts(*vectors: Sequence[float]) -> list[dict[str, Any]]:
    """Return T contrasts as a configuration has them."""
    return [
        {f"c{i}": {"name": f"contrast_{i}", "vector": list(vector), "statType": "T"}}
        for i, vector in enumerate(vectors, 1)
    ]


def make_all(make: Callable[[Any], Path], items: Sequence[Any]) -> list[Path]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(make, items))


def save_image(values: NDArray[Any], affine: NDArray[np.float64], path: Path) -> Path:
    part = path.with_name(f"part_{path.name}")
    nib.save(nib.Nifti1Image(np.ascontiguousarray(values), affine), part)
    return part.replace(path)
