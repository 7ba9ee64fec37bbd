"""A study that grows reads only what was added, and has the maps of all its images.

The whole kind: images come, go and are replaced; X, Z and contrasts change with them; and what an
earlier run has left is whole, damaged, dropped, of another model, or being replaced.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.images import ImageReader
from nipype_blm.io import arrayfile
from nipype_blm.io.arrayfile import ArrayFile, empty
from nipype_blm.io.publish import Claim
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.request import Factor, ListedPath, Request, Table
from nipype_blm.stages import growth
from nipype_blm.stages.growth import EarlierPlaces
from nipype_blm.stages.plan import PreparedRun, prepare_run, write_plan
from nipype_blm.stages.run import list_products, run_model

N_OBS, SHAPE = 40, (4, 3, 2)
CUT = {"images_per_batch": 8, "voxels_per_block": 10}
EXACT = ("_n", "_edf", "_mask", "_status")  # in names of maps
RNG = np.random.default_rng(0)
AGE = RNG.normal(50, 12, N_OBS)
SITE = np.arange(N_OBS) // 16  # the third comes with image 32
SUBJECT = np.array([*np.arange(32) // 4, *(np.arange(8) // 2 + 6)])  # old and new ones


class Study:
    """Images with missing data, and runs of models of them that follow each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(1)
        self.values = rng.normal(100, 5, (N_OBS, *SHAPE)) + 0.1 * AGE[:, None, None, None]
        self.values += rng.normal(0, 4, (12, *SHAPE))[SUBJECT]
        self.values[rng.random(self.values.shape) < 0.1] = np.nan
        self.values[:, 0, 0, 0] = np.nan
        for i in range(N_OBS):
            self.write(i)
            mask = (rng.random(SHAPE) < 0.95).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / f"m{i:02}.nii")

    def write(self, number: int) -> None:
        nib.save(nib.Nifti1Image(self.values[number], np.eye(4)), self.folder / f"s{number:02}.nii")

    def ask(self, rows: Iterable[int], name: str, **changes: Any) -> Request:
        """Return a request of some images, whose age is centred."""
        rows = np.array(list(rows))
        age = AGE[rows] - AGE[rows].mean()
        X = changes.pop("X", np.column_stack([np.ones(rows.size), age]))
        last = np.eye(X.shape[1])[-1:]
        given: dict[str, Any] = {
            "X": Table(X, [f"x{i}" for i in range(X.shape[1])]),
            "images": self.list_files("s", rows),
            "contrasts": [Contrast("last", last, False)],
            "out_dir": self.folder / name,
            "zero_is_missing": False,
        }
        return Request(**given | CUT | changes)

    def list_files(self, letter: str, rows: Iterable[int]) -> list[ListedPath]:
        return [
            ListedPath(self.folder / f"{letter}{i:02}.nii", f"line {n} of images.txt")
            for n, i in enumerate(rows, 1)
        ]

    def prepare(self, rows: Iterable[int], name: str = "out", **changes: Any) -> PreparedRun:
        work = self.folder / f"{name}_work"
        places = EarlierPlaces.of_work_folder(work)
        return prepare_run(self.ask(rows, name, **changes), work_folder=work, places=places)

    def run(self, rows: Iterable[int], name: str = "out", **changes: Any) -> dict[str, np.ndarray]:
        """Fit, and return all maps."""
        run = self.prepare(rows, name, **changes)
        work, out = self.folder / f"{name}_work", self.folder / name
        work.mkdir(exist_ok=True)
        run_model(run, work, out, Claim(run.model_id, work))
        maps = sorted(out.rglob("*.nii"))
        return {str(path.relative_to(out)): np.asarray(nib.load(path).dataobj) for path in maps}

    def fresh(self, rows: Iterable[int], **changes: Any) -> dict[str, np.ndarray]:
        """Return the maps of a run that finds nothing."""
        for path in (self.folder / "fresh", self.folder / "fresh_work"):
            shutil.rmtree(path, ignore_errors=True)
        return self.run(rows, "fresh", **changes)

    def products(self) -> list[Path]:
        return sorted((self.folder / "out_work").glob("products_*.blm"))

    def notice(self, rows: Iterable[int], **changes: Any) -> str:
        """Return why all images are read."""
        [notice] = self.prepare(rows, **changes).notices
        assert notice.startswith("All ")
        return notice


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the images that are read; not those of masks."""
    numbers: list[int] = []
    read = ImageReader.read

    def note(reader: ImageReader, path: Path, *rest: Any) -> Any:
        if path.name.startswith("s"):
            numbers.append(int(path.name[1:3]))
        return read(reader, path, *rest)

    monkeypatch.setattr(ImageReader, "read", note)
    return numbers


def mixed(rows: Iterable[int], slope: bool = False) -> dict[str, Any]:
    """Return subjects with an intercept, and with a slope if wished; and their sites."""
    rows = np.array(list(rows))
    Z = np.column_stack([np.ones(rows.size), (AGE[rows] - AGE[rows].mean()) / 10])
    subject = Factor(
        "subject",
        [f"{SUBJECT[i]:02}" for i in rows],
        Table(Z[:, : 1 + slope], ["one", "age"][: 1 + slope]),
    )
    site = Factor("site", [f"{SITE[i]}" for i in rows], Table(Z[:, :1], ["one"]))
    factors = [subject] if slope else [subject, site]
    return {"factors": factors, "estimation": MixedOptions(safe_mode=False), "with_resms": True}


def assert_same_maps(maps: dict[str, np.ndarray], fresh: dict[str, np.ndarray]) -> None:
    """Compare with a run that reads all images."""
    assert maps.keys() == fresh.keys() != set()
    is_mixed = any(name.startswith("blmm") for name in maps)
    for name, values in maps.items():
        stem = name.removesuffix(".nii")
        if stem.endswith("_nit"):
            continue
        if stem.endswith(EXACT):
            assert_array_equal(values, fresh[name], err_msg=name)
        elif is_mixed:  # where iterations end depends on rounding, as with other batches
            assert_allclose(values, fresh[name], rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            scale = np.nanmax(np.abs(fresh[name]), initial=0)
            assert_allclose(values, fresh[name], rtol=0, atol=1e-12 * scale, err_msg=name)


KINDS = {
    "linear": lambda rows: {},
    "sites": lambda rows: {
        "X": np.column_stack(
            [SITE[list(rows)] == k for k in range(int(SITE[list(rows)].max()) + 1)]
            + [AGE[list(rows)] - AGE[list(rows)].mean()]
        ).astype(float)
    },
    "masks": lambda rows: {
        "data_masks": [
            ListedPath(MASKS / f"m{i:02}.nii", f"line {n} of masks.txt")
            for n, i in enumerate(rows, 1)
        ]
    },
    "two factors": mixed,
    "slope": lambda rows: mixed(rows, slope=True),
}
MASKS = Path()


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_was_added_is_read_however_often(study, reading, kind, monkeypatch):
    monkeypatch.setitem(globals(), "MASKS", study.folder)
    describe = KINDS[kind]
    study.run(range(24), **describe(range(24)))
    known = 24
    for n in (25, 37, 40):  # the last batch of 24 is whole; one image; several batches
        reading.clear()
        run = study.prepare(range(n), **describe(range(n)))
        assert run.taken.n_images == known
        assert not [notice for notice in run.notices if "images are read" in notice]
        maps = study.run(range(n), **describe(range(n)))
        assert sorted(reading) == list(range(known, n))
        known = n
        assert_same_maps(maps, study.fresh(range(n), **describe(range(n))))


@pytest.mark.parametrize("kind", ["linear", "two factors"])
def test_a_study_that_has_grown_is_planned_as_it_was(study, reading, kind):
    study.run(range(24), **KINDS[kind](range(24)))
    study.run(range(30), **KINDS[kind](range(30)))
    before = study.prepare(range(30), **KINDS[kind](range(30)))
    reading.clear()
    study.run(range(30), **KINDS[kind](range(30)))
    again = study.prepare(range(30), **KINDS[kind](range(30)))
    assert reading == []
    assert before.stamps == again.stamps
    assert again.taken == (30, {})


def test_the_model_of_a_study_is_the_same_whether_it_has_grown(study):
    study.run(range(25), **mixed(range(25)))
    grown = study.prepare(range(30), **mixed(range(30)))
    assert grown.spec.ends == (8, 16, 24, 25, 30)
    assert grown.model_id == study.prepare(range(30), "other", **mixed(range(30))).model_id


def test_contrasts_and_all_that_is_not_read_may_change_at_the_same_time(study, reading):
    study.run(range(24))
    changes = {
        "contrasts": [Contrast("all", np.eye(2), True)],
        "min_n": 20,
        "voxels_per_block": 7,
        "with_cov": False,
    }
    reading.clear()
    maps = study.run(range(28), **changes)
    assert sorted(reading) == [24, 25, 26, 27]
    assert_same_maps(maps, study.fresh(range(28), **changes))


def test_images_may_be_listed_in_another_order(study, reading):
    study.run(range(24))
    order = [*range(39, 23, -1), *range(23, -1, -1)]
    reading.clear()
    maps = study.run(order)
    assert sorted(reading) == list(range(24, 40))
    assert_same_maps(maps, study.fresh(order))


def test_columns_may_go_and_the_same_images_need_not_be_read(study, reading):
    X = np.column_stack([np.ones(24), AGE[:24], SITE[:24]])
    study.run(range(24), X=X)
    reading.clear()
    maps = study.run(range(24))
    assert reading == []
    assert_same_maps(maps, study.fresh(range(24)))


def test_what_is_not_read_and_changes_no_row_gives_the_same_bits(study, reading):
    inside = study.folder / "inside.nii"
    nib.save(nib.Nifti1Image(np.eye(4, 6).reshape(SHAPE).astype(np.uint8), np.eye(4)), inside)
    study.run(range(24))
    changes = {"post_mask": inside, "min_n": 21}
    reading.clear()
    maps = study.run(range(24), **changes)
    assert reading == []
    for name, values in study.fresh(range(24), **changes).items():
        assert_array_equal(maps[name], values, err_msg=name)


def test_files_that_were_fetched_anew_are_not_trusted(study, reading):
    study.run(range(24))
    for path in study.folder.glob("s*.nii"):
        os.utime(path)
    assert "in each batch some image is gone or was replaced" in study.notice(range(30))
    study.run(range(30))
    assert sorted(reading) == sorted([*range(24), *range(30)])


def test_more_memory_or_threads_at_the_same_time_read_nothing_more(study, reading):
    plan = {"images_per_batch": None, "voxels_per_block": None}
    study.run(range(24), **plan)
    reading.clear()
    maps = study.run(range(30), **plan | {"max_bytes": 2**30, "n_threads": 2, "max_blocks": 2})
    assert sorted(reading) == list(range(24, 30))
    assert_same_maps(maps, study.fresh(range(30), **plan))


def test_batches_of_images_that_are_gone_or_replaced_are_read_again(study, reading):
    study.run(range(24))
    study.values[3] += 1
    study.write(3)
    rows = [i for i in range(30) if i != 20]
    reading.clear()
    maps = study.run(rows)
    assert sorted(reading) == [*range(8), 16, 17, 18, 19, *range(21, 30)]
    assert_same_maps(maps, study.fresh(rows))


def test_an_image_that_is_replaced_repeats_its_batch_and_no_other(study, reading):
    study.run(range(24))
    study.run(range(30))
    study.values[3] += 1
    study.write(3)
    reading.clear()
    maps = study.run(range(30))
    assert sorted(reading) == list(range(8))
    assert_same_maps(maps, study.fresh(range(30)))


def test_a_value_that_was_corrected_repeats_its_batch(study, reading):
    def make_X(n):
        return np.column_stack([np.ones(n), np.where(np.arange(n) == 9, 20.0, AGE[:n])])

    study.run(range(24), X=np.column_stack([np.ones(24), AGE[:24]]))
    reading.clear()
    maps = study.run(range(30), X=make_X(30))
    assert sorted(reading) == [*range(8, 16), *range(24, 30)]
    assert_same_maps(maps, study.fresh(range(30), X=make_X(30)))


def test_an_image_listed_twice_is_taken_twice(study, reading):
    rows = [*range(24), 5]
    study.run(rows)
    more = [*rows, *range(24, 28), 5]
    reading.clear()
    maps = study.run(more)
    assert sorted(reading) == [5, *range(24, 28)]
    assert_same_maps(maps, study.fresh(more))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"X": np.column_stack([np.ones(30), AGE[:30], RNG.random(30)])}, "the columns of X"),
        ({"X": AGE[:30, None]}, "without an intercept in X"),
        ({"zero_is_missing": True}, "another analysis_mask, threshold or zero_is_missing"),
        ({"threshold": 80.0}, "another analysis_mask, threshold or zero_is_missing"),
    ],
    ids=["column", "intercept", "zeros", "threshold"],
)
def test_what_forces_all_images_to_be_read_is_said(study, reading, changes, reason):
    study.run(range(24))
    if "intercept" in reason:  # without one there is another notice
        assert reason in study.prepare(range(30), **changes).notices[-1]
    else:
        assert reason in study.notice(range(30), **changes)
    reading.clear()
    maps = study.run(range(30), **changes)
    assert sorted(reading) == list(range(30))
    fresh = study.fresh(range(30), **changes)
    for name, values in maps.items():  # nothing is left of the earlier run
        assert_array_equal(values, fresh[name], err_msg=name)


def test_batches_that_memory_does_not_hold_any_more_are_not_kept(study, reading, monkeypatch):
    study.run(range(24))
    monkeypatch.setattr("nipype_blm.stages.plan.can_keep", lambda *_: False)
    assert "more memory or disk than there is" in study.notice(range(30))
    assert study.prepare(range(30)).spec.ends == ()


def test_levels_that_are_others_now_are_said(study, reading):
    study.run(range(24), **mixed(range(24)))
    changes = mixed(range(30))
    subject, site = changes["factors"]
    labels = [f"{i % 7}" for i in range(30)]
    changes["factors"] = [Factor("subject", labels, subject.design), site]
    assert "their levels in factors" in study.notice(range(30), **changes)
    reading.clear()
    maps = study.run(range(30), **changes)
    assert sorted(reading) == list(range(30))
    assert_same_maps(maps, study.fresh(range(30), **changes))


def test_the_same_images_are_never_said_to_be_read_again(study):
    study.run(range(24))
    X = np.column_stack([np.ones(24), AGE[:24], SITE[:24]])
    assert study.prepare(range(24), X=X).notices == []
    assert study.prepare(range(24, 40)).notices == []  # none that the last run had


@pytest.mark.parametrize("left", ["emptied", "removed"])
def test_that_products_have_to_be_kept_is_said(study, reading, left):
    study.run(range(24))
    if left == "emptied":
        for path in study.products():
            empty(path, study.folder.glob("out_work/estimates*.blm"))
    else:
        shutil.rmtree(study.folder / "out_work")
    assert "it has kept no products of them.  With keep='all'" in study.notice(range(30))
    reading.clear()
    assert_same_maps(study.run(range(30)), study.fresh(range(30)))
    assert sorted(reading) == sorted([*range(30)] * 2)


DAMAGES = {
    "a bit": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "the end": lambda content: content[:-100],
    "all": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_trusted(study, reading, damage):
    study.run(range(24))
    path = study.products()[1]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    reading.clear()
    maps = study.run(range(30))
    assert sorted(reading) == list(range(8, 16)) + list(range(24, 30))
    assert_same_maps(maps, study.fresh(range(30)))


def test_values_that_are_damaged_are_found_when_they_are_taken(study, reading, monkeypatch):
    monkeypatch.setattr(arrayfile, "_CHUNK", 64)  # so that a file has several
    study.run(range(24))
    path = study.products()[1]
    content = bytearray(path.read_bytes())
    line = content.index(b"\n") + 1
    content[line + ArrayFile(path)._find("QtY")[2]] ^= 1
    path.write_bytes(content)
    assert study.prepare(range(30)).taken.n_images == 24  # nobody has looked at them yet
    reading.clear()
    maps = study.run(range(30))
    assert sorted(reading) == list(range(8, 16)) + list(range(24, 30))
    assert_same_maps(maps, study.fresh(range(30)))


# -- Killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "after"), [("linear", 0), ("two factors", 1), ("linear", 3), ("two factors", 5)]
)
def test_a_run_that_was_killed_is_gone_on_from_or_begun_again(study, reading, kind, after):
    """Before or after the plan, between batches, before estimates; and then it grows further."""
    study.run(range(24), **KINDS[kind](range(24)))
    run = study.prepare(range(28), **KINDS[kind](range(28)))
    work = study.folder / "out_work"
    places = EarlierPlaces.of_work_folder(work)
    if after == 0:  # what is put aside is there, but not the plan
        growth.put_aside(run.taken.sources, places.aside)
    else:
        plan = write_plan(run, work, places.aside)
        for task in list_products(run, plan, work, 1)[: after - 1]:
            task.function(*task.arguments)
    n_read = len(reading)
    reading.clear()
    maps = study.run(range(30), **KINDS[kind](range(30)))
    assert n_read + len(reading) in (24 + 6, 24 + 4 + 6)
    assert set(reading) == {28, 29} or set(reading) == set(range(24, 30))
    assert_same_maps(maps, study.fresh(range(30), **KINDS[kind](range(30))))


def test_what_is_put_aside_takes_no_place_in_the_end(study):
    study.run(range(24))
    study.run(range(30))
    work = study.folder / "out_work"
    assert not (work / "checkpoints").exists()
    assert len(study.products()) == 4


def test_a_disk_without_links_copies(study, reading, monkeypatch):
    study.run(range(24))
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
    reading.clear()
    maps = study.run(range(30))
    assert sorted(reading) == list(range(24, 30))
    assert_same_maps(maps, study.fresh(range(30)))


def test_a_study_that_grows_image_by_image_has_no_batch_for_each(study, reading, monkeypatch):
    monkeypatch.setattr(growth, "MOST_NODES", 4)
    study.run(range(12), images_per_batch=None)
    n_batches = []
    for n in range(13, 19):
        maps = study.run(range(n), images_per_batch=None)
        n_batches.append(len(study.prepare(range(n), images_per_batch=None).spec.ends))
    assert n_batches == [2, 3, 4, 2, 3, 4]
    assert sorted(reading) == sorted([*range(18), 12, 13, 14])
    assert_same_maps(maps, study.fresh(range(18)))


def test_nothing_is_looked_for_where_nobody_says_so(study):
    study.run(range(24))
    request = study.ask(range(30), "out")
    run = prepare_run(request, work_folder=study.folder / "out_work")
    assert run.taken == (0, {})
    assert run.spec.ends == ()
