"""The saved model says exactly what was fitted, in text, and is whole or refused."""

import csv
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from saved_models import load_fitted, write_fitted

from nipype_blm.cli.blm import main
from nipype_blm.core.factors import RandomFactor
from nipype_blm.errors import InputError
from nipype_blm.interfaces import BLM
from nipype_blm.results.maps import is_result_name
from nipype_blm.results.saved import (
    FittedModel,
    SavedContrast,
    SavedImage,
    SavedModel,
    is_model_file,
    pack_fitted,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
# Whatever a header, a label or a path may hold, but for half of a surrogate pair.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def fitted_models(draw: Any) -> FittedModel:
    """Return any model: of numbers of any size, and names with tabs, quotes and ends of lines."""
    n, p, q = draw(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)))

    def array(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.array(draw(st.lists(NUMBERS, min_size=size, max_size=size))).reshape(shape)

    def texts(number: int, unique: bool = False) -> list[str]:
        return draw(st.lists(TEXTS, min_size=number, max_size=number, unique=unique))

    names = texts(2, unique=True)
    level = np.arange(n, dtype=np.int32) % 2
    return FittedModel(
        model="blmm",
        X=array(n, p),
        column_names=tuple(texts(p)),
        contrasts=(
            SavedContrast(names[0], "a", False, array(1, p)),
            SavedContrast(names[1], "b", True, array(q, p)),
        ),
        images=tuple(
            SavedImage(path, i, draw(st.integers(0, 2**40)), draw(st.integers(0, 2**62)))
            for i, path in enumerate(texts(n))
        ),
        options={"tol": draw(NUMBERS), "n_starts": None, "method": "exact", "reml": True},
        versions={"nipype_blm": draw(TEXTS)},
        factors=(RandomFactor(draw(TEXTS), level, array(n, q), draw(st.booleans())),),
        effect_names=(tuple(texts(q)),),
        level_names=(tuple(texts(min(n, 2))),),
        notices=texts(2),
    )


def assert_equal(one: Any, other: Any) -> None:
    """Assert that two values are the same, bit for bit, and so are all that they hold."""
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
        assert_array_equal(one, other)
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@given(fitted_models())
def test_any_model_reads_back_bit_for_bit(tmp_path_factory, fitted):
    folder = tmp_path_factory.mktemp("out")
    write_fitted(folder, fitted)
    found = load_fitted(SavedModel(folder))
    for field in fields(fitted):
        assert_equal(getattr(fitted, field.name), getattr(found, field.name))


MASKED = SavedImage("/data/a.nii", 0, 10, 20, "/data/m.nii", 3, 30, 40)


@pytest.fixture
def fitted() -> FittedModel:
    level = np.array([0, 0, 1], np.int32)
    return FittedModel(
        model="blmm",
        X=np.array([[1.0, 0.1], [1.0, 1 / 3], [1.0, -2e-300]]),
        column_names=("one", "age"),
        contrasts=(
            SavedContrast("age", "age", False, np.array([[0.0, 1.0]])),
            SavedContrast("both", "both", True, np.eye(2)),
        ),
        images=(MASKED, *(SavedImage(f"/data/{name}.nii", 0, 10, 20) for name in "bc")),
        options={"reml": True, "tol": 1e-6, "minlog": -323.306},
        versions={"nipype_blm": "1"},
        factors=(RandomFactor("person", level, np.ones((3, 1))),),
        effect_names=(("intercept",),),
        level_names=(("Ann", "Bob"),),
    )


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    """Return a table as any program reads it."""
    with (folder / "model" / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_tables_are_plain_text_with_names_of_columns(tmp_path, fitted):
    write_fitted(tmp_path, fitted)
    assert (tmp_path / "model" / "X.tsv").read_text() == (
        "one\tage\n1.0\t0.1\n1.0\t0.3333333333333333\n1.0\t-2e-300\n"
    )
    first, second, _ = read_table(tmp_path, "images.tsv")
    assert (first["image"], first["mask"], first["mask_volume"]) == (
        "/data/a.nii",
        "/data/m.nii",
        "3",
    )
    assert (second["size"], second["mtime_ns"], second["mask"]) == ("10", "20", "")
    rows = read_table(tmp_path, "contrasts.tsv")
    assert [(row["name"], row["test"], row["row"], row["age"]) for row in rows] == [
        ("age", "T", "1", "1.0"),
        ("both", "F", "1", "0.0"),
        ("both", "F", "2", "1.0"),
    ]
    rows = read_table(tmp_path, "factor-1.tsv")
    assert [(row["level"], row["label"], row["intercept"]) for row in rows] == [
        ("0", "Ann", "1.0"),
        ("0", "Ann", "1.0"),
        ("1", "Bob", "1.0"),
    ]


def test_every_file_column_and_option_is_described_in_words(tmp_path, fitted):
    write_fitted(tmp_path, fitted)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["Files"].keys() == {p.name for p in (tmp_path / "model").iterdir()} - {
        "model.json"
    }
    for name, file in described["Files"].items():
        assert file["Description"].endswith(".")
        header = (tmp_path / "model" / name).read_text().splitlines()[0].split("\t")
        assert [column["Name"] for column in file["Columns"]] == header
        assert all(column["Description"].endswith(".") for column in file["Columns"])
    assert {k: v["Value"] for k, v in described["Options"].items()} == fitted.options
    assert all(v["Description"].endswith(".") for v in described["Options"].values())


# ------------------------------------------------------------------------- what is refused


def test_what_is_no_folder_of_results_is_refused_with_what_is_there(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/gone is not a folder; expected the outdir"):
        SavedModel(tmp_path / "gone")
    with pytest.raises(InputError, match=r"has no model/model.json; expected .* It is empty"):
        SavedModel(tmp_path)
    for name in ("notes.txt", "photos.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"It has notes\.txt and 1 more\.$"):
        SavedModel(tmp_path)
    (tmp_path / "blm_vox_beta.nii").write_text("")
    (tmp_path / "inputs.yml").write_text("")
    with pytest.raises(InputError) as error:
        SavedModel(tmp_path)
    [problem] = error.value.problems
    assert "It has blm_vox_beta.nii and 3 more, as of an earlier version" in problem
    assert problem.endswith(f"Run it again, as from {tmp_path}/inputs.yml.")


NAMES = ("X.tsv", "images.tsv", "contrasts.tsv", "factor-1.tsv")


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_without_a_part_is_refused_at_once(tmp_path, fitted, name):
    write_fitted(tmp_path, fitted)
    (tmp_path / "model" / name).unlink()
    with pytest.raises(
        InputError, match=rf"model has no {name}, so that only a part .* run it again"
    ):
        SavedModel(tmp_path)


def cut(content: bytes) -> bytes:
    return content[:-2]


def flip(content: bytes) -> bytes:
    """Change one digit, as a hand or a disk may."""
    at = max(content.rfind(digit) for digit in (b"1", b"2", b"3"))
    return content[:at] + b"7" + content[at + 1 :]


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("name", [*NAMES, "model.json"])
@pytest.mark.parametrize("change", [cut, flip, empty])
def test_a_damaged_or_edited_file_is_one_clear_error(tmp_path, fitted, name, change):
    write_fitted(tmp_path, fitted)
    path = tmp_path / "model" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as error:
        load_fitted(SavedModel(tmp_path))
    [problem] = error.value.problems
    assert problem.startswith(f"{path} is not as the run wrote it: damaged, cut off or edited; ")
    assert problem.endswith("or run it again.")


OF_NO_VERSION = '{"Format": 2, "Fingerprint": "", "Versions": 5}'
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"Fingerprint": ""}', "null", "\x00", OF_NO_VERSION, DEEP]
)
def test_a_description_of_another_kind_is_damaged(tmp_path, fitted, content):
    write_fitted(tmp_path, fitted)
    (tmp_path / "model" / "model.json").write_text(content)
    with pytest.raises(InputError, match="is not as the run wrote it"):
        SavedModel(tmp_path)


def test_a_model_of_a_later_version_asks_for_it(tmp_path, fitted):
    write_fitted(tmp_path, fitted)
    path = tmp_path / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Format": 99}))
    with pytest.raises(InputError, match=r"was written by nipype_blm 1, .* update nipype_blm"):
        SavedModel(tmp_path)


def test_a_table_whose_content_is_still_to_be_fetched_says_how(tmp_path, fitted):
    """As in a clone of a repository of git-annex or DataLad."""
    write_fitted(tmp_path, fitted)
    path = tmp_path / "model" / "X.tsv"
    path.unlink()
    path.symlink_to("../.git/annex/objects/k1/X.tsv")
    saved = SavedModel(tmp_path)
    assert saved.model == "blmm"
    with pytest.raises(InputError, match="datalad get"):
        _ = saved.X


def test_a_folder_may_be_a_link_and_named_by_text(tmp_path, fitted):
    write_fitted(tmp_path, fitted)
    (tmp_path / "link").symlink_to(tmp_path)
    assert SavedModel(str(tmp_path / "link")).column_names == ("one", "age")


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        *((f"model/{name}", True) for name in (*NAMES, "model.json", "factor-12.tsv")),
        *(
            (f"model/{name}", False)
            for name in ("X.csv", "factor-.tsv", "factor-1a.tsv", "a/X.tsv")
        ),
        ("X.tsv", False),
        ("models/X.tsv", False),
    ],
)
def test_only_names_that_a_run_gives_are_taken_for_its_model(name, is_ours):
    assert is_model_file(name) == is_ours
    assert is_result_name(name, "blm") == is_ours
    assert is_result_name(name, "blmm") == is_ours


def test_every_file_that_is_written_is_known(fitted):
    assert all(is_model_file(f"model/{name}") for name in pack_fitted(fitted))


# ------------------------------------------------------------------------ how runs write it


def read_model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_every_way_of_running_writes_the_same_model(study, model):
    folders = [
        getattr(study, way)(model, f"{way}_{model}") for way in ("command", "node", "workflow")
    ]
    command, node, workflow = map(read_model_files, folders)
    assert command == node == workflow
    assert command.keys() == {"model.json", *NAMES[: 4 if model == "blmm" else 3]}


def read_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "model").iterdir()}


def test_a_run_replaces_what_changed_and_leaves_the_rest(study):
    folder = study.command("blmm", "out")
    before = read_times(folder)
    study.command("blmm", "out")  # nothing to do
    assert read_times(folder) == before
    for path in (folder / "model").iterdir():  # as if by hand
        path.write_bytes(b"edited")
        study.command("blmm", "out")
        assert SavedModel(folder).X.shape == (20, 3)
    shutil.rmtree(folder / "model")
    study.command("blmm", "out")
    before = read_times(folder)
    study.command("blmm", "out", more="two_sided: true\n")
    changed = {name for name, time in read_times(folder).items() if time != before[name]}
    assert changed == {"model.json"}


def test_files_of_a_factor_that_is_gone_are_removed_and_those_of_users_stay(study):
    second = "  - f2: {name: scanner, factor: scanner.txt, design: intercept.csv}\n"
    folder = study.command("blmm", "out", more=second)
    (folder / "model" / "notes.txt").write_text("mine")
    assert {"factor-1.tsv", "factor-2.tsv"} <= read_times(folder).keys()
    study.command("blmm", "out")
    assert read_times(folder).keys() == {*NAMES, "model.json", "notes.txt"}


def test_a_design_that_the_model_would_replace_is_refused(study, capsys):
    folder = study.command("blm", "out")
    path = study.folder / "out.yml"
    path.write_text(path.read_text().replace("design.csv", "out/model/X.tsv"))
    assert main([str(path)]) == 2
    assert f"{folder}/model/X.tsv is read, but the maps would replace it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model", "model/X.tsv", "model/model.json"])
def test_files_of_others_where_the_model_goes_are_refused_before_anything_runs(study, capsys, name):
    path = study.folder / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(AssertionError):
        study.command("blm", "out")
    assert f"{path} was written by no run, but the model" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert not list((study.folder / "out").glob("*.nii"))


def test_a_model_whose_record_is_lost_is_replaced(study):
    folder = study.command("blm", "out")
    (folder / ".nipype_blm.json").unlink()
    study.command("blm", "out", more="two_sided: true\n")
    assert SavedModel(folder).options["two_sided"] is True


def test_a_model_beside_maps_of_a_version_that_writes_none_is_refused(study):
    folder = study.command("blm", "out")
    record = json.loads((folder / ".nipype_blm.json").read_text())
    files = {name: found for name, found in record["files"].items() if not is_model_file(name)}
    (folder / ".nipype_blm.json").write_text(
        json.dumps(record | {"stamp": "earlier", "files": files})
    )
    with pytest.raises(InputError, match="is not the model of the maps beside it"):
        SavedModel(folder)
    study.command("blm", "out")
    assert SavedModel(folder).model == "blm"


def test_results_of_a_run_that_was_interrupted_while_it_replaced_others_are_refused(
    study, monkeypatch
):
    folder = study.command("blm", "out")
    moved = []

    def move(source: Path, target: Path) -> Path:
        if target.parent.name == "out" and target.suffix == ".nii":
            moved.append(target)
        if len(moved) > 2:
            raise KeyboardInterrupt
        return replace_file(source, target)

    replace_file = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move)
        assert main([str(study.folder / "out.yml"), "--quiet"]) == 0  # nothing to replace
        path = study.folder / "out.yml"
        path.write_text(path.read_text() + "data_mask_thresh: 99.5\n")
        assert main([str(path), "--quiet"]) != 0
    with pytest.raises(InputError, match="has results of two runs: one is replacing those of"):
        SavedModel(folder)
    study.command("blm", "out")
    assert SavedModel(folder).model == "blm"


def test_the_saved_model_is_the_one_that_was_asked_for(study):
    more = "match_rows: by_order\ndata_mask_thresh: 3.5\nMissingness: {MinN: 7}\nreml: false\n"
    saved = SavedModel(study.command("blmm", "out", more=more))
    by_path = {image.image: row for row, image in enumerate(saved.images)}
    names = (study.folder / "images.txt").read_text().split()
    order = [by_path[str(study.folder / name)] for name in names]
    assert_array_equal(saved.X[order], study.X)
    assert saved.column_names == ("one", "age", "group")
    [factor], [levels] = saved.factors, saved.level_names
    labels = (study.folder / "person.txt").read_text().split()
    assert [levels[i] for i in factor.level[order]] == labels
    assert_array_equal(factor.Z[order], study.X[:, :2])
    assert saved.effect_names == (("one", "age"),)
    assert (factor.name, factor.correlated, saved.criterion) == ("person", False, "ML")
    for row, image in enumerate(saved.images):
        found = Path(image.image).stat()
        assert (image.volume, image.size, image.mtime_ns) == (0, found.st_size, found.st_mtime_ns)
        assert image.mask is None, row
    expected = {"threshold": 3.5, "minimum_n": 7, "zero_is_missing": True}
    expected |= {"deficient": "refuse", "method": "exact", "safe_mode": True, "two_sided": False}
    assert saved.options.items() >= expected.items()
    assert saved.versions.keys() >= {"nipype_blm", "numpy", "numba", "python"}


def test_values_of_numpy_and_names_with_spaces_are_written_as_text(study):
    """save_glm_to_bids() of nilearn failed on parameters that JSON does not have."""
    interface = BLM(**study.traits("blm"))
    interface.inputs.contrasts = [{"name": "effects of interest", "vector": np.eye(3, dtype=int)}]
    interface.inputs.data_mask_thresh = np.float32(0.5)
    interface.inputs.min_percent = np.float64(0.3)
    interface.inputs.out_dir = str(study.folder / "out")
    interface.run(cwd=study.folder)
    saved = SavedModel(study.folder / "out")
    [contrast] = saved.saved_contrasts
    assert (contrast.name, contrast.label) == ("effects of interest", "effectsOfInterest")
    assert_array_equal(contrast.matrix, np.eye(3))
    assert (saved.options["threshold"], saved.options["minimum_n"]) == (0.5, 6)
