"""What was read before an interruption is not read again, and the products are the same bits.

The whole kind: work that is cut off in the middle of its unit, by Ctrl-C (a KeyboardInterrupt while
an image is read or while sums change), by an error or a kill (only what was saved from time to
time is left), once or several times; and what must not be gone on from: a file of other images, of
another model, or a damaged one.
"""

import os
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.products import ProductAccumulator
from nipype_blm.data.images import ImageReader
from nipype_blm.errors import InputError
from nipype_blm.progress import listening
from nipype_blm.signals import deferred
from nipype_blm.stages import checkpoints
from nipype_blm.stages.folders import find_shortages
from nipype_blm.stages.plan import write_plan
from nipype_blm.stages.products import compute_products

N_OBS, SHAPE, CHUNK = 150, (5, 4, 3), 32
X = np.column_stack([np.ones(N_OBS), np.random.default_rng(0).normal(size=(N_OBS, 2))])


def make_values():
    values = np.random.default_rng(1).normal(5, 2, (N_OBS, *SHAPE))
    values[np.random.default_rng(2).random(values.shape) < 0.2] = np.nan
    values[100:, 0] = np.nan
    return values


class Batch:
    """All images in one batch, which may be read in several attempts."""

    def __init__(self, prepare, folder, factor=None, **options):
        self.run = prepare(make_values(), X, factor, **options)
        self.files = write_plan(self.run, folder)
        self.out = folder / "out.blm"
        self.checkpoint = folder / "checkpoints" / "batch_0000.blm"
        self.part = self.checkpoint.with_suffix(".tile.blm")
        self.tile = folder / "tiles" / "a.blm"
        self.read: list[tuple[Path, int]] = []

    def compute(self, checkpoint=True, n_threads=1, with_tile=False):
        self.read.clear()
        given = self.checkpoint if checkpoint else None
        tile = self.tile if with_tile else None
        [batch] = self.files.batch_files
        compute_products(self.files.model_file, batch, self.out, n_threads, given, tiles_file=tile)
        return self.out.read_bytes()

    def compute_both(self, **options):
        """Return products and tile, which are removed."""
        found = self.compute(with_tile=True, **options), self.tile.read_bytes()
        self.tile.unlink()
        self.out.unlink()
        return found


@pytest.fixture
def make_batch(prepare, tmp_path, monkeypatch):
    """Function that makes a batch whose images are noted when they are read."""
    read = ImageReader.read

    def make(**options):
        batch = Batch(prepare, tmp_path, **options)

        def note(reader, path, volume, *rest):
            batch.read.append((path, volume))
            return read(reader, path, volume, *rest)

        monkeypatch.setattr(ImageReader, "read", note)
        return batch

    return make


@pytest.fixture
def interrupting(monkeypatch):
    """Function that has the n-th image from now on raise an error instead of being read."""

    def set_up(n, error=KeyboardInterrupt):
        with_note = ImageReader.read
        left = [n]

        def interrupt(reader, *rest):
            left[0] -= 1
            if left[0] == 0:
                raise error
            return with_note(reader, *rest)

        monkeypatch.setattr(ImageReader, "read", interrupt)

    return set_up


LEVELS = np.random.default_rng(3).integers(0, 4, N_OBS)
MODELS = {"linear": {}, "mixed": {"factor": RandomFactor("f", LEVELS, np.ones((N_OBS, 1)))}}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("moments", [(1,), (89,), (150,), (40, 40, 1)], ids=str)
def test_an_interrupted_batch_goes_on_at_the_last_chunk_and_gives_the_same_bits(
    make_batch, interrupting, moments, n_threads, model
):
    batch = make_batch(**MODELS[model])
    whole = batch.compute(checkpoint=False)
    batch.out.unlink()
    n_done = 0
    for moment in moments:
        interrupting(moment)
        with pytest.raises(KeyboardInterrupt):
            batch.compute(n_threads=n_threads)
        assert not batch.out.exists()
        n_done = (n_done + moment - 1) // CHUNK * CHUNK
        assert batch.checkpoint.exists() == (n_done > 0)
    told = []
    with listening(lambda what, n: told.append((what, n))):
        assert batch.compute(n_threads=n_threads) == whole
    images = {image.image for image in batch.run.images[n_done:]}
    assert {path for path, _ in batch.read} == images
    assert len(batch.read) == N_OBS - n_done
    assert sum(n for _, n in told) == N_OBS  # what was there counts as read
    assert not batch.checkpoint.parent.exists()


def test_volumes_of_a_compressed_image_go_on_too(make_batch, interrupting, tmp_path):
    path = tmp_path / "all.nii.gz"
    nib.save(nib.Nifti1Image(np.moveaxis(make_values(), 0, -1), np.eye(4)), path)
    batch = make_batch(Y_files=str(path))
    whole = batch.compute(checkpoint=False)
    interrupting(89)
    with pytest.raises(KeyboardInterrupt):
        batch.compute()
    assert batch.compute() == whole
    assert [volume for _, volume in batch.read] == list(range(64, N_OBS))


def test_a_signal_while_sums_change_waits_until_they_are_whole(make_batch, monkeypatch):
    batch = make_batch()
    whole = batch.compute(checkpoint=False)
    add = ProductAccumulator.add

    def add_interrupted(accumulator, values, *rest):
        if accumulator.n_added == CHUNK:
            os.kill(os.getpid(), signal.SIGINT)
        add(accumulator, values, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ProductAccumulator, "add", add_interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                batch.compute()
        finally:
            signal.signal(signal.SIGINT, before)
    assert batch.compute() == whole
    assert len(batch.read) == N_OBS - 2 * CHUNK


@pytest.mark.parametrize("saves", [True, False])
def test_after_a_kill_what_was_saved_from_time_to_time_is_left(
    make_batch, interrupting, monkeypatch, saves
):
    """An error stands for the kill: nothing is saved when it comes."""
    if saves:  # for reading that takes longer
        monkeypatch.setattr(checkpoints, "_SECONDS_BETWEEN", 0)
        monkeypatch.setattr(checkpoints, "_TIMES_COST", 0)
    batch = make_batch()
    whole = batch.compute(checkpoint=False)
    interrupting(120, RuntimeError)
    with pytest.raises(RuntimeError):
        batch.compute()
    assert batch.checkpoint.exists() == saves  # a short run writes none
    assert batch.compute() == whole
    assert len(batch.read) == N_OBS - (96 if saves else 0)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    ("moments", "error"),
    [((89,), KeyboardInterrupt), ((40, 40, 1), KeyboardInterrupt), ((70, 50), RuntimeError)],
    ids=str,
)
def test_a_tile_that_was_begun_goes_on_with_the_same_bytes(
    make_batch, interrupting, monkeypatch, moments, error, n_threads
):
    if error is RuntimeError:  # which stands for a kill
        monkeypatch.setattr(checkpoints, "_SECONDS_BETWEEN", 0)
        monkeypatch.setattr(checkpoints, "_TIMES_COST", 0)
    batch = make_batch()
    whole = batch.compute_both(checkpoint=False)
    n_done = 0
    for moment in moments:
        interrupting(moment, error)
        with pytest.raises(error):
            batch.compute(with_tile=True, n_threads=n_threads)
        assert not batch.tile.exists()
        n_done = (n_done + moment - 1) // CHUNK * CHUNK
    assert batch.part.exists()
    assert batch.compute_both(n_threads=n_threads) == whole
    assert len(batch.read) == N_OBS - n_done
    assert not batch.checkpoint.parent.exists()


@pytest.mark.parametrize("what", ["is cut short", "is gone", "was not asked for"])
def test_without_the_tile_that_was_begun_all_images_are_read(
    make_batch, interrupting, what, tmp_path
):
    batch = make_batch()
    whole = batch.compute_both(checkpoint=False)
    interrupting(89)
    with pytest.raises(KeyboardInterrupt):
        batch.compute(with_tile=what != "was not asked for")
    if what == "is cut short":
        os.truncate(batch.part, batch.part.stat().st_size // 2)
    else:
        batch.part.unlink(missing_ok=True)
    assert batch.compute_both() == whole
    assert len(batch.read) == N_OBS


def test_a_link_in_the_place_of_a_tile_is_not_written_to(make_batch, tmp_path):
    batch = make_batch()
    batch.part.parent.mkdir()
    batch.part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        batch.compute(with_tile=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_tile_that_was_begun_goes_with_the_products_that_need_none(make_batch, interrupting):
    batch = make_batch()
    whole = batch.compute(checkpoint=False)
    interrupting(89)
    with pytest.raises(KeyboardInterrupt):
        batch.compute(with_tile=True)
    assert batch.compute() == whole
    assert len(batch.read) == N_OBS - 64
    assert not batch.checkpoint.parent.exists()


def test_the_space_of_a_tile_that_was_begun_counts_as_free(make_batch, interrupting, monkeypatch):
    """It goes on there; the disk may have room for it once, but not twice."""
    batch = make_batch()
    interrupting(89)
    with pytest.raises(KeyboardInterrupt):
        batch.compute(with_tile=True)
    folder = batch.checkpoint.parent
    saved = batch.part.stat().st_size + batch.checkpoint.stat().st_size
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    assert not find_shortages([(folder, 100 + saved)], folder)
    assert find_shortages([(folder, 101 + saved)], folder)


def replace_first_image(batch):
    path = batch.run.images[3].image
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_an_image_that_was_read_and_has_changed_since_the_plan_is_refused(make_batch, interrupting):
    batch = make_batch()
    interrupting(89)
    with pytest.raises(KeyboardInterrupt):
        batch.compute()
    replace_first_image(batch)
    with pytest.raises(InputError, match="has changed since the run was planned"):
        batch.compute()


@pytest.mark.parametrize("change", ["damaged", "cut short", "other images", "another model"])
def test_what_does_not_fit_is_not_gone_on_from(make_batch, interrupting, prepare, tmp_path, change):
    batch = make_batch()
    interrupting(89)
    with pytest.raises(KeyboardInterrupt):
        batch.compute()
    content = batch.checkpoint.read_bytes()
    if change == "damaged":
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        batch.checkpoint.write_bytes(changed)
    elif change == "cut short":
        batch.checkpoint.write_bytes(content[:-100])
    else:
        values = make_values()
        if change == "other images":
            values[3] += 1
        fields = {"OutputCovB": False} if change == "another model" else {}
        batch.run = prepare(values, X, **fields)
        batch.files = write_plan(batch.run, tmp_path)
    again = batch.compute()
    assert len(batch.read) == N_OBS
    assert again == batch.compute(checkpoint=False)


def test_signals_that_are_deferred_come_once_and_handlers_stay():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("handled"))
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == []
        assert seen == ["handled"]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
