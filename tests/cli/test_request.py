"""A request made in Python is run as one that was read: nothing but its images is opened."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from nipype_blm.cli import fit
from nipype_blm.errors import InputError, Words
from nipype_blm.frontends import blm
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.request import ListedPath, Request, Table

OPTIONS = argparse.ArgumentParser()
fit._add_options(OPTIONS)


def ask_in_python(study, **changes):
    images = [ListedPath(path, path.name) for path in sorted(study.folder.glob("s??.nii"))]
    given = {
        "X": Table(study.X, ["X1", "X2", "X3"]),
        "images": images,
        "contrasts": [
            Contrast(each["name"], each["vector"])
            for item in study.fields["contrasts"]
            for each in item.values()
        ],
        "out_dir": study.folder / "python",
        "min_n": study.fields.get("Missingness", {}).get("MinN"),
    }
    return Request(**given | changes)


def maps_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.nii"))}


@pytest.fixture
def opened(study):
    """Files that lie beside the images and were opened, in this process."""
    found = set()

    def note(event, arguments):
        if is_noting and event == "open" and isinstance(arguments[0], str):
            path = Path(arguments[0])
            if path.parent == study.folder and not path.is_dir():
                found.add(path.name)

    is_noting = True
    sys.addaudithook(note)
    yield found
    is_noting = False


def test_a_request_of_arrays_is_run_without_any_other_file_than_images(study, opened):
    assert study.run().code == 0
    expected = maps_of(study.outdir)
    assert "blm.yml" in opened
    opened.clear()
    request = ask_in_python(study)
    assert fit.run_request(request, OPTIONS.parse_args(["--quiet"])) == 0
    assert opened == {each.path.name for each in request.images}
    assert maps_of(request.out_dir) == expected
    assert len(expected) > 10
    assert not (request.out_dir / "inputs.yml").exists()


def test_the_same_request_of_arrays_has_nothing_to_do_again(study, capsys):
    request = ask_in_python(study)
    assert fit.run_request(request, OPTIONS.parse_args([])) == 0
    capsys.readouterr()
    assert fit.run_request(request, OPTIONS.parse_args([])) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_a_request_with_a_record_leaves_it_beside_its_maps(study):
    assert study.run().code == 0
    record = blm.read(study.folder / "blm.yml").record
    request = ask_in_python(study, record=record)
    assert fit.run_request(request, OPTIONS.parse_args(["--quiet"])) == 0
    written = (request.out_dir / "inputs.yml").read_text()
    assert written == (study.outdir / "inputs.yml").read_text()


@pytest.mark.parametrize(("words", "name"), [(Words(), "min_n"), (blm.WORDS, "Missingness.MinN")])
def test_faults_are_told_in_the_words_that_a_request_carries(study, words, name):
    request = ask_in_python(study, min_n=99, words=words)
    with pytest.raises(InputError, match=f"^{name} is 99, but there are only 12 images"):
        fit.run_request(request, OPTIONS.parse_args(["--check"]))


def test_faults_of_a_front_end_are_told_before_anything_is_made(study):
    request = ask_in_python(study, faults=["the formula has no end"])
    with pytest.raises(InputError, match="the formula has no end"):
        fit.run_request(request, OPTIONS.parse_args([]))
    assert not request.out_dir.exists()


def test_rows_of_another_number_are_those_of_the_request(study):
    X = Table(np.ones((3, 1)), ["X1"])
    with pytest.raises(InputError, match=r"^X has 3 rows"):
        fit.run_request(
            ask_in_python(study, X=X, contrasts=[Contrast("a", [1])]),
            OPTIONS.parse_args(["--check"]),
        )
