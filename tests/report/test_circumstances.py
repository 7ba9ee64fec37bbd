"""Reports where other people make them: other settings, grids, names and places of files."""

import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_runs import write_small_run

from nipype_blm.cli.main import main
from nipype_blm.errors import InputError
from nipype_blm.report import page
from nipype_blm.report.naming import count_cells, cut_cells
from nipype_blm.report.notebook import Results
from nipype_blm.report.page import SECTIONS, is_current, write_report
from nipype_blm.report.reported import Reported
from nipype_blm.report.summary import summarise_findings
from nipype_blm.results.findings import find_all, format_mm

mpl = pytest.importorskip("matplotlib", reason="pip install 'nipype_blm[plot]'")
pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")

DOSE = {"dose": [0, 1, 0]}
MOUSE = np.array([[0.1, 0, 0, -0.4], [0, 0.1, 0, -0.45], [0, 0, 0.1, -0.3], [0, 0, 0, 1]])
WIDE = ["日本語のコントラストの名前がとても長い場合の表示について", "🧠" * 50, "e\u0301" * 90]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Results on a grid of 4 mm, which is that of no brain."""
    return write_small_run(tmp_path_factory.mktemp("runs") / "plain", DOSE)


@pytest.fixture(scope="module")
def mouse(tmp_path_factory) -> Path:
    return write_small_run(tmp_path_factory.mktemp("runs") / "mouse", DOSE, affine=MOUSE)


@pytest.fixture
def keep_sections(monkeypatch) -> Callable[..., None]:
    """Function that has pages made of some sections only, which takes seconds less."""

    def keep(*names: str) -> None:
        monkeypatch.setattr(page, "SECTIONS", [each for each in SECTIONS if each.name in names])

    return keep


def draw(folder: Path, **options) -> np.ndarray:
    """Return what a notebook shows, as pixels."""
    return mpl.image.imread(io.BytesIO(Results(folder).plot(**options).content))


# -- Settings of matplotlib ------------------------------------------------------------------


def test_settings_of_the_user_change_no_report_and_no_figure(plain, tmp_path, keep_sections):
    keep_sections("asked", "model", "running")
    usual = write_report([Reported(Results(plain))], tmp_path / "usual.html").read_text()
    expected = draw(plain)
    theirs = {"text.usetex": True, "savefig.bbox": "tight", "image.origin": "lower"}
    with mpl.rc_context(theirs | {"font.size": 30}):
        changed = write_report([Reported(Results(plain))], tmp_path / "theirs.html").read_text()
        assert np.array_equal(draw(plain), expected)
        assert mpl.rcParams["text.usetex"]  # which stay theirs
    # Numbers make the ids of figures differ.
    pages = [re.sub(r"\bf\d+-", "f-", text) for text in (usual, changed)]
    assert pages[0] == pages[1]
    assert "could not be made" not in usual


def test_names_with_dollars_are_no_formulae_in_a_notebook(tmp_path):
    folder = write_small_run(tmp_path / "run", {"cost $a_$ {b} $": [0, 1, 0]})
    assert draw(folder).size


# -- Grids ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mm", "size", "text"),
    [
        (-107.5, 3.0, "-107.5"),
        (102.25, 0.5, "102.25"),
        (12.000001, 4.0, "12"),
        (-7e-9, 0.1, "0"),
        (0.0374, 0.025, "0.037"),
        (1.5, np.nan, "1.5"),
    ],
)
def test_coordinates_have_the_decimals_that_tell_voxels_apart(mm, size, text):
    found = format_mm(mm, size)
    assert abs(float(found) - mm) <= (0.05 * size if size > 0 else 0.05)
    assert found.rstrip("0") == text.rstrip("0")


def test_peaks_of_a_mouse_have_a_place_everywhere(mouse, tmp_path):
    results = Results(mouse)
    z = results.contrasts["dose"].array("z")
    expected = MOUSE[:3, :3] @ np.unravel_index(np.abs(z).argmax(), z.shape) + MOUSE[:3, 3]
    texts = [f"{mm:.2f}".rstrip("0").rstrip(".").replace("-0.00", "0") for mm in expected]
    assert all(text not in ("0", "-0") for text in texts)  # no voxel at the origin

    printed = summarise_findings(find_all(results).values()).splitlines()
    assert printed[2].split()[4:7] == texts
    assert f"at {', '.join(texts)} mm" in results._repr_html_()
    text = write_report([Reported(results)], tmp_path / "mouse.html").read_text()
    places = [text.replace("-", "−") for text in texts]
    assert f"at {', '.join(places)} mm" in text
    cells = "".join(f"<td>{place}</td>" for place in places)
    assert cells in re.sub(r"\s*\n\s*", "", text)
    assert "e−09" not in text
    volume = results.findings["dose"].peaks[0].size_mm3
    assert 0 < volume < 0.5
    assert f"<td>{volume:.3g}</td>" in text


def test_what_is_not_in_mni_space_is_not_drawn_over_its_template(plain, tmp_path):
    usual = draw(plain)
    t1 = nib.Nifti1Image(np.full((40, 40, 40), 80, np.float32), np.diag([2.0, 2, 2, 1]))
    assert not np.array_equal(draw(plain, background=t1), usual)
    same = Reported(Results(plain)).backdrop.image
    assert np.array_equal(draw(plain, background=same), usual)


@pytest.mark.parametrize(("shape", "height"), [((8, 9, 1), 12.4), ((8, 9, 3), -0.6)])
def test_few_slices_are_drawn_where_they_are(shape, height, tmp_path, recwarn):
    affine = np.diag([4.0, 4, 0.3, 1])
    affine[2, 3] = height
    blob = np.s_[1:4, 2:5, :]
    folder = write_small_run(tmp_path / "run", DOSE, shape=shape, affine=affine, blob=blob)
    drawn = draw(folder)[..., :3]
    assert (np.ptp(drawn, axis=-1) > 0.4).mean() > 0.005  # colours of what survives
    assert not [each for each in recwarn if "out of the image bounds" in str(each.message)]


# -- Names in a terminal ----------------------------------------------------------------------


@pytest.mark.parametrize("name", WIDE)
def test_names_are_cut_by_the_cells_of_a_terminal(name):
    cut = cut_cells(name, 20)
    assert 15 <= count_cells(cut) <= 20
    assert cut.endswith("...")
    assert name.startswith(cut.removesuffix("..."))
    assert cut_cells(name, 1000) == name


def test_findings_fit_into_80_columns_whatever_the_names(tmp_path):
    names = [*WIDE, "short", "a name that is longer than its column"]
    vectors = ([0, 1, 0], [0, 1, 1], [0, 1, -1], [0, 1, 2], [0, 0, 1])
    folder = write_small_run(tmp_path / "run", dict(zip(names, vectors, strict=True)))
    printed = summarise_findings(find_all(Results(folder)).values()).splitlines()
    assert max(map(count_cells, printed)) <= 80
    assert f"  {names[0]}" in printed  # whole, on a line of its own
    ends = {line.index(".") for line in printed if re.search(r" \d+ +\d+ +-?\d\.\d\d ", line)}
    assert len(ends) == 1  # z below z


# -- Places of files --------------------------------------------------------------------------


def test_a_folder_whose_name_is_no_text_has_whole_reports(plain, tmp_path, keep_sections):
    keep_sections("verdict", "methods")
    odd = tmp_path / os.fsdecode(b"r\xe9sultats")
    shutil.copytree(plain, odd)
    assert main(["report", str(odd)]) == 0
    assert b"could not be made" not in (odd / "report.html").read_bytes()
    assert main(["report", str(plain), str(odd), "--out", str(tmp_path / "both.html")]) == 0
    text = (tmp_path / "both.html").read_text()
    assert "could not be made" not in text
    assert 'href="r%E9sultats/blm_vox_beta.nii"' in text  # the bytes of the name


def test_maps_that_were_not_fetched_are_told_with_how_to(plain, tmp_path, capsys):
    folder = shutil.copytree(plain, tmp_path / "clone")
    [path] = (folder / "contrasts").glob("*stat-z_*.nii")
    path.unlink()
    path.symlink_to("../.git/annex/objects/x")
    with pytest.raises(InputError, match="datalad get"):
        find_all(Results(folder))
    assert main(["report", str(folder)]) == 2
    assert "datalad get" in capsys.readouterr().err


def test_a_linked_report_is_replaced_and_not_what_it_leads_to(plain, tmp_path, keep_sections):
    keep_sections("verdict")
    folder = shutil.copytree(plain, tmp_path / "run")
    kept = tmp_path / "object"
    kept.write_text("annexed")
    (folder / "report.html").symlink_to(kept)
    assert main(["report", str(folder), "--quiet"]) == 0
    assert kept.read_text() == "annexed"
    assert not (folder / "report.html").is_symlink()


def test_a_page_that_is_not_whole_is_made_again(plain, tmp_path, monkeypatch, keep_sections):
    keep_sections("running")
    run, out_file = Reported(Results(plain)), tmp_path / "page.html"

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("nipype_blm.report.sections.running.read_steps", fail)
        write_report([run], out_file)
    assert "could not be made" in out_file.read_text()
    assert not is_current(out_file, [run])
    write_report([run], out_file)
    assert is_current(out_file, [run])
