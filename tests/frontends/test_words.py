"""Each front end tells faults in its own words, and never in those of another or of a library."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from nipype_blm.cli.blm import main
from nipype_blm.errors import InputError, unpack_problems
from nipype_blm.frontends import blm, traits
from nipype_blm.frontends.fields import FORMULA_MODELS, MODELS
from nipype_blm.interfaces import BLM, BLMM, PlanBLM
from nipype_blm.interfaces.base import INPUT_ERROR
from nipype_blm.workflows import init_blm_wf

CHECKOUT = Path(__file__).parents[2]
N = 8
SHAPE = (2, 2, 2)
# Of a front end alone: a word of everyone's, such as contrasts or keep, cannot be out of place.
NAMES_OF_BLM = {*blm.NAMES, *blm.MISSINGNESS, *blm.IGNORED, "statType"}
OWN_OF_BLM = {name for name in NAMES_OF_BLM if re.search("[A-Z]", name[1:])} | {
    *("Y_files", "maxnvb", "logdir", "sim")  # outdir is a word for what it holds, too
}
LIBRARIES = ("pydantic", "trait_errors", "InputSpec", "function-", "http", "<class", "Input should")


def test_both_front_ends_have_a_name_for_every_field_that_a_user_can_give():
    fields = MODELS["blmm"].model_fields.keys() | FORMULA_MODELS["blmm"].model_fields.keys()
    named = {blm.WORDS.name(field) for field in fields}
    assert named <= NAMES_OF_BLM | {f"Missingness.{name}" for name in blm.MISSINGNESS}
    # Nodes have none of them.
    of_commands = {"cluster", "n_workers", "work_dir", "keep", "quiet", "inference", "diagnostics"}
    of_commands.add("report")
    of_commands |= {"bids", "derivatives", "filters", "participants", "own_masks"}
    assert set(traits.NAMES.values()) == fields - of_commands
    assert set(traits.NAMES) <= set(BLMM().inputs.copyable_trait_names())


def test_names_of_blm_appear_in_its_front_end_alone():
    """Messages of all other modules name the fields of a request."""
    names = re.compile(rf"\b({'|'.join(sorted(OWN_OF_BLM))})\b")
    own = CHECKOUT / "nipype_blm" / "frontends" / "blm.py"
    found = [
        f"{path}, line {number}: {name}"
        for folder in ("nipype_blm", "workflows")
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        if path != own
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for name in names.findall(line)
    ]
    assert found == []


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with eight images, a design and a mask of another grid."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(N):
        values = rng.normal(5, 1, SHAPE).astype("f4")
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"s{i}.nii")
    nib.save(nib.Nifti1Image(np.ones((1, 2, 2), "u1"), np.eye(4)), tmp_path / "other.nii")
    np.savetxt(tmp_path / "X.csv", np.c_[np.ones(N), rng.normal(size=N)], delimiter=",")
    np.savetxt(tmp_path / "twice.csv", np.c_[np.ones(N), 2 * np.ones(N)], delimiter=",")
    np.savetxt(tmp_path / "short.csv", np.c_[np.ones(N - 1), np.arange(N - 1) ** 2])
    np.savetxt(tmp_path / "wide.csv", rng.normal(size=(N, N - 1)))
    (tmp_path / "Y.txt").write_text("".join(f"s{i}.nii\n" for i in range(N)))
    return tmp_path


FIELDS = {
    "Y_files": "Y.txt",
    "X": "X.csv",
    "outdir": "out",
    "contrasts": [{"name": "age", "vector": [0, 1]}],
}
TRAITS = {"in_files": "Y.txt", "design_file": "X.csv", "contrasts": FIELDS["contrasts"]}
# The same fault, given to both; and what each user reads.
FAULTS = {
    "memory": (
        {"MAXMEM": 10737},
        "MAXMEM is 10,737 bytes, too little for 8 voxels",
        {"max_mem_gb": 1e-5},
        "max_mem_gb is 1e-05, too little for 8 voxels",
    ),
    "a least number": (
        {"Missingness": {"minn": 99}},
        "Missingness.MinN is 99, but there are only 8 images.",
        {"min_n": 99},
        "min_n is 99, but there are only 8 images.",
    ),
    "a share": (
        {"Missingness": {"MINPERCENT": 5.5}},
        "Missingness.MinPercent: 5.5 is outside 0 to 1",
        {"min_percent": 5.5},
        "min_percent: 5.5 is outside 0 to 1",
    ),
    "a mask": (
        {"analysis_mask": "other.nii"},
        "analysis_mask {folder}/other.nii is not in the space of the images",
        {"mask_file": "other.nii"},
        "mask_file {folder}/other.nii is not in the space of the images",
    ),
    "a mask of the result": (
        {"Missingness": {"Masking": "no.nii"}},
        "Missingness.Masking: {folder}/no.nii does not exist",
        {"post_mask_file": "no.nii"},
        "post_mask_file: {folder}/no.nii does not exist",
    ),
    "masks of data": (
        {"data_mask_files": ["other.nii"] * 7},
        "data_mask_files names 7 masks, but there are 8 images",
        {"data_mask_files": ["other.nii"] * 7},
        "data_mask_files names 7 masks, but there are 8 images",
    ),
    "a pattern": (
        {"Y_files": "s*.nii"},
        "Y_files: 's*.nii' is a pattern",
        {"in_files": "s*.nii"},
        "in_files: 's*.nii' is a pattern",
    ),
    "a design": (
        {"X": "no.csv"},
        "X {folder}/no.csv cannot be read",
        {"design_file": "no.csv"},
        "design_file {folder}/no.csv cannot be read",
    ),
    "a way out": (
        {"X": "twice.csv"},
        "rank-deficient: column 2 (X2) .* set deficient: estimable, to fit",
        {"design_file": "twice.csv"},
        "rank-deficient: column 2 (X2) .* set deficient='estimable', to fit",
    ),
    "blocks": (
        {"maxnvb": 0},
        "maxnvb: 0 was given; expected at least 1.",
        {"max_blocks": 0},
        "max_blocks: 0 was given; expected at least 1.",
    ),
    "weights": (
        {"contrasts": [{"c1": {"name": "age", "vector": "[0 one]"}}]},
        "contrast 1: vector: 'one' is not a number",
        {"contrasts": [{"name": "age", "vector": "[0 one]"}]},
        "contrast 1: vector: 'one' is not a number",
    ),
    "weights of another length": (
        {"contrasts": [{"name": "age", "vector": [0, 1, 0]}]},
        "contrast 1 ('age') has 3 weights, but X has 2 columns",
        {"contrasts": [{"name": "age", "vector": [0, 1, 0]}]},
        "contrast 1 ('age') has 3 weights, but X has 2 columns",
    ),
}


FAULTS |= {
    "rows": (
        {"X": "short.csv"},
        "X has 7 rows, but there are 8 images; give one row for each image.",
        {"design_file": "short.csv"},
        "design_file has 7 rows, but there are 8 images; give one row for each image.",
    ),
    "columns": (
        {"X": "wide.csv"},
        "X has 7 columns but only 8 rows; at least 9 images are needed.",
        {"design_file": "wide.csv"},
        "design_file has 7 columns but only 8 rows; at least 9 images are needed.",
    ),
}
OF_FACTORS = {  # what is wrong with them, and what each user reads
    "labels": (
        {"factor": "f7.txt", "design": "Z.csv"},
        "Z f1 factor {folder}/f7.txt has 7 labels, but there are 8 images",
        "random_factors 1 factor {folder}/f7.txt has 7 labels, but there are 8 images",
    ),
    "a design": (
        {"factor": "f8.txt", "design": "no.csv"},
        "Z f1 design {folder}/no.csv cannot be read",
        "random_factors 1 design {folder}/no.csv cannot be read",
    ),
    "no design": (
        {"factor": "f8.txt"},
        "Z f1 design is missing; it is a mandatory field.",
        "random_factors 1 design is missing; it is a mandatory field.",
    ),
    "one level": (
        {"factor": "same.txt", "design": "Z.csv"},
        "Z f1 factor {folder}/same.txt has one level only",
        "random_factors 1 factor {folder}/same.txt has one level only",
    ),
}


@pytest.fixture
def mixed(study):
    for name, labels in {"f7": "abababa", "f8": "abababab", "same": "aaaaaaaa"}.items():
        (study / f"{name}.txt").write_text("\n".join(labels) + "\n")
    (study / "Z.csv").write_text("1\n" * N)
    return study


@pytest.mark.parametrize("fault", OF_FACTORS)
def test_random_factors_are_told_of_as_each_user_names_them(mixed, capsys, fault):
    factor, in_yaml, in_traits = OF_FACTORS[fault]
    (mixed / "blmm.yml").write_text(yaml.safe_dump(FIELDS | {"Z": [{"f1": factor}]}))
    assert main(["--check", str(mixed / "blmm.yml")], "blmm") == 2
    assert f"error: {in_yaml.format(folder=mixed)}" in capsys.readouterr().err
    with pytest.raises(InputError) as error:
        BLMM(**TRAITS, random_factors=[{"name": "subject"} | factor]).run()
    assert str(error.value).startswith(in_traits.format(folder=mixed))


def matches(expected, text, folder):
    pattern = re.escape(expected.format(folder=folder)).replace(re.escape(".* "), ".* ")
    return re.search(pattern, text)


def make_absolute(given, folder):
    def resolve(value):
        if isinstance(value, list):
            return [resolve(each) for each in value]
        return str(folder / value)

    return {k: resolve(v) if "file" in k else v for k, v in given.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_tells_a_fault_in_the_words_of_its_file(study, capsys, fault):
    given, expected, _, _ = FAULTS[fault]
    (study / "blm.yml").write_text(yaml.safe_dump(FIELDS | given))
    assert main(["--check", str(study / "blm.yml")]) == 2
    text = capsys.readouterr().err
    assert matches(f"error: {expected}", text, study) or matches(expected, text, study), text
    ours = set(traits.NAMES) - set(traits.NAMES.values()) - NAMES_OF_BLM
    assert not [name for name in (*ours, *LIBRARIES) if re.search(rf"\b{name}\b", text)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("interface", [BLM, PlanBLM])
def test_an_interface_tells_a_fault_in_the_words_of_its_traits(study, interface, fault):
    _, _, given, expected = FAULTS[fault]
    with pytest.raises(InputError) as error:
        interface(**TRAITS | given).run()
    text = str(error.value)
    assert matches(expected, text, study), text
    others = {*OWN_OF_BLM, "outdir"}
    assert not [name for name in (*others, *LIBRARIES) if re.search(rf"\b{name}\b", text)]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "a pattern"])
def test_a_fault_of_traits_is_left_by_a_node_for_whoever_has_other_words(study, fault):
    """The same that a user of a configuration would have read."""
    _, expected, given, in_traits = FAULTS[fault]
    (study / "node").mkdir()
    with pytest.raises(InputError):
        PlanBLM(**make_absolute(TRAITS | given, study)).run(cwd=study / "node")
    problems = unpack_problems((study / "node" / INPUT_ERROR).read_bytes())
    text = "\n".join(problem.worded(blm.WORDS) for problem in problems)
    assert matches(expected, text, study) or matches(in_traits, text, study)
    if fault != "a design":  # whose reader says what it was told to call it
        assert matches(expected, text, study)
    PlanBLM(**make_absolute(TRAITS, study)).run(cwd=study / "node")
    assert not (study / "node" / INPUT_ERROR).exists()


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc", "Dask"])
def test_nodes_of_any_plugin_leave_their_faults(study, plugin):
    from nipype_blm.plugins import DaskPlugin

    workflow = init_blm_wf(out_dir=study / "out", min_n=99)
    workflow.inputs.inputnode.trait_set(**make_absolute(TRAITS, study))
    workflow.base_dir = str(study / "work")
    workflow.config["execution"] = {"crashdump_dir": str(study), "stop_on_first_crash": "true"}
    chosen = DaskPlugin({"n_workers": 1}) if plugin == "Dask" else plugin
    with pytest.raises(Exception, match=r"min_n is 99|raised"):
        workflow.run(plugin=chosen, plugin_args={"n_procs": 1, "mp_context": "forkserver"})
    [report] = (study / "work").rglob(INPUT_ERROR)
    [problem] = unpack_problems(report.read_bytes())
    assert (problem.field, problem.values["n"]) == ("min_n", 99)
    assert problem.worded(blm.WORDS) == "Missingness.MinN is 99, but there are only 8 images."


def test_an_interface_that_is_called_by_itself_leaves_nothing(study):
    before = set(study.iterdir())
    with pytest.raises(InputError):
        BLM(**TRAITS, min_n=99).run()
    assert set(study.iterdir()) == before
