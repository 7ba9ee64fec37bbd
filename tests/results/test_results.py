"""A folder of results is enough: for users, figures, summaries and comparisons of models."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from saved_models import change_fitted

import nipype_blm
from nipype_blm.cli.compare import main as compare
from nipype_blm.core.status import VoxelStatus
from nipype_blm.errors import InputError
from nipype_blm.report.figures import plot_maps, plot_z_maps
from nipype_blm.report.summary import summarise_run
from nipype_blm.results import results as results_module

AGE, ANY = "age", "age or <group>"


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["blm", "blmm"])
def results(request, runs):
    return nipype_blm.Results(runs[request.param])


def read(results, name):
    [path] = results.folder.glob(f"{name}.nii*")
    return np.asarray(nib.load(path).dataobj)


def test_maps_are_arrays_and_images_by_name(results):
    for name in results.maps:
        expected = read(results, f"{results.model}_vox_{name}")
        assert_array_equal(results.array(name), expected)
        assert_array_equal(np.asarray(results.image(name).dataobj), expected)
        assert_array_equal(results.array(f"{results.model}_vox_{name}"), expected)
        assert results.path(name).name.startswith(f"{results.model}_vox_{name}.nii")
        assert results.describe(name)["GeneratedBy"]["Name"] == "nipype_blm"
    assert {"beta", "status", "conT"} <= set(results.maps)
    assert ("icc" in results.maps) == (results.model == "blmm")
    assert "resms" not in results.maps or results.model == "blm"


def test_a_volume_is_chosen_by_its_label_or_its_number(results):
    beta = read(results, f"{results.model}_vox_beta")
    for i, name in enumerate(results.column_names):
        assert_array_equal(results.array("beta", name), beta[..., i])
        assert_array_equal(np.asarray(results.image("beta", i).dataobj), beta[..., i])
    assert results.array("conT", AGE).shape == beta.shape[:3]
    for volume in ("dose", 3, -1):
        with pytest.raises(
            InputError, match=f"no volume {volume!r}; it has those of one, age, group"
        ):
            results.array("beta", volume)
    with pytest.raises(InputError, match="one volume only, without a label"):
        results.array("mask", 1)


def test_vectors_are_the_values_of_maps_at_the_voxels_of_the_result(results):
    inside = read(results, f"{results.model}_vox_mask").ravel(order="F") == 1
    assert results.space.n_features == inside.sum()
    assert_array_equal(results.space.positions, np.flatnonzero(inside))
    assert results.space.find_neighbours().shape == (inside.sum(), inside.sum())
    for name in results.maps:
        volumes = read(results, f"{results.model}_vox_{name}").reshape(inside.size, -1, order="F")
        expected = volumes[inside].T
        labels = results.describe(name).get("Volumes", [])
        for number, label in enumerate(labels):
            assert_array_equal(results.vector(name, label), expected[number])
            assert_array_equal(results.vector(name, number), expected[number])
        if len(labels) < 2:
            assert_array_equal(results.vector(name), expected[0])
    with pytest.raises(InputError, match=r"beta.* has several volumes; name one: those of one"):
        results.vector("beta")
    with pytest.raises(InputError, match="no volume 'dose'"):
        results.vector("beta", "dose")
    age, both = results.contrasts.values()
    for contrast, kind, volume in ((age, "z", None), (age, "t", None), (both, "effect", 1)):
        image = contrast.array(kind, volume).ravel(order="F")
        assert_array_equal(contrast.vector(kind, volume), image[inside])


def test_contrasts_are_found_by_name_with_weights_and_maps(results):
    assert list(results.contrasts) == [AGE, ANY]
    age, both = results.contrasts.values()
    assert_array_equal(age.weights, [[0, 1, 0]])
    assert_array_equal(both.weights, [[0, 1, 0], [0, 0, 1]])
    assert (age.is_f, both.is_f, both.label) == (False, True, "ageOrLtGroupGt")
    for contrast, stat in ((age, "t"), (both, "F")):
        for kind in ("effect", "variance", "z", "p", stat):
            name = f"contrasts/contrast-{contrast.label}_stat-{kind}_statmap"
            assert_array_equal(contrast.array(kind), read(results, name))
            assert contrast.describe(kind)["Contrast"]["Name"] == contrast.name
        assert_array_equal(contrast.array("stat"), contrast.array(stat))
        assert contrast.image("z").shape == results.mask.shape
        assert_array_equal(contrast.mask, results.mask)
    dof = "edf" if results.model == "blm" else "conT_swedf"
    assert_array_equal(age.array("dof"), results.array(dof).reshape(results.mask.shape))
    assert_array_equal(both.array("variance", "rows 1, 2"), both.array("variance")[..., 1])
    with pytest.raises(KeyError, match="'old' is no contrast of this run; it has age, age or"):
        results.contrasts["old"]
    with pytest.raises(InputError, match="'q' is no map of a contrast; it has effect, variance"):
        age.image("q")


def test_a_contrast_that_is_not_estimable_everywhere_has_a_mask_of_its_own(runs, tmp_path):
    folder = shutil.copytree(runs["blm"], tmp_path / "copy")
    results = nipype_blm.Results(folder)
    own = np.zeros(results.mask.shape, np.uint8)
    own[2, 3, 1] = 1
    path = folder / "contrasts" / "contrast-age_desc-estimable_mask.nii"
    nib.save(nib.Nifti1Image(own, results.image("mask").affine), path)
    assert_array_equal(results.contrasts[AGE].mask, own == 1)
    assert_array_equal(results.contrasts[ANY].mask, results.mask)


def test_what_was_fitted_is_said_in_arrays_and_names(results):
    is_mixed = results.model == "blmm"
    assert results.X.shape == (20, 3)
    assert results.column_names == ("one", "age", "group")
    assert [Path(image.image).name for image in results.images] == [
        f"sub-{i:02d}.nii.gz" for i in range(20)
    ]
    assert [factor.name for factor in results.factors] == ["person"] * is_mixed
    assert results.criterion == ("REML" if is_mixed else None)
    assert_array_equal(results.mask, read(results, f"{results.model}_vox_mask") == 1)
    assert results.n_fitted == results.mask.sum()
    status = read(results, f"{results.model}_vox_status")
    assert results.counts == {
        VoxelStatus(value): n
        for value, n in zip(*np.unique(status, return_counts=True), strict=True)
    }
    assert results.options["minlog"] < 0
    assert results.versions["nipype_blm"] == nipype_blm.__version__
    assert results.notices == json.loads(
        (results.folder / f"{results.model}_vox_n.json").read_text()
    ).get("Notices", [])


def test_the_table_of_images_becomes_one_of_pandas(results):
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    table = pandas.DataFrame(results.images)
    assert table["size"].tolist() == [image.size for image in results.images]
    assert table.columns[:4].tolist() == ["image", "volume", "size", "mtime_ns"]


def test_a_summary_says_what_the_command_says(results):
    text = summarise_run(results)
    levels = ", 5 levels of person" if results.model == "blmm" else ""
    assert text.startswith(f"20 images, 3 columns of X{levels}\n")
    assert f"{results.counts[VoxelStatus.FITTED]:,} voxels fitted" in text
    assert "row left out" not in text


def test_it_says_in_a_line_what_it_is(results):
    assert repr(results) == (
        f"<Results of {results.model} in {results.folder}: 20 images, 3 columns of X, "
        f"{results.n_fitted} voxels; contrasts: age, age or <group>>"
    )
    assert repr(results.contrasts[AGE]) == "<T contrast age: [[0.0, 1.0, 0.0]]>"


# ------------------------------------------------------------------------------ in a notebook


def test_a_notebook_shows_tables_and_a_picture_and_nothing_is_left_behind(
    results, monkeypatch, tmp_path
):
    pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")
    monkeypatch.setattr(socket.socket, "connect", None)  # no network
    monkeypatch.chdir(tmp_path)
    before = contents_of(results.folder)
    page = results._repr_html_()
    assert "src='data:image/png;base64,iVBORw0KGgo" in page
    assert "age or &lt;group&gt;" in page
    assert "<group>" not in page
    for text in ("one, age, group", str(results.folder), *map(str, results.counts.values())):
        assert text in page
    assert ("person: 5 levels; one, age" in page) == (results.model == "blmm")
    assert contents_of(results.folder) == before
    assert not list(tmp_path.iterdir())


def test_without_the_extra_a_notebook_shows_the_tables_alone(results, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "nilearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nilearn", None)
    page = results._repr_html_()
    assert "<img" not in page
    assert "Install nipype_blm[plot] to see the z maps here." in page
    assert "one, age, group" in page


def test_a_notebook_shows_what_is_left_of_a_copy(runs, tmp_path):
    folder = shutil.copytree(runs["blm"], tmp_path / "copy")
    shutil.rmtree(folder / "contrasts")
    page = nipype_blm.Results(folder)._repr_html_()
    assert "<img" not in page
    assert "one, age, group" in page


def test_the_package_loads_its_reader_only_when_it_is_wanted():
    program = (
        "import sys, nipype_blm\n"
        "before = 'numpy' in sys.modules\n"
        "name = nipype_blm.Results.__name__\n"
        "print(before, name, 'numpy' in sys.modules, 'nipype' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "Results", "True", "False"]
    assert issubclass(nipype_blm.Results, results_module.Results)
    with pytest.raises(AttributeError, match="has no attribute 'Result'"):
        _ = nipype_blm.Result


# ------------------------------------------------------------------- the inputs are gone


def test_comparison_figures_and_summary_need_no_input_and_no_working_folder(runs, tmp_path):
    """The runs were moved, and images, design, labels, configuration and work were removed."""
    assert not list(runs["blm"].parents[1].glob("study"))
    assert not (runs["blm"] / "inputs.yml").exists()
    pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")
    linear, mixed = (nipype_blm.Results(runs[model]) for model in ("blm", "blmm"))
    # A model with one effect in the place of two: the larger one adds one to none.
    one = shutil.copytree(mixed.folder, tmp_path / "one")
    [factor] = mixed.factors
    change_fitted(one, factors=[factor._replace(Z=factor.Z[:, :1])], effect_names=[["one"]])
    out = tmp_path / "comparison"
    assert compare([str(linear.folder), str(one), str(out)]) == 0
    assert (nib.load(out / "blmm_vox_mask.nii.gz").get_fdata() == linear.mask).all()
    for results in (linear, mixed):
        drawn = plot_z_maps(results.folder, tmp_path / f"{results.model}.png")
        assert [row.name for row in drawn] == [AGE, ANY]
        assert drawn[0].n_voxels > 0  # every voxel has an effect of age
        assert "voxels fitted" in summarise_run(results)
    plot_maps({"icc": mixed.image("icc", "person")}, tmp_path / "icc.png")


def test_a_folder_on_a_read_only_disk_is_read(runs, tmp_path, as_ordinary_user):
    folder = shutil.copytree(runs["blmm"], tmp_path / "copy")
    program = (
        "import sys, nipype_blm; r = nipype_blm.Results(sys.argv[1]); r._repr_html_()\n"
        "print(r.X.sum(), r.array('beta').sum(), r.contrasts['age'].array('z').max())"
    )
    command = [*as_ordinary_user, sys.executable, "-c", program, str(folder)]
    usual = subprocess.run(command, capture_output=True, text=True, check=True)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        touch = [*as_ordinary_user, "touch", str(folder / "model" / "new")]
        assert subprocess.run(touch, capture_output=True).returncode != 0
    finally:
        for path in paths:
            path.chmod(0o755)
    assert found.stdout == usual.stdout


def test_a_relative_folder_stays_the_same_when_the_current_one_changes(runs, monkeypatch):
    monkeypatch.chdir(runs["blm"].parent)
    results = nipype_blm.Results("linear")
    monkeypatch.chdir("/")
    assert results.array("mask").any()


def test_a_map_that_was_not_copied_is_named_with_those_that_were(runs, tmp_path):
    folder = shutil.copytree(runs["blm"], tmp_path / "copy")
    (folder / "blm_vox_beta.nii").unlink()
    (folder / "blm_vox_llh.json").unlink()
    results = nipype_blm.Results(folder)
    assert "beta" not in results.maps
    with pytest.raises(
        InputError, match=r"has no blm_vox_beta\.nii or \.nii\.gz; .* It has mask, "
    ):
        results.image("beta")
    with pytest.raises(InputError, match=r"The JSON file beside .*blm_vox_llh.nii cannot be read"):
        results.describe("llh")


# ------------------------------------------------------ what people could not do elsewhere


def make_larger(runs, tmp_path):
    """Return the linear run and one with a random intercept, of the same images."""
    larger = shutil.copytree(runs["blmm"], tmp_path / "larger")
    [factor] = nipype_blm.Results(larger).factors
    change_fitted(larger, factors=[factor._replace(Z=factor.Z[:, :1])], effect_names=[["one"]])
    return runs["blm"], larger


def move_images(folder, change):
    """Have the images of a run lie elsewhere, as `change` says of each."""
    change_fitted(folder, images=[change(image) for image in nipype_blm.Results(folder).images])


def compare_folders(smaller, larger, tmp_path, capsys):
    code = compare([str(smaller), str(larger), str(tmp_path / "out"), "--quiet"])
    return code, capsys.readouterr().err


def test_models_fitted_before_and_after_a_study_was_moved_are_compared(runs, tmp_path, capsys):
    """Absolute paths in SPM.mat and design.fsf are broken by that."""
    smaller, larger = make_larger(runs, tmp_path)
    folder = nipype_blm.Results(larger).images[0].image.partition("/images/")[0]

    def move(image):
        moved = image.image.replace(folder, "/mnt/other disk")
        # An archive keeps whole seconds.
        return image._replace(image=moved, mtime_ns=image.mtime_ns // 10**9 * 10**9)

    move_images(larger, move)
    assert compare_folders(smaller, larger, tmp_path, capsys) == (0, "")


def test_images_smoothed_otherwise_in_a_folder_beside_are_other_images(runs, tmp_path, capsys):
    """They have the same names, and uncompressed ones also the same size."""
    smaller, larger = make_larger(runs, tmp_path)

    def smooth(image):
        return image._replace(
            image=image.image.replace("/images/", "/smooth8/"), mtime_ns=image.mtime_ns + 60 * 10**9
        )

    move_images(larger, smooth)
    code, message = compare_folders(smaller, larger, tmp_path, capsys)
    assert code == 2
    assert "of which 20 had another size or time of modification" in message
    assert "/images/sub-00.nii.gz and " in message


def test_models_of_different_numbers_of_images_are_refused(runs, tmp_path, capsys):
    """lrtest() of R's rms takes them, and gives a p-value of nothing."""
    smaller, larger = make_larger(runs, tmp_path)
    saved = nipype_blm.Results(larger)
    factors = [f._replace(level=f.level[1:], Z=f.Z[1:]) for f in saved.factors]
    change_fitted(larger, X=saved.X[1:], images=saved.images[1:], factors=factors)
    code, message = compare_folders(smaller, larger, tmp_path, capsys)
    assert code == 2
    assert "name 20 and 19 images; both models need the same data" in message


def test_the_same_images_in_another_order_are_compared_with_their_own_rows(runs, tmp_path, capsys):
    smaller, larger = make_larger(runs, tmp_path)
    assert compare_folders(smaller, larger, tmp_path, capsys) == (0, "")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.nii.gz")}
    saved = nipype_blm.Results(larger)
    order = np.random.default_rng(0).permutation(20)
    [factor] = saved.factors
    change_fitted(
        larger,
        X=saved.X[order],
        images=[saved.images[i] for i in order],
        factors=[factor._replace(level=factor.level[order], Z=factor.Z[order])],
    )
    shutil.rmtree(tmp_path / "out")
    assert compare_folders(smaller, larger, tmp_path, capsys) == (0, "")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.nii.gz")} == before


def test_volumes_of_one_image_and_an_image_listed_twice_are_matched(runs, tmp_path, capsys):
    smaller, larger = make_larger(runs, tmp_path)
    smaller = shutil.copytree(smaller, tmp_path / "smaller")
    for folder in (smaller, larger):
        images = nipype_blm.Results(folder).images
        listed = [
            image._replace(image="/data/all.nii", volume=max(i, 1), size=5, mtime_ns=7)
            for i, image in enumerate(images)
        ]
        change_fitted(folder, images=listed)
    assert compare_folders(smaller, larger, tmp_path, capsys) == (0, "")


def test_a_folder_that_was_handed_on_without_its_hidden_files_is_complete(runs, tmp_path):
    """As by cp results/* or from a download."""
    folder = tmp_path / "handed"
    folder.mkdir()
    for path in runs["blm"].iterdir():
        if not path.name.startswith("."):
            shutil.copy(path, folder) if path.is_file() else shutil.copytree(
                path, folder / path.name
            )
    assert nipype_blm.Results(folder).contrasts[AGE].array("z").any()
