"""The workflow of a mixed model: what runs again when something changes."""

from pathlib import Path
from typing import Any

import pytest
from nipype.pipeline.engine import Workflow

from nipype_blm.errors import InputError
from nipype_blm.interfaces.base import MIXED_MAP_OUTPUTS
from nipype_blm.workflows import init_blm_wf, init_blmm_wf

N_OBS = 12
FITTING = {"products0", "products1", "products2", "estimates0", "estimates1", "estimates2"}
TESTING = {"contrasts0", "contrasts1", "contrasts2"}
T_AGE = {"name": "age", "vector": [0, 1, 0]}


@pytest.fixture
def mixed(study):
    """The study with three sites, and a function that builds its workflow."""
    sites = study.folder / "site.txt"
    sites.write_text("".join(f"site {i % 3}\n" for i in range(N_OBS)))
    (study.folder / "one.csv").write_text("1\n" * N_OBS)
    study.factor = {"name": "site", "factor": str(sites), "design": str(study.folder / "one.csv")}

    def build(**options: Any) -> Workflow:
        split = {"images_per_batch": 4, "voxels_per_block": 50, "max_mem_gb": 0.5}
        contrasts = options.pop("contrasts", [T_AGE])
        workflow = init_blmm_wf(**(split | options))
        workflow.inputs.inputnode.trait_set(
            in_files=[str(path) for path in study.images],
            design_file=study.design_file,
            contrasts=contrasts,
            random_factors=[study.factor],
        )
        workflow.base_dir = str(study.folder / "work")
        workflow.config["execution"] = {"crashdump_dir": workflow.base_dir}
        return workflow

    study.build = build
    return study


def test_a_new_contrast_fits_nothing_again(mixed, ran) -> None:
    workflow = mixed.build()
    changed = ran(workflow)
    workflow.run()
    assert changed() == {"plan", "assemble"} | FITTING | TESTING
    mixed.build(contrasts=[T_AGE, {"name": "mean", "vector": [1, 0, 0]}]).run()
    assert changed() == {"plan", "assemble"} | TESTING


@pytest.mark.parametrize("what", ["factor", "design", "reml"])
def test_a_change_of_the_random_part_fits_everything_again(mixed, ran, what: str) -> None:
    workflow = mixed.build()
    workflow.run()
    changed = ran(workflow)
    if what == "factor":
        Path(mixed.factor["factor"]).write_text("".join(f"{i // 4}\n" for i in range(N_OBS)))
    elif what == "design":
        Path(mixed.factor["design"]).write_text("2\n" * N_OBS)
    mixed.build(**({"reml": False} if what == "reml" else {})).run()
    assert changed() >= FITTING


def test_replacing_an_image_reads_its_batch_only(mixed, ran) -> None:
    workflow = mixed.build()
    workflow.run()
    changed = ran(workflow)
    mixed.write(mixed.images[3], mixed.Y[3] + 1)  # of site 0, whose images are read first
    mixed.build().run()
    assert {name for name in changed() if name.startswith("products")} == {"products0"}


def test_it_has_the_nodes_and_edges_of_a_linear_model() -> None:
    def edges(workflow: Workflow) -> set[tuple[str, str]]:
        return {(one.name, other.name) for one, other in workflow._graph.edges}

    assert edges(init_blmm_wf()) == edges(init_blm_wf())


def test_the_output_node_has_every_output_of_the_one_node_model() -> None:
    outputs = init_blmm_wf().get_node("outputnode").outputs.copyable_trait_names()
    assert set(outputs) == set(MIXED_MAP_OUTPUTS)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InputError, match=r"remll.* nearest one is reml"):
        init_blmm_wf(remll=True)
    with pytest.raises(InputError, match="reml"):
        init_blm_wf(reml=True)


def test_maps_are_written_where_the_builder_says(mixed) -> None:
    mixed.build(out_dir=mixed.folder / "out").run()
    assert (mixed.folder / "out" / "blmm_vox_D.nii").is_file()
    assert (mixed.folder / "out" / "inputs.yml").is_file()
