"""Images for the benchmarks: BLM's own test design, and smooth brains with ragged edges."""

import gzip
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

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


def make_brains(folder: Path, n_distinct: int = 100, seed: int = 2) -> None:
    """Write compressed 2 mm float32 images with ragged edges, and mask.nii."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in MNI_SHAPE], indexing="ij")
    radius = (grid[0] / 0.78) ** 2 + (grid[1] / 0.88) ** 2 + (grid[2] / 0.80) ** 2
    limit = np.sort(radius, axis=None)[MNI_VOXELS]
    mask = radius < limit
    (folder / "data").mkdir(parents=True, exist_ok=True)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 90, -126, -72
    save_image(mask.astype(np.uint8), affine, folder / "data" / "mask.nii")
    make_all(partial(_make_brain, folder, radius / limit, affine, seed), range(n_distinct))


def _make_brain(
    folder: Path, radius: NDArray[np.float64], affine: NDArray[np.float64], seed: int, number: int
) -> Path:
    path = folder / "data" / f"brain{number}.nii.gz"
    if path.exists():
        return path
    rng = np.random.default_rng([seed, number])
    noise = gaussian_filter(rng.standard_normal(MNI_SHAPE), 1.5)
    edge = gaussian_filter(rng.standard_normal(MNI_SHAPE), 4)
    present = radius < 0.95 + 0.1 * edge / edge.std()
    values = 100 + 10 * noise / noise.std()
    return save_image(np.where(present & (radius < 1), values, 0).astype(np.float32), affine, path)


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
