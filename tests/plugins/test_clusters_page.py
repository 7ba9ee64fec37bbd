"""The snippets of docs/clusters.md run, those of Slurm on Slurm."""

import pytest
from snippets import CHECKOUT, run_snippets, write_study

MY_YML = """\
Y_files: images.txt
X: design.csv
outdir: results
contrasts:
  - c1: {name: age, vector: [0, 1, 0]}
"""


@pytest.mark.usefixtures("slurm")
def test_all_snippets_of_the_page_run_one_after_the_other(tmp_path):
    study = write_study(tmp_path)
    (study / "my.yml").write_text(MY_YML)  # that of the README
    run_snippets(CHECKOUT / "docs" / "clusters.md", study)
    assert (study / "slurm_results" / "blm_vox_conT.nii").is_file()
    assert len(list((study / "doubles_work").rglob("result__double*.pklz"))) == 3
    assert not (study / "pool.json").exists()
