"""Inputs are taken as Python users give them; what cannot be used is said in one sentence."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nipype.interfaces.base import TraitError
from nipype.pipeline.engine import Node

from nipype_blm.errors import InputError
from nipype_blm.interfaces import BLM, BLMM
from nipype_blm.workflows import init_blm_wf, init_blmm_wf

SHAPE = (2, 2, 1)
N = 8
CONTRASTS = [{"name": "age", "vector": [0, 1]}]
JARGON = ("trait", "pydantic", "InputSpec", "http", "<class", "dictionary with keys")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Paths of images, of a design and of a mask, and those of a random factor."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = [tmp_path / f"s{i}.nii" for i in range(N)]
    for path in images:
        nib.save(nib.Nifti1Image(rng.normal(size=SHAPE).astype("f4"), np.eye(4)), path)
    np.savetxt(tmp_path / "X.csv", np.c_[np.ones(N), rng.normal(size=N)], delimiter=",")
    (tmp_path / "f.txt").write_text("a\nb\nc\nd\n" * 2)
    (tmp_path / "z.csv").write_text("1\n" * N)
    nib.save(nib.Nifti1Image(np.ones(SHAPE, "u1"), np.eye(4)), tmp_path / "m.nii")
    return tmp_path


def inputs_of(study, kind):
    """Return all inputs that are paths, each as `kind`."""
    images = [kind(study / f"s{i}.nii") for i in range(N)]
    return {
        "in_files": images,
        "design_file": kind(study / "X.csv"),
        "contrasts": CONTRASTS,
        "mask_file": kind(study / "m.nii"),
        "data_mask_files": [kind(study / "m.nii")] * N,
        "post_mask_file": kind(study / "m.nii"),
        "out_dir": kind(study / "out"),
    }


def factors(study, kind):
    return [{"name": "s", "factor": kind(study / "f.txt"), "design": kind(study / "z.csv")}]


def test_every_path_may_be_a_path_object(study):
    as_text = BLM(**inputs_of(study, str))
    as_paths = BLM(**inputs_of(study, Path))
    assert as_paths.inputs.get() == as_text.inputs.get()
    assert as_paths.inputs.get_hashval() == as_text.inputs.get_hashval()
    assert Path(as_paths.run().outputs.mask_file).is_file()
    given = inputs_of(study, Path) | {"out_dir": study / "mixed"}
    mixed = BLMM(**given, random_factors=factors(study, Path))
    assert Path(mixed.run().outputs.mask_file).is_file()
    assert BLM(in_files=study / "Y.txt").inputs.in_files == [str(study / "Y.txt")]
    assert BLM(in_files=(study / "a.nii", "b.nii")).inputs.in_files[1] == "b.nii"


def test_paths_are_taken_through_nodes_and_workflows(study):
    given = inputs_of(study, Path)
    out_dir = given.pop("out_dir")
    node = Node(BLM(**given), name="fit", base_dir=str(study / "node"))
    assert Path(node.run().outputs.mask_file).is_file()
    workflow = init_blm_wf(out_dir=out_dir)
    for name, value in given.items():
        setattr(workflow.inputs.inputnode, name, value)
    workflow.base_dir = study / "work"
    workflow.run()
    assert (out_dir / "blm_vox_mask.nii").is_file()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("n_proc", "n_procs"),
        ("max_mem", "max_mem_gb"),
        ("infiles", "in_files"),
        ("designfile", "design_file"),
        ("contrast", "contrasts"),
        ("X", "design_file"),
        ("Y_files", "in_files"),
        ("MinN", "min_n"),
        ("MAXMEM", "max_mem_gb"),
        ("outdir", "out_dir"),
        ("x" * 10_000, ""),
    ],
)
def test_an_input_that_is_not_known_is_one_sentence_with_the_nearest(name, nearest):
    """Of interfaces, as keyword or attribute, and of both builders of workflows."""

    def set_later():
        setattr(BLM().inputs, name, 2)

    builders = (lambda: BLM(**{name: 2}), set_later, lambda: BLMM(**{name: 2}))
    workflows = (lambda: init_blm_wf(**{name: 2}), lambda: init_blmm_wf(**{name: 2}))
    for build in (*builders, *workflows):
        with pytest.raises((TraitError, InputError)) as error:
            build()
        text = str(error.value)
        assert text.endswith(f"is no known input; the nearest one is {nearest}.") or not nearest
        assert len(text) < 400
        assert not any(word in text for word in JARGON)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_procs", "two", "n_procs: 'two' was given; expected a whole number >= 1."),
        ("n_procs", 0, "n_procs: 0 was given; expected a whole number >= 1."),
        ("max_mem_gb", "4GB", "max_mem_gb: '4GB' was given; expected a number >= 0.0."),
        ("max_mem_gb", -1, "max_mem_gb: -1 was given"),
        ("min_n", 3.5, "min_n: 3.5 was given; expected a whole number."),
        ("max_blocks", -5, "max_blocks: -5 was given; expected at least 1."),
        ("images_per_batch", 10**30, "expected at most"),
        ("two_sided", "yes", "two_sided: 'yes' was given; expected True or False."),
        ("match_rows", "name", "match_rows: 'name' was given; expected 'check' or 'by_name'"),
        ("in_files", 3, "in_files: 3 was given; expected text for each."),
        ("in_files", [None], "in_files: [None] was given; expected text for each."),
        ("in_files", [3] * 10_000, "in_files: [3, 3"),
        ("in_files", ["file:///a.nii"] * N, "is a file URL"),
        ("in_files", ["a\0.nii"] * N, "has a null byte"),
        ("in_files", ["a\udc80.nii"] * N, "is not in UTF-8"),
        ("in_files", "sub-*.nii", "is a pattern"),
        ("design_file", 3, "design_file: 3 was given; expected a path."),
        ("design_file", pd.DataFrame({"a": [1]}), "design_file: "),
        ("row_names", 3, "row_names: 3 was given; expected text."),
        ("min_percent", [1], "min_percent: [1] was given; expected a number or text."),
        ("min_percent", float("nan"), "min_percent: nan is neither"),
        ("data_mask_thresh", float("nan"), "data_mask_thresh: nan is not a finite number"),
        ("contrasts", 3, "contrasts: 3 was given; expected a list of contrasts"),
        ("contrasts", [], "contrasts: [] was given; expected a list of contrasts"),
        ("contrasts", [3], "contrasts: contrast 1 is 3; expected a mapping"),
        ("contrasts", [{"name": "a", "vector": "x"}], "contrast 1: vector: 'x' is not a number"),
        ("contrasts", [{"name": [], "vector": [0, 1]}], "contrast 1: name: [] was given"),
        ("contrasts", [("age", "T", ["X2"], [1])], "as for Nipype's interfaces of SPM and FSL"),
        ("contrasts", ("age", "T", ["X2"], [1]), "as for Nipype's interfaces of SPM and FSL"),
        ("contrasts", [["age", "T", ["X2"], [1]]], "as for Nipype's interfaces of SPM and FSL"),
        (
            "contrasts",
            [("any", "F", [("age", "T", ["X2"], [1])])],
            "{'name': 'age', 'vector': [0, 1, -1]}, with a weight for each column of X",
        ),
    ],
)
def test_a_value_of_another_kind_is_one_sentence(study, name, value, expected):
    """Values of each kind of input, too large ones, and those that only a run finds out."""
    with pytest.raises((TraitError, InputError)) as error:
        BLM(**inputs_of(study, str) | {name: value}).run()
    text = str(error.value)
    assert expected in text
    assert len(text.splitlines()) == 1
    assert len(text) < 700
    assert not any(word in text for word in JARGON)


@pytest.mark.parametrize("value", [3, "f.txt", [3], ["f.txt"], [{"name": "s"}], []])
def test_random_factors_of_another_kind_are_one_sentence_each(study, value):
    given = inputs_of(study, str) | {"random_factors": value}
    with pytest.raises((TraitError, InputError)) as error:
        BLMM(**given).run()
    assert str(error.value).startswith(("random_factors: ", "random_factors 1 "))
    assert not any(word in str(error.value) for word in JARGON)


def test_tuples_of_nipype_are_refused_through_a_workflow_too(study):
    given = inputs_of(study, str) | {"contrasts": [("age", "T", ["X2"], [1])]}
    workflow = init_blm_wf(out_dir=given.pop("out_dir"))
    for name, value in given.items():
        setattr(workflow.inputs.inputnode, name, value)
    workflow.base_dir = study / "work"
    with pytest.raises(Exception, match="as for Nipype's interfaces of SPM and FSL"):
        workflow.run()
