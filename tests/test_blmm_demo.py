"""The example of a configuration of BLMM finds the effects and variances that it put in."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from example_runs import PNG_SIGNATURE, run_example

pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """The demo, run once: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("mixed")
    printed = run_example("blmm_demo.py", cwd=folder)
    return folder / "blmm_demo", printed


def read(folder: Path, name: str) -> np.ndarray:
    return nib.load(folder / name).get_fdata()


def test_fixed_effect_and_variances_are_recovered(demo):
    folder, _ = demo
    truth, varcomp = read(folder, "truth.nii.gz"), read(folder, "results/blmm_vox_varcomp.nii")
    estimates = [read(folder, "results/blmm_vox_con.nii")[..., 0], varcomp[..., 0], varcomp[..., 2]]
    fitted = read(folder, "results/blmm_vox_mask.nii") > 0
    assert fitted.sum() > 10_000
    for i, estimate in enumerate(estimates):
        background = 0 if i == 0 else truth[fitted, i].min()
        sphere = fitted & (truth[..., i] != background)
        assert 50 < sphere.sum() < 1000
        size = truth[sphere, i].mean()
        # Variances of 40 people have a standard error of sqrt(2 / 40) = 22 % at one voxel, that
        # of a slope twice this; over a sphere of many smoothness kernels it is a few percent.
        assert abs(estimate[sphere].mean() - size) < 0.2 * abs(size)
        elsewhere = fitted & ~sphere
        # A variance cannot be below 0, so that its mean is above the truth where that is 0.
        assert abs((estimate - truth[..., i])[elsewhere].mean()) < 0.2 * abs(size)


def test_t_is_largest_in_size_where_the_effect_is(demo):
    folder, _ = demo
    z = read(folder, "results/contrasts/contrast-years_stat-z_statmap.nii")
    peak = np.unravel_index(np.argmax(np.abs(z)), z.shape)
    assert read(folder, "truth.nii.gz")[(*peak, 0)] * z[peak] > 0


def test_voxels_inside_and_at_the_boundary_are_told_apart(demo):
    folder, _ = demo
    status, D = (read(folder, f"results/blmm_vox_{name}.nii") for name in ("status", "D"))
    a, b, c = np.moveaxis(D, -1, 0)
    # In single precision a determinant that is 0 is 0 to some 1e-7 of its terms.
    is_singular = a * c - b**2 <= 1e-6 * a * c
    assert set(np.unique(status)) >= {1, 3}
    assert is_singular[status == 3].all()
    assert not is_singular[status == 1].any()


def test_the_summary_names_effects_and_pictures(demo):
    folder, printed = demo
    for text in ("effect of years", "variance of intercepts", "variance of slopes"):
        assert text in printed
    for name in ("z_maps.png", "variances.png"):
        assert str(folder / name) in printed
        assert (folder / name).read_bytes().startswith(PNG_SIGNATURE)


def test_the_pipeline_finds_that_slopes_differ_where_they_do(demo):
    folder, _ = demo
    run_example("mixed_pipeline.py", cwd=folder)
    log10_p = read(folder, "slopes/blmm_vox_Chi2lp.nii")
    compared = read(folder, "slopes/blmm_vox_mask.nii") > 0
    differs = read(folder, "truth.nii.gz")[..., 2] > 0
    # At 5 % by 100 times as many voxels as chance allows; less than 5 % elsewhere, since the
    # mixture is conservative where the smaller model's own variance is 0.
    found = compared & (log10_p > -np.log10(0.05))
    assert found[compared & differs].mean() > 0.5
    assert 0.005 < found[compared & ~differs].mean() < 0.07
