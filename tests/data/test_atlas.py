"""Names of places: any grid, tables of BIDS and FSL, and what is no atlas."""

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.data.atlas import read_atlas, read_names
from nipype_blm.errors import InputError

AFFINE = np.array([[-3.0, 0, 0, 9], [0, 2, 0.5, -4], [0, 0, 4, 1], [0, 0, 0, 1]])
VOXELS = [(0, 0, 0), (1, 2, 0), (3, 3, 2)]


@pytest.fixture
def image(tmp_path):
    def write(values: np.ndarray, name: str = "atlas.nii.gz"):
        nib.Nifti1Image(values, AFFINE).to_filename(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def labels():
    values = np.zeros((4, 4, 3), np.int16)
    values[VOXELS[1]], values[VOXELS[2]] = 7, 201
    return values


def to_mm(voxels) -> np.ndarray:
    return np.asarray(voxels, float) @ AFFINE[:3, :3].T + AFFINE[:3, 3]


@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "f8"])
def test_a_place_has_the_name_of_the_nearest_voxel(tmp_path, image, labels, dtype):
    table = tmp_path / "atlas_dseg.tsv"
    table.write_text("index\tname\tcolor\n0\tnothing\t#000\n7\tleft cuneus\t#f00\n")
    atlas = read_atlas(image(labels.astype(dtype)), table)
    near = to_mm(np.add(VOXELS, [0.4, -0.4, 0.3]))
    assert atlas.find_names(near) == ["nothing", "left cuneus", "201"]
    assert read_atlas(image(labels)).find_names(to_mm(VOXELS)) == ["", "7", "201"]


def test_a_place_outside_or_nowhere_has_no_name(image, labels):
    atlas = read_atlas(image(labels + 1))
    places = to_mm([(-0.6, 0, 0), (0, 0, 2.6), (-0.4, 0, 2.4), (0, 1e30, 0), (np.nan, 0, 0)])
    assert atlas.find_names(places) == ["", "", "1", "", ""]
    assert atlas.find_names(np.empty((0, 3))) == []


@pytest.mark.parametrize("text", ["name,index\nA,1\nB,2.0\n", "Index;Name;x\n1;A;0\n2;B;0\n"])
def test_tables_of_any_separator_and_order_are_read(tmp_path, text):
    (tmp_path / "names.csv").write_text(text)
    assert read_names(tmp_path / "names.csv", "names") == {1: "A", 2: "B"}


@pytest.mark.parametrize(
    "text",
    [
        "#No. Label Name:   R   G   B   A\n\n0 Unknown 0 0 0 0\n1 Left-Cuneus   0 80 0 0\n"
        "12 Area_4p   1 2 3 0 2\n",
        '# ITK-SnAP\n 0 0 0 0 0 0 0 "Unknown"\n 1 255 0 0 1 1 1 "Left-Cuneus"\n'
        ' 12 0 255 0 0.5 1 1 "Area_4p"\n',
        "0 0 0 0 Unknown\n1 0.46667 0.07059 1.0 Left-Cuneus\n12 0 0.5 1 Area_4p\n",
        "0 Unknown\n1 Left-Cuneus\n12 Area_4p\n",
        "0,Unknown\n1,Left-Cuneus\n12,Area_4p\n",
    ],
    ids=["FreeSurfer", "ITK-SNAP", "FSLeyes", "AAL", "without a header"],
)
def test_lists_without_a_header_are_read_with_or_without_colours(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    names = {0: "Unknown", 1: "Left-Cuneus", 12: "Area_4p"}
    assert read_names(tmp_path / "names.txt", "names") == names


@pytest.mark.parametrize(
    "text",
    [
        "1 7Networks_LH_Vis_1 120 18 131 0\n2 Area_4  1 2 3 0  \n3 Left V1 4 5 6 0 \t\n",
        "1 0.5 0.5 0.5 7Networks_LH_Vis_1\n2 0 0.2 1 Area_4\n3 0 1 0 Left V1\n",
        '1 255 0 0 1 1 1 "7Networks_LH_Vis_1"\n2 0 0 0 1 1 1 "Area_4"\n3 9 9 9 1 1 1 "Left V1" \n',
        "1 7Networks_LH_Vis_1  \n2 Area_4\n3 Left V1\n",
    ],
    ids=["FreeSurfer", "FSLeyes", "ITK-SNAP", "AAL"],
)
def test_digits_of_a_name_are_no_colours(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    names = {1: "7Networks_LH_Vis_1", 2: "Area_4", 3: "Left V1"}
    assert read_names(tmp_path / "names.txt", "names") == names


def test_xml_of_spm_has_index_and_name_as_elements(tmp_path):
    path = tmp_path / "labels.xml"
    path.write_text(
        "<atlas><data><label><index>4</index><name>3rd Ventricle</name></label>"
        "<label><index>11</index><name>4th Ventricle</name></label></data></atlas>"
    )
    assert read_names(path, "names") == {4: "3rd Ventricle", 11: "4th Ventricle"}


def test_names_of_another_atlas_are_refused(tmp_path, image, labels):
    (tmp_path / "names.tsv").write_text("index\tname\n1\tA\n2\tB\n")
    with pytest.raises(InputError, match="names 1, 2, and the image has 7, 201"):
        read_atlas(image(labels), tmp_path / "names.tsv")


@pytest.mark.parametrize(("kind", "first"), [("Label", 0), ("Probabilistic", 1)])
def test_labels_of_fsl_count_from_one_if_they_are_the_most_probable(tmp_path, kind, first):
    path = tmp_path / "atlas.xml"
    path.write_text(
        f"<atlas><header><name>H</name><type>{kind}</type></header><data>"
        '<label index="0" x="1" y="2" z="3">Frontal Pole</label>'
        '<label index="1" x="1" y="2" z="3">Insula &amp; more</label></data></atlas>'
    )
    assert read_names(path, "names") == {first: "Frontal Pole", first + 1: "Insula & more"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "label\tname\n1\tA\n", "no column index; it has label, name"),
        ("a.tsv", "index\tname\n1\tA\n1\tB\n", "gives label 1 two names, 'A' and 'B'"),
        ("a.tsv", "index\tname\n1\tA\nx\tB\n", "the index 'x', expected a whole number"),
        ("a.tsv", "index\tname\n1.5\tA\n2\tB\n", "the index '1.5', expected a whole number"),
        ("a.txt", "# No. Label\n", "names of atlas"),
        ("a.xml", "<atlas>", "is no XML"),
        ("a.xml", "<atlas></atlas>", "has no <label>"),
        ("a.xml", "<atlas><label>A</label></atlas>", "the index '', expected a whole number"),
    ],
)
def test_what_names_no_labels_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_names(tmp_path / name, "names of atlas")


def test_what_is_no_image_of_labels_is_refused(tmp_path, image, labels):
    with pytest.raises(InputError, match=r"no image of labels: it has the value 3\.5"):
        read_atlas(image(labels / np.float32(2)))
    with pytest.raises(InputError, match="has 2 volumes, expected one of labels"):
        read_atlas(image(np.stack([labels, labels], axis=-1)))
    with pytest.raises(InputError, match="has no label"):
        read_atlas(image(0 * labels))
    with pytest.raises(InputError, match="nowhere"):
        read_atlas(tmp_path / "nowhere.nii")
