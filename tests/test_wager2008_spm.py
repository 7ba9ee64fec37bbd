"""The smoothness of real images, and what SPM says of the same ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose

import nipype_blm
from nipype_blm.cli.blm import main
from nipype_blm.stages.reopened import open_values
from nipype_blm.stages.smoothness import estimate_smoothness

# SPM 12 r7771, by oracles/smoothness.m: of the standardised residuals of the model below, whose
# images got an empty voxel more at each side, so that none of the mask lies at the border.
FWHM = [4.039043421, 4.076006864, 3.229986531]
R = [1, 33.86079931, 373.5859622, 1323.440033]
# The same images as they are: voxels with a whole cell, if differences across the border are 0.
N_WITH_BORDER = 73_067


@pytest.fixture(scope="module")
def results(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> nipype_blm.Results:
    """Of the mean and of the centred success of reappraisal, where all images have data."""
    source, folder = test_data / "wager2008", tmp_path_factory.mktemp("wager2008")
    table = np.genfromtxt(
        source / "participants.tsv", delimiter="\t", dtype=None, names=True, encoding="utf8"
    )
    (folder / "images.txt").write_text("".join(f"{source / name}\n" for name in table["image"]))
    success = table["Y_Reappraisal_Success"]
    X = np.column_stack([np.ones(len(table)), success - success.mean()])
    np.savetxt(folder / "X.csv", X, delimiter=",", fmt="%.17g")
    config = {
        "Y_files": "images.txt",
        "X": "X.csv",
        "outdir": "out",
        "Missingness": {"MinN": len(table)},
        "contrasts": [{"c1": {"name": "mean", "vector": [1, 0]}}],
    }
    (folder / "blm.yml").write_text(yaml.safe_dump(config))
    assert main(["--quiet", str(folder / "blm.yml")]) == 0
    return nipype_blm.Results(folder / "out")


def test_fwhm_and_resels_of_real_images_are_those_of_spm(
    results: nipype_blm.Results, test_data: Path
) -> None:
    with open_values(results) as values:
        found = estimate_smoothness(results, values)
    # Estimates are float32, of which residuals keep seven digits; SPM's numbers have ten.
    assert_allclose(found.fwhm, FWHM, rtol=1e-7)
    assert_allclose(found.resel_counts, R, rtol=1e-7)
    said = json.loads((test_data / "wager2008" / "spm.json").read_text())
    assert results.n_fitted == said["voxels"]
    assert found.n_used == said["RPV_voxels"]
    assert_allclose(np.nanmean(found.resels_per_voxel), said["RPV_mean"], rtol=1e-5)
    assert_allclose(found.fwhm, said["FWHM_voxels"], rtol=0.03)
    # SPM takes the mean over voxels at the border, too, where it sees no change.
    border = N_WITH_BORDER / found.n_used
    assert_allclose(found.fwhm.prod() * border, np.prod(said["FWHM_voxels"]), rtol=1e-6)
    assert_allclose(found.resel_counts[3] / border, said["volume_line"][1][2], rtol=1e-6)
