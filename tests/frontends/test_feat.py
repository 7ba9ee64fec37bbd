"""A folder as FEAT leaves it after a group analysis, given to be fitted again."""

from argparse import Namespace

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_array_equal

from nipype_blm.cli.blm import main
from nipype_blm.cli.fit import run_request
from nipype_blm.cli.main import main as fit
from nipype_blm.errors import InputError
from nipype_blm.frontends.feat import read
from nipype_blm.frontends.record import write_inputs
from nipype_blm.io.vest import format_vest
from nipype_blm.results.results import Results

SHAPE, N = (4, 3, 3), 12
SPACE = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
RNG = np.random.default_rng(5)
X = np.c_[np.ones(N), RNG.normal(size=N)]
WEIGHTS = np.array([[1.0, 0], [0, 1]])
COPES = {1: RNG.normal(2, 1, (*SHAPE, N)), 2: RNG.normal(0, 1, (*SHAPE, N))}
MASK = RNG.random(SHAPE) < 0.8


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), SPACE), path)


def write_designs(folder, groups=(1,) * N):
    (folder / "design.fsf").write_text("# FEAT version number\nset fmri(version) 6.00\n")
    (folder / "design.mat").write_text(format_vest(X, "mat"))
    (folder / "design.con").write_text(format_vest(WEIGHTS, "con", ["mean", "age"]))
    (folder / "design.fts").write_text(format_vest(np.ones((1, 2)), "fts"))
    (folder / "design.grp").write_text(format_vest(np.array(groups)[:, None], "grp"))


@pytest.fixture
def gfeat(tmp_path):
    """The folder of FSL 6: designs and masks in it and in that of each cope, data in these."""
    folder = tmp_path / "group.gfeat"
    for number, values in COPES.items():
        cope = folder / f"cope{number}.feat"
        inside = values * MASK[..., None]  # FEAT masks what it hands on
        save(cope / "filtered_func_data.nii.gz", inside)
        save(cope / "var_filtered_func_data.nii.gz", inside**2)
        save(cope / "mask.nii.gz", MASK)
        save(cope / "stats" / "cope1.nii.gz", inside[..., 0])
        write_designs(cope)
    write_designs(folder)
    save(folder / "mask.nii.gz", MASK)
    save(folder / "mean_func.nii.gz", MASK)
    (folder / "report.html").write_text("<HTML>")
    return folder


def run(request):
    options = dict.fromkeys(("graph", "plugin", "plugin_args", "pool", "report"))
    options |= {"check": False, "clean": False, "quiet": True, "reports": False}
    return run_request(request, Namespace(**options))


def write_study(folder, number):
    """Write what FEAT had from its users: an image of each subject, and a table."""
    for i in range(N):
        save(folder / f"sub{i}.nii.gz", COPES[number][..., i] * MASK)
    save(folder / "group_mask.nii.gz", MASK)
    np.savetxt(folder / "X.csv", X, "%.17g", ",")
    (folder / "Y.txt").write_text("".join(f"sub{i}.nii.gz\n" for i in range(N)))
    fields = {
        "Y_files": "Y.txt",
        "X": "X.csv",
        "analysis_mask": "group_mask.nii.gz",
        "outdir": "by_hand",
        "contrasts": [
            {"name": "mean", "vector": [1, 0]},
            {"name": "age", "vector": [0, 1]},
            {"name": "F1", "vector": [[1, 0], [0, 1]]},
        ],
    }
    (folder / "by_hand.yml").write_text(yaml.safe_dump(fields))
    assert main(["--quiet", str(folder / "by_hand.yml")]) == 0
    return Results(folder / "by_hand")


def assert_same_maps(one, other):
    assert one.maps == other.maps
    assert list(one.contrasts) == list(other.contrasts)
    for name in one.maps:
        assert_array_equal(one.array(name), other.array(name))
    for name, contrast in one.contrasts.items():
        for kind in ("effect", "variance", "stat", "z", "p"):
            assert_array_equal(contrast.array(kind), other.contrasts[name].array(kind))


def test_a_group_analysis_gives_the_maps_of_the_same_data_and_can_be_run_again(gfeat, tmp_path):
    request = read(gfeat, tmp_path / "out", cope=1)
    assert request.faults == []
    assert run(request) == 0
    results = Results(tmp_path / "out")
    assert results.n_fitted == MASK.sum()
    assert_same_maps(results, write_study(tmp_path, 1))
    # What is recorded is a configuration by itself.
    record = {**request.record, "outdir": str(tmp_path / "again")}
    write_inputs(tmp_path / "again.yml", record)
    assert main(["--quiet", str(tmp_path / "again.yml")]) == 0
    assert_same_maps(results, Results(tmp_path / "again"))


def test_the_command_takes_the_folder_and_the_number_of_a_cope(gfeat, tmp_path, capsys):
    out = tmp_path / "out"
    assert fit(["fit", str(gfeat), str(out), "--cope", "2", "--check"]) == 0
    assert fit(["fit", str(gfeat / "cope2.feat"), str(out), "--check"]) == 0
    assert not out.exists()
    capsys.readouterr()
    assert fit(["fit", str(gfeat), str(out)]) == 2
    assert "has copes 1, 2; choose one, as with --cope 1." in capsys.readouterr().err
    (tmp_path / "sub01.feat" / "stats").mkdir(parents=True)
    assert fit(["fit", str(tmp_path / "sub01.feat"), str(out)]) == 2
    assert "is FEAT's analysis of one image series" in capsys.readouterr().err


def test_one_cope_may_be_given_itself_and_one_alone_need_not_be_named(gfeat, tmp_path):
    image = gfeat / "cope2.feat" / "filtered_func_data.nii.gz"
    request = read(gfeat / "cope2.feat", tmp_path / "out")
    assert [each.path for each in request.images] == [image]
    (gfeat / "cope1.feat").rename(tmp_path / "elsewhere")
    assert [each.path for each in read(gfeat, tmp_path / "out").images] == [image]


def test_designs_and_mask_of_the_group_serve_where_a_cope_has_none(gfeat, tmp_path):
    for name in ("design.mat", "design.con", "design.fts", "mask.nii.gz"):
        (gfeat / "cope1.feat" / name).unlink()
    request = read(gfeat, tmp_path / "out", cope=1)
    assert request.analysis_mask == gfeat / "mask.nii.gz"
    assert_array_equal(request.X.values, X)
    assert len(request.contrasts) == 3


def test_without_f_tests_there_are_t_contrasts(gfeat, tmp_path):
    for folder in (gfeat, gfeat / "cope1.feat"):
        (folder / "design.fts").unlink()
    request = read(gfeat, tmp_path / "out", cope=1)
    assert [each.name for each in request.contrasts] == ["mean", "age"]


def test_what_feat_did_besides_is_said(gfeat, tmp_path):
    [variances] = read(gfeat, tmp_path / "out", cope=1).notices
    assert "The variances of the level below (var_filtered_func_data) are not used" in variances
    write_designs(gfeat / "cope1.feat", (1, 2) * (N // 2))
    (gfeat / "cope1.feat" / "var_filtered_func_data.nii.gz").unlink()
    [groups] = read(gfeat, tmp_path / "out", cope=1).notices
    assert "has 2 groups, each with a variance in FEAT" in groups


def refuse(*arguments, **options):
    with pytest.raises(InputError) as error:
        read(*arguments, **options)
    [problem] = error.value.problems
    return problem


def test_several_copes_need_a_choice(gfeat, tmp_path):
    out = tmp_path / "out"
    assert refuse(gfeat, out).endswith("has copes 1, 2; choose one, as with --cope 1.")
    assert refuse(gfeat, out, 7).endswith("has no cope7.feat; it has copes 1, 2.")
    assert refuse(gfeat / "cope2.feat", out, 1).endswith("is cope 2, but cope 1 is asked for.")


def write_inputs_of_feat(gfeat, make):
    """Name the inputs in design.fsf, as FEAT's window does, and remove their merged images."""
    fsf = gfeat / "cope1.feat" / "design.fsf"
    lines = [f'set feat_files({i}) "{make(i)}"\n' for i in range(1, N + 1)]
    fsf.write_text(fsf.read_text() + "\n# 4D AVW data\n".join(lines))
    (gfeat / "cope1.feat" / "filtered_func_data.nii.gz").unlink()


def test_data_that_scripts_have_deleted_to_save_space_are_missed(gfeat, tmp_path):
    (gfeat / "cope1.feat" / "filtered_func_data.nii.gz").unlink()
    text = refuse(gfeat, tmp_path / "out", 1)
    assert "has no filtered_func_data.nii.gz, the images of the group" in text
    assert "list the copes of the level below in Y_files" in text


INPUTS = {
    "folders of FEAT": (lambda f, i: f / f"{i}.feat", "{i}.feat/reg_standard/stats/cope1.nii.gz"),
    "copes of persons": (
        lambda f, i: f / f"{i}.gfeat" / "cope1.feat",
        "{i}.gfeat/cope1.feat/stats/cope1.nii.gz",
    ),
    "images": (lambda f, i: f / f"{i}" / "cope1", "{i}/cope1.nii.gz"),
}


@pytest.mark.parametrize(("make", "image"), INPUTS.values(), ids=INPUTS)
def test_in_their_place_are_the_copes_that_the_design_names(gfeat, tmp_path, make, image):
    paths = [tmp_path / image.format(i=i) for i in range(1, N + 1)]
    for i, path in enumerate(paths):
        save(path, COPES[1][..., i])
    write_inputs_of_feat(gfeat, lambda i: make(tmp_path, i))
    request = read(gfeat, tmp_path / "out", cope=1)
    assert [each.path for each in request.images] == paths
    assert "read are the 12 copes that its design.fsf names" in request.notices[0]
    assert request.faults == []
    paths[3].unlink()
    assert f"nor has {make(tmp_path, 4)}, that design.fsf names" in refuse(gfeat, tmp_path, 1)


def test_copes_of_which_some_were_left_out_are_not_guessed(gfeat, tmp_path):
    for i in range(1, N + 1):
        save(tmp_path / f"{i}.feat" / "reg_standard" / "stats" / "cope1.nii.gz", MASK)
    write_inputs_of_feat(gfeat, lambda i: tmp_path / f"{i}.feat")
    fsf = gfeat / "cope1.feat" / "design.fsf"
    fsf.write_text(fsf.read_text() + "\nset fmri(copeinput.2) 0\n")
    assert "the images of the group" in refuse(gfeat, tmp_path / "out", 1)


def test_a_first_level_analysis_is_told_from_one_of_a_group(tmp_path):
    folder = tmp_path / "sub01.feat"
    save(folder / "stats" / "cope1.nii.gz", MASK)
    write_designs(folder)
    text = refuse(folder, tmp_path / "out")
    assert "is FEAT's analysis of one image series, not of a group; give the .gfeat" in text
    assert "whose Y_files lists a cope of each" in text


def test_a_folder_that_is_no_analysis_or_not_all_of_one_is_refused(gfeat, tmp_path):
    out = tmp_path / "out"
    assert "has no cope1.feat or the like" in refuse(tmp_path, out)
    assert "is not a folder; expected a group analysis of FEAT" in refuse(tmp_path / "no", out)
    for folder in (gfeat, gfeat / "cope1.feat"):
        (folder / "design.con").unlink()
    assert "has a design.con, so that only a part of the analysis is there" in refuse(gfeat, out, 1)


def test_regressors_with_a_value_for_each_voxel_are_refused(gfeat, tmp_path):
    """In design.mat, which has one number for an image, they cannot be."""
    fsf = gfeat / "cope1.feat" / "design.fsf"
    fsf.write_text(fsf.read_text() + "set fmri(evs_vox) 1\n")
    assert "has 1 regressors with images of their own" in refuse(gfeat, tmp_path / "out", 1)


def test_a_file_that_is_damaged_is_a_fault_of_the_request(gfeat, tmp_path):
    (gfeat / "cope1.feat" / "design.mat").write_text("/NumWaves\t2\n/NumPoints\t12\n")
    request = read(gfeat, tmp_path / "out", cope=1)
    [fault] = request.faults
    assert "X " in fault
    assert "has no line /Matrix" in fault
