"""Help explains every field."""

import re

import pytest

from nipype_blm.cli.fields import describe_fields
from nipype_blm.model.config import BlmConfig, BlmmConfig, FactorConfig, MissingnessRules
from nipype_blm.model.contrasts import Contrast


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (BlmConfig, BlmConfig),
        (BlmConfig, MissingnessRules),
        (BlmConfig, Contrast),
        (BlmmConfig, BlmmConfig),
        (BlmmConfig, MissingnessRules),
        (BlmmConfig, FactorConfig),
    ],
)
def test_every_field_is_explained(model, part):
    text = describe_fields(model)
    ignored = re.search(r"accepted without effect: (.*)", text).group(1).split(", ")
    for name, field in part.model_fields.items():
        # The name of a factor or of a contrast has an effect.
        if name in ignored and part not in (FactorConfig, Contrast):
            continue
        first_words = " ".join(field.description.split()[:2])
        assert re.search(rf"^ +{name} +{re.escape(first_words)}", text, re.MULTILINE), name


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


@pytest.mark.parametrize("model", [BlmConfig, BlmmConfig])
def test_lines_fit_a_terminal(model):
    assert max(map(len, describe_fields(model).splitlines())) <= 88


def test_fields_of_mixed_models_are_explained_for_them_only():
    assert describe_fields() == describe_fields(BlmConfig)
    mandatory, optional = describe_fields(BlmmConfig).split("optional fields:")
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
