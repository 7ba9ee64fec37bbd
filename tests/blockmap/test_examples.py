"""The examples of blocks: components of whole volumes, and the model of the engine."""

import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
import zarr
from example_runs import EXAMPLES
from scipy import ndimage

from nipype_blm.interfaces import BLM


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    """Examples can be imported, as by who runs them."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])


# Fewer voxels inside make more components, more of them make one that winds through all blocks.
@pytest.mark.parametrize("share", [0.25, 0.33, 0.6])
@pytest.mark.parametrize("block_size", [[7, 5, 4], [64, 3, 64]], ids=["boxes", "slabs"])
def test_components_are_those_of_scipy_number_by_number(tmp_path, share, block_size):
    from connected_components import label_volume

    values = np.random.default_rng(5).random((11, 13, 17))
    sizes = label_volume(values, tmp_path, 1 - share, block_size=block_size, n_threads=2)
    expected, n = ndimage.label(values > 1 - share)
    found = zarr.open_array(tmp_path / "labels.zarr", path="0")[:]
    np.testing.assert_array_equal(found, expected)
    assert n > 1
    counts = np.bincount(expected.ravel())[1:]
    assert sizes["component"].tolist() == list(range(1, n + 1))
    assert sizes["voxels"].tolist() == counts.tolist()


def test_components_of_a_volume_with_nothing_inside(tmp_path):
    from connected_components import label_volume

    sizes = label_volume(np.zeros((4, 5, 6)), tmp_path, 0.5, block_size=[3, 3, 3])
    assert len(sizes) == 0
    assert not zarr.open_array(tmp_path / "labels.zarr", path="0")[:].any()


def test_components_that_touch_by_corners_alone_stay_apart(tmp_path):
    from connected_components import label_volume

    values = np.zeros((2, 4, 4))
    values[0, 1, 1] = values[0, 2, 2] = values[1, 3, 3] = 1
    assert len(label_volume(values, tmp_path, 0.5, block_size=[2, 2, 1])) == 3


def test_the_model_on_a_zarr_is_that_of_the_images(tmp_path):
    from blm_on_zarr import main

    rng = np.random.default_rng(1)
    n, shape = 40, (5, 6, 7)  # more images than one word of presence has
    age = rng.normal(40, 10, n)
    values = rng.standard_normal((n, *shape)) + 0.05 * age[:, None, None, None]
    values[rng.random(values.shape) < 0.1] = np.nan
    values[3:, 0, 0, 0] = np.nan  # too few to fit
    values = values.astype(np.float32)
    array = zarr.create_array(
        tmp_path / "images.zarr", shape=values.shape, chunks=(n, 2, 3, 4), dtype=values.dtype
    )
    array[:] = values
    design = pd.DataFrame({"one": 1.0, "age": age})
    design.to_csv(tmp_path / "design.csv", index=False)
    main(tmp_path / "images.zarr", tmp_path / "design.csv", tmp_path / "maps")

    files = [tmp_path / f"{i:02d}.nii" for i in range(n)]
    for path, image in zip(files, values, strict=True):
        nib.save(nib.Nifti1Image(image.T, np.eye(4)), path)
    known = BLM(
        in_files=[str(path) for path in files],
        design_file=str(tmp_path / "design.csv"),
        contrasts=[{"name": "age", "vector": [0, 1]}],
        out_dir=str(tmp_path / "blm"),
        min_n=1,
    ).run(cwd=tmp_path)
    maps = {
        name: nib.load(tmp_path / "maps" / f"{name}.nii.gz").get_fdata()
        for name in ("beta_2", "t_2", "dof")
    }
    beta = nib.load(known.outputs.blm_vox_beta).get_fdata()[..., 1]
    fitted = np.isfinite(maps["t_2"])
    assert not fitted[0, 0, 0]
    assert fitted.sum() == fitted.size - 1
    # Both are the same routines on the same values, and are written as float32.
    np.testing.assert_allclose(maps["beta_2"][fitted], beta[fitted], rtol=1e-6)
    i, j, k = 3, 2, 1
    y, X = values[:, k, j, i], np.column_stack([np.ones(n), age])
    is_there = np.isfinite(y)
    y, X = y[is_there].astype(float), X[is_there]
    estimate, rss, *_ = np.linalg.lstsq(X, y, rcond=None)
    variance = rss[0] / (len(y) - 2) * np.linalg.inv(X.T @ X)[1, 1]
    assert maps["t_2"][i, j, k] == pytest.approx(estimate[1] / np.sqrt(variance), rel=1e-5)
    assert maps["dof"][i, j, k] == len(y) - 2


def test_components_of_a_volume_that_begins_elsewhere(tmp_path):
    from connected_components import label_volume

    values = (np.random.default_rng(2).random((9, 8, 7)) * 255).astype(np.uint8)
    path, start = f"precomputed://{tmp_path / 'volume'}", (5, 3, 1)  # x, y, z
    store = ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{tmp_path / 'volume'}/",
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
            "scale_metadata": {
                "size": values.T.shape,
                "voxel_offset": start,
                "chunk_size": [4, 4, 4],
                "resolution": [8, 8, 40],
                "encoding": "raw",
            },
        },
        create=True,
    ).result()
    store[..., 0] = values.T
    label_volume(path, tmp_path, 128, block_size=[4, 5, 3])
    found = zarr.open_array(tmp_path / "labels.zarr", path="0")[:]
    np.testing.assert_array_equal(found, ndimage.label(values > 128)[0])
