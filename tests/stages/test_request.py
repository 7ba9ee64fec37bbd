"""A request made in Python, of arrays and paths of images, gives what a configuration gives."""

from fractions import Fraction
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.specfile import pack_contrasts, pack_model
from nipype_blm.errors import InputError
from nipype_blm.frontends import blm
from nipype_blm.io.publish import Claim
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.request import Factor, ListedPath, Request, Table
from nipype_blm.stages.plan import prepare_run
from nipype_blm.stages.run import run_model

N_OBS, SHAPE = 12, (4, 3, 2)
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=N_OBS)])
LABELS = [f"sub-{i % 4}" for i in range(N_OBS)]
WEIGHTS = {"age": [0, 1], "both": [[1, 0], [0, 1 / 3]]}


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"scan{i:02d}.nii" for i in range(N_OBS)]
    values = RNG.normal(5, 1, (N_OBS, *SHAPE))
    values[RNG.random(values.shape) < 0.1] = np.nan
    for path, image in zip(paths, values, strict=True):
        nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    return paths


def ask_in_python(images, out_dir, is_mixed, **changes):
    factor = Factor("subject", LABELS, Table(np.ones((N_OBS, 1)), ["intercept"]))
    mixed = {"factors": [factor], "estimation": MixedOptions(maxnit=50), "with_resms": False}
    given = {
        "X": Table(X, ["intercept", "age"]),
        "images": [ListedPath(path, f"image {i}") for i, path in enumerate(images)],
        "contrasts": [Contrast(name, weights) for name, weights in WEIGHTS.items()],
        "out_dir": out_dir,
        "min_n": 5,
        "min_percent": Fraction(1, 3),
        "max_bytes": 2**29,
        "images_per_batch": 5,
    }
    return Request(**given | (mixed if is_mixed else {}) | changes)


def ask_in_yaml(images, out_dir, is_mixed):
    folder = images[0].parent
    table = "\n".join(",".join(f"{value:.17g}" for value in row) for row in X)
    (folder / "X.csv").write_text(f"intercept,age\n{table}\n")
    (folder / "Y.txt").write_text("".join(f"{path}\n" for path in images))
    (folder / "level.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (folder / "Z.csv").write_text("intercept\n" + "1\n" * N_OBS)
    mixed = "Z: {name: subject, factor: level.txt, design: Z.csv}\nmaxnit: 50\n"
    (folder / "blm.yml").write_text(
        f"Y_files: Y.txt\nX: X.csv\noutdir: {out_dir}\n{mixed * is_mixed}"
        "contrasts:\n- c1: {name: age, vector: [0 1]}\n- c2: {name: both, vector: '[1 0; 0 1/3]'}\n"
        "Missingness: {minn: 5, MinPercent: 1/3}\nMAXMEM: 2**29\nimages_per_batch: 5\n"
    )
    return blm.read(folder / "blm.yml", "blmm" if is_mixed else "blm")


def fit(request, work_dir):
    run = prepare_run(request, work_folder=work_dir)
    work_dir.mkdir()
    run_model(run, work_dir, request.out_dir, Claim("model", work_dir, overwrite=False))
    return run, {p.name: p.read_bytes() for p in request.out_dir.rglob("*.nii")}


@pytest.mark.parametrize("is_mixed", [False, True], ids=["blm", "blmm"])
def test_arrays_and_a_configuration_give_the_same_model_and_the_same_maps(
    images, tmp_path, is_mixed
):
    run, maps = fit(ask_in_python(images, tmp_path / "python", is_mixed), tmp_path / "w1")
    again, expected = fit(ask_in_yaml(images, tmp_path / "yaml", is_mixed), tmp_path / "w2")
    assert pack_model(run.spec) == pack_model(again.spec)
    assert pack_contrasts(run.contrasts) == pack_contrasts(again.contrasts)
    assert maps == expected
    assert len(maps) > 15


def test_what_only_messages_show_changes_no_fingerprint(images, tmp_path):
    request = ask_in_python(images, tmp_path / "out", is_mixed=True)
    named = ask_in_python(
        images, tmp_path / "out", is_mixed=True, X=request.X._replace(source="the formula")
    )
    stamps = [prepare_run(each).stamps.blocks for each in (request, named)]
    assert stamps[0] == stamps[1]


def test_rows_of_arrays_are_sorted_by_their_names(images, tmp_path):
    order = RNG.permutation(N_OBS)
    names = [f"scan{i:02d}" for i in order]
    table = Table(X[order], ["intercept", "age"], row_names=names)
    request = ask_in_python(images, tmp_path / "out", is_mixed=False, X=table, match_rows="by_name")
    np.testing.assert_array_equal(prepare_run(request).spec.X, X)


def test_faults_of_arrays_are_told_together_in_the_names_of_the_request(images, tmp_path):
    request = ask_in_python(
        images,
        tmp_path / "out",
        is_mixed=True,
        X=Table(X[1:], ["intercept", "age"]),
        contrasts=[Contrast("short", [1])],
        factors=[Factor("a", LABELS[1:], Table(np.ones((N_OBS, 1)), ["1"]), nested_in="b")],
        analysis_mask=Path("/no {such} mask.nii"),
        min_n=99,
        max_bytes=100,
    )
    with pytest.raises(InputError) as error:
        prepare_run(request)
    expected = [
        ("contrasts", "contrast 1 ('short') has 1 weights, but X has 2 columns"),
        ("X", "X has 11 rows"),
        ("min_n", "min_n is 99, but there are only 12 images."),
        ("factors", "factors: f1 is nested_in 'b', which is no other factor."),
        ("factors", "factor 1 has 11 labels, but there are 12 images"),
        ("analysis_mask", "analysis_mask: /no {such} mask.nii does not exist"),
        ("max_bytes", "max_bytes is 100 bytes, too little for even one voxel"),
    ]
    found = {problem: problem.field for problem in error.value.problems}
    for field, start in expected:
        [problem] = [problem for problem in found if problem.startswith(start)]
        assert found[problem] == field
