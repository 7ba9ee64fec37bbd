"""The demo finds the effects that it put into its images."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.frontends.bids import find_study

EXAMPLES = Path(__file__).parents[1] / "examples"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """Return what an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=cwd, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Demo(NamedTuple):
    folder: Path
    printed: str

    def read(self, name: str) -> np.ndarray:
        return nib.load(self.folder / name).get_fdata()


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    """The demo, run once in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    printed = run_example("demo.py", cwd=folder)
    return Demo(folder / "demo", printed)


def run_few(folder: Path) -> None:
    """Run the demo of few images, which is quick, in the folder `elsewhere` in another one."""
    text = (EXAMPLES / "demo.py").read_text().replace("N_IMAGES = 60", "N_IMAGES = 8")
    (folder / "few.py").write_text(text)
    run_example(str(folder / "few.py"), str(folder / "elsewhere"), cwd=folder)
    assert len(list((folder / "elsewhere" / "images").iterdir())) == 8


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """The folder that was given to the demo of few images."""
    folder = tmp_path_factory.mktemp("few")
    run_few(folder)
    return folder / "elsewhere"


def test_the_folder_is_demo_where_it_was_started_or_the_one_given(demo, elsewhere):
    assert (demo.folder / "results" / "blm_vox_beta.nii").is_file()
    assert (elsewhere / "z_maps.png").is_file()
    assert not (elsewhere.parent / "demo").exists()


def test_a_second_run_gives_the_same_maps(elsewhere):
    maps = sorted((elsewhere / "results").glob("blm_vox_*.nii"))
    before = [path.read_bytes() for path in maps]
    run_few(elsewhere.parent)
    assert maps
    assert [path.read_bytes() for path in maps] == before


def test_every_image_has_a_mask_of_its_own(demo):
    images = sorted((demo.folder / "images").iterdir())
    patterns = {(nib.load(image).get_fdata() != 0).tobytes() for image in images}
    assert len(patterns) == len(images) == 60
    n_obs = demo.read("results/blm_vox_n.nii")[demo.read("results/blm_vox_mask.nii") > 0]
    assert n_obs.min() == 30  # MinPercent of the configuration
    assert n_obs.max() == 60


def test_the_effects_are_recovered(demo):
    truth = demo.read("true_effects.nii.gz")
    fitted = demo.read("results/blm_vox_mask.nii") > 0
    effect, error = (demo.read(f"results/blm_vox_{name}.nii") for name in ("con", "conSE"))
    for i in range(2):
        sphere = fitted & (truth[..., i] != 0)
        assert sphere.sum() > 100
        # The mean over a region has at most the standard error of one voxel, and less as the
        # noise of distant voxels is independent: 3 and 1 are never reached by chance.
        assert abs(np.mean((effect - truth)[sphere, i])) < 3 * error[sphere, i].mean()
        assert abs(np.mean(effect[fitted & (truth[..., i] == 0), i])) < error[sphere, i].mean()


@pytest.mark.parametrize(("number", "label"), [(0, "age"), (1, "group")])
def test_the_largest_z_lies_where_the_effect_is(number, label, demo):
    z = demo.read(f"results/contrasts/contrast-{label}_stat-z_statmap.nii")
    peak = np.unravel_index(np.argmax(np.abs(z)), z.shape)
    true_effect = demo.read("true_effects.nii.gz")[(*peak, number)]
    assert true_effect * z[peak] > 0


def test_the_summary_names_effects_maps_and_picture(demo):
    rows = [line.split() for line in demo.printed.splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("age", "group")] == ["age", "group"]
    assert f"The maps are in {demo.folder / 'results'}" in demo.printed
    assert str(demo.folder / "z_maps.png") in demo.printed
    assert (demo.folder / "z_maps.png").read_bytes().startswith(PNG_SIGNATURE)


def test_the_pipeline_runs_on_the_images_of_the_demo(demo):
    run_example("pipeline.py", cwd=demo.folder)
    [thresholded] = (demo.folder / "work").rglob("thresholded.nii.gz")
    truth = demo.read("true_effects.nii.gz")[..., 0]
    kept = nib.load(thresholded).get_fdata() != 0
    assert kept[truth != 0].mean() > 0.5 > kept[truth == 0].mean()


def test_the_data_set_of_the_readme_has_maps_of_people_who_came_twice_but_for_one(tmp_path):
    printed = run_example("make_bids.py", "made", cwd=tmp_path)
    assert "47 images of 24 people" in printed
    found = find_study(tmp_path / "made", filters={"contrast": "faces"}, own_masks=True)
    assert len(found.images) == len([mask for mask in found.data_masks if mask]) == 47
    assert {"age", "sex", "site", "subject", "session"} <= set(found.frame.columns)
    first = nib.load(found.images[0].path).get_fdata()
    assert np.array_equal(first != 0, nib.load(found.data_masks[0].path).get_fdata() != 0)
