"""The example of a configuration of BLM finds the effects that it put into its images."""

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from example_runs import EXAMPLES, PNG_SIGNATURE, run_example

pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")


class Demo(NamedTuple):
    folder: Path
    printed: str

    def read(self, name: str) -> np.ndarray:
        return nib.load(self.folder / name).get_fdata()


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    """The demo, run once in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    printed = run_example("blm_demo.py", cwd=folder)
    return Demo(folder / "blm_demo", printed)


def run_few(folder: Path) -> None:
    """Run the demo of few images, which is quick, in the folder `elsewhere` in another one."""
    text = (EXAMPLES / "blm_demo.py").read_text().replace("N_IMAGES = 60", "N_IMAGES = 8")
    (folder / "few.py").write_text(text)
    run_example(folder / "few.py", str(folder / "elsewhere"), cwd=folder)
    assert len(list((folder / "elsewhere" / "images").iterdir())) == 8


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """The folder that was given to the demo of few images."""
    folder = tmp_path_factory.mktemp("few")
    run_few(folder)
    return folder / "elsewhere"


def test_the_folder_is_blm_demo_where_it_was_started_or_the_one_given(demo, elsewhere):
    assert (demo.folder / "results" / "blm_vox_beta.nii").is_file()
    assert (elsewhere / "z_maps.png").is_file()
    assert not (elsewhere.parent / "blm_demo").exists()


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
    table = demo.printed[demo.printed.index("effect  where") :]  # findings of `blm` are above
    rows = [line.split() for line in table.splitlines()]
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
