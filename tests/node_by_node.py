"""The stages of a model run by hand, one interface after the other, and what they leave."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nipype_blm.interfaces import AssembleMaps, ComputeContrasts, ComputeProducts, FitModel, PlanBLM


def write_image(path: Path, values: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(values, np.diag([2, 2, 2, 1])), path)


def make(folder: Path) -> str:
    folder.mkdir(parents=True)
    return str(folder)


def read_maps(folder: Path | str) -> dict[str, bytes]:
    """Return the contents of all maps and sidecars."""
    paths = [path for path in Path(folder).rglob("[!.]*") if path.suffix in (".nii", ".json")]
    paths = [path for path in paths if path.parent.name != "model"]
    maps = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    assert {"blm_vox_beta.nii", "blmm_vox_D.nii"} & set(maps)
    return maps


def run_interfaces(
    plan_class: type[PlanBLM],
    assemble_class: type[AssembleMaps],
    model: dict[str, Any],
    folder: Path,
    n_procs: int = 1,
) -> Any:
    """Run one interface after the other, as the workflow does; return the outputs of the last."""
    plan = plan_class(**model).run(cwd=make(folder / "plan")).outputs
    shared = {"model_file": plan.model_file, "fingerprint": plan.fingerprint}
    products, estimates, statistics = [], [], []
    for i, batch_file in enumerate(plan.batch_files):
        stage = ComputeProducts(model_file=plan.model_file, batch_file=batch_file, n_procs=n_procs)
        products.append(stage.run(cwd=make(folder / f"products{i}")).outputs.out_file)
    for block in plan.blocks:
        fit = FitModel(
            batch_files=plan.batch_files,
            products_files=products,
            block=block,
            n_procs=n_procs,
            **shared,
        )
        estimates.append(fit.run(cwd=make(folder / f"estimates{block}")).outputs.out_file)
        test = ComputeContrasts(
            contrasts_file=plan.contrasts_file,
            estimates_file=estimates[-1],
            block=block,
            n_procs=n_procs,
            **shared,
        )
        statistics.append(test.run(cwd=make(folder / f"statistics{block}")).outputs.out_file)
    assert len(products) == 3
    assert len(estimates) > 1
    assemble = assemble_class(
        model_id=plan.model_id,
        contrasts_file=plan.contrasts_file,
        batch_files=plan.batch_files,
        estimates_files=estimates,
        statistics_files=statistics,
        **shared,
    )
    return assemble.run(cwd=make(folder / "assemble")).outputs


def measure_peak(run: Callable[[], Any]) -> int:
    """Return the most bytes of arrays and objects while a function runs."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
