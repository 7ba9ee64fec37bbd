"""What is read of a circuit's files."""

import json
import subprocess

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import ConvexHull
from small_circuits import (
    CUBE,
    name_glia,
    write_base,
    write_domains,
    write_morphology,
    write_small,
    write_somata,
)

from nipype_blm.errors import InputError
from nipype_blm.ngv.circuit.capsules import Capsules
from nipype_blm.ngv.circuit.files import (
    count_synapses,
    read_branches,
    read_circuit,
    read_synapse_positions,
)
from nipype_blm.ngv.circuit.measures import measure_circuit
from nipype_blm.ngv.circuit.parts import measure_areas, measure_volumes
from nipype_blm.ngv.layout import Layout

# What ArchNGV and MorphIO read, by their own classes.
READERS = """
import json, sys
from pathlib import Path
import numpy as np
from archngv.core.datasets import (
    CellData, EndfootSurfaceMeshes, GliovascularConnectivity, Microdomains, NeuroglialConnectivity,
)
from morphio import Morphology

build = Path(sys.argv[1])
networks = build / "sonata" / "networks"
cells = CellData(networks / "nodes/astrocytes/nodes.h5")
endfeet = GliovascularConnectivity(networks / "edges/gliovascular/edges.h5")
glia = NeuroglialConnectivity(networks / "edges/neuroglial/edges.h5")
domains = Microdomains(build / "microdomains.h5")
meshes = EndfootSurfaceMeshes(build / "endfeet_meshes.h5")
n = len(cells.positions())
found = {
    "positions": np.asarray(cells.positions(), float).tolist(),
    "endfeet": [sorted(map(int, endfeet.astrocyte_endfeet(i))) for i in range(n)],
    "synapses": [sorted(map(int, glia.astrocyte_synapses(i))) for i in range(n)],
    "neighbours": [sorted(set(map(int, domains.domain_neighbors(i)))) for i in range(n)],
    "volumes": [float(domains[i].volume) for i in range(n)],
    "points": [meshes[i].points.tolist() for i in range(len(meshes))],
    "triangles": [meshes[i].triangles.tolist() for i in range(len(meshes))],
    "lengths": [], "sections": [], "roots": [], "branchings": [],
}
for path in sorted((build / "morphologies").glob("*.h5")):
    cell = Morphology(path)
    steps = [np.linalg.norm(np.diff(s.points, axis=0), axis=1).sum() for s in cell.sections]
    found["lengths"].append(float(sum(steps)))
    found["sections"].append(len(cell.sections))
    found["roots"].append(len(cell.root_sections))
    found["branchings"].append(sum(len(s.children) > 1 for s in cell.sections))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def functional_layout(functional_circuit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("functional")
    (folder / "build").symlink_to(functional_circuit / "expected")
    return Layout(folder)


def test_archngv_reads_the_same_of_its_own_circuit(functional_layout, ngv_python):
    command = [ngv_python, "-c", READERS, functional_layout.build]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = read_circuit(functional_layout)
    n = len(ours.somata.names)
    assert_array_equal(ours.somata.positions, theirs["positions"])
    for i in range(n):
        assert np.flatnonzero(ours.endfeet.astrocytes == i).tolist() == theirs["endfeet"][i]
        synapses = ours.synapses.ids[ours.synapses.astrocytes == i]
        assert np.unique(synapses).tolist() == sorted(set(theirs["synapses"][i]))
        assert ours.microdomains.neighbours[i].tolist() == theirs["neighbours"][i]
    # ArchNGV computes in single precision.
    assert_allclose(ours.microdomains.volumes, theirs["volumes"], rtol=1e-5)
    meshes = ours.endfeet_meshes.meshes
    assert meshes.n_meshes == len(theirs["points"])
    for i, (points, triangles) in enumerate(
        zip(theirs["points"], theirs["triangles"], strict=True)
    ):
        assert_allclose(meshes.find_corners(i), np.array(points)[triangles], rtol=1e-6)
    cells = [read_branches(functional_layout, ours.somata, i) for i in range(n)]
    assert_allclose([each.lengths.sum() for each in cells], theirs["lengths"], rtol=1e-5)
    shapes = {count.what: count.measured for count in measure_circuit(functional_layout)}
    for what, values in (
        ("sections", theirs["sections"]),
        ("processes from the soma", theirs["roots"]),
        ("branchings", theirs["branchings"]),
    ):
        assert shapes[f"{what}, mean"] == pytest.approx(np.mean(values))
        assert shapes[f"{what}, sd"] == pytest.approx(np.std(values, ddof=1))


def test_domains_fill_almost_all_of_their_convex_hulls(functional_layout):
    domains = read_circuit(functional_layout).microdomains
    hulls = [ConvexHull(domains.meshes.find_points(i)).volume for i in range(5)]
    # Clipped to the box they are not quite convex.
    assert (domains.volumes <= np.array(hulls) * (1 + 1e-9)).all()
    assert_allclose(domains.volumes, hulls, rtol=0.005)


def test_surfaces_of_endfeet_have_the_areas_that_are_written_beside_them(functional_layout):
    found = read_circuit(functional_layout).endfeet_meshes
    for i, area in enumerate(found.areas):
        a, b, c = found.meshes.find_corners(i).transpose(1, 0, 2)
        # In single precision.
        assert_allclose(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2, area, rtol=1e-4)


def test_synapses_are_read_by_number_in_any_order(tmp_path):
    positions = np.arange(30.0).reshape(10, 3)
    write_base(tmp_path / "edges.h5", positions)
    ids = np.array([7, 0, 7, 3])
    assert_array_equal(read_synapse_positions(tmp_path / "edges.h5", ids), positions[ids])
    assert count_synapses(tmp_path / "edges.h5") == 10


def test_of_several_kinds_of_synapses_those_on_the_named_neurons_are_meant(tmp_path):
    path = tmp_path / "edges.h5"
    write_base(path, np.zeros((4, 3)))
    with h5py.File(path, "a") as file:
        file["edges/others/target_node_id"] = np.zeros(9, np.uint64)
        file["edges/others/target_node_id"].attrs["node_population"] = b"others"
    assert count_synapses(path, "neurons") == 4
    assert count_synapses(path, "others") == 9
    assert count_synapses(path) is None
    assert read_synapse_positions(path, np.array([1]), "others") is None  # has no positions


def test_more_synapses_than_the_circuit_of_neurons_has_are_refused(tmp_path):
    write_base(tmp_path / "edges.h5", np.zeros((4, 3)))
    with pytest.raises(InputError, match="has 4 synapses, but the circuit has number 9"):
        read_synapse_positions(tmp_path / "edges.h5", np.array([1, 9]))


def test_nothing_is_read_of_an_empty_folder(tmp_path):
    assert read_circuit(Layout(tmp_path)) == (None,) * 7


def test_finished_files_go_before_those_they_are_made_from(tmp_path):
    layout = Layout(tmp_path)
    write_somata(layout.somata, np.zeros((2, 3)), [5.0, 6.0])
    assert read_circuit(layout).somata.radii.tolist() == [5.0, 6.0]
    write_somata(layout.astrocytes, np.zeros((3, 3)), [1.0, 2.0, 3.0])
    assert read_circuit(layout).somata.radii.tolist() == [1.0, 2.0, 3.0]


def test_a_cube_has_its_volume_whatever_the_order_of_its_corners(tmp_path):
    layout = Layout(tmp_path)
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], float)
    faces = np.random.default_rng(0).permuted(CUBE, axis=1)
    walls = [[-1, 1, 1], [0, -6]]
    write_domains(layout, [2 * corners, 3 * corners + 5], [faces, CUBE], walls, [1.0, 1.0])
    domains = read_circuit(layout).microdomains
    assert_allclose(domains.volumes, [8, 27], rtol=1e-12)
    assert [each.tolist() for each in domains.neighbours] == [[1], [0]]


def test_cones_have_the_sides_and_volumes_of_the_textbook():
    start, end = np.zeros((2, 3)), np.array([[0.0, 0, 4], [0, 0, 4]])
    cones = Capsules(start, end, np.array([[3.0, 0], [2, 2]]))  # a cone of height 4; a cylinder
    assert_allclose(measure_areas(cones), [np.pi * 3 * 5, 2 * np.pi * 2 * 4])
    assert_allclose(measure_volumes(cones), [np.pi * 9 * 4 / 3, np.pi * 4 * 4])


def test_branches_are_measured_by_hand(tmp_path):
    layout = Layout(tmp_path)
    write_somata(layout.somata, np.array([[10.0, 20, 30]] * 2), [5.0, 5.0])
    trunk = [[0, 0, 5, 2], [0, 0, 8, 2]]  # a cylinder of radius 1 and length 3
    tips = [[[0, 0, 8, 2], [0, 4, 8, 0]], [[0, 0, 8, 2], [0, -1, 8, 2]]]  # a cone; a cylinder
    write_morphology(layout, name_glia(1)[0], [trunk, *tips], [2, 3, 3], [-1, 0, 0])
    somata = read_circuit(layout).somata
    found = read_branches(layout, somata, 0)
    assert found.types.tolist() == [2, 3, 3]
    assert found.capsules.starts.tolist() == [[10, 20, 35], [10, 20, 38], [10, 20, 38]]
    assert read_branches(layout, somata, 1) is None
    measured = {count.what: count.measured for count in measure_circuit(layout)}
    assert measured["length, mean"] == pytest.approx(3 + 4 + 1)
    assert measured["volume without soma, mean"] == pytest.approx(np.pi * (3 + 4 / 3 + 1))
    assert measured["branchings, mean"] == 1
    assert measured["morphologies that are missing"] == 1


def test_a_damaged_file_is_named(tmp_path):
    layout = write_small(tmp_path)
    content = layout.microdomains.read_bytes()
    layout.microdomains.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"microdomains\.h5 cannot be read: .*Remove it"):
        read_circuit(layout)


@pytest.mark.parametrize("name", ["data/scaling_factors", "offsets/points"])
def test_what_a_file_lacks_is_named(tmp_path, name):
    layout = write_small(tmp_path)
    with h5py.File(layout.microdomains, "a") as file:
        del file[name]
    with pytest.raises(InputError, match=f"microdomains.h5 has no {name}"):
        read_circuit(layout)


def test_a_population_of_another_name_is_named(tmp_path):
    layout = write_small(tmp_path)
    with h5py.File(layout.vasculature, "a") as file:
        file.move("nodes/vasculature", "nodes/vessels")
    with pytest.raises(InputError, match=r"no nodes/vasculature/0 \(populations: vessels\)"):
        read_circuit(layout)


def test_files_of_different_runs_are_told(tmp_path):
    layout = write_small(tmp_path)
    write_somata(layout.somata, np.zeros((3, 3)), np.ones(3))
    with pytest.raises(InputError, match="8 microdomains, but there are 3 astrocytes"):
        read_circuit(layout)
    layout.microdomains.unlink()
    with pytest.raises(InputError, match="endfeet name number 7 of 3 astrocytes"):
        read_circuit(layout)
