"""The page on scaling: its tables are those of its script, its field reaches the plan."""

import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.interfaces.blm import PlanBLM

DOCS = Path(__file__).parents[1] / "docs"


def read_page() -> str:
    return (DOCS / "scaling.md").read_text(encoding="utf-8")


def run_script() -> dict:
    return runpy.run_path(str(DOCS / "make_scaling.py"))


def test_the_tables_are_what_the_script_makes():
    assert run_script()["fill_page"](read_page()) == read_page()


def test_the_script_replaces_tables_that_are_out_of_date():
    page = read_page()
    changed = page.replace("| 1,000 | 230,000 |", "| 7 | 230,000 |")
    assert changed != page
    assert run_script()["fill_page"](changed) == page


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(AssertionError, match="0 places for the table jobs"):
        run_script()["fill_page"](read_page().replace("<!-- jobs -->", ""))


@pytest.mark.parametrize(("options", "n_batches"), [({}, 2), ({"minutes_per_job": 1.5}, 1)])
def test_minutes_per_job_makes_one_batch_of_two(options, n_batches, tmp_path):
    n_images = 1100  # just more than a batch has otherwise
    values = np.random.default_rng(8).standard_normal((2, 2, 2, n_images)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "images.nii")
    (tmp_path / "X.csv").write_text("one\n" + "1\n" * n_images)
    plan = PlanBLM(
        in_files=[str(tmp_path / "images.nii")],
        design_file=tmp_path / "X.csv",
        contrasts=[{"name": "mean", "vector": [1]}],
        **options,
    )
    assert len(plan.run(cwd=tmp_path).outputs.batch_files) == n_batches
