"""Tiles have the values of images as the products saw them, and stand in for the images."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.data.manifest import parse_manifest
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.tilefile import TileFile
from nipype_blm.stages import products
from nipype_blm.stages.plan import PlanFiles, PreparedRun, write_plan
from nipype_blm.stages.products import compute_products
from nipype_blm.stages.tiles import (
    Stored,
    compute_tiles,
    find_tile,
    list_tiles,
    read_tiles,
    tile_stamp,
)

N_OBS, SHAPE = 70, (4, 3, 2)
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=(N_OBS, 2))])
SUBJECT = np.random.default_rng(3).permutation(np.arange(N_OBS, dtype=np.int32) // 7)


def make_values() -> np.ndarray:
    values = np.random.default_rng(1).normal(5, 2, (N_OBS, *SHAPE))
    values[np.random.default_rng(2).random(values.shape) < 0.2] = np.nan
    values[:, 0, 0, 0] = np.nan
    values[:, 1, 0, 0] = 0.0
    values[:40, 2, 0, 0] = np.nan
    values[5] = np.nan
    values[6, 3, 2, 1] = np.inf
    return values


def flat(values: np.ndarray) -> np.ndarray:
    """Return (n_obs, n_voxels) in file order."""
    return np.array([image.ravel(order="F") for image in values])


class Stage:
    """The products of all batches of a run, in a folder beside that of tiles."""

    def __init__(self, run: PreparedRun, folder: Path, tiles: Path, keep: bool = True) -> None:
        folder.mkdir()
        self.run, self.tiles = run, tiles
        self.files: PlanFiles = write_plan(run, folder)
        self.products, self.tile_files = [], []
        for i, batch in enumerate(self.files.batch_files):
            tile = find_tile(self.files.model_file, batch, tiles)
            self.tile_files.append(tile)
            out = folder / f"{i}.blm"
            options: dict[str, Any] = {"tiles_dir": tiles, "tiles_file": tile if keep else None}
            self.products.append(compute_products(self.files.model_file, batch, out, 2, **options))

    def arrays(self) -> list[dict[str, np.ndarray]]:
        files = map(ArrayFile, self.products)
        return [{name: file.read(name) for name in file.names} for file in files]


def assert_same_products(first: Stage, second: Stage) -> None:
    """Compare all bits."""
    assert first.run.stamps == second.run.stamps
    for a, b in zip(first.products, second.products, strict=True):
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("zero_is_missing", [True, False])
def test_tiles_have_what_the_products_saw(prepare, tmp_path, zero_is_missing):
    """Missing are NaN, infinities, values below a threshold and outside a mask, zeros if wanted."""
    values = make_values()
    inside = np.random.default_rng(4).random(SHAPE) < 0.7
    own = np.random.default_rng(5).random((N_OBS, *SHAPE)) < 0.8
    folder = tmp_path / "study"
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), np.eye(4)), folder / "mask.nii")
    for i, mask in enumerate(own):
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), folder / f"m{i}.nii")
    (folder / "masks.txt").write_text("".join(f"m{i}.nii\n" for i in range(N_OBS)))
    fields: dict[str, Any] = {"analysis_mask": "mask.nii", "data_mask_files": "masks.txt"}
    fields |= {"data_mask_thresh": -1.0, "zero_is_missing": zero_is_missing}
    stage = Stage(prepare(values, X, images_per_batch=33, **fields), tmp_path / "a", tmp_path / "t")
    with np.errstate(invalid="ignore"):
        is_data = np.isfinite(values) & own & (values >= -1)
    is_data &= (values != 0) | (not zero_is_missing)
    expected = flat(np.where(is_data, values, np.nan))[:, inside.ravel(order="F")]
    spec = stage.run.spec
    found = read_tiles(spec, stage.files.batch_files, stage.tile_files, slice(0, spec.n_voxels))
    assert_array_equal(found, expected)
    n_obs = sum(arrays["n_obs"] for arrays in stage.arrays())
    assert_array_equal(np.isfinite(found).sum(axis=0), n_obs)
    part = read_tiles(spec, stage.files.batch_files, stage.tile_files, slice(3, 7))
    assert_array_equal(part, expected[:, 3:7])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_another_design_reads_tiles_and_gives_the_same_bits(prepare, tmp_path, reading, dtype):
    values, tiles = make_values().astype(dtype), tmp_path / "t"
    Stage(prepare(values, X, images_per_batch=33), tmp_path / "a", tiles)
    assert len(reading) == N_OBS
    run = prepare(values, X[:, ::2] ** 2, images_per_batch=33)
    expected = Stage(run, tmp_path / "fresh", tmp_path / "none", keep=False)
    reading.clear()
    for keep in (False, True):
        assert_same_products(Stage(run, tmp_path / f"b{keep}", tiles, keep), expected)
    assert not reading
    assert len(list_tiles(tiles)) == run.spec.n_batches


def test_other_batches_and_another_order_read_the_same_tiles(prepare, tmp_path, reading):
    """Rows sorted by a factor, cut elsewhere; what is written is as if images had been read."""
    values, tiles = make_values(), tmp_path / "t"
    Stage(prepare(values, X, images_per_batch=33), tmp_path / "a", tiles)
    factor = RandomFactor("subject", SUBJECT, X[:, :2])
    run = prepare(values, X, factor, images_per_batch=20)
    expected = Stage(run, tmp_path / "fresh", tmp_path / "others")
    reading.clear()
    found = Stage(run, tmp_path / "b", tiles)
    assert not reading
    assert_same_products(found, expected)
    columns = slice(0, run.spec.n_voxels)
    for a, b in zip(found.tile_files, expected.tile_files, strict=True):
        assert a != b
        assert TileFile(a).file.stamp == TileFile(b).file.stamp
        assert_array_equal(TileFile(a).read(), TileFile(b).read())
    order = [int(entry.image.name[1:5]) for entry in run.images]
    assert order != sorted(order)
    now = read_tiles(run.spec, found.files.batch_files, found.tile_files, columns)
    finite = np.where(np.isfinite(values), values, np.nan)
    assert_array_equal(now, flat(finite)[order])


def test_little_memory_reads_parts_of_chunks(prepare, tmp_path, reading, monkeypatch):
    """What has to be written besides would not fit, so that images are read."""
    monkeypatch.setattr(products, "_VALUES_BYTES", 1)
    monkeypatch.setattr(products, "TILE", 5)
    values, tiles = make_values(), tmp_path / "t"
    Stage(prepare(values, X, images_per_batch=33), tmp_path / "a", tiles)
    run = prepare(values, X[:, ::2] ** 2, images_per_batch=33)
    expected = Stage(run, tmp_path / "fresh", tmp_path / "none", keep=False)
    reading.clear()
    assert_same_products(Stage(run, tmp_path / "b", tiles, keep=False), expected)
    assert reading == []
    Stage(prepare(values, X, images_per_batch=40), tmp_path / "c", tiles)
    assert len(reading) == 40  # the other batch has 30 images, of which a whole chunk fits


def test_rows_all_over_large_tiles_are_read_from_images(prepare, tmp_path, reading):
    """A row costs as much as all others of its chunk."""
    values, tiles = make_values(), tmp_path / "t"
    Stage(prepare(values, X, images_per_batch=70), tmp_path / "a", tiles)
    run = prepare(values, X, images_per_batch=70)
    images = run.images
    assert Stored(run.spec, tiles).find(images[:1]) is not None
    assert Stored(run.spec, tiles).find([images[i] for i in (0, 1, 2, 3, 4, 40, 41, 68, 69)])
    assert Stored(run.spec, tiles).find([images[0], images[40], images[69]]) is None


def test_an_image_that_is_new_or_replaced_is_read_with_its_batch(prepare, tmp_path, reading):
    values, tiles = make_values(), tmp_path / "t"
    Stage(prepare(values, X, images_per_batch=20), tmp_path / "a", tiles)
    values[25] += 1
    run = prepare(values, X, images_per_batch=20)
    reading.clear()
    Stage(run, tmp_path / "b", tiles)
    assert sorted(reading) == [f"y{i:04d}.nii" for i in range(20, 40)]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1100] ^= 1  # of the first chunk of values
    path.write_bytes(data)


def replace(path: Path) -> None:
    path.write_bytes(b"nothing of ours")


def take_from_another_version(path: Path) -> None:
    file = ArrayFile(path)
    write_arrays(path, file.stamp, {}, file.meta | {"kind": "tiles 0"})


@pytest.mark.parametrize("damage", [cut_short, flip, replace, take_from_another_version])
def test_a_damaged_tile_is_refused_and_made_again(prepare, tmp_path, damage, reading):
    tiles = tmp_path / "t"
    run = prepare(make_values(), X, images_per_batch=35)
    first = Stage(run, tmp_path / "a", tiles)
    whole = first.tile_files[1].read_bytes()
    damage(first.tile_files[1])
    with pytest.raises(InputError, match=r"damaged|no values of images"):
        read_tiles(run.spec, first.files.batch_files, first.tile_files, slice(0, 24))
    reading.clear()
    second = Stage(run, tmp_path / "b", tiles)
    assert sorted(reading) == [f"y{i:04d}.nii" for i in range(35, 70)]
    assert second.tile_files[1].read_bytes() == whole
    assert_same_products(first, second)


def test_a_tile_of_other_images_is_refused(prepare, tmp_path):
    run = prepare(make_values(), X, images_per_batch=35)
    stage = Stage(run, tmp_path / "a", tmp_path / "t")
    with pytest.raises(InputError, match="made from other input"):
        read_tiles(run.spec, stage.files.batch_files, stage.tile_files[::-1], slice(0, 2))


def test_tiles_alone_are_those_that_come_with_products(prepare, tmp_path):
    run = prepare(make_values(), X, images_per_batch=35)
    stage = Stage(run, tmp_path / "a", tmp_path / "t")
    for batch, tile in zip(stage.files.batch_files, stage.tile_files, strict=True):
        out = compute_tiles(stage.files.model_file, batch, tmp_path / "alone.blm", 2)
        assert out.read_bytes() == tile.read_bytes()


def test_the_stamp_tells_images_and_how_they_are_read_and_not_the_model(prepare, tmp_path):
    def stamp(*study: Any, **fields: Any) -> str:
        run = prepare(*study, **fields)
        return tile_stamp(run.spec, run.manifests[0].encode())

    values = make_values()
    first = stamp(values, X)
    assert stamp(values, X[:, :1], Missingness={"MinN": 3}) == first
    assert stamp(values, X, data_mask_thresh=0.5) != first
    assert stamp(values, X, zero_is_missing=True) != first
    assert stamp(values[:-1], X[:-1]) != first
    values[3] += 1
    assert stamp(values, X) != first


def test_tiles_read_otherwise_are_not_found(prepare, tmp_path):
    values, tiles = make_values(), tmp_path / "t"
    run = prepare(values, X)
    Stage(run, tmp_path / "a", tiles)
    images = parse_manifest(run.manifests[0].encode(), Path("a"))
    assert Stored(run.spec, tiles).find(images) is not None
    other = prepare(values, X, data_mask_thresh=0.5).spec
    assert Stored(other, tiles).find(images) is None
