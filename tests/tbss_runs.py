"""The workflow of TBSS as users run it, as a program, and what it has left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import Program
from fa_cohort import Cohort
from faults.runs import find_workers, kill

SOURCE = """
import json, os, sys
from nipype_blm.plugins import DaskPlugin
from nipype_blm.workflows import init_tbss_wf

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    folder = given["folder"] or os.getcwd()
    workflow = init_tbss_wf(
        out_dir=f"{folder}/out",
        target=given["target"],
        parallel_nodes=2,
        template=given["template"],
    )
    workflow.base_dir = folder
    workflow.config["execution"] = {"crashdump_dir": folder, "poll_sleep_duration": "0.1"}
    workflow.inputs.inputnode.fa_files = given["fa"]
    workflow.inputs.inputnode.maps = {"MD": given["md"]}
    arguments = given["arguments"]
    if given["plugin"] == "Dask":
        workflow.run(plugin=DaskPlugin(arguments))
    else:
        workflow.run(plugin=given["plugin"], plugin_args=arguments)
"""
LIMIT_S = 300  # no run takes this long; one that hangs is an error and not an endless test


def start_tbss(
    start_program: Callable[..., Program],
    cohort: Cohort,
    plugin: str,
    arguments: dict[str, Any],
    target: str = "template",
    folder: Path | None = None,
) -> Program:
    """Start the workflow in a folder, or in one of its own."""
    given = {
        "fa": [str(path) for path in cohort.fa_files],
        "md": [str(path) for path in cohort.md_files],
        "template": str(cohort.template),
        "plugin": plugin,
        "arguments": arguments,
        "target": target,
        "folder": folder and str(folder),
    }
    return start_program(SOURCE, json.dumps(given))


def finish_tbss(program: Program) -> dict[str, bytes]:
    """Wait for the end of a run; return its images by name."""
    assert program.wait(LIMIT_S) == 0, program.output
    return read_images(program.folder / "out")


def read_images(out: Path) -> dict[str, bytes]:
    """Return images of results, and of what they are made from, by name."""
    paths = [path for path in sorted(out.rglob("*.nii.gz")) if "tbss_wf" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def list_done(out: Path) -> list[Path]:
    """Return what is noted of images and pairs that are registered."""
    lines = (out / "work" / "pairs").glob("*.jsonl")
    return [*(out / "work" / "standard").glob("*.json"), *lines]


def lose_a_worker(program: Program, wait_until: Callable[..., None]) -> None:
    """Kill the workers when a first registration has ended, and others have not."""
    out = program.folder / "out"
    wait_until(lambda: list_done(out) or program.has_ended, LIMIT_S, "an image is registered")
    assert not (out / "stats").exists(), "all were registered before"
    assert kill(find_workers(program.folder)), program.output
    assert not program.has_ended
