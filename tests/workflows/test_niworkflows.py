"""Nodes of ours in a workflow of niworkflows, whose DerivativesDataSink names the maps."""

from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_study import write_data_set

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_literate_workflow_sinks_the_maps_of_each_contrast_in_names_of_bids(
    tmp_path, monkeypatch
):
    pytest.importorskip("niworkflows", reason="pip install 'nipype_blm[niworkflows]'")
    write_data_set(tmp_path / "bids")
    monkeypatch.syspath_prepend(EXAMPLES)  # Nipype pickles the class by the name of its module
    workflow = import_module("niworkflows_pipeline").init_group_wf(tmp_path)
    workflow.run()
    assert "~ age + sex was fitted" in workflow.visit_desc()
    start = "task-faces_space-MNI152NLin6Asym_contrast"
    names = [f"{start}-{name}_stat-z_statmap.nii.gz" for name in ("age", "sex")]
    sunk = tmp_path / "derivatives" / "group"
    assert sorted(path.name for path in sunk.glob("*.nii.gz")) == names
    written = tmp_path / "niworkflows_work" / "group_wf" / "fit" / "blm" / "contrasts"
    for name, label in zip(names, ("age", "sex"), strict=True):
        [z] = written.glob(f"contrast-{label}_stat-z_statmap.nii.gz")
        values = nib.load(sunk / name).get_fdata()
        assert np.any(values)
        assert np.array_equal(values, nib.load(z).get_fdata())
