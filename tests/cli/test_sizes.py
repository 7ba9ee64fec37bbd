"""Numbers near the ends of what 64 bits hold are refused or left out, never fitted to T = 0."""

import nibabel as nib
import numpy as np
import pytest
import yaml

REFUSED = {
    "large weights": ({"contrasts": [{"name": "a", "vector": [0, 0, 1e308]}]}, "contrast 1"),
    "small weights": ({"contrasts": [{"name": "a", "vector": [0, 0, 1e-200]}]}, "contrast 1"),
    "infinite weights": ({"contrasts": [{"name": "a", "vector": [0, 0, "1e400"]}]}, "contrast 1"),
    "minlog": ({"minlog": "-1e400"}, "minlog"),
    "infinite minlog": ({"minlog": -np.inf}, "minlog"),
    "threshold": ({"data_mask_thresh": "1e400"}, "data_mask_thresh"),
    "infinite threshold": ({"data_mask_thresh": np.inf}, "data_mask_thresh"),
    "threshold without a number": ({"data_mask_thresh": np.nan}, "data_mask_thresh"),
    "memory": ({"MAXMEM": "1e400"}, "MAXMEM"),
    "infinite memory": ({"MAXMEM": np.inf}, "MAXMEM"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_numbers_that_cannot_be_are_refused_before_the_run(study, case):
    changes, field = REFUSED[case]
    result = study.run(**changes)
    assert result.code == 2
    [error] = result.errors
    assert field in error
    assert not study.outdir.exists()


@pytest.mark.parametrize("size", [1e-200, 1e200, 1.7e308])
def test_columns_and_weights_of_impossible_sizes_are_reported_together(study, size):
    X = study.X.copy()
    X[:, 1] *= size
    study.write_design(X)
    contrasts = [{"name": "a", "vector": [1, 0]}, {"name": "b", "vector": [0, 0, 1]}]
    result = study.run(contrasts=contrasts)
    assert result.code == 2
    assert len(result.errors) == 2
    assert any("column 2 (X2)" in error and "other units" in error for error in result.errors)
    assert any("contrast 1 ('a') has 2 weights" in error for error in result.errors)


def run_scaled(study, images=1.0, columns=1.0, weights=1.0):
    """Fit images, columns of X and weights times a number each; return maps."""
    study.write_design(study.X * columns)
    for i, values in enumerate(study.values):
        study.save_image(f"s{i:02}.nii", values * images, np.float64)
    study.fields["contrasts"] = [
        {"name": "age", "vector": [0, 0, weights]},
        {"name": "any", "vector": [[0, weights, 0], [0, 0, weights]]},
    ]
    return study.maps_of()


@pytest.mark.parametrize(
    "scale",
    [
        {"images": 1e37},
        {"images": 1e-85},
        {"columns": 1e29},
        {"columns": 1e-29, "weights": 1e-29},
        {"images": 1e37, "columns": 1e27, "weights": 1e-2},
        {"images": 1e37, "weights": 1e29},
        {"images": 1e-85, "weights": 1e-29},
    ],
    ids=str,
)
def test_statistics_do_not_depend_on_units_as_far_as_they_are_accepted(study, scale):
    expected = run_scaled(study)
    found = run_scaled(study, **scale)
    for name in ("status", "n", "conT", "conF", "conTlp", "conFlp", "conR2"):
        name = f"blm_vox_{name}"
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-8, err_msg=name)
    units = scale.get("images", 1) / scale.get("columns", 1)
    np.testing.assert_allclose(
        found["blm_vox_beta"] / units, expected["blm_vox_beta"], rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-155, 1e41, 1e155, 1e200, 1e306])
def test_images_of_impossible_sizes_leave_no_voxel_fitted(study, size):
    for i, values in enumerate(study.values):
        study.save_image(f"s{i:02}.nii", values * size, np.float64)
    result = study.run()
    assert result.code == 1
    assert "no voxel could be fitted" in result.err
    assert ("beyond 1e40, taken as missing" in result.err) == (size > 1)
    for name, values in study.maps().items():
        if name not in ("blm_vox_status", "blm_vox_n"):
            assert not values.any(), name


@pytest.mark.parametrize("value", [1e41, -1e200, 1e308, np.inf])
@pytest.mark.parametrize("slope", [1, 2])
def test_a_huge_value_is_missing_at_its_voxel_alone(study, value, slope):
    values = study.values.astype(float)
    values[5, 2, 1, 1] = value
    for i, image in enumerate(values):
        stored = nib.Nifti1Image(image / slope, np.diag([-2, 2, 3, 1]))
        stored.header.set_slope_inter(slope, 0)
        nib.save(stored, study.folder / f"s{i:02}.nii")
    result = study.run()
    assert result.code == 0
    assert "s05.nii has 1 values that are infinite or beyond 1e40" in result.err
    n, beta, _ = study.fit((values != 0) & (np.abs(values) < 1e40))
    np.testing.assert_array_equal(study.map("n"), n)
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=1e-9, atol=1e-8)


def test_the_least_and_most_memory_that_a_number_can_be_are_understood(study):
    for memory, code in ((1, 2), ("2**1000", 0)):
        study.configure(MAXMEM=memory)
        assert study.command("--check", study.folder / "blm.yml").code == code
    assert yaml.safe_load((study.folder / "blm.yml").read_text())["MAXMEM"] == "2**1000"
