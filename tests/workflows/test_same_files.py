"""The workflow and the one-node run make the same files at every step, not only the same maps."""

from pathlib import Path
from typing import Any

import pytest

from nipype_blm.interfaces import BLM, BLMM
from nipype_blm.stages import run
from nipype_blm.workflows import init_blm_wf, init_blmm_wf

SPLIT = {"images_per_batch": 4, "voxels_per_block": 50, "max_mem_gb": 0.5}
CONTRASTS = [
    {"name": "age", "vector": [0, 1, 0]},
    {"name": "any", "vector": [[0, 1, 0], [0, 0, 1]]},
]
# The plan, three batches, and two files for each of three blocks.
N_FILES = 1 + 3 + 1 + 3 + 3 + 3


def list_inputs(study: Any, model: str) -> dict[str, Any]:
    inputs = {
        "in_files": [str(path) for path in study.images],
        "design_file": str(study.design_file),
        "contrasts": CONTRASTS,
    }
    if model == "blm":
        return inputs
    sites, ones = study.folder / "site.txt", study.folder / "one.csv"
    sites.write_text("".join(f"site {i % 3}\n" for i in range(len(study.images))))
    ones.write_text("1\n" * len(study.images))
    return inputs | {
        "random_factors": [{"name": "site", "factor": str(sites), "design": str(ones)}]
    }


class _StopError(Exception):
    pass


def stop(*_: Any) -> None:
    raise _StopError


def read_files(folder: Path, patterns: dict[str, str]) -> dict[str, bytes]:
    """Return the contents of the files that match patterns, by what they are."""
    return {
        f"{what} {number}": path.read_bytes()
        for what, pattern in patterns.items()
        for number, path in enumerate(sorted(folder.glob(pattern)))
    }


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_plan_products_estimates_statistics_and_maps_are_the_same_bytes(
    study: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interface, init_wf = {"blm": (BLM, init_blm_wf), "blmm": (BLMM, init_blmm_wf)}[model]
    inputs = list_inputs(study, model)
    workflow = init_wf(**SPLIT, out_dir=study.folder / "wf_maps", keep="all")
    workflow.inputs.inputnode.trait_set(**inputs)
    workflow.base_dir = str(study.folder / "work")
    workflow.run()
    of_plan = {"model": "model.blm", "batch": "batch_*.tsv", "contrasts": "contrasts.json"}
    of_nodes = {
        "products": "products/mapflow/*/products.blm",
        "estimates": "estimates/mapflow/*/estimates.blm",
        "statistics": "contrasts/mapflow/*/statistics.blm",
    }
    folder = study.folder / "work" / workflow.name
    by_nodes = read_files(folder / "plan_files", of_plan) | read_files(folder, of_nodes)

    place = study.folder / "one"
    place.mkdir()
    with monkeypatch.context() as patch:  # what a run that is ended leaves
        patch.setattr(run, "assemble_maps", stop)
        with pytest.raises(_StopError):
            interface(**SPLIT, **inputs).run(cwd=str(place))
    of_tasks = {what: f"{what}_*.blm" for what in of_nodes}
    in_one = read_files(place / run.WORK_FOLDER, of_plan | of_tasks)
    assert len(in_one) == len(by_nodes) == N_FILES
    assert [name for name in in_one if in_one[name] != by_nodes[name]] == []

    interface(**SPLIT, **inputs).run(cwd=str(place))
    maps = {"map": "*_vox_*.nii", "sidecar": "*_vox_*.json", "of a contrast": "contrasts/*"}
    assert read_files(place / model, maps) == read_files(study.folder / "wf_maps", maps) != {}
