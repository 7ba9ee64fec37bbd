"""Images become products: those of whole arrays, and of the images that were planned alone."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.products import Products
from nipype_blm.data.images import ImageReader
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.stages.plan import PreparedRun, write_plan
from nipype_blm.stages.products import compute_products

N_OBS, SHAPE = 70, (4, 3, 2)
N_VOXELS = 24
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=(N_OBS, 2))])


def make_values(missing: float = 0.2) -> np.ndarray:
    values = np.random.default_rng(1).normal(5, 2, (N_OBS, *SHAPE))
    values[np.random.default_rng(2).random(values.shape) < missing] = np.nan
    return values


def flat(values: np.ndarray) -> np.ndarray:
    """Return (n_obs, n_voxels) in file order."""
    return np.array([image.ravel(order="F") for image in values])


def compute(run: PreparedRun, folder: Path, n_threads: int = 1) -> list[Products]:
    files = write_plan(run, folder)
    found = []
    for i, batch in enumerate(files.batch_files):
        out = folder / f"{i}.blm"
        path = compute_products(files.model_file, batch, out, n_threads)
        file = ArrayFile(path)
        found.append(Products(*(file.read(name) for name in Products._fields)))
    return found


def assert_products(run: PreparedRun, found: list[Products], values: np.ndarray) -> None:
    """Compare with sums over the values present, in the order of the rows of the plan."""
    spec = run.spec
    for number, products in enumerate(found):
        rows = spec.batch(number)
        Q, s, Y = spec.design.Q[rows], spec.design.shift[rows], values[rows]
        present = ~np.isnan(Y)
        assert_array_equal(products.n_obs, present.sum(axis=0))
        bits = np.unpackbits(
            np.ascontiguousarray(products.presence.T).view(np.uint8), axis=1, bitorder="little"
        )
        assert_array_equal(bits[:, : len(Y)].T, present)
        assert not bits[:, len(Y) :].any()
        first = np.argmax(present, axis=0), np.arange(Y.shape[1])
        expected = np.where(present.any(axis=0), Y[first], 0)
        assert_allclose(products.reference, expected, rtol=1e-7)  # staged in single precision
        centred = np.where(present, Y - products.reference * s[:, None], 0)
        # Sums of 70 numbers around 5.
        close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
        assert_allclose(products.QtY, Q.T @ centred, **close)
        assert_allclose(products.YtY, (centred**2).sum(axis=0), **close)
        for factor in spec.factors:
            Z = np.zeros((len(Y), factor.n_columns))
            for e in range(factor.n_effects):
                Z[np.arange(len(Y)), factor.level[rows] * factor.n_effects + e] = factor.Z[rows, e]
            used = np.unique(factor.level[rows])
            columns = (used[:, None] * factor.n_effects + np.arange(factor.n_effects)).ravel()
            assert_allclose(products.ZtY, (Z.T @ centred)[columns], **close)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("images_per_batch", [None, 70, 33, 7])
def test_products_are_those_of_the_values_present(prepare, tmp_path, images_per_batch, n_threads):
    values = make_values()
    values[:, 0, 0, 0] = np.nan
    values[:40, 1, 0, 0] = np.nan  # no data in the first batches
    run = prepare(values, X, images_per_batch=images_per_batch)
    assert_products(run, compute(run, tmp_path, n_threads), flat(values))


def test_products_of_a_mixed_model_follow_the_order_of_its_rows(prepare, tmp_path):
    """Images are read level by level: X, Z, levels and images move together."""
    values = make_values()
    level = np.random.default_rng(3).permutation(np.arange(N_OBS, dtype=np.int32) // 7)
    run = prepare(values, X, RandomFactor("subject", level, X[:, :2]), images_per_batch=20)
    order = [int(entry.image.name[1:5]) for entry in run.images]
    assert sorted(order) == list(range(N_OBS))
    assert order != sorted(order)
    assert [entry.row for entry in run.images] == list(range(N_OBS))
    [factor] = run.spec.factors
    assert_array_equal(run.spec.X, X[order])
    assert_array_equal(factor.Z, X[order, :2])
    names = np.unique(level.astype(str), return_inverse=True)[1]  # labels are text
    same = np.equal.outer(names[order], names[order])
    assert_array_equal(np.equal.outer(factor.level, factor.level), same)
    assert_products(run, compute(run, tmp_path), flat(values)[order])


@pytest.mark.parametrize("n_threads", [1, 4])
def test_volumes_of_one_compressed_file_keep_the_order_of_the_table(prepare, tmp_path, n_threads):
    values = make_values()
    path = tmp_path / "all.nii.gz"
    nib.save(nib.Nifti1Image(np.moveaxis(values, 0, -1), np.eye(4)), path)
    level = np.random.default_rng(3).permutation(np.arange(N_OBS, dtype=np.int32) // 7)
    run = prepare(values, X, RandomFactor("subject", level, X[:, :1]), Y_files=str(path))
    assert [entry.volume for entry in run.images] == list(range(N_OBS))
    assert_products(run, compute(run, tmp_path, n_threads), flat(values))


@pytest.mark.parametrize("field", ["Y_files", "data_mask_files"])
def test_a_compressed_file_of_volumes_is_read_by_one_thread_in_order(
    prepare, tmp_path, monkeypatch, field
):
    """Each thread that starts anew would have to decompress all volumes before its own."""
    path = tmp_path / "all.nii.gz"
    values = make_values(missing=0)
    nib.save(nib.Nifti1Image(np.moveaxis(values, 0, -1), np.eye(4)), path)
    run = prepare(values, X, **{field: str(path)})
    files = write_plan(run, tmp_path)
    read = ImageReader.read
    calls: list[tuple[int, int]] = []

    def note(self: ImageReader, file: Path, volume: int, *rest: Any) -> Any:
        if file == path:
            calls.append((threading.get_ident(), volume))
            time.sleep(0.001)  # others get their turn
        return read(self, file, volume, *rest)

    monkeypatch.setattr(ImageReader, "read", note)
    compute_products(files.model_file, files.batch_files[0], tmp_path / "out.blm", 4)
    assert len({thread for thread, _ in calls}) == 1
    assert [volume for _, volume in calls] == list(range(N_OBS))


def test_what_masks_and_thresholds_exclude_is_missing(prepare, tmp_path):
    """The mask of the analysis for all images, that of each image, and values below a threshold."""
    values = make_values(missing=0.1)
    values[3, 0, 0, 1] = 4.0  # the threshold itself is data
    everywhere = np.random.default_rng(4).random(SHAPE) < 0.7
    everywhere[0, 0, 1] = True
    own = (np.random.default_rng(5).random(values.shape) < 0.8) * 1e-30
    own[3, 0, 0, 1] = 1e30
    names = []
    for i, mask in enumerate(own):
        names.append(tmp_path / f"m{i}.nii")
        nib.save(nib.Nifti1Image(mask, np.eye(4)), names[-1])
    (tmp_path / "masks.txt").write_text("".join(f"{name}\n" for name in names))
    mask = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(everywhere.astype(np.uint8), np.eye(4)), mask)
    masks = {"analysis_mask": str(mask), "data_mask_files": str(tmp_path / "masks.txt")}
    run = prepare(values, X, data_mask_thresh=4.0, **masks)
    expected = np.where((own != 0) & (values >= 4), values, np.nan)
    assert not np.isnan(expected[3, 0, 0, 1])
    inside = everywhere.ravel(order="F")
    assert_products(run, compute(run, tmp_path), flat(expected)[:, inside])


def test_infinite_or_huge_values_are_missing_and_each_image_that_has_some_is_named(
    prepare, tmp_path, caplog
):
    values = make_values()
    values[5, 0, 0, :] = np.inf, 1.01e40
    values[40, 1, 1, 1] = -np.inf
    values[41, 1, 1, 1] = -1.01e40
    values[42, 1, 1, 1] = 1e30  # is data
    run = prepare(values, X)
    with caplog.at_level(logging.WARNING):
        found = compute(run, tmp_path)
    assert_products(run, found, flat(np.where(np.abs(values) > 1e40, np.nan, values)))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    what = "values that are infinite or beyond 1e40, taken as missing"
    for (name, n), message in zip([("05", 2), ("40", 1), ("41", 1)], messages, strict=True):
        assert f"y00{name}.nii has {n} {what}" in message


# --------------------------------------------------------------------- images that have changed


def replace_image(path: Path) -> None:
    """Another image of the same size, some time later."""
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_an_image_replaced_after_planning_is_refused_before_it_is_read(
    prepare, tmp_path, monkeypatch
):
    run = prepare(make_values(), X)
    files = write_plan(run, tmp_path)
    replaced = run.images[11].image
    replace_image(replaced)
    opened = []
    read = ImageReader.read

    def note(self: ImageReader, path: Path, *rest: Any) -> Any:
        opened.append(path)
        return read(self, path, *rest)

    monkeypatch.setattr(ImageReader, "read", note)
    with pytest.raises(InputError, match=r"y0011\.nii has changed since the run was planned"):
        compute_products(files.model_file, files.batch_files[0], tmp_path / "out.blm")
    assert replaced not in opened
    assert not (tmp_path / "out.blm").exists()


@pytest.mark.parametrize("which", ["image", "mask"])
def test_an_image_or_mask_replaced_while_it_is_read_is_refused(
    prepare, tmp_path, monkeypatch, which
):
    """Of such a file nobody knows which half was read."""
    values = make_values()
    names: list[Path] = []
    for i, image in enumerate(values):
        names.append(tmp_path / f"m{i:04}.nii")
        nib.save(nib.Nifti1Image(np.ones_like(image), np.eye(4)), names[-1])
    (tmp_path / "masks.txt").write_text("".join(f"{name}\n" for name in names))
    run = prepare(values, X, data_mask_files=str(tmp_path / "masks.txt"))
    files = write_plan(run, tmp_path)
    victim = run.images[11].image if which == "image" else names[11]
    read: Callable[..., Any] = ImageReader.read

    def read_slowly(self: ImageReader, path: Path, *rest: Any) -> Any:
        found = read(self, path, *rest)
        if path == victim:
            replace_image(path)
        return found

    monkeypatch.setattr(ImageReader, "read", read_slowly)
    with pytest.raises(InputError, match=rf"{victim.name} has changed since the run was planned"):
        compute_products(files.model_file, files.batch_files[0], tmp_path / "out.blm")
    assert not (tmp_path / "out.blm").exists()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_all_images_of_a_chunk_that_cannot_be_read_are_named_in_their_order(
    prepare, tmp_path, n_threads
):
    run = prepare(make_values(), X)
    files = write_plan(run, tmp_path)
    for row in (3, 9, 1):
        run.images[row].image.unlink()
    with pytest.raises(InputError) as error:
        compute_products(files.model_file, files.batch_files[0], tmp_path / "out.blm", n_threads)
    rows = [int(problem.split(" of Y.txt")[0].split()[-1]) for problem in error.value.problems]
    assert rows == [2, 4, 10]  # lines, from 1


def test_an_error_of_a_disk_stays_the_cause_of_what_is_said_of_an_image(
    prepare, tmp_path, monkeypatch
):
    """Whoever runs a node can tell it from damage, and try again."""
    failure = OSError(5, "Input/output error")

    def fail(*_: Any) -> None:
        raise InputError("an image cannot be read") from failure

    run = prepare(make_values(), X)
    monkeypatch.setattr(ImageReader, "read", fail)
    with pytest.raises(InputError, match="cannot be read") as caught:
        compute(run, tmp_path / "work")
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is failure
