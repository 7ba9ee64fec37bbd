"""Fill in the tables of docs/scaling.md: what runs of many images take, by plan and unit costs.

Usage: python docs/make_scaling.py
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nipype_blm.errors import InputError
from nipype_blm.model.costs import (
    Sizes,
    predict_assembly_s,
    predict_fitting_s,
    predict_reading_s,
    predict_testing_s,
)
from nipype_blm.model.planning import BASE_BYTES, Plan, plan_run

PAGE = Path(__file__).with_name("scaling.md")
GIB = 2**30
IMAGES = (1_000, 10_000, 100_000, 1_000_000)
GRIDS = {230_000: 902_629, 1_000_000: 4_000_000}  # voxels of the mask, and of an image
ROWS_PER_LEVEL = 5
MAXMEM_GIB = (4, 8, 16, 32, 64, 128, 256, 512)
MINUTES_PER_JOB, JOB_MAXMEM_GIB = 10, 16


def make_sizes(n_images: int, n_voxels: int, is_mixed: bool) -> Sizes:
    """Return the sizes of a study: compressed float32 images, 10 columns of X, one T contrast."""
    return Sizes(
        n_images=n_images,
        n_params=10,
        n_voxels=n_voxels,
        n_values=GRIDS[n_voxels],
        image_itemsize=4,
        staged_itemsize=4,
        map_itemsize=4,
        contrast_rows=(1,),
        with_cov=True,
        columns_of_rows=count_levels(n_images) if is_mixed else (),
        n_variances=int(is_mixed),
    )


def count_levels(n_images: int) -> tuple[int, ...]:
    """Return the most levels of 1, 2, 4, ... consecutive images, as if a level had five."""
    n_levels = n_images // ROWS_PER_LEVEL
    steps = range((n_images - 1).bit_length() + 1)
    return tuple(min(n_levels, (2**step - 2) // ROWS_PER_LEVEL + 2) for step in steps)


def plan_with_least_memory(sizes: Sizes) -> tuple[int, Plan]:
    """Return the least MAXMEM of `MAXMEM_GIB` that works, in GiB, and its plan."""
    for maxmem_gib in MAXMEM_GIB:
        try:
            return maxmem_gib, plan_run(sizes, maxmem_gib * GIB)
        except InputError:
            continue
    raise AssertionError(f"{sizes} does not fit into {MAXMEM_GIB[-1]} GiB.")


def studies(is_mixed: bool) -> Iterator[Sizes]:
    """Return every study of the tables."""
    for n_voxels in GRIDS:
        for n_images in IMAGES:
            yield make_sizes(n_images, n_voxels, is_mixed)


def tabulate_plans(is_mixed: bool) -> str:
    """Return the table of what studies take with the plan that is made by default."""
    rows = []
    for sizes in studies(is_mixed):
        maxmem_gib, plan = plan_with_least_memory(sizes)
        cpu_s = (
            predict_reading_s(sizes, sizes.n_images)
            + predict_fitting_s(sizes, sizes.n_voxels)
            + predict_testing_s(sizes, sizes.n_voxels)
            + predict_assembly_s(plan.map_bytes)
        )
        rows.append(
            [
                f"{sizes.n_images:,}",
                f"{sizes.n_voxels:,}",
                f"{maxmem_gib}",
                f"{plan.n_batches}",
                f"{plan.n_blocks}",
                # One that plans, one that assembles; a block is fitted, and tested.
                f"{2 + plan.n_batches + 2 * plan.n_blocks}",
                f"{plan.disk_bytes / 1e9:,.1f}",
                f"{plan.map_bytes / 1e9:.1f}",
                f"{count_memory(plan) / GIB:.1f}",
                f"{cpu_s / 3600:.3f}",
            ]
        )
    head = ["Images", "Voxels", "MAXMEM, GiB", "Batches", "Blocks", "Nodes"]
    head += ["Disk, GB", "Maps, GB", "Memory, GiB", "CPU, h"]
    return format_table([head, *rows])


def tabulate_jobs() -> str:
    """Return the table of plans for one job of each node."""
    rows = []
    for is_mixed, name in ((False, "BLM"), (True, "BLMM")):
        for sizes in studies(is_mixed):
            plan = plan_run(sizes, JOB_MAXMEM_GIB * GIB, minutes_per_job=MINUTES_PER_JOB)
            rows.append(
                [
                    name,
                    f"{sizes.n_images:,}",
                    f"{sizes.n_voxels:,}",
                    f"{plan.n_batches}",
                    f"{predict_reading_s(sizes, plan.images_per_batch) / 60:.1f}",
                    f"{plan.n_blocks}",
                    f"{predict_fitting_s(sizes, plan.voxels_per_block) / 60:.1f}",
                    f"{count_memory(plan) / GIB:.1f}",
                ]
            )
    head = ["Model", "Images", "Voxels", "Batches", "Minutes of one"]
    return format_table([[*head, "Blocks", "Minutes of one", "Memory, GiB"], *rows])


def count_memory(plan: Plan) -> int:
    """Return the bytes of the largest node, with Python and its libraries."""
    return BASE_BYTES + max(plan.products_bytes, plan.block_bytes)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table in Markdown, numbers to the right."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = "".join("|---:" if row[0].isdigit() else "|---" for row in rows[-1])
    return "\n".join([lines[0], f"{rule}|", *lines[1:]]) + "\n"


def fill_page(text: str) -> str:
    """Return the page with each table, below its comment, made anew."""
    tables = {
        "blm": tabulate_plans(is_mixed=False),
        "blmm": tabulate_plans(is_mixed=True),
        "jobs": tabulate_jobs(),
    }
    for name, table in tables.items():
        text, n = re.subn(rf"(<!-- {name} -->\n\n)(\|.*\n)*\n*", rf"\g<1>{table}\n", text)
        assert n == 1, f"The page has {n} places for the table {name}, expected one."
    return text


if __name__ == "__main__":
    PAGE.write_text(fill_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
