"""A configuration is read as BLM-py reads it, and every fault of it is named."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.model.config import BlmConfig, MissingnessRules, parse_config

GOOD = {
    "Y_files": "Y.txt",
    "X": "X.csv",
    "outdir": "out",
    "contrasts": [{"c1": {"name": "a", "vector": [1, 0]}}],
}


def parse(base=Path("/base"), **changes):
    return parse_config(GOOD | changes, base)


def problems_of(**changes):
    with pytest.raises(InputError) as error:
        parse(**changes)
    return error.value.problems


def test_mandatory_fields_are_enough():
    config = parse()
    assert config.MAXMEM == 2**32
    assert config.minlog == -323.3062153431158
    assert config.OutputCovB
    assert config.zero_is_missing
    assert not config.two_sided
    assert config.clusterType == "local"
    assert config.work_folder == Path("/base/out/work")
    assert config.notices == []


@pytest.mark.parametrize("field", sorted(GOOD))
def test_each_mandatory_field_is_asked_for(field):
    [problem] = problems_of(**{field: None})
    assert problem == f"{field} is missing; it is a mandatory field."


def test_all_mandatory_fields_are_asked_for_together():
    with pytest.raises(InputError) as error:
        parse_config({})
    assert len(error.value.problems) == len(GOOD)


@pytest.mark.parametrize("data", [None, [], "X: design.csv", 5])
def test_a_configuration_without_fields_is_refused(data):
    with pytest.raises(InputError, match="not a list of fields"):
        parse_config(data)


def test_relative_paths_are_resolved_and_absolute_ones_kept():
    config = parse(
        analysis_mask="masks/m.nii",
        data_mask_files="/elsewhere/M.txt",
        work_dir="../work",
        Missingness={"Masking": "post.nii"},
    )
    assert config.Y_files == Path("/base/Y.txt")
    assert config.outdir == Path("/base/out")
    assert config.analysis_mask == Path("/base/masks/m.nii")
    assert config.data_mask_files == Path("/elsewhere/M.txt")
    assert config.work_folder == Path("/base/../work")
    assert config.Missingness.Masking == Path("/base/post.nii")


def test_a_tilde_stands_for_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert Path("/home/someone/X.csv") == parse(X="~/X.csv").X


def test_a_home_folder_that_does_not_exist_is_a_fault_of_its_field():
    [problem] = problems_of(X="~nobody-of-this-name/X.csv")
    assert "X" in problem
    assert "~nobody-of-this-name" in problem


@pytest.mark.parametrize("field", ["Y_files", "X", "outdir", "analysis_mask", "work_dir"])
def test_a_number_is_not_a_path(field):
    [problem] = problems_of(**{field: 5})
    assert problem.startswith(field)
    assert "5 is not a path" in problem


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2**32", 2**32), (2**32, 2**32), ("4 * 2**30", 2**32), (1e9, 10**9), ("1e9", 10**9)],
)
def test_maxmem_is_a_number_or_arithmetic(text, n_bytes):
    assert n_bytes == parse(MAXMEM=text).MAXMEM


@pytest.mark.parametrize("text", ["4GB", "2^32", "__import__('os').getpid()", "-1", 0, "nan", True])
def test_any_other_maxmem_is_refused_and_shown(text):
    [problem] = problems_of(MAXMEM=text)
    assert problem.startswith("MAXMEM: ")
    assert str(text) in problem


@pytest.mark.parametrize(
    ("given", "fraction"),
    [
        (0.1, Fraction(1, 10)),
        ("0.1", Fraction(1, 10)),
        ("10%", Fraction(1, 10)),
        ("10 %", Fraction(1, 10)),
        ("12.5%", Fraction(1, 8)),
        (0, 0),
        (1, 1),
        ("100%", 1),
        ("1/3", Fraction(1, 3)),
    ],
)
def test_min_percent_is_a_fraction_or_a_percentage(given, fraction):
    assert parse(Missingness={"MinPercent": given}).Missingness.MinPercent == fraction


@pytest.mark.parametrize("given", [-0.1, 1.5, 10, "110%", "-1%", "a lot", "1/0", "nan", "", True])
def test_min_percent_outside_0_to_1_is_refused_and_shown(given):
    [problem] = problems_of(Missingness={"MinPercent": given})
    assert problem.startswith("Missingness.MinPercent: ")
    assert repr(given) in problem


@pytest.mark.parametrize(
    ("min_percent", "n_images", "minimum"),
    [(0.28, 50, 14), (0.07, 100, 7), ("10%", 12, 2), (0.1, 10, 1), ("1/3", 9, 3), (1, 7, 7)],
)
def test_the_least_number_of_images_is_exact(min_percent, n_images, minimum):
    assert MissingnessRules(MinPercent=min_percent).minimum_n(n_images) == minimum


@given(st.integers(0, 100), st.integers(1, 10**6))
def test_a_percentage_of_any_number_of_images_is_rounded_up_exactly(percent, n_images):
    expected = -(-percent * n_images // 100)
    assert MissingnessRules(MinPercent=percent / 100).minimum_n(n_images) == expected
    assert MissingnessRules(MinPercent=f"{percent}%").minimum_n(n_images) == expected


def test_the_stricter_of_min_n_and_min_percent_holds():
    assert MissingnessRules(MinN=7, MinPercent=0.5).minimum_n(10) == 7
    assert MissingnessRules(MinN=3, MinPercent=0.5).minimum_n(10) == 5
    assert MissingnessRules().minimum_n(10) == 0


def test_missingness_is_read_in_any_case():
    rules = parse(Missingness={"minn": 3, "minpercent": "10%", "masking": "m.nii"}).Missingness
    assert (rules.MinN, rules.MinPercent) == (3, Fraction(1, 10))
    assert rules.Masking == Path("/base/m.nii")


@pytest.mark.parametrize("given", [-1, 2.5, "many"])
def test_min_n_is_a_count(given):
    [problem] = problems_of(Missingness={"MinN": given})
    assert problem.startswith("Missingness.MinN: ")
    assert repr(given) in problem


@pytest.mark.parametrize("cluster", ["local", "Local", "LOCAL"])
def test_local_is_accepted_in_any_case(cluster):
    assert parse(clusterType=cluster).clusterType == "local"


@pytest.mark.parametrize("cluster", ["SLURM", "sge", "htcondor", "lsf", "moab", "oar", "pbs"])
def test_other_clusters_are_refused_for_now_and_local_is_named(cluster):
    [problem] = problems_of(clusterType=cluster)
    assert problem == f"clusterType: {cluster!r} is not available yet; use local."


def test_a_cluster_that_does_not_exist_is_refused():
    [problem] = problems_of(clusterType="cloud")
    assert "'cloud'" in problem
    assert "local" in problem


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("numNodes", 0),
        ("numNodes", "many"),
        ("maxnvb", 0),
        ("images_per_batch", 0),
        ("voxels_per_block", 1.5),
        ("OutputCovB", "perhaps"),
        ("data_mask_thresh", "high"),
        ("minlog", "low"),
        ("two_sided", 5),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_field(field, value):
    [problem] = problems_of(**{field: value})
    assert problem.startswith(f"{field}: ")
    assert repr(value) in problem


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("Yfiles", "Y_files"),
        ("y_files", "Y_files"),
        ("out_dir", "outdir"),
        ("analysis_masks", "analysis_mask"),
        ("maxmem", "MAXMEM"),
        ("missingness", "Missingness"),
        ("OutputCov", "OutputCovB"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(unknown, nearest):
    [problem] = problems_of(**{unknown: "x"})
    assert problem.startswith(f"{unknown} is not a known field")
    assert problem.endswith(f"the nearest known one is {nearest}.")


def test_an_unknown_entry_of_missingness_or_of_a_contrast_is_refused_with_the_nearest():
    [problem] = problems_of(Missingness={"MinPercentage": 0.1})
    assert "Missingness.MinPercentage" in problem
    assert "MinPercent." in problem
    [problem] = problems_of(contrasts=[{"c1": {"name": "a", "vectors": [1], "vector": [1]}}])
    assert "vectors" in problem
    assert "vector." in problem


def test_all_faults_are_reported_together():
    problems = problems_of(
        X=None,
        MAXMEM="lots",
        Missingness={"MinPercent": 5, "MinN": -1},
        clusterType="SLURM",
        analysis_maks="m.nii",
        contrasts=[{"c1": {"name": "a", "vector": "x"}}],
    )
    for part in ("X is", "MAXMEM", "MinPercent", "MinN", "SLURM", "analysis_maks", "'x' is not"):
        assert sum(part in problem for problem in problems) == 1, part
    assert len(problems) == 7


@pytest.mark.parametrize(
    "fault",
    [{"vector": "[1 x]"}, {"vector": None}, {"vector": [1, 0], "weight": 1}, {"vector": []}],
)
def test_a_fault_of_a_contrast_is_one_message_that_says_which(fault):
    good = {"c1": {"name": "a", "vector": [1, 0]}}
    [problem] = problems_of(contrasts=[good, {"c2": {"name": "b"} | fault}])
    assert any(which in problem for which in ("c2", "contrast 2", "contrasts.2", "'b'"))


def test_no_contrast_is_refused():
    [problem] = problems_of(contrasts=[])
    assert problem.startswith("contrasts")


@pytest.mark.parametrize("field", ["statType", "logdir", "voxelBatching", "diskMem", "name", "q"])
def test_a_field_without_effect_gets_a_notice(field):
    [notice] = parse(**{field: "x"}).notices
    assert notice.startswith(field)
    assert "no effect" in notice


def test_fields_with_effect_get_no_notice():
    assert parse(sim=1, maxnvb=60, numNodes=100, minlog=-400).notices == []


def test_a_stat_type_that_contradicts_its_vector_gets_a_notice():
    wrong = [{"c1": {"name": "a", "vector": [1, 0], "statType": "F"}}]
    assert "statType" in parse(contrasts=wrong).notices[0]
    right = [{"c1": {"name": "a", "vector": [1, 0], "statType": "t"}}]
    assert parse(contrasts=right).notices == []


def test_every_field_has_a_description():
    for model in (BlmConfig, MissingnessRules):
        for name, field in model.model_fields.items():
            assert field.description, name


def test_a_configuration_is_read_back_from_its_plain_values():
    config = parse(
        analysis_mask="m.nii",
        MAXMEM="2**30",
        Missingness={"MinPercent": "1/3", "MinN": 3, "Masking": "p.nii"},
        data_mask_thresh="1/3",
        minlog=-400,
        numNodes=3,
        OutputCovB=False,
        contrasts=[
            {"c1": {"name": "F", "vector": "[[1 0] [0 1/3]]"}},
            {"c2": {"name": "T", "vector": [1, 0.1], "statType": "T"}},
        ],
        two_sided=True,
        images_per_batch=5,
        sim=1,
    )
    assert parse_config(config.to_yaml_dict(), Path("/another")) == config


@given(st.fractions(0, 1))
def test_min_percent_is_read_back_exactly(fraction):
    config = parse(Missingness={"MinPercent": str(fraction)})
    again = parse_config(config.to_yaml_dict())
    assert again.Missingness.MinPercent == fraction
