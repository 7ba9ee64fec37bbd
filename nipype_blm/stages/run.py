"""The whole model in one process: every stage in turn."""

from pathlib import Path

from nipype_blm.io.publish import Claim
from nipype_blm.stages.assemble import AssembledMaps, assemble_maps
from nipype_blm.stages.estimates import compute_estimates
from nipype_blm.stages.plan import PreparedRun, write_plan
from nipype_blm.stages.products import compute_products
from nipype_blm.stages.statistics import compute_statistics


def run_model(
    run: PreparedRun,
    work_dir: Path,
    out_dir: Path,
    claim: Claim,
    n_threads: int = 1,
    compress: bool = False,
    inputs_file: Path | None = None,
) -> AssembledMaps:
    """Fit a prepared model and write its maps; intermediate files stay in `work_dir`."""
    plan = write_plan(run, work_dir)
    products = [
        compute_products(plan.model_file, batch, work_dir / f"products_{i:04d}.blm", n_threads)
        for i, batch in enumerate(plan.batch_files)
    ]
    estimates, statistics = [], []
    for block in plan.blocks:
        estimates.append(
            compute_estimates(
                plan.model_file,
                plan.batch_files,
                products,
                block,
                plan.fingerprint,
                work_dir / f"estimates_{block:04d}.blm",
                n_threads,
            )
        )
        statistics.append(
            compute_statistics(
                plan.model_file,
                plan.contrasts_file,
                estimates[-1],
                block,
                plan.fingerprint,
                work_dir / f"statistics_{block:04d}.blm",
                n_threads,
            )
        )
    return assemble_maps(
        plan.model_file,
        plan.contrasts_file,
        plan.batch_files,
        estimates,
        statistics,
        plan.fingerprint,
        out_dir,
        claim,
        compress,
        inputs_file,
    )
