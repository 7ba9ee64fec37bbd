"""Make up a volume of an electron microscope: cells, and threads that run through all of it.

Usage: python examples/make_volume.py FOLDER

Writes em.zarr, an OME-Zarr of 60 x 200 x 240 voxels (z, y, x) of 40 x 8 x 8 nm, in chunks.
"""

import sys
from pathlib import Path

import numpy as np
import zarr

SHAPE, CHUNKS = (60, 200, 240), (20, 64, 64)
VOXEL_NM = (40.0, 8.0, 8.0)
N_CELLS, N_THREADS, NOISE = 60, 12, 8.0


def draw_volume(seed: int = 0) -> np.ndarray:
    """Return the volume: about 200 inside cells and threads, 60 outside."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32)
    nm = places * np.float32(VOXEL_NM).reshape(3, 1, 1, 1)
    size = np.array(SHAPE) * VOXEL_NM
    inside = np.zeros(SHAPE, bool)
    for _ in range(N_CELLS):
        centre = rng.uniform(0, size).reshape(3, 1, 1, 1)
        inside |= ((nm - centre) ** 2).sum(axis=0) < rng.uniform(60, 130) ** 2
    z = nm[0]
    for _ in range(N_THREADS):
        y = rng.uniform(0, size[1]) + 150 * np.sin(z / rng.uniform(200, 500))
        x = rng.uniform(0, size[2]) + rng.uniform(-0.6, 0.6) * z
        inside |= (nm[1] - y) ** 2 + (nm[2] - x) ** 2 < 28**2
    values = np.where(inside, 200, 60) + NOISE * rng.standard_normal(SHAPE)
    return values.clip(0, 255).astype(np.uint8)


def main(folder: Path) -> None:
    """Write the volume."""
    folder.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(folder / "em.zarr", zarr_format=3, overwrite=True)
    array = group.create_array("0", shape=SHAPE, chunks=CHUNKS, dtype=np.uint8)
    array[:] = draw_volume()
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    step = {"type": "scale", "scale": list(VOXEL_NM)}
    level = {"path": "0", "coordinateTransformations": [step]}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": "em", "axes": axes, "datasets": [level]}],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
