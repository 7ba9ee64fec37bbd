"""Help explains every field."""

import re

import pytest

from nipype_blm.cli.fields import describe_fields
from nipype_blm.model.config import BlmConfig, BlmmConfig, FactorConfig, MissingnessRules


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (BlmConfig, BlmConfig),
        (BlmConfig, MissingnessRules),
        (BlmmConfig, BlmmConfig),
        (BlmmConfig, MissingnessRules),
        (BlmmConfig, FactorConfig),
    ],
)
def test_every_field_is_explained(model, part):
    text = describe_fields(model)
    ignored = re.search(r"accepted without effect: (.*)", text).group(1).split(", ")
    for name, field in part.model_fields.items():
        if name in ignored and part is not FactorConfig:  # a factor's name has an effect
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
