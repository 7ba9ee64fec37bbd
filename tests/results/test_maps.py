"""Which maps a run has, what they say of themselves, and where their values come from."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specs
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.data.maps import MapInfo
from nipype_blm.data.spec import ContrastSpec, ModelSpec
from nipype_blm.interfaces.base import MAP_OUTPUTS, MIXED_MAP_OUTPUTS, _make_output_spec
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.model.contrasts import Contrast
from nipype_blm.results import declared, volumes
from nipype_blm.results.blocks import Block
from nipype_blm.results.declared import select_declared
from nipype_blm.results.maps import Map, is_map_name, list_maps
from nipype_blm.results.volumes import DofRange, Run

N_OBS = 12
RNG = np.random.default_rng(0)
ONE, TIME, DOSE = np.column_stack([np.ones(N_OBS), RNG.normal(size=(N_OBS, 2))]).T
LEVEL = np.arange(N_OBS, dtype=np.int32) // 3
T, F = "t", "f"
DOF = DofRange(4, 5, 6)


def make_spec(*factors: RandomFactor, **changes: Any) -> ModelSpec:
    """Return a model of three columns; a mixed one, if there are factors."""
    X = np.column_stack([ONE, TIME, DOSE])
    return specs.make_spec(X, (2, 2, 1), factors=factors, names=("one", "time", "dose"), **changes)


def make_tests(kinds: Sequence[str], *, minlog: float = -323.0) -> ContrastSpec:
    vectors = {T: (0.0, 1.0, 0.0), F: ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}
    contrasts = [Contrast(f"c{i}", vectors[kind]) for i, kind in enumerate(kinds)]
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
        statistics = dict(statistics or {})
        for number in {name.partition("/")[0] for name in statistics}:
            statistics.setdefault(f"{number}/estimable", np.ones(len(fitted)))
        voxels = np.sort([*fitted, *others]).astype(np.int64)
        status = np.where(np.isin(voxels, fitted), 1, 10).astype(np.uint8)
        return Block(
            save("estimates", estimates or {}),
            save("statistics", statistics),
            voxels,
            np.array(fitted, np.int64),
            status,
            np.full(voxels.size, N_OBS, np.int32),
            np.full(len(fitted), N_OBS - 3, np.int32),
            is_mixed,
        )

    return make


def maps_of(spec: ModelSpec, tests: ContrastSpec, **changes: Any) -> dict[str, Map]:
    """Return the maps of a model by name, if all contrasts are estimable everywhere."""
    n = len(tests.contrasts)
    given: dict[str, Any] = {"dof": [DOF] * n, "has_gaps": [False] * n}
    return {item.info.name: item for item in list_maps(Run(spec, tests, **given | changes))}


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
    icc = maps_of(make_spec(*factors), make_tests([T]))["blmm_vox_icc"]
    assert icc.info.volumes == tuple(expected)
    for volume, share in zip(icc.volumes, expected.values(), strict=True):
        assert_allclose(volume(block), share, rtol=1e-14)


def test_without_any_intercept_there_is_no_map_of_shares():
    assert "blmm_vox_icc" not in maps_of(make_spec(factor(TIME)), make_tests([T]))


# -------------------------------------------------------------------------------- contrasts


@pytest.mark.parametrize("kinds", [(T, T, F, F), (F, T, F, T), (F, F, T, T)])
@pytest.mark.parametrize("medians", [(7.25, 12.5, 3.5, 30.0), (30.0, 3.5, 12.5, 7.25)])
def test_a_stack_of_maps_states_the_smallest_of_the_medians_of_its_contrasts(kinds, medians):
    """And its sidecar the degrees of freedom of each; a map of one contrast states its own."""
    # Neither the minima nor the maxima are in the order of the medians.
    dofs = [DofRange(3 - m / 30, m, 99 - m) for m in medians]
    maps = maps_of(make_spec(factor(ONE)), make_tests(kinds), dof=dofs)
    of_kind = {kind: [d for d, k in zip(dofs, kinds, strict=True) if k == kind] for kind in (T, F)}
    smallest = {kind: min(d.median for d in found) for kind, found in of_kind.items()}
    assert maps["blmm_vox_conT"].info.intent_parameters == (smallest[T],)
    assert maps["blmm_vox_conF"].info.intent_parameters == (2.0, smallest[F])
    for kind, name in ((T, "blmm_vox_conT"), (F, "blmm_vox_conF")):
        details = maps[name].info.details or {}
        assert [numbers_of(each) for each in details["Contrasts"]] == of_kind[kind]
    for i, (kind, dof) in enumerate(zip(kinds, dofs, strict=True)):
        info = maps[f"contrasts/contrast-c{i}_stat-{'F' if kind == F else 't'}_statmap"].info
        parameters = (2.0, dof.median) if kind == F else (dof.median,)
        assert info.intent_parameters == parameters
        assert info.description.startswith(
            f"F_[2,{dof.median:g}]" if kind == F else f"T_[{dof.median:g}]"
        )
        assert numbers_of(info.details or {}) == dof


def numbers_of(details: Mapping[str, Any]) -> DofRange:
    """Return what a sidecar says of the degrees of freedom of a contrast."""
    stated = details["DegreesOfFreedom"]
    return DofRange(stated["Minimum"], stated["Median"], stated["Maximum"])


@pytest.mark.parametrize("kind", [T, F])
def test_maps_of_a_contrast_are_zero_where_it_is_not_estimable_and_a_mask_tells(make_block, kind):
    q = 1 + (kind == F)
    statistics = {
        "0/effect": [[1, 2, 3]] * q,
        "0/variance": [[1, 4, 9]] * q**2,
        "0/stat": [1, 2, 3],
        "0/z": [1, 2, 3],
        "0/log_p": [-1, -2, -3],
        "0/dof": [5, 5, 5],
        "0/estimable": [1, 0, 1],
    }
    block = make_block(statistics=statistics, fitted=range(3), is_mixed=True)
    maps = maps_of(make_spec(factor(ONE)), make_tests([kind]), has_gaps=[True])
    mask = maps.pop("contrasts/contrast-c0_desc-estimable_mask")
    assert mask.dtype == "uint8"
    assert [volume(block).tolist() for volume in mask.volumes] == [[True, False, True]]
    of_contrast = [item for name, item in maps.items() if "/" in name or "_con" in name]
    assert len(of_contrast) == (11 if kind == T else 10)
    for item in of_contrast:
        for volume in item.volumes:
            assert (volume(block) != 0).tolist() == [True, False, True]


def test_a_contrast_that_is_estimable_everywhere_has_no_mask_of_its_own():
    maps = maps_of(make_spec(), make_tests([T, F]), has_gaps=[False, True])
    masks = [name for name in maps if name.endswith("estimable_mask")]
    assert masks == ["contrasts/contrast-c1_desc-estimable_mask"]


def test_an_estimate_is_zero_where_it_is_not_estimable_by_itself(make_block):
    estimates = {"beta": [[1, 2], [3, 4], [5, 6]], "estimable": [[1, 1], [1, 0], [0, 1]]}
    beta = maps_of(make_spec(), make_tests([T]))["blm_vox_beta"]
    found = [volume(make_block(estimates)).tolist() for volume in beta.volumes]
    assert found == [[1, 2], [3, 0], [0, 6]]


@pytest.mark.parametrize("minlog", [-323.0, 323.0, -500.0])
def test_an_infinite_log10_p_becomes_minlog_with_its_own_sign(make_block, minlog):
    log_p = np.array([-np.inf, np.inf, -1000 * np.log(10), -np.log(10), 0.0])
    block = make_block(statistics={"0/log_p": log_p, "1/log_p": log_p}, fitted=range(5))
    maps = maps_of(make_spec(), make_tests([T, F], minlog=minlog))
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
    maps = maps_of(make_spec(factor(ONE)), make_tests(kinds))

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
    names = maps_of(make_spec(), make_tests(kinds))
    assert not {f"blm_vox_{name}" for name in absent} & names.keys()


def test_variances_are_those_of_the_images_and_not_relative_to_the_residuals(make_block):
    block = make_block({"sigma2": [4, 9], "D": [[4, 9], [8, 18], [12, 27]]})
    maps = maps_of(make_spec(factor(ONE, TIME)), make_tests([T]))
    varcomp = maps["blmm_vox_varcomp"]
    assert len(varcomp.volumes) == 3
    for row, volume in enumerate(varcomp.volumes):
        assert_array_equal(volume(block), np.array([16.0, 81.0]) * (row + 1))


def test_covariances_are_written_row_by_row_from_their_lower_triangle(make_block):
    packed = {(0, 0): 0, (1, 0): 1, (1, 1): 2, (2, 0): 3, (2, 1): 4, (2, 2): 5}
    block = make_block({"cov": np.tile(np.arange(6.0)[:, None], 2)})
    cov = maps_of(make_spec(with_cov=True), make_tests([T]))["blm_vox_cov"]
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
    maps = maps_of(make_spec(), make_tests([T]))
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


# ----------------------------------------------------------------------------- declarations


def test_every_map_of_a_run_is_declared_and_every_declaration_has_an_output():
    for model, outputs in (("blm", MAP_OUTPUTS), ("blmm", MIXED_MAP_OUTPUTS)):
        names = {each.name_file(model) for each in select_declared(model)}
        assert names == {name for name in outputs if name.startswith(f"{model}_")}
        lists = {each.output[0] for each in select_declared("blmm", of_contrast=True)}
        assert lists == {name for name in outputs if name.endswith(("_maps", "_masks"))}
    factors = (factor(ONE, TIME),)
    for spec in (make_spec(with_cov=True), make_spec(*factors, with_cov=True)):
        made = {name for name in maps_of(spec, make_tests([T, F])) if "/" not in name}
        assert made == {each.name_file(spec.model) for each in select_declared(spec.model)}


def test_names_are_declared_once():
    for model in ("blm", "blmm"):
        for of_contrast in (False, True):
            names = [each.name for each in select_declared(model, of_contrast)]
            assert len(names) == len(set(names)) > 0


def test_a_new_map_is_one_declaration(make_block, monkeypatch):
    """The interface, the tables and the names of files take it from there."""
    new = declared.Declaration(
        *("conD", "Cohen's d of the T contrasts.", "estimate", volumes.T_CONTRASTS),
        source=lambda block, volume, run: block.statistic(volume.contrast, "stat") / 2,
    )
    monkeypatch.setattr(declared, "DECLARED", (*declared.DECLARED, new))
    made = maps_of(make_spec(), make_tests([F, T, T]))["blm_vox_conD"]
    assert made.info.volumes == ("c1", "c2")
    assert made.info.description == "Cohen's d of the T contrasts."
    block = make_block(statistics={"1/stat": [2, 4], "2/stat": [6, 8]})
    assert [volume(block).tolist() for volume in made.volumes] == [[1, 2], [3, 4]]
    assert is_map_name("blm_vox_conD.nii.gz", "blm")
    outputs = _make_output_spec("New", "blmm", "")()
    assert outputs.trait("blmm_vox_conD").desc == "Cohen's d of the T contrasts."
