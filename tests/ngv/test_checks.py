"""Bad inputs are found beforehand: each is made from files of a real circuit, spoiled."""

import gzip
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import yaml

from nipype_blm.errors import InputError
from nipype_blm.ngv.checks.findings import Findings
from nipype_blm.ngv.checks.inputs import check_inputs
from nipype_blm.ngv.checks.synthesis import check_synthesis
from nipype_blm.ngv.environment.companion import close_companions
from nipype_blm.ngv.environment.finding import Environment
from nipype_blm.ngv.recipe.reading import read_recipe

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def environment(ngv_python):
    yield Environment(ngv_python, {})
    close_companions()


class Circuit:
    """A copy of a circuit's inputs, and what is found wrong with it."""

    def __init__(self, folder, source, environment):
        self.data, self._environment = folder / "data", environment
        shutil.copytree(source / "data", self.data, copy_function=os.link)
        self.bioname = folder / "bioname"
        shutil.copytree(source / "bioname", self.bioname)
        self.atlas, self.neurons = self.data / "atlas", self.data / "circuit"
        self.skeleton, self.mesh = self.atlas / "vasculature.h5", self.atlas / "vasculature.obj"

    def own(self, path):
        """Return a file that can be changed: a copy in place of a link."""
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        return path

    def change(self, name, **values):
        path = self.bioname / "MANIFEST.yaml"
        manifest = yaml.safe_load(path.read_text())
        for key, value in values.items():
            if value is None:
                del manifest["ngv"][name][key]
            else:
                manifest["ngv"][name][key] = value
        path.write_text(yaml.safe_dump(manifest))

    def check(self, *until):
        return list(self._check(until).notices)

    def measure_region(self):
        return self._check(["cell_placement"]).region

    def _check(self, until):
        return check_inputs(read_recipe(self.bioname, until or None), self._environment)

    def find(self, *until):
        """Return the one problem that there is."""
        with pytest.raises(InputError) as caught:
            self.check(*until)
        assert len(caught.value.problems) == 1, str(caught.value)
        return str(caught.value)


@pytest.fixture
def circuit(tmp_path, functional_circuit, environment):
    return Circuit(tmp_path, functional_circuit, environment)


def write_nrrd(path, values, side=7.0, **fields):
    """Write a volume as the format has it: http://teem.sourceforge.net/nrrd/format.html."""
    names = {"int32": "int32", "float32": "float", "uint8": "uint8", "float64": "double"}
    sides = np.broadcast_to(side, 3)
    header = {
        "type": names.get(values.dtype.name, values.dtype.name),
        "dimension": values.ndim,
        "space dimension": 3,
        "sizes": " ".join(map(str, values.shape)),
        "space directions": " ".join(
            f"({','.join(map(str, row))})" for row in np.diag(sides).tolist()
        ),
        "endian": "little",
        "encoding": "gzip",
        "space origin": "(0,0,0)",
    } | {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}" for key, value in header.items() if value is not None]
    path.unlink(missing_ok=True)
    text = "\n".join(["NRRD0005", *lines, "", ""])
    path.write_bytes(text.encode() + gzip.compress(values.tobytes(order="F"), 1))


def write_regions(circuit, values, **options):
    write_nrrd(circuit.atlas / "brain_regions.nrrd", values.astype(np.int32), **options)


def write_density(circuit, values, **options):
    write_nrrd(circuit.atlas / "[density]astrocytes.nrrd", values, **options)


def full(value, shape=(10, 10, 10), dtype=np.float32):
    return np.full(shape, value, dtype)


# --- all ---


def test_the_library_that_reads_circuits_is_missed_before_anything_runs(circuit, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'nipype_blm[ngv]'" in circuit.find("sonata_vasculature")


def test_good_inputs_pass_without_notice(circuit):
    assert circuit.check() == []


def test_only_what_stages_read_is_looked_at(circuit):
    shutil.rmtree(circuit.neurons)
    circuit.mesh.unlink()
    assert circuit.check("gliovascular_connectivity") == []


def test_all_that_is_wrong_is_told_at_once(circuit):
    circuit.change("common", region="X")
    shutil.rmtree(circuit.neurons / "spatial_index_synapses")
    circuit.own(circuit.skeleton).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        circuit.check()
    keys = sorted(str(problem).split(":")[0] for problem in caught.value.problems)
    keys = [key.removeprefix("common.") for key in keys]
    assert keys == ["base_spatial_synapse_index_dir", "region", "vasculature"]


# --- atlas ---


def test_files_of_an_atlas_as_downloaded_are_named(circuit):
    (circuit.atlas / "brain_regions.nrrd").rename(circuit.atlas / "annotation_25.nrrd")
    message = circuit.find("cell_placement")
    assert "brain_regions.nrrd is not there; an annotation" in message
    assert "The folder has [density]astrocytes.nrrd, annotation_25.nrrd" in message


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([{"id": 1, "acronym": "H"}], "is a list, not a tree"),
        ({"msg": []}, "has 0 entries in msg"),
        ({"msg": [{"id": 1, "acronym": "H"}] * 2}, "has 2 entries in msg"),
        ({"id": 1, "children": []}, "without id or acronym"),
        ({"id": 1, "acronym": "H", "children": [{"id": 1, "acronym": "A"}]}, "two regions"),
    ],
)
def test_trees_of_regions_that_are_none_are_refused(circuit, tree, message):
    (circuit.atlas / "hierarchy.json").unlink()
    (circuit.atlas / "hierarchy.json").write_text(json.dumps(tree))
    assert message in circuit.find("cell_placement")


def test_trees_as_the_allen_institute_gives_them_pass(circuit):
    path = circuit.own(circuit.atlas / "hierarchy.json")
    path.write_text(json.dumps({"msg": [json.loads(path.read_text())]}))
    assert circuit.check("cell_placement") == []


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("l4", "did you mean L4?"),
        ("'H '", "did you mean H?"),
        ("L1, L2", "'@^(L1|L2)$'"),
        ("whole", "it has H, L1, L2"),
    ],
)
def test_regions_that_are_unknown_have_a_hint(circuit, region, message):
    circuit.change("common", region=yaml.safe_load(region))
    found = circuit.find("cell_placement")
    assert found.startswith("common.region")
    assert message in found


def test_patterns_of_regions_pass(circuit):
    # The regions of this circuit are L1 to L6, and nothing is labelled as H itself.
    circuit.change("common", region="@^L[1-6]$")
    assert circuit.check("cell_placement") == []


def test_a_region_without_voxels_is_refused(circuit):
    write_regions(circuit, full(1))
    circuit.change("common", region="L2")
    assert "common.region: L2 has no voxel" in circuit.find("cell_placement")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space_dimension": None, "space": "right-inferior-posterior"}, "is in the space right-"),
        ({"space_directions": "(0,7,0) (7,0,0) (0,0,7)"}, "not along x, y and z"),
        ({"space_directions": "(7,1e-12,0) (0,7,0) (0,0,7)"}, "not along x, y and z"),
        ({"space_directions": None}, "does not say how large voxels are"),
        ({"side": (-7, 7, 7)}, "flip it along axes with negative sides"),
        ({"side": 0.007}, "Are they mm?"),
    ],
)
def test_axes_that_archngv_cannot_read_are_refused(circuit, fields, message):
    write_regions(circuit, full(1), **fields)
    if "side" in fields:
        write_density(circuit, full(15000), **fields)
    with pytest.raises(InputError) as caught:
        circuit.check("cell_placement")
    assert message in caught.value.problems[0]


def test_volumes_of_vectors_are_no_regions(circuit):
    write_regions(circuit, full(1, (10, 10, 10, 2)), space_directions=None, spacings="7 7 7 1")
    assert "has 4 axes" in circuit.find("cell_placement")


def test_voxels_with_different_sides_are_noticed(circuit):
    write_regions(circuit, full(1), side=(7, 7, 14))
    write_density(circuit, full(15000), side=(7, 7, 14))
    (notice,) = circuit.check("cell_placement")
    assert "7 x 7 x 14 um" in notice


def test_ids_of_no_region_are_noticed(circuit):
    regions = full(1)
    regions[:, :, 0] = 312782560
    write_regions(circuit, regions)
    (notice,) = circuit.check("cell_placement")
    assert "in 10.0% of its voxels: 312782560" in notice


@pytest.mark.parametrize(
    ("values", "fields", "message"),
    [
        (full(15000, dtype=np.int32), {}, "of type int32; save it as float32"),
        (full(15000, (10, 10, 9)), {}, "has 10 x 10 x 9 voxels, and brain_regions.nrrd has 10 x"),
        (full(15000), {"side": 10}, "has 10 x 10 x 10 um as a voxel"),
        (full(15000), {"space_origin": "(0,0,5)"}, "has 0 x 0 x 5 um origin"),
        (full(0), {}, "gives 0 astrocytes in H (1000 voxels, 0.000343 mm^3)"),
        (full(15e-6), {}, "expected cells per mm^3"),
        (np.where(np.arange(1000).reshape(10, 10, 10) < 3, np.nan, full(1)), {}, "NaN in 3 voxels"),
        (np.where(np.arange(1000).reshape(10, 10, 10) < 3, -1, full(1)), {}, "below 0 in 3 voxels"),
        (full(15e6), {}, "could never be placed"),
    ],
)
def test_densities_that_give_no_circuit_are_refused(circuit, values, fields, message):
    write_density(circuit, values.astype(values.dtype), **fields)
    found = circuit.find("cell_placement")
    assert found.startswith("cell_placement")
    assert message in found


def test_crowded_cells_are_noticed(circuit):
    # 100 somata of 5.6 um in 343000 um^3.
    write_density(circuit, full(100 / 343e-6))
    (notice,) = circuit.check("cell_placement")
    assert "take 21% of the region" in notice


@pytest.mark.parametrize(
    ("mask", "fields", "message"),
    [
        (full(1), {}, "of type float32; save it as uint8"),
        (full(1, (9, 10, 10), np.uint8), {}, "has 9 x 10 x 10 voxels"),
        (full(1, dtype=np.uint8), {"space_origin": "(7,0,0)"}, "has 7 x 0 x 0 um origin"),
        (full(0, dtype=np.uint8), {}, "leaves nothing of common.region: H"),
    ],
)
def test_masks_that_do_not_fit_are_refused(circuit, mask, fields, message):
    write_nrrd(circuit.atlas / "roi.nrrd", mask, **fields)
    circuit.change("common", mask="roi")
    found = circuit.find("cell_placement")
    assert found.startswith("common.mask")
    assert message in found


def test_a_mask_leaves_fewer_astrocytes(circuit):
    mask = full(0, dtype=np.uint8)
    mask[:, :, :4] = 1
    write_nrrd(circuit.atlas / "roi.nrrd", mask)
    write_density(circuit, full(1))
    circuit.change("common", mask="roi")
    assert "0.000137 astrocytes in H (400 voxels, 0.000137 mm^3)" in circuit.find("cell_placement")


def test_masks_need_a_region(circuit):
    write_nrrd(circuit.atlas / "roi.nrrd", full(1, dtype=np.uint8))
    circuit.change("common", mask="roi", region=None)
    assert "common.mask is given without common.region" in circuit.find("cell_placement")


def test_without_region_all_of_the_atlas_is_taken(circuit):
    circuit.change("common", region=None)
    assert circuit.check("gliovascular_connectivity") == []


@pytest.mark.parametrize(
    ("region", "mask"),
    [("H", None), ("H", "roi"), ("L1", None), ("L1", "roi"), ("@^L[12]$", None), (None, None)],
)
def test_the_region_is_measured_voxel_by_voxel(circuit, region, mask):
    """Against sums of numpy; without a region ArchNGV takes the density of all of the atlas."""
    random = np.random.default_rng(0)
    labels = full(1)
    labels[6:], labels[:, :, 9] = 2, 0
    density = random.uniform(4e4, 8e4, labels.shape).astype(np.float32)
    roi = full(0, dtype=np.uint8)
    roi[:, 2:] = 1
    write_regions(circuit, labels)
    write_density(circuit, density)
    write_nrrd(circuit.atlas / "roi.nrrd", roi)
    circuit.change("common", region=region, **({} if mask is None else {"mask": mask}))
    found = circuit.measure_region()
    within = {"H": labels > 0, "L1": labels == 1, "@^L[12]$": labels > 0, None: labels > 0}[region]
    if mask is not None:
        within &= roi > 0
    summed = density if region is None else density[within]
    assert found.volume == pytest.approx(343 * within.sum(), rel=1e-12)
    # A sum of 32 bits each, in double.
    assert found.expected == pytest.approx(summed.sum(dtype=float) * 343e-9, rel=1e-12)


def test_pieces_of_a_region_without_domains_are_told(circuit):
    regions = full(0)
    regions[:5] = 1
    regions[8, :2, :2] = 1  # 4 voxels, in which 4 / 504 of all astrocytes are expected
    write_regions(circuit, regions)
    (notice,) = circuit.check("cell_placement")
    assert "1 piece of less than 10 voxels (4 voxels), in which 0.02" in notice
    density = full(15000)
    density[8] = 1e6
    write_density(circuit, density)
    found = circuit.find("cell_placement")
    assert "in which 1.4 astrocytes are expected" in found  # 4 x 343e-9 x 1e6


def test_small_pieces_in_the_box_of_a_large_one_pass(circuit):
    regions = full(1)
    regions[3:8, 3:8, 3:8] = 0
    regions[5, 5, 5] = 1
    write_regions(circuit, regions)
    assert circuit.check("cell_placement") == []


def test_pieces_whose_boxes_overlap_are_told_with_the_cells_that_are_in_both(circuit):
    regions = full(0)
    regions[:6, :2] = regions[:2, :6] = 1  # a corner, and a block in the box of that
    regions[4:, 4:] = 1
    write_regions(circuit, regions)
    write_density(circuit, full(5e4))
    n_both = 2 * 2 * 10  # voxels of the block up to where the corner ends
    (notice,) = circuit.check("cell_placement")
    assert f"with about {n_both * 343e-9 * 5e4:.2g} astrocytes in several boxes" in notice
    write_density(circuit, full(5e4) * (np.arange(10) < 7).astype(np.float32))
    assert circuit.check("cell_placement") == []  # fewer than half a cell: a matter of luck


def test_regions_of_small_pieces_alone_are_refused(circuit):
    regions = full(0)
    regions[4:6, 4:6, 4:6] = 1
    write_regions(circuit, regions)
    assert "in pieces of less than 10 voxels" in circuit.find("cell_placement")


def test_large_volumes_are_read_in_pieces(circuit):
    shape = (400, 300, 100)  # 48 MB: 3 pieces
    regions = full(0, shape, np.int32)
    regions[10:200, 20:290, 30:95] = 1
    regions[390, 290, 99] = 2
    write_regions(circuit, regions, side=25.0)
    write_density(circuit, full(1e-3, shape), side=25.0)
    circuit.change("common", region="L1")
    n = 190 * 270 * 65
    expected = f"{n * 25e-3**3 * 1e-3:.3g} astrocytes in L1 ({n} voxels, {n * 25e-3**3:.3g} mm^3)"
    with pytest.raises(InputError) as caught:
        circuit.check("cell_placement")
    assert expected in caught.value.problems[0]


def test_volumes_that_end_too_early_are_refused(circuit):
    path = circuit.own(circuit.atlas / "brain_regions.nrrd")
    path.write_bytes(path.read_bytes()[:-40])
    assert "cannot be read (EOFError" in circuit.find("cell_placement")


# --- vessels ---


def change_points(circuit, change):
    with h5py.File(circuit.own(circuit.skeleton), "r+") as file:
        points = file["points"][()]
        change(points)
        file["points"][...] = points


def set_points(index, value):
    def change(points):
        points[index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_points((5, 0), np.nan), "has 1 point with NaN or infinity"),
        (set_points((slice(2, 4), 3), np.nan), "has 2 points with NaN"),
        (set_points((slice(2, 5), 3), 0), "has 3 points with a diameter of 0 or less"),
        (lambda points: np.multiply(points, 1000, out=points), "has diameters of 6.56e+03"),
        (lambda points: np.divide(points, 1000, out=points), "has diameters of 0.00656"),
    ],
)
def test_values_of_vessels_that_cannot_be_are_refused(circuit, change, message):
    change_points(circuit, change)
    assert message in circuit.find("sonata_vasculature")


def test_double_points_are_noticed(circuit):
    # The points of the first section become one.
    change_points(circuit, lambda points: np.copyto(points[1], points[0]))
    (notice,) = circuit.check("sonata_vasculature")
    assert "has 1 segment without length" in notice


def test_vessels_elsewhere_are_refused_with_both_boxes(circuit):
    change_points(circuit, set_points((slice(None), 0), 5000))
    found = circuit.find("cell_placement")
    assert "has no vessel in the region: vessels are at x 5000 to 5000, y 0 to 70" in found
    assert "the region is at x 0 to 70" in found


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("connectivity", np.empty(0, int), "connectivity (0,)"),
        ("structure", np.zeros((512, 3), int), "structure (512, 3)"),
        ("points", np.zeros((1096, 3)), "points (1096, 3)"),
        ("connectivity", np.array([[0, 512]]), "connects sections 0 to 512, and has 512"),
        ("structure", np.column_stack([np.arange(512) * 3, np.zeros(512)]), "start at points 0 to"),
    ],
)
def test_skeletons_of_another_form_are_refused(circuit, name, data, message):
    with h5py.File(circuit.own(circuit.skeleton), "r+") as file:
        del file[name]
        file[name] = data
    assert message in circuit.find("sonata_vasculature")


def test_vessels_without_connections_pass(circuit):
    with h5py.File(circuit.own(circuit.skeleton), "r+") as file:
        del file["connectivity"]
        file["connectivity"] = np.empty((0, 2), int)
    assert circuit.check("sonata_vasculature") == []


def test_skeletons_of_sonata_are_told_how_to_be_converted(circuit, functional_circuit):
    circuit.skeleton.unlink()
    nodes = "expected/sonata/networks/nodes/vasculature/nodes.h5"
    shutil.copy(functional_circuit / nodes, circuit.skeleton)
    assert "vascpy sonata-to-morphology" in circuit.find("sonata_vasculature")


# --- mesh ---


@pytest.fixture(scope="module")
def surface(functional_circuit):
    """Vertices and triangles of tubes around all segments of the skeleton."""
    with h5py.File(functional_circuit / "data/atlas/vasculature.h5") as file:
        points = file["points"][()].astype(float)
        is_start = np.isin(np.arange(1, len(points)), file["structure"][:, 0])
    begins, ends = points[:-1][~is_start], points[1:][~is_start]
    axis = (ends - begins)[:, :3]
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin(axis=1)])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(axis, side) / np.linalg.norm(axis, axis=1, keepdims=True)
    n_rings, n_corners = 5, 8
    along = np.linspace(0, 1, n_rings)[:, None]
    angles = np.arange(n_corners) * 2 * np.pi / n_corners
    centers = begins[:, None] + along * (ends - begins)[:, None]
    around = side[:, None] * np.cos(angles)[:, None] + other[:, None] * np.sin(angles)[:, None]
    vertices = centers[:, :, None, :3] + centers[:, :, None, 3:] / 2 * around[:, None]
    numbers = np.arange(vertices[..., 0].size).reshape(vertices.shape[:3])
    low, high = numbers[:, :-1], numbers[:, 1:]
    next_low, next_high = np.roll(low, -1, axis=2), np.roll(high, -1, axis=2)
    halves = [np.stack(three, -1) for three in ((low, next_low, high), (high, next_low, next_high))]
    return vertices.reshape(-1, 3), np.concatenate([half.reshape(-1, 3) for half in halves])


def write_mesh(circuit, vertices, triangles):
    lines = ["v {:.7g} {:.7g} {:.7g}".format(*vertex) for vertex in vertices.tolist()]
    if not isinstance(triangles, list):
        triangles = ["f {} {} {}".format(*face) for face in (triangles + 1).tolist()]
    circuit.mesh.unlink()
    circuit.mesh.write_text("\n".join([*lines, *triangles, ""]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v / 1000, "With its coordinates times 1000, it fits"),
        (lambda v: v * 1000, "With its coordinates times 0.001, it fits"),
        (lambda v: v / 25, "With its coordinates times 25, it fits"),
        (lambda v: v * [1, 1.6, 0.3], "No other units and no shift were found that make it fit"),
    ],
)
def test_meshes_of_another_space_are_refused(circuit, surface, change, message):
    vertices, triangles = surface
    write_mesh(circuit, change(vertices), triangles)
    found = circuit.find("endfeet_area")
    assert found.startswith("common.vasculature_mesh")
    assert "is not the surface of common.vasculature" in found
    assert message in found


@pytest.mark.parametrize("shift", [(10000, 0, 0), (0, 5, 5), (-20, 0, 300)])
def test_meshes_that_are_moved_are_refused_with_the_shift_back(circuit, surface, shift):
    vertices, triangles = surface
    write_mesh(circuit, vertices + np.array(shift), triangles)
    found = re.search(r"Moved by about \((.*)\) um, it fits", circuit.find("endfeet_area"))
    back = [float(value) for value in found[1].split(",")]
    # To the um by which a vertex may be out of a vessel.
    np.testing.assert_allclose(back, np.negative(shift), rtol=0, atol=1)


def test_meshes_of_a_part_of_the_vessels_are_noticed(circuit, surface):
    vertices, triangles = surface
    is_kept = vertices[:, 2] < 35
    numbers = np.cumsum(is_kept) - 1
    write_mesh(circuit, vertices[is_kept], numbers[triangles[is_kept[triangles].all(axis=1)]])
    (notice,) = circuit.check("endfeet_area")
    assert "covers 51% of the vessels in the region" in notice


def test_tubes_around_the_skeleton_pass_however_they_are_written(circuit, surface):
    vertices, triangles = surface
    write_mesh(circuit, vertices, triangles)
    assert circuit.check("endfeet_area") == []
    numbers = (triangles - len(vertices)).tolist()  # from the last one, which is -1
    write_mesh(circuit, vertices, ["f {0}//{0} {1}/1/{1} {2}/1".format(*face) for face in numbers])
    assert circuit.check("endfeet_area") == []


def test_vessels_that_only_reach_into_a_region_are_no_fault_of_its_mesh(circuit, surface):
    regions = full(0)
    regions[4:, :3, 2:7] = 1
    write_regions(circuit, regions)
    write_density(circuit, full(30000))
    assert circuit.check("endfeet_area") == []
    vertices, triangles = surface
    write_mesh(circuit, vertices, triangles)
    assert circuit.check("endfeet_area") == []


@pytest.mark.parametrize("side", [3.0, 5.0])  # of vessels with a radius of 3.3, in um
def test_coarse_meshes_pass(circuit, functional_circuit, side):
    text = (functional_circuit / "data/atlas/vasculature.obj").read_text()
    rows = [line.split() for line in text.splitlines() if line[:2] in ("v ", "f ")]
    vertices = np.array([row[1:4] for row in rows if row[0] == "v"], float)
    triangles = np.array([row[1:] for row in rows if row[0] == "f"], int) - 1
    # Vertices of a cube become one, in their mean.
    cubes = np.unique(np.floor(vertices / side), axis=0, return_inverse=True)[1].ravel()
    sums = [np.bincount(cubes, column) for column in vertices.T]
    means = np.column_stack(sums) / np.bincount(cubes)[:, None]
    faces = cubes[triangles]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    write_mesh(circuit, means, faces)
    # Sheets that lay on each other share vertices now.
    assert all("complex edge" in notice for notice in circuit.check("endfeet_area"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "vertices and 0 triangles"),
        (["f 1 2 3", "f 1 2 30000"], "has 1 triangle with numbers of vertices"),
        (["f 1 2 3", "v nan 1 2"], "has 1 vertex with NaN"),
        (["v 1 2", "f 1 2 3"], "cannot be read"),
    ],
)
def test_faults_of_a_mesh_itself_are_refused(circuit, surface, lines, message):
    write_mesh(circuit, surface[0], lines)
    assert message in circuit.find("endfeet_area")


def test_triangles_on_each_other_are_noticed(circuit, surface):
    vertices, triangles = surface
    write_mesh(circuit, vertices, np.concatenate([triangles, triangles[:1]]))
    (notice,) = circuit.check("endfeet_area")
    assert '3 edges with more than one triangle on a side ("complex edge")' in notice


# --- neurons ---


def test_files_with_several_populations_are_refused(circuit):
    with h5py.File(circuit.own(circuit.neurons / "nodes.h5"), "r+") as file:
        file.copy("nodes/All", "nodes/Other")
    with h5py.File(circuit.own(circuit.neurons / "edges.h5"), "r+") as file:
        file.move("edges", "synapses")
    with pytest.raises(InputError) as caught:
        circuit.check("neuroglial_connectivity")
    first, second = caught.value.problems
    assert "nodes.h5 has 2 populations (All, Other)" in first
    assert "edges.h5 has synapses; expected edges of SONATA" in second


def test_neurons_without_places_are_refused(circuit):
    with h5py.File(circuit.own(circuit.neurons / "nodes.h5"), "r+") as file:
        del file["nodes/All/0/y"]
    assert "has no y of neurons" in circuit.find("prepare_tetrahedral")


def test_synapses_by_other_names_are_refused(circuit):
    with h5py.File(circuit.own(circuit.neurons / "edges.h5"), "r+") as file:
        group = file["edges/All/0"]
        for axis in "xyz":
            group.move(f"afferent_center_{axis}", f"afferent_surface_{axis}")
            del group[f"efferent_center_{axis}"]
    assert "it has afferent_surface: add them" in circuit.find("neuroglial_connectivity")


def test_synapses_of_which_an_axis_is_missing_are_noticed(circuit):
    with h5py.File(circuit.own(circuit.neurons / "edges.h5"), "r+") as file:
        group = file["edges/All/0"]
        assert (group["efferent_center_x"][()] == group["afferent_center_x"][()]).all()
        del group["efferent_center_z"]
    (notice,) = circuit.check("neuroglial_connectivity")
    assert "afferent_center is taken in its place" in notice


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "has 500 synapses of 500 with NaN"), (1e5, "synapses are at x 100000 to 100000")],
)
def test_synapses_elsewhere_are_refused(circuit, value, message):
    with h5py.File(circuit.own(circuit.neurons / "edges.h5"), "r+") as file:
        file["edges/All/0/efferent_center_x"][:] = value
    with pytest.raises(InputError) as caught:
        circuit.check("neuroglial_connectivity")
    assert message in caught.value.problems[0]


def test_a_missing_index_is_told_once(circuit):
    folder = circuit.neurons / "spatial_index_synapses"
    (folder / "index.spi").unlink()
    assert "index.spi is missing" in circuit.find("neuroglial_connectivity")
    (folder / "meta_data.json").unlink()
    assert "has no meta_data.json" in circuit.find("neuroglial_connectivity")
    folder.rmdir()
    found = circuit.find("neuroglial_connectivity")
    assert found.startswith("common.base_spatial_synapse_index_dir")
    assert "is not there" in found


def test_an_index_of_other_synapses_is_refused(circuit):
    path = circuit.own(circuit.neurons / "edges.h5")
    with h5py.File(path, "r+") as file:
        for axis in "xyz":
            data = file[f"edges/All/0/efferent_center_{axis}"]
            data[:] = data[()][::-1]  # the same synapses, in another order
    assert "does not find 20 of 20 synapses" in circuit.find("neuroglial_connectivity")
    with h5py.File(path, "r+") as file:
        population = file["edges/All"]
        for name in ("0/efferent_center_x", "0/efferent_center_y", "0/efferent_center_z"):
            values = population[name][:100]
            del population[name]
            population[name] = values
        targets = population["target_node_id"][:100]
        del population["target_node_id"]
        population["target_node_id"] = targets
    assert "has 500 synapses, and" in circuit.find("neuroglial_connectivity")


def test_an_index_that_is_none_is_refused(circuit):
    path = circuit.neurons / "spatial_index_synapses" / "index.spi"
    path.unlink()
    path.write_bytes(b"nothing")
    assert "cannot be read" in circuit.find("neuroglial_connectivity")


def write_config(circuit, change):
    path = circuit.own(circuit.neurons / "circuit_config.json")
    config = json.loads(path.read_text())
    change(config["networks"])
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n["nodes"].append({"nodes_file": "$BASE_DIR/n.h5"}), "has 2 entries of nodes"),
        (lambda n: n["edges"].clear(), "has 0 entries of edges"),
        (lambda n: n["edges"][0].update(edges_file="$BASE_DIR/e.h5"), "e.h5 is not there"),
        (lambda n: n.pop("nodes"), "'nodes' not specified"),
    ],
)
def test_configurations_that_archngv_refuses_are_found(circuit, change, message):
    write_config(circuit, change)
    with pytest.raises(InputError) as caught:
        circuit.check("ngv_config")
    assert message in caught.value.problems[0]


def test_configurations_that_are_none_are_refused(circuit):
    circuit.own(circuit.neurons / "circuit_config.json").write_text("{")
    assert "circuit_config.json cannot be read" in circuit.find("ngv_config")


def test_configurations_of_other_neurons_are_noticed(circuit):
    shutil.copy(circuit.neurons / "nodes.h5", circuit.neurons / "others.h5")
    write_config(circuit, lambda n: n["nodes"][0].update(nodes_file="$BASE_DIR/others.h5"))
    (notice,) = circuit.check("ngv_config", "neuroglial_connectivity")
    assert "others.h5, and common.base_circuit_cells is" in notice


# --- parameters ---


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tns_parameters", lambda d: d["basal"].pop("step_size"), "lacks basal.step_size.norm"),
        ("tns_parameters", lambda d: d["grow_types"].pop(), "has grow_types ['basal']"),
        ("tns_parameters", lambda d: d["axon"].update(growth_method="tmd"), "has growth_method"),
        ("tns_distributions", lambda d: d["axon"].clear(), "lacks axon.num_trees, axon.pers"),
        ("tns_distributions", lambda d: d.pop("diameter"), "lacks diameter.sibling_ratios.basal"),
        ("tns_context", lambda d: d.pop("field"), "lacks field.type"),
        ("er_data", lambda d: d.clear(), "holds []"),
        ("er_data", lambda d: d[3][0].pop(), "has 1 entry of another form (the first is 3)"),
    ],
)
def test_parameters_of_synthesis_are_looked_through(circuit, name, change, message):
    path = circuit.bioname / f"{name}.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    findings = Findings([], [])
    check_synthesis({name: path}, findings)
    (found,) = findings.problems
    assert found.startswith(f"{name}: {path}")
    assert message in found


def test_parameters_that_are_no_json_are_refused(circuit):
    (circuit.bioname / "tns_context.json").write_text("{'field': 1}")
    assert "tns_context.json is no JSON" in circuit.find("synthesis")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "gliovascular_connectivity",
            {"connection": {"reachout_strategy": "max", "endfeet_distribution": [2, 2, 0, 15]}},
            "max is not known",
        ),
        ("cell_placement", {"Energy": {"potentials": {"sprong": [1, 2]}}}, "did you mean spring?"),
        ("cell_placement", {"Energy": {"potentials": {"spring": [1]}}}, "it has to have 2"),
        ("assign_emodels", {"hoc_template": "hoc:astrocyte"}, "expected the name of a template"),
        (
            "microdomains",
            {"overlap_distribution": {"type": "normal", "values": [0.1, 0.2]}},
            "give 0.31 of all domains an overlap below 0",  # the normal distribution below -1/2
        ),
    ],
)
def test_values_that_archngv_does_not_know_are_refused(circuit, section, values, message):
    circuit.change(section, **values)
    found = circuit.find("gliovascular_connectivity")
    assert found.startswith(section)
    assert message in found
