"""Help explains every field."""

import re

import pytest

from nipype_blm.cli.fields import describe_fields
from nipype_blm.model.config import BlmConfig, MissingnessRules


@pytest.mark.parametrize("model", [BlmConfig, MissingnessRules])
def test_every_field_is_explained(model):
    text = describe_fields()
    ignored = re.search(r"accepted without effect: (.*)", text).group(1).split(", ")
    for name, field in model.model_fields.items():
        if name in ignored:
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


def test_lines_fit_a_terminal():
    assert max(map(len, describe_fields().splitlines())) <= 88
