"""A workflow, and a node that fits alone, read only what was added to a study."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline.engine import Node

from nipype_blm import interfaces
from nipype_blm.workflows import init_blm_wf


def assert_same_maps(folder: Path, fresh: Path) -> None:
    """Compare the maps of a run with those of one that has read all images."""
    names = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*.nii"))
    assert names == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii")) != []
    rtol = 1e-4 if "blmm_vox_mask.nii" in names else 1e-11  # where iterations end
    for name in set(names) - {"blmm_vox_nit.nii"}:
        expected = np.asarray(nib.load(fresh / name).dataobj)
        found = np.asarray(nib.load(folder / name).dataobj)
        atol = rtol * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=name)


def test_a_workflow_reads_what_was_added(study, reading, ran):
    images, masks = study.images, study.masks
    given = {"voxels_per_block": 120, "out_dir": study.folder / "maps"}

    def run(n: int, work: str, **changes: Any) -> list[str]:
        study.images, study.masks = images[:n], masks[:n]
        study.write_design(study.X[:n] - [0, study.X[:n, 1].mean(), 0])
        reading.clear()
        with_masks = {"data_mask_files": [str(path) for path in study.masks]}
        study.workflow(work, **given | with_masks | changes).run()
        return sorted(name for name in reading if name.startswith("Y"))

    assert len(run(8, "work")) == 8
    assert run(11, "work") == ["Y08.nii", "Y09.nii", "Y10.nii"]
    assert run(11, "work") == []
    assert run(12, "work") == ["Y11.nii"]
    assert len(run(12, "fresh", out_dir=study.folder / "fresh_maps")) == 12
    assert_same_maps(study.folder / "maps", study.folder / "fresh_maps")
    assert not list((study.folder / "work").rglob("checkpoints"))


@pytest.mark.parametrize("model", ["BLM", "BLMM"])
@pytest.mark.parametrize("as_node", [True, False])
def test_a_node_that_fits_alone_goes_on_from_its_work_dir(study, reading, model, as_node):
    def run(n: int, work: str) -> list[str]:
        study.write_design(study.X[:n])
        inputs = {
            "in_files": [str(path) for path in study.images[:n]],
            "design_file": study.design_file,
            "contrasts": [{"name": "age", "vector": [0, 1, 0]}],
            "work_dir": str(study.folder / work),
            "out_dir": str(study.folder / f"{work}_maps"),
            "images_per_batch": 4,
        }
        if model == "BLMM":
            (study.folder / "f.txt").write_text("".join(f"{i % 3}\n" for i in range(n)))
            (study.folder / "Z.csv").write_text("1\n" * n)
            names = {"factor": str(study.folder / "f.txt"), "design": str(study.folder / "Z.csv")}
            inputs["random_factors"] = [{"name": "f", **names}]
        fit = getattr(interfaces, model)(**inputs)
        reading.clear()
        folder = study.folder / "nodes"
        if as_node:
            Node(fit, name="fit", base_dir=str(folder)).run()
        else:
            (folder / "fit").mkdir(parents=True, exist_ok=True)
            fit.run(cwd=str(folder / "fit"))
        return sorted(reading)

    assert len(run(9, "work")) == 9
    assert run(12, "work") == ["Y09.nii", "Y10.nii", "Y11.nii"]
    assert len(run(12, "fresh")) == 12
    assert_same_maps(study.folder / "work_maps", study.folder / "fresh_maps")


def test_a_node_without_a_work_dir_leaves_nothing_and_says_nothing(study, reading, caplog):
    folder = study.folder / "node"
    folder.mkdir()
    for n in (9, 12):
        study.write_design(study.X[:n])
        interfaces.BLM(
            in_files=[str(path) for path in study.images[:n]],
            design_file=study.design_file,
            contrasts=[{"name": "age", "vector": [0, 1, 0]}],
        ).run(cwd=str(folder))
    assert len(reading) == 21
    assert not list(folder.glob(".blm_work"))
    assert "images are read" not in caplog.text


def test_a_plan_beside_folders_of_others_looks_at_none_of_them(study):
    """Only in a workflow of this package the folder beside the plan is known."""
    others = study.folder / "products"
    others.mkdir()
    (others / "products.blm").write_bytes(b"not ours")
    assert init_blm_wf().get_node("plan").inputs.plan_dir == "../plan_files"
    (study.folder / "node").mkdir()
    plan = interfaces.PlanBLM(
        in_files=[str(path) for path in study.images],
        design_file=study.design_file,
        contrasts=[{"name": "age", "vector": [0, 1, 0]}],
    )
    plan.run(cwd=str(study.folder / "node"))
    assert (others / "products.blm").read_bytes() == b"not ours"
