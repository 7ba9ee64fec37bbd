"""BLM's own test designs, as the example script runs them, against R's lm."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "blm_designs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("blm_designs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(
    require_command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess]:
    """Folder of design 1 on a small grid, and how the script ended."""
    require_command("Rscript", "r-base-core")
    out_dir = tmp_path_factory.mktemp("designs")
    command = [sys.executable, SCRIPT, "--sim_ind", "1", "--out_dir", out_dir]
    command += ["--num_nodes", "2", "--clusterType", "local", "--dim", "16", "--num_voxels", "40"]
    return out_dir / "sim1", subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_map_of_design_1_agrees_with_lm(finished) -> None:
    _, process = finished
    assert process.returncode == 0, process.stderr
    table = {line.split()[0]: line for line in process.stdout.splitlines()}
    assert {"beta", "resms", "llh", "cov", "conT", "conTlp", "conF", "conFlp"} <= set(table)
    assert "DIFFERS" not in process.stdout


def test_design_1_has_missing_data_and_voxels_with_all_images(finished, script) -> None:
    folder, _ = finished
    voxels = script.choose_voxels(folder / "BLM", 100, 40, seed=1)
    n = script.read_voxels(folder / "BLM" / "blm_vox_n.nii", voxels)
    assert np.sum(n == 100) == 20
    assert np.sum(n < 100) == 20
    assert n.min() >= 50  # MinPercent


@pytest.mark.parametrize("name", ["beta", "resms", "conT"])
def test_a_map_that_differs_in_the_ninth_digit_is_reported(
    finished, script, capsys, name: str
) -> None:
    folder, _ = finished
    path = folder / "BLM" / f"blm_vox_{name}.nii"
    content = path.read_bytes()
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * (1 + 1e-8), image.affine), path)
    try:
        assert script.compare_with_r(folder, 40, seed=1) == 1
    finally:
        path.write_bytes(content)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "DIFFERS" in line] == [name]


def test_the_designs_are_those_of_blm(script) -> None:
    assert script.DESIGNS == {1: (100, 3), 2: (200, 4), 3: (500, 5), 4: (1000, 8)}


def test_a_seed_gives_the_same_data_and_another_seed_does_not(script, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        script.simulate_data(tmp_path / folder, n_obs=5, n_params=3, dim=16, seed=seed)
    images = [np.asarray(nib.load(tmp_path / f / "data" / "Y4.nii").dataobj) for f in "abc"]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
