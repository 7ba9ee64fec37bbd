"""A configuration is read as BLM-py reads it, and every fault of it is named."""

from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.core.lmm.estimates import METHODS, MixedOptions
from nipype_blm.errors import InputError
from nipype_blm.frontends.blm import IGNORED, WORDS, check, list_entries, to_yaml
from nipype_blm.frontends.blm import read as read_file
from nipype_blm.frontends.fields import MODELS, ContrastFields, FactorFields
from nipype_blm.model.request import Request

GOOD = {
    "Y_files": "Y.txt",
    "X": "X.csv",
    "outdir": "out",
    "contrasts": [{"c1": {"name": "a", "vector": [1, 0]}}],
}


def problems_in(data, model="blm", base=Path("/base")):
    """Return what is wrong with a configuration, as its user reads it."""
    return [problem.worded(WORDS) for problem in check(data, base, model).problems]


def parse(base=Path("/base"), **changes):
    fields, problems = check(GOOD | changes, base)
    assert problems == []
    return fields


def problems_of(**changes):
    problems = problems_in(GOOD | changes)
    assert problems
    return problems


@pytest.fixture
def ask(tmp_path):
    """Function that writes a configuration and returns the request that is made of it."""
    (tmp_path / "X.csv").write_text("1,0\n1,1\n1,2\n")
    (tmp_path / "Y.txt").write_text("a.nii\nb.nii\nc.nii\n")

    def read(model="blm", **changes):
        (tmp_path / "blm.yml").write_text(yaml.safe_dump(GOOD | changes))
        return read_file(tmp_path / "blm.yml", model)

    return read


def test_mandatory_fields_are_enough():
    config = parse()
    assert config.max_bytes == 2**32
    assert config.minlog == -323.3062153431158
    assert config.with_cov
    assert config.zero_is_missing
    assert not config.two_sided
    assert config.cluster == "local"


HANDED_ON = ("words", "record", "files", "faults", "notices")


def test_a_request_has_the_same_defaults_as_a_configuration(ask, tmp_path):
    request = ask()
    assert (request.faults, request.notices) == ([], [])
    assert request.work_folder == tmp_path / "out" / "work"
    plain = Request(request.X, request.images, request.contrasts, request.out_dir)
    given = ("X", "images", "contrasts", "factors", "may_ask", *HANDED_ON)
    for name in vars(plain).keys() - set(given):
        assert getattr(request, name) == getattr(plain, name), name


@pytest.mark.parametrize("field", sorted(GOOD))
def test_each_mandatory_field_is_asked_for(field):
    [problem] = problems_of(**{field: None})
    assert problem == f"{field} is missing; it is a mandatory field."


def test_all_mandatory_fields_are_asked_for_together():
    assert len(problems_in({})) == len(GOOD)


@pytest.mark.parametrize("data", [None, [], "X: design.csv", 5])
def test_a_configuration_without_fields_is_refused(data):
    with pytest.raises(InputError, match="not a list of fields"):
        check(data)


def test_relative_paths_are_resolved_and_absolute_ones_kept():
    config = parse(
        analysis_mask="masks/m.nii",
        data_mask_files="/elsewhere/M.txt",
        work_dir="../work",
        Missingness={"Masking": "post.nii"},
    )
    assert config.images == Path("/base/Y.txt")
    assert config.out_dir == Path("/base/out")
    assert config.analysis_mask == Path("/base/masks/m.nii")
    assert config.data_masks == Path("/elsewhere/M.txt")
    assert config.work_dir == Path("/base/../work")
    assert config.post_mask == Path("/base/post.nii")


def test_a_tilde_stands_for_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert Path("/home/someone/X.csv") == parse(X="~/X.csv").X


def test_a_home_folder_that_does_not_exist_is_a_fault_of_its_field():
    [problem] = problems_of(X="~nobody-of-this-name/X.csv")
    assert "X" in problem
    assert "~nobody-of-this-name" in problem
    assert not problem.endswith("..")


@pytest.mark.parametrize("field", ["Y_files", "X", "outdir", "analysis_mask", "work_dir"])
def test_a_number_is_not_a_path(field):
    [problem] = problems_of(**{field: 5})
    assert problem.startswith(field)
    assert "5 is not a path" in problem


@pytest.mark.parametrize("text", ["", " "])
@pytest.mark.parametrize("field", ["Y_files", "X", "outdir", "analysis_mask", "work_dir"])
def test_an_empty_path_is_refused(field, text):
    [problem] = problems_of(**{field: text})
    assert problem == f"{field}: {text!r} is not a path."


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2**32", 2**32), (2**32, 2**32), ("4 * 2**30", 2**32), (1e9, 10**9), ("1e9", 10**9)],
)
def test_maxmem_is_a_number_or_arithmetic(text, n_bytes):
    assert n_bytes == parse(MAXMEM=text).max_bytes


@pytest.mark.parametrize("text", ["4GB", "2^32", "__import__('os').getpid()", "-1", 0, "nan", True])
def test_any_other_maxmem_is_refused_and_shown(text):
    [problem] = problems_of(MAXMEM=text)
    assert problem.startswith("MAXMEM: ")
    assert str(text) in problem
    assert "give bytes, as a number or as text such as 2**32" in problem


@pytest.mark.parametrize(("given", "minutes"), [(10, 10), (0.5, 0.5), ("10", 10), ("2 * 60", 120)])
def test_minutes_per_job_is_a_positive_number_or_arithmetic(given, minutes):
    assert parse().minutes_per_job is None
    assert parse(minutes_per_job=given).minutes_per_job == minutes


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
    assert parse(Missingness={"MinPercent": given}).min_percent == fraction


@pytest.mark.parametrize("given", [-0.1, 1.5, 10, "110%", "-1%", "a lot", "1/0", "nan", "", True])
def test_min_percent_outside_0_to_1_is_refused_and_shown(given):
    [problem] = problems_of(Missingness={"MinPercent": given})
    assert problem.startswith("Missingness.MinPercent: ")
    assert repr(given) in problem


def minimum_n(n_images, **rules):
    """Return how many images a voxel needs."""
    fields = parse(Missingness=rules)
    request = Request(
        None, None, [], Path("out"), min_n=fields.min_n, min_percent=fields.min_percent
    )
    return request.minimum_n(n_images)


@pytest.mark.parametrize(
    ("min_percent", "n_images", "minimum"),
    [(0.28, 50, 14), (0.07, 100, 7), ("10%", 12, 2), (0.1, 10, 1), ("1/3", 9, 3), (1, 7, 7)],
)
def test_the_least_number_of_images_is_exact(min_percent, n_images, minimum):
    assert minimum_n(n_images, MinPercent=min_percent) == minimum


@given(st.integers(0, 100), st.integers(1, 10**6))
def test_a_percentage_of_any_number_of_images_is_rounded_up_exactly(percent, n_images):
    expected = -(-percent * n_images // 100)
    assert minimum_n(n_images, MinPercent=percent / 100) == expected
    assert minimum_n(n_images, MinPercent=f"{percent}%") == expected


def test_the_stricter_of_min_n_and_min_percent_holds():
    assert minimum_n(10, MinN=7, MinPercent=0.5) == 7
    assert minimum_n(10, MinN=3, MinPercent=0.5) == 5
    assert minimum_n(10) == 0


def test_missingness_is_read_in_any_case():
    rules = parse(Missingness={"minn": 3, "minpercent": "10%", "masking": "m.nii"})
    assert (rules.min_n, rules.min_percent) == (3, Fraction(1, 10))
    assert rules.post_mask == Path("/base/m.nii")


@pytest.mark.parametrize("given", [-1, 2.5, "many"])
def test_min_n_is_a_count(given):
    [problem] = problems_of(Missingness={"MinN": given})
    assert problem.startswith("Missingness.MinN: ")
    assert repr(given) in problem


@pytest.mark.parametrize("cluster", ["local", "Local", "LOCAL"])
def test_local_is_accepted_in_any_case(cluster):
    assert parse(clusterType=cluster).cluster == "local"


@pytest.mark.parametrize("cluster", ["SLURM", "sge", "HTCondor", "lsf", "moab", "oar", "pbs"])
def test_batch_systems_are_accepted_in_any_case(cluster):
    assert parse(clusterType=cluster).cluster == cluster.lower()


def test_a_cluster_that_does_not_exist_is_refused_with_those_that_do():
    [problem] = problems_of(clusterType="cloud")
    assert "'cloud'" in problem
    assert "htcondor, local, lsf, moab, oar, pbs, sge, slurm" in problem


def test_nodes_run_at_the_same_time_on_clusters_only(ask):
    assert ask(clusterType="local", numNodes=7).parallel_nodes == 1
    assert ask(clusterType="slurm", numNodes=7).parallel_nodes == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("numNodes", 0),
        ("numNodes", "many"),
        ("maxnvb", 0),
        ("images_per_batch", 0),
        ("voxels_per_block", 1.5),
        ("minutes_per_job", 0),
        ("minutes_per_job", -5),
        ("minutes_per_job", "ten"),
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
    ("field", "value", "expected"),
    [
        ("numNodes", "many", "a whole number"),
        ("numNodes", [2], "a whole number"),
        ("voxels_per_block", 1.5, "a whole number"),
        ("maxnvb", 0, "at least 1"),
        ("two_sided", 5, "true or false"),
        ("compress", [1], "true or false"),
    ],
)
def test_what_was_expected_instead_of_a_value_is_said(field, value, expected):
    assert problems_of(**{field: value}) == [f"{field}: {value!r} was given; expected {expected}."]


def test_an_empty_name_of_a_contrast_is_refused():
    [problem] = problems_of(contrasts=[{"name": "", "vector": [1, 0]}])
    assert problem == "contrast 1: name: '' was given; expected some text."


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
        clusterType="cloud",
        analysis_maks="m.nii",
        contrasts=[{"c1": {"name": "a", "vector": "x"}}],
    )
    for part in ("X is", "MAXMEM", "MinPercent", "MinN", "cloud", "analysis_maks", "'x' is not"):
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


@pytest.mark.parametrize("field", IGNORED)
def test_a_field_without_effect_gets_a_notice(ask, field):
    [notice] = ask(**{field: "x"}).notices
    assert notice.startswith(field)
    assert "no effect" in notice


@pytest.mark.parametrize(
    ("field", "model"),
    [
        *[(f, "blm") for f in ("numNodes", "images_per_batch", "voxels_per_block", "maxnvb")],
        *[(f, "blmm") for f in ("maxnit", "n_starts", "numNodes")],
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        0,
        -1,
        2**31,
        10**30,
        pytest.param(10**5000, id="huge"),
        1.5,
        1e400,
        float("nan"),
        "9" * 5000,
        "",
        [],
        {},
    ],
)
def test_a_count_that_no_run_can_have_is_refused_and_not_shown_whole(field, model, value):
    """Truth values, which count as 0 and 1 elsewhere; what 32 bits do not hold; nested values."""
    base = GOOD if model == "blm" else GOOD | {"Z": [SUBJECT]}
    [problem] = problems_in(base | {field: value}, model)
    assert problem.startswith(f"{field}: ")
    assert "was given; expected " in problem
    assert len(problem) < 300


@pytest.mark.parametrize("field", ["minlog", "data_mask_thresh", "MAXMEM", "minutes_per_job"])
@pytest.mark.parametrize(
    "value",
    [
        True,
        1e400,
        float("nan"),
        pytest.param(10**5000, id="huge"),
        "9" * 5000,
        "1e400",
        "-",
        [],
        {},
        [[1] * 9] * 999,
    ],
)
def test_what_is_no_finite_number_is_refused_and_not_shown_whole(field, value):
    [problem] = problems_of(**{field: value})
    assert problem.startswith(f"{field}: ")
    assert len(problem) < 400


@pytest.mark.parametrize("value", ["1e-99999999", "1e99999999", "1e-99999999%", "9" * 10**6, True])
def test_a_share_that_would_take_all_memory_is_refused(value):
    [problem] = problems_of(Missingness={"MinPercent": value})
    assert "neither a fraction nor a percentage" in problem


@pytest.mark.parametrize("name", [True, False, [], {}, ["a"]])
def test_a_name_is_text_or_a_number(name):
    """`name: on` is read as true; a contrast would be called True."""
    contrast = {"name": name, "vector": [1]}
    assert problems_of(contrasts=[contrast])[0].startswith("contrast 1: name: ")
    problems = problems_in(GOOD | {"Z": [SUBJECT | {"name": name}]}, "blmm")
    assert problems[0].startswith("Z f1 name: ")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b", "null byte"),
        ("a\ud800b", "not in UTF-8"),
        ("file:///a", "is a file URL"),
        ("C:\\a", "is a path of Windows"),
        ("$NO_SUCH_VARIABLE/a", "a variable that is not set"),
        ("a" * 256, "is too long for a path"),
        ("a/" * 3000, "is too long for a path"),
    ],
)
@pytest.mark.parametrize("field", ["X", "outdir", "Y_files", "analysis_mask", "work_dir"])
def test_text_that_is_no_path_here_is_refused_in_every_field(field, path, reason):
    [problem] = problems_of(**{field: path})
    assert reason in problem


@pytest.mark.parametrize("text", ["(" * 50_000, "(" + "1 " * 50_000, "((1,2)" * 9999, "[" * 50_000])
def test_weights_without_end_are_refused_at_once(text):
    """Nothing in the reading of weights takes the square of their length, or the stack."""
    assert len("".join(problems_of(contrasts=[{"vector": text}]))) < 400


def test_of_very_many_faults_twenty_are_said():
    problems = problems_of(**{f"field{i}": 1 for i in range(5000)})
    assert len(problems) == 21
    assert "4980 more fields" in problems[-1]
    [problem] = problems_of(**{"x" * 10**6: 1})
    assert len(problem) < 400


def test_fields_with_effect_get_no_notice(ask):
    assert ask(sim=1, maxnvb=60, numNodes=100, minlog=-400).notices == []


def test_a_stat_type_that_contradicts_its_vector_gets_a_notice(ask):
    wrong = [{"c1": {"name": "a", "vector": [1, 0], "statType": "F"}}]
    assert "statType" in ask(contrasts=wrong).notices[0]
    right = [{"c1": {"name": "a", "vector": [1, 0], "statType": "t"}}]
    assert ask(contrasts=right).notices == []


def test_every_field_has_a_description():
    for model in (*MODELS.values(), FactorFields, ContrastFields):
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
    again, problems = check(to_yaml(config), Path("/another"))
    assert problems == []
    assert again.plain() == config.plain()


@given(st.fractions(0, 1))
def test_min_percent_is_read_back_exactly(fraction):
    config = parse(Missingness={"MinPercent": str(fraction)})
    assert check(to_yaml(config)).fields.min_percent == fraction


SUBJECT = {"name": "subject", "factor": "f.csv", "design": "Z.csv"}
SITE = {"name": "site", "factor": "g.csv", "design": "W.csv"}
MIXED = GOOD | {"Z": [{"f1": SUBJECT}]}


def parse_mixed(base=Path("/base"), **changes):
    fields, problems = check(MIXED | changes, base, "blmm")
    assert problems == []
    return fields


def mixed_problems_of(**changes):
    problems = problems_in(MIXED | changes, "blmm")
    assert problems
    return problems


def nest(**nested_in):
    """Return random factors by name, and what each is nested in."""
    return [
        {f"f{i}": SUBJECT | {"name": name, "nested_in": outer}}
        for i, (name, outer) in enumerate(nested_in.items(), 1)
    ]


def test_mandatory_fields_are_enough_for_a_mixed_model():
    config = parse_mixed()
    assert not config.with_resms
    [factor] = config.factors
    assert factor.name == "subject"
    assert factor.factor == Path("/base/f.csv")
    assert factor.design == Path("/base/Z.csv")
    assert factor.correlated
    assert factor.nested_in is None


BLMM_PY = """
MAXMEM: 2**32
Y_files: /data/Y.txt
data_mask_files: /data/M_.txt
data_mask_thresh: 0.1
X: /data/X.csv
Z:
  - f1:
      name: subject
      factor: /data/f1.csv
      design: /data/Z1.csv
  - f2:
      name: site
      factor: /data/f2.csv
      design: /data/Z2.csv
outdir: /data/out/
clusterType: local
numNodes: 10
contrasts:
  - c1:
      name: T
      vector: [1, 0, 0]
  - c2:
      name: F
      vector: [[1, 0, 0], [0, 1, 0]]
Missingness:
  MinPercent: 0.10
  MinN: 15
analysis_mask: /data/mask.nii.gz
method: pSFS
tol: 1e-6
maxnit: 10000
voxelBatching: 1
maxnvb: 60
resms: 0
safeMode: 1
"""


def test_a_configuration_of_blmm_py_is_read_unchanged(tmp_path):
    config, problems = check(yaml.safe_load(BLMM_PY), model="blmm")
    assert problems == []
    assert config.method == "pSFS"
    assert [factor.name for factor in config.factors] == ["subject", "site"]
    assert config.factors[1].design == Path("/data/Z2.csv")
    assert (config.min_n, config.min_percent) == (15, Fraction(1, 10))
    assert not config.with_resms
    (tmp_path / "blmm.yml").write_text(BLMM_PY)
    request = read_file(tmp_path / "blmm.yml", "blmm")
    assert request.notices == ["voxelBatching has no effect and is ignored."]
    assert [contrast.is_f for contrast in request.contrasts] == [False, True]
    assert request.estimation == MixedOptions(method="pSFS")
    assert request.minimum_n(200) == 20


def test_a_mixed_model_has_every_field_of_a_linear_one_with_the_same_default():
    mixed = {entry.name: entry for entry in list_entries("blmm")}
    for entry in list_entries("blm"):
        assert mixed[entry.name] == entry


@pytest.mark.parametrize(
    "Z",
    [
        [{"f1": SUBJECT}, {"f2": SITE}],
        {"f1": SUBJECT, "f2": SITE},
        [SUBJECT, SITE],
        [{"f1": None, **SUBJECT}, {"f2": None, **SITE}],  # fields not indented below their key
        ({"f1": SUBJECT}, {"f2": SITE}),
    ],
)
def test_random_factors_are_read_however_they_are_listed(Z):
    assert parse_mixed(Z=Z) == parse_mixed(Z=[{"f1": SUBJECT}, {"f2": SITE}])
    assert [factor.name for factor in parse_mixed(Z=Z).factors] == ["subject", "site"]


def test_one_random_factor_needs_no_list():
    assert parse_mixed(Z=SUBJECT) == parse_mixed()
    assert parse_mixed(Z={"f1": SUBJECT}) == parse_mixed()


def test_a_random_factor_without_a_name_is_called_by_its_key_or_its_place():
    files = {"factor": "f.csv", "design": "Z.csv"}
    assert [factor.name for factor in parse_mixed(Z={"f1": files, "f2": files}).factors] == [
        "f1",
        "f2",
    ]
    assert [factor.name for factor in parse_mixed(Z=[{"ID": files}, files]).factors] == ["ID", "f2"]


@pytest.mark.parametrize("Z", [[], {}, [None], 5, "f.csv", True])
def test_z_without_a_random_factor_is_refused_and_blm_is_named(Z):
    [problem] = mixed_problems_of(Z=Z)
    assert problem.startswith("Z: ")
    assert "expected a list of random factors" in problem
    assert "use blm" in problem


def test_an_entry_of_z_that_is_no_factor_is_refused_and_shown():
    [problem] = mixed_problems_of(Z=[SUBJECT, "g.csv"])
    assert problem.startswith("Z: factor 2 is 'g.csv'")


@pytest.mark.parametrize("field", ["factor", "design"])
def test_both_files_of_each_random_factor_are_asked_for(field):
    [problem] = mixed_problems_of(Z=[SUBJECT, SITE | {field: None}])
    assert problem == f"Z f2 {field} is missing; it is a mandatory field."


@pytest.mark.parametrize(
    ("field", "value"),
    [("factor", 5), ("design", [1]), ("correlated", "perhaps"), ("nested_in", ""), ("name", "")],
)
def test_a_fault_in_a_random_factor_is_one_message_that_says_where(field, value):
    [problem] = mixed_problems_of(Z=[SITE, SUBJECT | {field: value}])
    assert problem.startswith(f"Z f2 {field}: ")
    assert repr(value) in problem


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("factors", "factor"),
        ("Design", "design"),
        ("corelated", "correlated"),
        ("nestedin", "nested_in"),
        ("nmae", "name"),
    ],
)
def test_an_unknown_entry_of_a_random_factor_is_refused_with_the_nearest(unknown, nearest):
    [problem] = mixed_problems_of(Z=[SITE, {"f2": SUBJECT | {unknown: 1}}])
    expected = f"Z f2 {unknown} is not a known field; the nearest known one is {nearest}."
    assert problem == expected


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [("toll", "tol"), ("safemode", "safeMode"), ("z", "Z"), ("max_nit", "maxnit"), ("x", "X")],
)
def test_an_unknown_field_of_a_mixed_model_is_refused_with_the_nearest(unknown, nearest):
    [problem] = mixed_problems_of(**{unknown: 1})
    assert problem.endswith(f"the nearest known one is {nearest}.")


def test_the_fields_of_a_mixed_model_are_refused_by_blm_which_names_blmm():
    [problem] = problems_of(Z=[SUBJECT])
    assert problem.startswith("Z is a field of mixed models")
    assert "blmm" in problem
    own = {e.name for e in list_entries("blmm")} - {e.name for e in list_entries("blm")}
    assert own == {
        "Z", "method", "reml", "tol", "maxnit", "n_starts", "safeMode", "resms"
    }  # fmt: skip
    for field in own:
        [problem] = problems_of(**{field: 1})
        assert problem.startswith(f"{field} is a field of mixed models")


def test_a_configuration_without_z_is_refused_by_blmm_which_names_blm():
    [problem] = problems_in(GOOD, "blmm")
    assert problem.startswith("Z is missing")
    assert "use blm " in problem


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_accepted_in_any_case(method):
    for text in (method, method.lower(), method.upper(), f" {method} "):
        assert parse_mixed(method=text).method == method


@pytest.mark.parametrize("method", ["newton", "", 5, "p SFS"])
def test_an_unknown_method_is_refused_with_all_known_ones(method):
    [problem] = mixed_problems_of(method=method)
    assert problem.startswith(f"method: {method!r}")
    assert "exact, pSFS, SFS, pFS, FS" in problem


@pytest.mark.parametrize(
    ("text", "tol"), [("1e-6", 1e-6), (1e-6, 1e-6), ("10**-8", 1e-8), (1, 1), (0.001, 0.001)]
)
def test_tol_is_a_number_or_arithmetic(text, tol):
    assert parse_mixed(tol=text).tol == tol


@pytest.mark.parametrize("tol", [0, -1e-6, "0.0", "nan", "inf", ".inf", "small", True, [1]])
def test_a_tol_that_is_not_a_finite_number_above_zero_is_refused_and_shown(tol):
    [problem] = mixed_problems_of(tol=tol)
    assert problem.startswith("tol: ")
    assert repr(tol) in problem


@pytest.mark.parametrize("field", ["maxnit", "n_starts"])
@pytest.mark.parametrize("count", [0, -1, 1.5, "many"])
def test_a_count_of_a_mixed_model_is_at_least_one(field, count):
    [problem] = mixed_problems_of(**{field: count})
    assert problem.startswith(f"{field}: ")
    assert repr(count) in problem
    assert getattr(parse_mixed(**{field: 1}), field) == 1


@pytest.mark.parametrize(
    ("field", "ours"), [("reml", "reml"), ("safeMode", "safe_mode"), ("resms", "with_resms")]
)
def test_a_switch_of_a_mixed_model_is_zero_or_one_or_a_truth_value(field, ours):
    for value in (0, False, "false"):
        assert getattr(parse_mixed(**{field: value}), ours) is False
    for value in (1, True, "true"):
        assert getattr(parse_mixed(**{field: value}), ours) is True
    [problem] = mixed_problems_of(**{field: 2})
    assert problem.startswith(f"{field}: 2 was given")


def test_options_of_the_estimation_are_those_of_the_configuration(ask):
    options = {"tol": "1e-8", "maxnit": 20, "n_starts": 3, "safeMode": 0, "reml": False}
    request = ask("blmm", Z=[SUBJECT], method="fs", resms=1, **options)
    assert request.with_resms
    assert request.estimation == MixedOptions(
        reml=False, method="FS", tol=1e-8, maxnit=20, safe_mode=False, n_starts=3
    )


@pytest.mark.parametrize("field", ["voxelBatching", "diskMem", "name", "q"])
def test_a_field_of_blmm_without_effect_gets_a_notice(ask, field):
    [notice] = ask("blmm", Z=[SUBJECT], **{field: 1}).notices
    assert notice.startswith(f"{field} has no effect")


def test_factors_may_be_nested_several_deep_and_in_any_order():
    Z = parse_mixed(Z=nest(eye="subject", subject="site", site=None)).factors
    assert [factor.nested_in for factor in Z] == ["subject", "site", None]
    assert (
        parse_mixed(Z=[SUBJECT | {"nested_in": 3}, SITE | {"name": 3}]).factors[0].nested_in == "3"
    )


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        ([SUBJECT, SITE, SUBJECT], "f3 has the name of f1, 'subject'"),
        (nest(a="b", c=None), "f1 is nested_in 'b', which is no other factor; choose one of 'c'."),
        (nest(a="b"), "f1 is nested_in 'b', which is no other factor."),
        (nest(a=None, b="b"), "f2 is nested_in 'b', and so within itself"),
        (nest(a="b", b="a", c="a"), "f1 is nested_in 'b', and so within itself; f2 is"),
        (nest(a="b", b="c", c="a"), "f3 is nested_in 'a', and so within itself"),
    ],
)
def test_names_and_nesting_that_make_no_sense_are_refused(Z, message):
    [problem] = mixed_problems_of(Z=Z)
    assert problem.startswith("Z: f")
    assert message in problem


def test_a_factor_nested_in_a_circle_of_others_is_not_itself_at_fault():
    [problem] = mixed_problems_of(Z=nest(a="b", b="a", c="a"))
    assert "f3" not in problem


def test_all_faults_of_a_mixed_model_are_reported_together():
    problems = mixed_problems_of(
        Z=[SUBJECT | {"factor": None, "extra": 1}, SITE | {"correlated": "x"}],
        tol=0,
        method="newton",
        maxnit=0,
        X=None,
    )
    starts = ("Z f1 factor", "Z f1 extra", "Z f2 correlated", "tol", "method", "maxnit", "X is")
    for start in starts:
        assert sum(problem.startswith(start) for problem in problems) == 1, start
    assert len(problems) == len(starts)


def test_a_mixed_configuration_is_read_back_from_its_plain_values():
    config = parse_mixed(
        Z=[
            {"f1": SUBJECT | {"nested_in": "site", "correlated": False}},
            {"f2": SITE | {"factor": "~/g.csv"}},
        ],
        method="psfs",
        tol="1e-300",
        maxnit=7,
        n_starts=2,
        safeMode=0,
        reml=0,
        resms=1,
        Missingness={"MinPercent": "1/3"},
        voxelBatching=1,
    )
    data = to_yaml(config)
    assert yaml.safe_load(yaml.safe_dump(data)) == data
    assert [*data["Z"][0], *data["Z"][1]] == ["f1", "f2"]
    assert check(data, Path("/another"), "blmm") == (config, [])


def test_what_is_valid_of_a_faulty_mixed_configuration_is_kept():
    data = MIXED | {"tol": 0, "X": 5}
    fields = check(data, Path("/base"), "blmm").fields
    assert fields.X is None
    assert fields.tol == 1e-6
    assert fields.factors == parse_mixed().factors
    fields = check(data | {"Z": [SUBJECT | {"factr": 1}]}, Path("/base"), "blmm").fields
    assert fields.factors == ()
    assert fields.images == Path("/base/Y.txt")


def test_a_mixed_configuration_is_salvaged_as_a_linear_one_by_blm():
    fields, problems = check(MIXED, Path("/base"))
    assert fields == parse()
    assert len(problems) == 1


@pytest.mark.parametrize("given", [Path("/list.txt"), (Path("/one.nii"), Path("/two.nii"))])
def test_files_are_written_as_their_paths_whatever_the_version_of_pydantic(given):
    """What was read of a field is written so that it is read again: one file, or several."""
    written = to_yaml(parse(Y_files=given, data_mask_files=given))
    expected = str(given) if isinstance(given, Path) else [str(path) for path in given]
    assert (written["Y_files"], written["data_mask_files"]) == (expected, expected)
