"""The snippets of docs/clusters.md run, those of Slurm on Slurm."""

from pathlib import Path

import pytest
from snippets import CHECKOUT, fork_command, run_command, run_snippets, write_study

MY_YML = """\
Y_files: images.txt
X: design.csv
outdir: results
contrasts:
  - c1: {name: age, vector: [0, 1, 0]}
"""


def run_as_users_do_what_starts_workers(command: list[str], folder: Path) -> None:
    """Run one that uses a pool which is there in a process that need not import everything."""
    starts_workers = "--pool" not in command or "start" in command
    (run_command if starts_workers else fork_command)(command, folder)


@pytest.mark.usefixtures("slurm")
def test_all_snippets_of_the_page_run_one_after_the_other(tmp_path):
    study = write_study(tmp_path)
    (study / "my.yml").write_text(MY_YML)  # that of the README
    page = CHECKOUT / "docs" / "clusters.md"
    run_snippets(page, study, run_as_users_do_what_starts_workers)
    assert (study / "slurm_results" / "blm_vox_conT.nii").is_file()
    assert len(list((study / "doubles_work").rglob("result__double*.pklz"))) == 3
    assert not (study / "pool.json").exists()
