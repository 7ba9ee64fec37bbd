"""Which images an inference exchanges: blocks of a file, in whatever order images were read."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nipype_blm.core.factors import RandomFactor
from nipype_blm.errors import InputError
from nipype_blm.io.publish import Claim
from nipype_blm.model.inference import InferenceOptions
from nipype_blm.results.results import Results
from nipype_blm.stages import exchanging
from nipype_blm.stages.inference import prepare_inference
from nipype_blm.stages.run import run_model

N = 36
LEVEL = np.arange(N) % 18  # all first visits, then all second ones: rows are sorted for the fit
BLOCK = np.where(np.arange(N) % 18 < 4, 0, np.arange(N) % 18)  # four people are of one family
CONTRASTS = [{"name": "first", "vector": [0, 1, 0]}, {"name": "second", "vector": [0, 0, 1]}]


@pytest.fixture
def fit(prepare, tmp_path):
    """Function that fits images and returns the folder of results."""

    def run(X: np.ndarray, factor: RandomFactor | None = None) -> Path:
        values = np.random.default_rng(2).normal(5, 1, (len(X), 2, 2, 2)).astype(np.float32)
        prepared = prepare(values, X, factor, contrasts=CONTRASTS)
        claim = Claim("model", tmp_path / "work")
        run_model(prepared, tmp_path / "work", tmp_path / "out", claim)
        return tmp_path / "out"

    return run


def make_design(n_obs: int = N) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.column_stack([np.ones(n_obs), rng.normal(size=n_obs), np.arange(n_obs) % 2])


def find_linked(*labels: np.ndarray) -> np.ndarray:
    """Return the number of the component of each image: those that share some label."""
    same = sum((each[:, None] == each[None, :]) for each in labels)
    return connected_components(coo_array(same))[1]


def plan(out: Path, path: Path, text: str, **options: str):
    path.write_text(text)
    asked = InferenceOptions(blocks=str(path), n=20, **options)
    return prepare_inference(out, asked, 2**30)


def test_blocks_belong_to_images_by_place_or_by_name_however_rows_are_sorted(fit, tmp_path):
    out = fit(make_design(), RandomFactor("person", LEVEL.astype(np.int32), np.ones((N, 1))))
    number = [int(Path(each.image).stem.removeprefix("y")) for each in Results(out).images]
    assert number != sorted(number)
    assert [each.listed for each in Results(out).images] == [i + 1 for i in number]
    expected = find_linked(LEVEL, BLOCK)[number]
    by_place = "".join(f"family {block}\n" for block in BLOCK)
    # Of more images than were fitted, in an order of its own.
    rows = [f"y{i:04d}\tfamily {block}\n" for i, block in enumerate(BLOCK)]
    by_name = "".join(["image\tfamily\n", "y9999\tothers\n", *reversed(rows)])
    for text in (by_place, by_name):
        found = plan(out, tmp_path / "blocks.txt", text).what.exchange.group
        assert (found[:, None] == found).tolist() == (expected[:, None] == expected).tolist()
        assert found.max() + 1 == 15


@pytest.mark.parametrize(
    ("listed", "expected"),
    [([9, 2, 4, 7, 1, 8], [5, 1, 2, 3, 0, 4]), ([0] * 6, [0, 1, 2, 3, 4, 5])],
    ids=["some were left out", "places are not known"],
)
def test_labels_are_of_the_images_that_were_fitted(tmp_path, listed, expected):
    path = tmp_path / "blocks.txt"
    path.write_text("a\nb\nc\nd\ne\nf\n")
    names = [f"y{i}.nii" for i in range(6)]
    tested = exchanging.Tested("blm", make_design(6), [], None, names, listed)
    found = exchanging.find_exchange(
        tested, InferenceOptions(blocks=str(path), resampling="permute")
    )
    assert found.group.tolist() == np.unique(expected, return_inverse=True)[1].tolist()


@pytest.mark.parametrize("header", ["", "id\tfamily\n"])
def test_numbers_are_those_of_subjects_with_or_without_a_header(tmp_path, header):
    path = tmp_path / "blocks.tsv"
    path.write_text(header + "".join(f"{i}\tfamily {i // 2}\n" for i in range(1, 7)))
    images = [f"sub-{i:02d}_ses-{j}.nii" for i in range(1, 7) for j in (1, 2)]
    tested = exchanging.Tested("blm", make_design(12), [], None, images, range(1, 13))
    options = InferenceOptions(blocks=str(path), resampling="permute")
    found = exchanging.find_exchange(tested, options).group
    assert found.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("".join(f"y{i:04d} {i % 3}\n" for i in range(12)), "separate names and blocks by a tab"),
        ("site\n" + "a\n" * 12, "has 13 labels, expected 12.*leave out 'site' if it is a header"),
        ("".join(f"y{i:04d},a\n" for i in range(11)), "y0011.nii has no row"),
        ("".join(f"y{i:04d},a\n" for i in range(12)) + "y0003,b\n", "y0003.nii has rows of a, b"),
        ("".join(f"1,{i % 3},{i}\n" for i in range(12)), "or a name and its label.*3 columns"),
    ],
)
def test_what_gives_images_no_block_or_several_is_refused(fit, tmp_path, text, words):
    out = fit(make_design(12))
    with pytest.raises(InputError, match=words):
        plan(out, tmp_path / "blocks.txt", text)


def test_permutations_that_leave_a_contrast_as_it_is_are_told(fit, tmp_path):
    X = make_design(12)
    X[:, 1] = np.repeat([-1, 0, 1], 4)  # the same for all images of a block
    out = fit(X)
    blocks = "".join(f"{i // 4}\n" for i in range(12))
    permuted = {"resampling": "permute", "contrasts": ("first",)}
    prepared = plan(out, tmp_path / "blocks.txt", blocks, **permuted)
    assert any("first compares blocks" in notice for notice in prepared.notices)
    assert "12 images within 3 blocks" in prepared.describe()
    varying = permuted | {"contrasts": ("second",)}
    assert not plan(out, tmp_path / "blocks.txt", blocks, **varying).notices[1:]
    prepared = plan(out, tmp_path / "blocks.txt", blocks, **permuted, exchange="whole")
    assert "3 whole blocks" in prepared.describe()
    assert not any("compares blocks" in notice for notice in prepared.notices)
    with pytest.raises(InputError, match="blocks are few"):
        plan(out, tmp_path / "blocks.txt", "1\n" * 12, **permuted, exchange="whole")
