"""X that is rank-deficient, at single voxels or as a whole, through the commands."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.cli.blm import main
from nipype_blm.core.status import VoxelStatus
from nipype_blm.interfaces import BLM

N_SUBJECTS = 14
SHAPE = (5, 4, 1)
WITHOUT = slice(10, None)  # voxels at which the first subject has no data


def write_study(folder: Path, X: np.ndarray, names: list[str], contrasts: dict, **fields) -> Path:
    """Write 14 subjects with two conditions each; return the configuration."""
    rng = np.random.default_rng(16)
    subject, condition = np.repeat(np.arange(N_SUBJECTS), 2), np.tile([1, -1], N_SUBJECTS)
    Y = rng.normal(size=(N_SUBJECTS, 20))[subject] + 0.6 * condition[:, None]
    Y += 0.5 * rng.normal(size=Y.shape)
    Y[:2, WITHOUT] = np.nan
    for i, y in enumerate(Y):
        image = nib.Nifti1Image(y.reshape(SHAPE, order="F"), np.eye(4))
        image.to_filename(folder / f"y{i:02}.nii")
    (folder / "images.txt").write_text("".join(f"y{i:02}.nii\n" for i in range(len(Y))))
    np.savetxt(folder / "X.csv", X, delimiter=",", header=",".join(names), comments="")
    config = {
        "Y_files": "images.txt",
        "X": "X.csv",
        "outdir": "out",
        "contrasts": [{"name": name, "vector": vector} for name, vector in contrasts.items()],
    }
    (folder / "study.yml").write_text(yaml.safe_dump(config | fields))
    return folder / "study.yml"


def paired_design() -> tuple[np.ndarray, list[str]]:
    subject = np.repeat(np.arange(N_SUBJECTS), 2)
    X = np.column_stack([np.tile([1, -1], N_SUBJECTS), np.eye(N_SUBJECTS)[subject]])
    return X, ["condition", *(f"s{i}" for i in range(N_SUBJECTS))]


def read(folder: Path, name: str) -> np.ndarray:
    """Return a map, its voxels first."""
    values = np.asarray(nib.load(folder / "out" / f"{name}.nii").dataobj)
    return values.reshape(20, -1, order="F")


PAIRED = {
    "condition": [1, *[0] * N_SUBJECTS],
    "first": [0, 1, -1, *[0] * (N_SUBJECTS - 2)],
    "both": [[1, *[0] * N_SUBJECTS], [0, 1, -1, *[0] * (N_SUBJECTS - 2)]],
}


def test_contrasts_are_tested_where_they_are_estimable_and_0_elsewhere(tmp_path: Path) -> None:
    config = write_study(tmp_path, *paired_design(), PAIRED)
    assert main(["--quiet", str(config)]) == 0
    assert_array_equal(read(tmp_path, "blm_vox_status"), VoxelStatus.FITTED)
    edf = read(tmp_path, "blm_vox_edf")[:, 0]
    assert_array_equal(edf, np.where(np.arange(20) < 10, 13, 12))
    beta = read(tmp_path, "blm_vox_beta")
    assert_array_equal(beta[WITHOUT, 1], 0)
    assert np.all(np.delete(beta, 1, axis=1) != 0)
    cov = read(tmp_path, "blm_vox_cov").reshape(20, N_SUBJECTS + 1, N_SUBJECTS + 1)
    assert_array_equal(cov[WITHOUT, 1], 0)
    assert_array_equal(cov[WITHOUT, :, 1], 0)
    assert np.all(cov[:10, 1, 1] > 0)
    stat = read(tmp_path, "blm_vox_conT")
    assert np.all(stat[:, 0] != 0)
    assert_array_equal(stat[:, 1] != 0, np.arange(20) < 10)
    folder = tmp_path / "out" / "contrasts"
    masks = sorted(path.name for path in folder.glob("*_mask.nii"))
    assert masks == [
        "contrast-both_desc-estimable_mask.nii",
        "contrast-first_desc-estimable_mask.nii",
    ]
    for path in folder.glob("contrast-[bf]*_statmap.nii"):
        values = np.asarray(nib.load(path).dataobj).reshape(20, -1, order="F")
        assert_array_equal(values[WITHOUT], 0, path.name)
    for name in ("conT", "conTlp", "con", "conSE"):
        assert_array_equal(read(tmp_path, f"blm_vox_{name}")[WITHOUT, 1], 0)
    for name in ("conF", "conFlp", "conR2"):
        assert_array_equal(read(tmp_path, f"blm_vox_{name}")[WITHOUT, 0], 0)


def test_masks_of_contrasts_disappear_when_no_voxel_needs_them(tmp_path: Path) -> None:
    config = write_study(tmp_path, *paired_design(), PAIRED)
    assert main(["--quiet", str(config)]) == 0
    fields = yaml.safe_load(config.read_text())
    fields["contrasts"] = fields["contrasts"][:1]
    config.write_text(yaml.safe_dump(fields))
    assert main(["--quiet", str(config)]) == 0
    assert not list((tmp_path / "out" / "contrasts").glob("*_mask.*"))


def test_a_node_hands_on_a_mask_for_each_contrast(tmp_path: Path) -> None:
    write_study(tmp_path, *paired_design(), PAIRED)
    node = BLM(out_dir=tmp_path / "out", design_file=tmp_path / "X.csv")
    node.inputs.in_files = sorted(map(str, tmp_path.glob("y*.nii")))
    node.inputs.contrasts = [{"name": k, "vector": v} for k, v in PAIRED.items()]
    outputs = node.run(cwd=str(tmp_path)).outputs
    sizes = [int(np.asarray(nib.load(mask).dataobj).sum()) for mask in outputs.contrast_masks]
    assert sizes == [20, 10, 10]
    assert outputs.contrast_masks[0] == outputs.mask_file


def redundant_design() -> tuple[np.ndarray, list[str]]:
    """Return an intercept, dummies of two conditions, and a covariate."""
    first = np.tile([1, 0], N_SUBJECTS)
    covariate = np.random.default_rng(1).normal(size=2 * N_SUBJECTS)
    return (
        np.column_stack([np.ones(2 * N_SUBJECTS), first, 1 - first, covariate]),
        ["one", "a", "b", "x"],
    )


REDUNDANT = {"difference": [0, 1, -1, 0], "mean of a": [1, 1, 0, 0], "x": [0, 0, 0, 1]}


def test_a_deficient_design_is_refused_with_both_ways_out(tmp_path: Path, capsys) -> None:
    config = write_study(tmp_path, *redundant_design(), REDUNDANT)
    assert main(["--quiet", str(config)]) == 2
    error = capsys.readouterr().err
    assert "column 3 (b) is a linear combination of columns 1 (one), 2 (a)" in error
    assert "leave one of them out" in error
    assert "deficient: estimable" in error


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_a_deficient_design_has_the_tests_of_a_full_one(tmp_path: Path, model: str) -> None:
    X, names = redundant_design()
    maps = {}
    # Estimable weights of the intercept are the sum of those of the dummies.
    for kind, first in [("deficient", 0), ("full", 1)]:
        folder = tmp_path / kind
        folder.mkdir()
        contrasts = {name: weights[first:] for name, weights in REDUNDANT.items()}
        fields = {"deficient": "estimable"} if kind == "deficient" else {}
        if model == "blmm":
            (folder / "who.txt").write_text("".join(f"p{i // 2}\n" for i in range(2 * N_SUBJECTS)))
            (folder / "one.csv").write_text("1\n" * 2 * N_SUBJECTS)
            fields["Z"] = [{"f1": {"name": "p", "factor": "who.txt", "design": "one.csv"}}]
        config = write_study(folder, X[:, first:], names[first:], contrasts, **fields)
        assert main(["--quiet", str(config)], model) == 0
        maps[kind] = {
            name: read(folder, f"{model}_vox_{name}")
            for name in ("status", "edf", "llh", "conT", "conTlp", "con", "conSE", "beta", "cov")
        }
    deficient, plain = maps["deficient"], maps["full"]
    assert_array_equal(deficient["status"], plain["status"])
    assert_array_equal(deficient["edf"], plain["edf"])
    for name in ("conT", "conTlp", "con", "conSE"):
        assert_allclose(deficient[name], plain[name], rtol=1e-9, atol=1e-12, err_msg=name)
    if model == "blm":
        assert_allclose(deficient["llh"], plain["llh"], rtol=1e-11)
    assert_array_equal(deficient["beta"][:, :3], 0)  # none is estimable by itself
    assert_allclose(deficient["beta"][:, 3], plain["beta"][:, 2], rtol=1e-9)


def test_a_contrast_that_is_estimable_nowhere_is_refused(tmp_path: Path, capsys) -> None:
    contrasts = REDUNDANT | {"a alone": [0, 1, 0, 0]}
    config = write_study(tmp_path, *redundant_design(), contrasts, deficient="estimable")
    assert main(["--quiet", str(config)]) == 2
    error = capsys.readouterr().err
    assert "contrast 4 ('a alone') is not estimable" in error
    assert not (tmp_path / "out").exists()


def test_figures_count_false_discoveries_where_a_contrast_is_estimable(tmp_path: Path) -> None:
    from nipype_blm.report.figures import find_fdr_threshold, plot_z_maps

    config = write_study(tmp_path, *paired_design(), {"first": PAIRED["first"]})
    assert main(["--quiet", str(config)]) == 0
    [drawn] = plot_z_maps(tmp_path / "out", tmp_path / "figure.png", alpha=0.9)
    z = read(tmp_path, "contrasts/contrast-first_stat-z_statmap")[:10, 0]
    assert drawn.threshold == find_fdr_threshold(z, 0.9, two_sided=True)
    sidecar = tmp_path / "out" / "contrasts" / "contrast-first_desc-estimable_mask.json"
    assert json.loads(sidecar.read_text())["Contrast"]["Name"] == "first"
