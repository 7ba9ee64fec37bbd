"""Zeros that look like data: counted by the stages as by hand, and told of in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.stages.zeros import describe_zeros

N_OBS, SHAPE = 30, (5, 4, 3)
N_VOXELS = 60
X = np.column_stack([np.ones(N_OBS), np.arange(N_OBS) % 2])
CUTS = {"whole": {}, "cut": {"images_per_batch": 11, "voxels_per_block": 25}}
HELP = "Zeros are taken as missing; if they are data, say zero_is_missing: false."


def unflatten(Y: np.ndarray) -> np.ndarray:
    """Return images whose values in file order are the rows of Y."""
    return np.array([row.reshape(SHAPE, order="F") for row in Y])


def draw(share: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return values (n_obs, n_voxels), a share of them 0."""
    rng = np.random.default_rng(seed)
    Y = rng.normal(100, 10, (N_OBS, N_VOXELS))
    return np.where(rng.random(Y.shape) < share, 0, Y)


def draw_one_scattered(image: int = 7) -> np.ndarray:
    """Return values of which one image has a zero here and there."""
    Y = draw()
    Y[image, 4:50:5] = 0
    return Y


@pytest.fixture
def fit(fit_stages: Callable[..., Any]) -> Callable[..., Any]:
    """Function that fits values, of which zeros are missing."""

    def fit(Y: np.ndarray, **fields: Any) -> Any:
        return fit_stages(unflatten(Y), X, **{"zero_is_missing": True} | fields)

    return fit


def tell(fitted: Any) -> list[str]:
    return describe_zeros(fitted.run.spec, fitted.files.batch_files, fitted.open_blocks())


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("share", [0.01, 0.08, 0.5])
def test_zeros_gaps_and_holes_of_each_image_are_counted_as_by_hand(fit, share, cut):
    """A gap is missing where at most three of thirty are; a hole has data on both sides."""
    Y = draw(share)
    Y[3, ::7] = np.nan  # missing, but not 0
    Y[1::2, 5] = np.nan  # X is deficient there, so that the batches are read again
    fitted = fit(Y, **CUTS[cut])
    size = CUTS[cut].get("voxels_per_block", N_VOXELS)
    zeros, gaps, holes = np.zeros((3, N_OBS), int)
    is_missing = (Y == 0) | np.isnan(Y)
    for i in range(N_OBS):
        for v in range(N_VOXELS):
            zeros[i] += Y[i, v] == 0
            if not is_missing[i, v] or is_missing[:, v].sum() > 3:
                continue
            gaps[i] += 1
            first = v // size * size  # of the block, in which both neighbours have to be
            is_inner = first < v < min(first + size, N_VOXELS) - 1
            holes[i] += is_inner and not is_missing[i, v - 1] and not is_missing[i, v + 1]
    opened = [ArrayFile(path) for path in fitted.estimates]
    for file in opened:  # each knows the zeros of all voxels
        assert_array_equal(file.read("zeros"), zeros)
    assert_array_equal(sum(file.read("gaps") for file in opened), gaps)
    assert_array_equal(sum(file.read("holes") for file in opened), holes)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("image", [0, 7, 29])
def test_the_image_whose_zeros_look_like_data_is_named_with_its_share(fit, cut, image):
    """All voxels are shared by nearly all images: ten of sixty are a sixth."""
    [notice] = tell(fit(draw_one_scattered(image), **CUTS[cut]))
    assert f"/y{image:04d}.nii (line {image + 1} of Y.txt) is exactly 0 at 16.7 % of" in notice
    assert notice.endswith(HELP)


def test_of_several_images_the_one_with_most_zeros_is_named(fit):
    Y = draw_one_scattered(image=20)
    Y[4, 3:50:9] = 0  # six
    [notice] = tell(fit(Y))
    assert "y0020.nii (line 21 of Y.txt) and 1 more images are exactly 0 at up to 16.7 %" in notice


@pytest.mark.parametrize("cut", CUTS)
def test_zeros_of_all_images_are_told_of_in_numbers(fit, cut):
    Y = draw(0.5)
    [notice] = tell(fit(Y, **CUTS[cut]))
    n = (Y != 0).sum(axis=0)
    assert not (n >= 27).any()
    share = 100 * (Y == 0).mean()
    assert notice == (
        f"Of the 60 voxels with data in a tenth of the images, none has data in nearly all: "
        f"{share:.0f} % of the values there are missing, most of them because they are exactly 0. "
        f"{HELP}"
    )


def test_masks_of_ones_are_told_of_as_images_that_do_not_vary(fit):
    Y = (draw(0.05) != 0).astype(float)
    [notice] = tell(fit(Y, allow_empty=True))
    assert notice.startswith("At 60 of 60 voxels nothing varies but for exact zeros: ")


def draw_edges() -> np.ndarray:
    """Return images that end at different voxels, as brains of different size do."""
    Y = draw()
    for i, row in enumerate(Y):
        row[: i % 4] = 0
        row[N_VOXELS - i % 3 :] = 0
    return Y


def as_nan(Y: np.ndarray) -> np.ndarray:
    return np.where(Y == 0, np.nan, Y)


@pytest.mark.parametrize(
    ("Y", "fields"),
    [
        (draw(), {}),
        (draw_edges(), {}),
        (as_nan(draw_one_scattered()), {}),
        (as_nan(draw(0.5)), {}),
        (draw_one_scattered(), {"zero_is_missing": False}),
        (draw(0.5), {"zero_is_missing": False}),
    ],
    ids=["none", "edges", "one of NaN", "many of NaN", "one as data", "many as data"],
)
def test_nothing_is_said_of_edges_of_other_missing_values_and_of_zeros_that_are_data(
    fit, Y, fields
):
    assert tell(fit(Y, **fields)) == []
