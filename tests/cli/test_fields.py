"""Help explains every field."""

import re

import pytest

from nipype_blm.cli.fields import describe_fields
from nipype_blm.frontends.blm import NAMES, WORDS, list_entries
from nipype_blm.frontends.fields import MODELS


def list_all(entries):
    for entry in entries:
        yield entry
        yield from list_all(entry.entries)


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_every_field_is_explained(model):
    text = describe_fields(model)
    names = {entry.name for entry in list_entries(model)}
    of_mixed = MODELS["blmm"].model_fields.keys() - MODELS[model].model_fields.keys()
    assert names == set(NAMES) - {WORDS.name(field) for field in of_mixed}
    for entry in list_all(list_entries(model)):
        first_words = " ".join(entry.description.split()[:2])
        pattern = rf"^ +{entry.name} +{re.escape(first_words)}"
        assert re.search(pattern, text, re.MULTILINE), entry.name


def test_fields_without_effect_are_listed_as_such():
    [line] = [line for line in describe_fields().splitlines() if "without effect" in line]
    for name in ("statType", "logdir", "voxelBatching", "diskMem", "name", "q"):
        assert name in line


def test_mandatory_fields_come_first():
    mandatory, optional = describe_fields().split("optional fields:")
    for name in ("Y_files", "X", "outdir", "contrasts"):
        assert f"  {name} " in mandatory
    for name in ("clusterType", "numNodes", "analysis_mask"):
        assert f"  {name} " in optional


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_lines_fit_a_terminal(model):
    assert max(map(len, describe_fields(model).splitlines())) <= 88


def test_fields_of_mixed_models_are_explained_for_them_only():
    assert describe_fields() == describe_fields("blm")
    mandatory, optional = describe_fields("blmm").split("optional fields:")
    assert re.search(r"^  Z .*\n    name .*\n    factor ", mandatory, re.MULTILINE)
    for name in ("method", "reml", "tol", "maxnit", "n_starts", "safeMode", "resms"):
        assert re.search(rf"^  {name} ", optional, re.MULTILINE), name
        assert not re.search(rf"^  {name} ", describe_fields(), re.MULTILINE), name


def test_the_fields_of_a_contrast_follow_it():
    pattern = r"^  contrasts .*\n(?: {22}.*\n)*    name .*\n    vector "
    assert re.search(pattern, describe_fields(), re.MULTILINE)


def test_every_exit_code_is_explained():
    assert describe_fields().endswith(
        "Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted (143 by SIGTERM)."
    )
