"""Which maps a run has, what they say of themselves, and where their values come from."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.maps import MapInfo
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.spec import ContrastSpec, ModelSpec
from nipype_blm.stages.blocks import Block
from nipype_blm.stages.maps import Map, find_intercepts, is_map_name, list_maps

N_OBS = 12
RNG = np.random.default_rng(0)
ONE, TIME, DOSE = np.column_stack([np.ones(N_OBS), RNG.normal(size=(N_OBS, 2))]).T
LEVEL = np.arange(N_OBS, dtype=np.int32) // 3
T, F = "t", "f"


def make_spec(*factors: RandomFactor, **changes: Any) -> ModelSpec:
    """Return a model of three columns; a mixed one, if there are factors."""
    X = np.column_stack([ONE, TIME, DOSE])
    spec = ModelSpec(
        X=X,
        names=("one", "time", "dose"),
        design=factorise_design(X),
        shape=(2, 2, 1),
        header=b"",
        mask=np.ones(4, bool),
        allowed=np.ones(4, bool),
        minimum_n=0,
        threshold=-np.inf,
        zero_is_missing=True,
        staged_dtype="float32",
        map_dtype="float64",
        with_cov=False,
        images_per_batch=12,
        voxels_per_block=4,
        rows_per_chunk=12,
    )
    names = tuple(tuple(f"e{i}" for i in range(f.n_effects)) for f in factors)
    mixed = {"factors": factors, "effect_names": names, "options": MixedOptions()}
    return replace(spec, **(mixed if factors else {}) | changes)


def make_tests(kinds: Sequence[str], *, minlog: float = -323.0) -> ContrastSpec:
    vectors = {T: (0.0, 1.0, 0.0), F: ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}
    contrasts = [Contrast(name=f"c{i}", vector=vectors[kind]) for i, kind in enumerate(kinds)]
    return ContrastSpec(tuple(contrasts), False, minlog)


def factor(*columns: np.ndarray, name: str = "subject", correlated: bool = True) -> RandomFactor:
    return RandomFactor(name, LEVEL, np.column_stack(columns), correlated)


Blocks = Callable[..., Block]


@pytest.fixture
def make_block(tmp_path: Path) -> Blocks:
    """Function that saves arrays of estimates and statistics, and opens them as a block."""

    def save(name: str, arrays: Mapping[str, Any]) -> ArrayFile:
        floats = {key: np.asarray(values, float) for key, values in arrays.items()}
        number = len(list(tmp_path.iterdir()))
        return ArrayFile(write_arrays(tmp_path / f"{name}{number}.blm", "", floats))

    def make(
        estimates: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Any] | None = None,
        fitted: Sequence[int] = (0, 1),
        others: Sequence[int] = (),
        *,
        is_mixed: bool = False,
    ) -> Block:
        voxels = np.sort([*fitted, *others]).astype(np.int64)
        status = np.where(np.isin(voxels, fitted), 1, 10).astype(np.uint8)
        return Block(
            save("estimates", estimates or {}),
            save("statistics", statistics or {}),
            voxels,
            np.array(fitted, np.int64),
            status,
            np.full(voxels.size, N_OBS, np.int32),
            np.full(len(fitted), N_OBS - 3, np.int32),
            is_mixed,
        )

    return make


def maps_of(maps: Sequence[Map]) -> dict[str, Map]:
    return {item.info.name: item for item in maps}


# ----------------------------------------------------------------------- shares of intercepts

FACTORS = {
    "alone": [factor(ONE)],
    "first": [factor(ONE, TIME)],
    "last": [factor(TIME, ONE)],
    "of another height": [factor(TIME, -2.5 * ONE)],
    "first of three": [factor(ONE, TIME, DOSE)],
    "second of three": [factor(TIME, ONE, DOSE)],
    "last of three": [factor(TIME, DOSE, ONE)],
    "uncorrelated": [factor(TIME, ONE, correlated=False)],
    "two factors": [factor(TIME, ONE), factor(DOSE, ONE, TIME, name="site")],
    "a factor without one between": [
        factor(TIME, ONE),
        factor(TIME, DOSE, name="scanner"),
        factor(DOSE, TIME, ONE, name="site"),
    ],
}


def vech(D: np.ndarray) -> np.ndarray:
    """Stack the lower triangle column by column."""
    return np.concatenate([D[i:, i] for i in range(len(D))])


@pytest.mark.parametrize("name", FACTORS)
def test_the_share_of_an_intercept_comes_from_its_variance_wherever_its_column_stands(
    make_block, name
):
    """Its row of vech(D) is that of its variance, and never a covariance or another factor's."""
    factors = FACTORS[name]
    blocks, variances = [], {}
    for k, each in enumerate(factors):
        root = np.random.default_rng(k).normal(size=(each.n_effects, each.n_effects + 2))
        blocks.append(root @ root.T)
        for column, D in zip(each.Z.T, np.diag(blocks[-1]), strict=True):
            if np.ptp(column) == 0:
                variances[each.name] = column[0] ** 2 * D
    D = np.concatenate([vech(block) for block in blocks])
    total = sum(variances.values())
    expected = {key: [x / (1 + total), 2 * x / (1 + 2 * total)] for key, x in variances.items()}
    block = make_block({"D": np.column_stack([D, 2 * D])})
    assert len(expected) == len({f.name for f in factors} - {"scanner"})
    icc = maps_of(list_maps(make_spec(*factors), make_tests([T]), [5]))["blmm_vox_icc"]
    assert icc.info.volumes == tuple(expected)
    for volume, share in zip(icc.volumes, expected.values(), strict=True):
        assert_allclose(volume(block), share, rtol=1e-14)


@pytest.mark.parametrize("column", [TIME, 0 * ONE, np.where(np.arange(N_OBS) < 11, 1.0, 2.0)])
def test_a_column_that_is_not_constant_or_is_zero_is_no_intercept(column):
    assert find_intercepts([factor(column, DOSE)]) == {}
    names = maps_of(list_maps(make_spec(factor(column)), make_tests([T]), [5]))
    assert "blmm_vox_icc" not in names


# -------------------------------------------------------------------------------- contrasts


@pytest.mark.parametrize("kinds", [(T, T, F, F), (F, T, F, T), (F, F, T, T)])
@pytest.mark.parametrize("dofs", [(7.25, 12.5, 3.5, 30.0), (30.0, 3.5, 12.5, 7.25)])
def test_a_stack_of_maps_states_the_least_degrees_of_freedom_of_its_contrasts(kinds, dofs):
    """Those who read one number for all volumes may take p to be larger than it is, not smaller."""
    maps = maps_of(list_maps(make_spec(factor(ONE)), make_tests(kinds), dofs))
    least = {kind: min(d for d, k in zip(dofs, kinds, strict=True) if k == kind) for kind in (T, F)}
    assert maps["blmm_vox_conT"].info.intent_parameters == (least[T],)
    assert maps["blmm_vox_conF"].info.intent_parameters == (2.0, least[F])
    # Maps of single contrasts have their own.
    for i, (kind, dof) in enumerate(zip(kinds, dofs, strict=True)):
        name = f"contrasts/contrast-c{i}_stat-{'F' if kind == F else 't'}_statmap"
        assert maps[name].info.intent_parameters == ((2.0, dof) if kind == F else (dof,))
        assert maps[name].info.details["MinimumDegreesOfFreedom"] == dof


@pytest.mark.parametrize("minlog", [-323.0, 323.0, -500.0])
def test_an_infinite_log10_p_becomes_minlog_with_its_own_sign(make_block, minlog):
    log_p = np.array([-np.inf, np.inf, -1000 * np.log(10), -np.log(10), 0.0])
    block = make_block(statistics={"0/log_p": log_p, "1/log_p": log_p}, fitted=range(5))
    maps = maps_of(list_maps(make_spec(), make_tests([T, F], minlog=minlog), [5, 5]))
    for name in ("blm_vox_conTlp", "blm_vox_conFlp"):
        values = maps[name].volumes[0](block)
        assert_allclose(values, [abs(minlog), -abs(minlog), 1000, 1, 0], rtol=1e-14)


def test_each_volume_of_a_stack_is_that_of_its_own_contrast(make_block):
    """In the order of the contrasts of a kind, whatever stands between them."""
    kinds = (F, T, F, T)
    statistics: dict[str, Any] = {}
    for i, kind in enumerate(kinds):
        q = 1 + (kind == F)
        statistics |= {f"{i}/effect": [[i, 1]] * q, f"{i}/variance": [[i, 4]] * q**2}
        statistics |= {f"{i}/stat": [i, 2], f"{i}/dof": [100 + i] * 2}
    block = make_block(statistics=statistics, is_mixed=True)
    maps = maps_of(list_maps(make_spec(factor(ONE)), make_tests(kinds), [5] * 4))

    def found(name: str) -> list[list[float]]:
        return [volume(block).tolist() for volume in maps[f"blmm_vox_{name}"].volumes]

    assert maps["blmm_vox_conT"].info.volumes == ("c1", "c3")
    assert maps["blmm_vox_conF"].info.volumes == ("c0", "c2")
    assert found("con") == [[1, 1], [3, 1]]
    assert_allclose(found("conSE"), [[1, 2], [np.sqrt(3), 2]], rtol=1e-15)
    assert found("conT") == [[1, 2], [3, 2]]
    assert found("conF") == [[0, 2], [2, 2]]
    assert found("conT_swedf") == [[101, 101], [103, 103]]
    assert found("conF_swedf") == [[100, 100], [102, 102]]
    # q F / (q F + dof), of two rows: F is (i, 2).
    expected = [[2 * f / (2 * f + 100 + i) for f in (i, 2)] for i in (0, 2)]
    assert_allclose(found("conR2"), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("kinds", "absent"),
    [([T], ["conF", "conFlp", "conR2"]), ([F], ["con", "conSE", "conT", "conTlp"])],
)
def test_there_is_no_stack_of_contrasts_that_nobody_has_asked_for(kinds, absent):
    names = maps_of(list_maps(make_spec(), make_tests(kinds), [5]))
    assert not {f"blm_vox_{name}" for name in absent} & names.keys()


def test_variances_are_those_of_the_images_and_not_relative_to_the_residuals(make_block):
    block = make_block({"sigma2": [4, 9], "D": [[4, 9], [8, 18], [12, 27]]})
    maps = maps_of(list_maps(make_spec(factor(ONE, TIME)), make_tests([T]), [5]))
    varcomp = maps["blmm_vox_varcomp"]
    assert len(varcomp.volumes) == 3
    for row, volume in enumerate(varcomp.volumes):
        assert_array_equal(volume(block), np.array([16.0, 81.0]) * (row + 1))


def test_covariances_are_written_row_by_row_from_their_lower_triangle(make_block):
    packed = {(0, 0): 0, (1, 0): 1, (1, 1): 2, (2, 0): 3, (2, 1): 4, (2, 2): 5}
    block = make_block({"cov": np.tile(np.arange(6.0)[:, None], 2)})
    cov = maps_of(list_maps(make_spec(with_cov=True), make_tests([T]), [5]))["blm_vox_cov"]
    names = ("one", "time", "dose")
    pairs = [(i, j) for i in range(3) for j in range(3)]
    assert cov.info.volumes == tuple(f"{names[i]} x {names[j]}" for i, j in pairs)
    expected = [packed[max(pair), min(pair)] for pair in pairs]
    assert [volume(block)[0] for volume in cov.volumes] == expected


# --------------------------------------------------------------------------------- assembly


@pytest.fixture
def assemble(make_block: Blocks) -> Callable[..., list[np.ndarray]]:
    """Function that assembles values of four voxels on a grid of six.

    They are fitted in two blocks, at 1, 4 and at 2, 5.
    """

    def assemble(values: Sequence[float], dtype: str = "float32", **changes: Any):
        blocks = [
            make_block({"map": values[:2]}, fitted=[1, 4], others=[0]),
            make_block({"map": values[2:]}, fitted=[2, 5], others=[3]),
        ]
        info = MapInfo("map", "", changes.pop("intent", "estimate"))
        item = Map(info, [lambda block: block.estimate("map")], dtype, **changes)
        return list(item.assemble(blocks, 6))

    return assemble


def test_values_stand_where_their_voxels_are_and_zero_elsewhere(assemble):
    [grid] = assemble([1, 2, 3, 4])
    assert grid.tolist() == [0, 1, 3, 0, 2, 4]
    assert grid.dtype == np.float32


def test_a_map_of_all_voxels_has_values_where_nothing_was_fitted(make_block):
    maps = maps_of(list_maps(make_spec(), make_tests([T]), [5]))
    blocks = [make_block(fitted=[2], others=[0]), make_block(fitted=[4, 5])]
    grids = {
        name: next(maps[f"blm_vox_{name}"].assemble(blocks, 6)).tolist()
        for name in ("status", "n", "mask", "edf")
    }
    assert grids["status"] == [10, 0, 1, 0, 1, 1]
    assert grids["n"] == [N_OBS, 0, N_OBS, 0, N_OBS, N_OBS]
    assert grids["mask"] == [0, 0, 1, 0, 1, 1]
    assert grids["edf"] == [0, 0, 9, 0, 9, 9]


LARGEST = float(np.finfo(np.float32).max)
# Below this, float32 has fewer than its 24 bits at numbers 2^23 times as small.
SMALLEST = float(np.finfo(np.float32).tiny) * 2**23


@pytest.mark.parametrize("value", [1.01 * LARGEST, -1.01 * LARGEST, 0.99 * SMALLEST, 1e-300])
def test_estimates_that_single_precision_cannot_hold_are_refused(assemble, value):
    with pytest.raises(OverflowError, match="map does not fit into single precision"):
        assemble([value, 0, 0, 0])
    assert assemble([value, 0, 0, 0], "float64")[0][1] == value


@pytest.mark.parametrize("value", [0.99 * LARGEST, -0.99 * LARGEST, 1.01 * SMALLEST, 0.0])
def test_estimates_that_single_precision_can_hold_are_kept(assemble, value):
    assert math.isclose(assemble([value, 0, 0, 0])[0][1], value, rel_tol=1e-7)


def test_what_has_no_units_or_is_rounding_error_may_become_zero_but_not_infinite(assemble):
    assert assemble([1e-300] * 4, intent="p value")[0][1] == 0
    assert assemble([1e-300] * 4, covariances=frozenset([0]))[0][1] == 0
    for changes in ({"intent": "t test"}, {"covariances": frozenset([0])}):
        with pytest.raises(OverflowError):
            assemble([1e39, 0, 0, 0], **changes)


@pytest.mark.parametrize(
    ("name", "model", "is_ours"),
    [
        ("blm_vox_beta.nii", "blm", True),
        ("blm_vox_beta.nii.gz", "blm", True),
        ("blm_vox_beta.json", "blm", True),
        ("blmm_vox_icc.nii", "blmm", True),
        ("contrasts/contrast-x_stat-t_statmap.nii.gz", "blm", True),
        ("blm_vox_beta.nii", "blmm", False),
        ("blm_vox_icc.nii", "blm", False),
        ("blm_vox_beta.txt", "blm", False),
        ("blm_vox_beta.old.nii", "blm", False),
        ("my_blm_vox_beta.nii", "blm", False),
        ("sub/blm_vox_beta.nii", "blm", False),
        ("contrast-x_stat-t_statmap.nii", "blm", False),
        ("other/contrast-x_stat-t_statmap.nii", "blm", False),
        ("contrasts/notes.json", "blm", False),
    ],
)
def test_only_names_that_a_run_gives_are_taken_for_its_maps(name, model, is_ours):
    assert is_map_name(name, model) == is_ours
