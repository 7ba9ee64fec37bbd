"""A model and its contrasts are read back as they were, and fingerprints tell them apart."""

from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
from specs import make_spec

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data import specfile
from nipype_blm.data.spec import ContrastSpec
from nipype_blm.data.specfile import pack_contrasts, pack_model, read_contrasts, read_model
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.model.contrasts import Contrast


@pytest.fixture
def spec():
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(10), rng.normal(size=10)]
    mask = rng.random(12) < 0.7
    return make_spec(
        X,
        (3, 2, 2),
        mask,
        template=bytes(nib.Nifti1Header().binaryblock),
        names=("mean", "Größe"),
        allowed=rng.random(mask.sum()) < 0.7,
        minimum_n=3,
        with_cov=True,
    )


def test_a_model_is_read_back(tmp_path, spec):
    stamp, content = pack_model(spec)
    path = tmp_path / "model.blm"
    path.write_bytes(content)
    read_stamp, read = read_model(path)
    assert read_stamp == stamp
    for field in fields(spec):
        expected, found = getattr(spec, field.name), getattr(read, field.name)
        if field.name == "space":
            assert type(found) is VolumeSpace
            assert (found.shape, found.template) == (expected.shape, expected.template)
            np.testing.assert_array_equal(found.mask, expected.mask)
        elif field.name == "design":
            for one, other in zip(expected, found, strict=True):
                np.testing.assert_array_equal(one, other)
        elif isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found, expected)
        else:
            assert found == expected, field.name


@pytest.fixture
def mixed_spec(spec):
    level = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3], np.int32)
    day = np.arange(10.0)
    return replace(
        spec,
        factors=(
            RandomFactor("Proband", level, np.c_[np.ones(10), day], correlated=False),
            RandomFactor("site", level[::-1] // 2, np.ones((10, 1))),
        ),
        effect_names=(("one", "day"), ("one",)),
        level_names=(("a", "b", "c", "d"), ("Bath", "York")),
        options=MixedOptions(reml=False, method="FS", tol=1e-9, n_starts=4),
        with_resms=False,
    )


def test_random_factors_and_options_are_read_back(tmp_path, mixed_spec):
    path = tmp_path / "model.blm"
    path.write_bytes(pack_model(mixed_spec)[1])
    read = read_model(path)[1]
    for field in ("effect_names", "level_names", "options", "with_resms"):
        assert getattr(read, field) == getattr(mixed_spec, field)
    for one, other in zip(mixed_spec.factors, read.factors, strict=True):
        assert (other.name, other.correlated) == (one.name, one.correlated)
        np.testing.assert_array_equal(other.level, one.level)
        np.testing.assert_array_equal(other.Z, one.Z)
        assert other.level.dtype == one.level.dtype


def test_every_change_of_the_random_part_changes_the_fingerprint(mixed_spec):
    first, second = mixed_spec.factors
    level = first.level.copy()
    level[0] = 1
    factors = [
        (second, first),
        (first,),
        (first._replace(name="subject"), second),
        (first._replace(correlated=True), second),
        (first._replace(level=level), second),
        (first, second._replace(Z=2 * second.Z)),
    ]
    options = [
        mixed_spec.options._replace(**{name: value})
        for name, value in [
            ("reml", True),
            ("method", "exact"),
            ("tol", 1e-8),
            ("maxnit", 7),
            ("safe_mode", False),
            ("n_starts", None),
        ]
    ]
    changed = [replace(mixed_spec, factors=each) for each in factors]
    changed += [replace(mixed_spec, options=each) for each in [*options, None]]
    changed += [replace(mixed_spec, with_resms=True), mixed_spec]
    stamps = {pack_model(each)[0] for each in changed}
    assert len(stamps) == len(changed)


def test_an_equal_model_has_the_same_fingerprint_and_bytes(spec):
    assert pack_model(spec) == pack_model(
        replace(spec, space=replace(spec.space, mask=spec.space.mask.copy()))
    )


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("mean", "age")},
        {"minimum_n": 4},
        {"threshold": 0.0},
        {"zero_is_missing": False},
        {"staged_dtype": "float64"},
        {"map_dtype": "float32"},
        {"with_cov": False},
        {"images_per_batch": 5},
        {"voxels_per_block": 5},
    ],
)
def test_every_change_of_a_model_changes_its_fingerprint(spec, change):
    assert pack_model(replace(spec, **change))[0] != pack_model(spec)[0]


@pytest.mark.parametrize("change", [{"shape": (2, 3, 2)}, {"template": b"\1" * 348}])
def test_every_change_of_the_space_changes_the_fingerprint(spec, change):
    changed = replace(spec, space=replace(spec.space, **change))
    assert pack_model(changed)[0] != pack_model(spec)[0]


def test_a_version_with_other_numbers_has_other_fingerprints(spec, monkeypatch):
    """So that it does not go on with the intermediate files of the version before."""
    before, _ = pack_model(spec)
    monkeypatch.setattr(specfile, "NUMERICS", specfile.NUMERICS + 1)
    after, _ = pack_model(spec)
    assert after != before


def test_every_change_of_an_array_changes_the_fingerprint(spec):
    X = spec.X.copy()
    X[3, 1] = np.nextafter(X[3, 1], np.inf)
    changes = [
        {"design": factorise_design(X)},
        {"space": replace(spec.space, mask=~spec.space.mask)},
        {"allowed": ~spec.allowed},
    ]
    stamps = {pack_model(replace(spec, **change))[0] for change in changes}
    assert len(stamps - {pack_model(spec)[0]}) == 3


def test_a_model_file_that_was_replaced_is_read_anew(tmp_path, spec):
    path = tmp_path / "model.blm"
    path.write_bytes(pack_model(spec)[1])
    read_model(path)
    path.write_bytes(pack_model(replace(spec, names=("another", "name of a column")))[1])
    assert read_model(path)[1].names == ("another", "name of a column")


TESTS = ContrastSpec(
    (
        Contrast("F", [[1, 0], [0, 1 / 3]]),
        Contrast("Größe", [0, 0.1]),
    ),
    two_sided=False,
    minlog=-323.3062153431158,
)


def test_contrasts_are_read_back(tmp_path):
    path = tmp_path / "contrasts.json"
    path.write_bytes(pack_contrasts(TESTS)[1])
    _, found = read_contrasts(path)
    assert (found.two_sided, found.minlog) == (TESTS.two_sided, TESTS.minlog)
    for one, other in zip(found.contrasts, TESTS.contrasts, strict=True):
        assert (one.name, one.is_f) == (other.name, other.is_f)
        np.testing.assert_array_equal(one.matrix, other.matrix)


def test_every_change_of_contrasts_changes_their_fingerprint(tmp_path):
    path = tmp_path / "contrasts.json"

    def stamp_of(tests):
        path.write_bytes(pack_contrasts(tests)[1])
        return read_contrasts(path)[0]

    renamed = (TESTS.contrasts[0], Contrast("T", [0, 0.1]))
    stamps = [
        stamp_of(TESTS),
        stamp_of(replace(TESTS, two_sided=True)),
        stamp_of(replace(TESTS, minlog=-400.0)),
        stamp_of(replace(TESTS, contrasts=TESTS.contrasts[::-1])),
        stamp_of(replace(TESTS, contrasts=renamed)),
    ]
    assert len(set(stamps)) == 5
