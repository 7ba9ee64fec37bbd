"""Touches are where processes of two astrocytes overlap, and ArchNGV reads them."""

import subprocess
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.errors import InputError
from nipype_blm.ngv.circuit.capsules import find_deepest
from nipype_blm.ngv.circuit.morphologies import Cells, Somata, read_segments, read_somata
from nipype_blm.ngv.layout import GLIALGLIAL
from nipype_blm.ngv.touches import (
    TOUCH,
    find_touches,
    finish_touches,
    measure_cells,
    read_touches,
    write_touches,
)

# Points of a section (x, y, z, diameter) and its parent, 0 for the soma.
FORK = [
    ([[1, 0, 0, 2], [4, 0, 0, 2], [4, 4, 0, 1]], 0),
    ([[4, 4, 0, 1], [4, 6, 0, 1]], 1),
    ([[4, 4, 0, 1], [9, 4, 0, 1], [9, 5, 0, 1], [9, 5, 2, 1]], 1),
]
SOMA_POINTS = [[1, 0, 0, 0], [-1, 0, 0, 0]]


def write_morphology(path, sections, kind=3):
    points, structure = list(SOMA_POINTS), [[0, 1, -1]]
    for section, parent in sections:
        structure.append([len(points), kind, parent])
        points.extend(section)
    with h5py.File(path, "w") as file:
        file["points"] = np.array(points, np.float32).reshape(-1, 4)
        file["structure"] = np.array(structure, np.int32)


def write_nodes(path, names, positions, radii, population="astrocytes"):
    with h5py.File(path, "w") as file:
        group = file.create_group(f"nodes/{population}/0")
        group["morphology"] = names
        group["radius"] = radii
        for axis, values in zip("xyz", np.transpose(positions), strict=True):
            group[axis] = values


def make_rod(points, diameter=1.0):
    """Return a cell with one section; its soma is a point, far away from it."""
    return [([[*point, diameter] for point in points], 0)]


@pytest.fixture
def make_cells(tmp_path):
    """Function that writes morphologies, and returns the cells; positions are at the origin."""

    def make(morphologies, positions=None, radius=0.0):
        names = [f"cell{i}" for i in range(len(morphologies))]
        for name, sections in zip(names, morphologies, strict=True):
            write_morphology(tmp_path / f"{name}.h5", sections)
        if positions is None:
            # Far from the rods, and from each other.
            positions = [[100.0 * (i + 1), 100, 100] for i in range(len(names))]
            for name, position in zip(names, positions, strict=True):
                with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
                    file["points"][len(SOMA_POINTS) :, :3] -= position
        return Cells(
            Somata(names, np.array(positions, float), np.full(len(names), radius)), tmp_path
        )

    return make


def make_bush(seed, n_sections=20, n_steps=8):
    """Return sections that walk at random, each from the end of an earlier one."""
    rng = np.random.default_rng(seed)
    sections, ends = [], [np.zeros(3)]
    for _ in range(n_sections):
        parent = int(rng.integers(len(ends)))
        walk = ends[parent] + np.cumsum(rng.normal(0, 1.2, (n_steps, 3)), axis=0)
        xyz = np.vstack([ends[parent], walk])
        sections.append((np.column_stack([xyz, rng.uniform(0.2, 1, n_steps + 1)]), parent))
        ends.append(walk[-1])
    return sections


@pytest.fixture
def bushes(make_cells):
    rng = np.random.default_rng(0)
    return make_cells([make_bush(i) for i in range(5)], rng.normal(0, 6, (5, 3)), radius=1.5)


# Reading.


def test_segments_have_the_numbers_of_the_file_and_lie_around_the_soma(tmp_path):
    write_morphology(tmp_path / "fork.h5", FORK)
    cell = read_segments(tmp_path / "fork.h5", np.array([10.0, 20, 30]), 2.5)
    assert_array_equal(cell.section_ids, [0, 1, 1, 2, 3, 3, 3])
    assert_array_equal(cell.segment_ids, [0, 0, 1, 0, 0, 1, 2])
    assert_array_equal(cell.types, [1, 3, 3, 3, 3, 3, 3])
    assert_array_equal(cell.lengths, [0, 3, 4, 2, 5, 1, 2])
    assert_array_equal(cell.offsets, [0, 0, 3, 0, 0, 5, 6])
    assert_array_equal(cell.section_lengths, [0, 7, 7, 2, 8, 8, 8])
    assert_array_equal(cell.soma_distances, [0, 0, 0, 7, 7, 7, 7])
    assert_array_equal(cell.orders, [-1, 2, 2, 3, 3, 3, 3])
    assert_array_equal(cell.capsules.starts[[0, 2]], [[10, 20, 30], [14, 20, 30]])
    assert_array_equal(cell.capsules.ends[[0, 6]], [[10, 20, 30], [19, 25, 32]])
    assert_array_equal(cell.capsules.radii[[0, 2]], [[2.5, 2.5], [1, 0.5]])


def test_names_of_morphologies_may_be_numbers_of_a_library(tmp_path):
    path = tmp_path / "nodes.h5"
    write_nodes(path, [1, 0, 1], np.arange(9.0).reshape(3, 3), [1.0, 2, 3])
    with h5py.File(path, "r+") as file:
        file["nodes/astrocytes/0/@library/morphology"] = ["one", "other"]
    somata = read_somata(path)
    assert somata.names == ["other", "one", "other"]
    assert_array_equal(somata.positions, np.arange(9.0).reshape(3, 3))
    assert_array_equal(somata.radii, [1, 2, 3])


def spoil_points(value, column=0):
    def spoil(file):
        file["points"][3, column] = value

    return spoil


def replace(name, value):
    def spoil(file):
        del file[name]
        if value is not None:
            file[name] = np.array(value)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_points(np.nan), r"fork\.h5 has 1 point of 11 with values that are no numbers"),
        (spoil_points(np.inf, 3), "values that are no numbers"),
        (spoil_points(-1, 3), "diameters below 0"),
        (replace("points", np.empty((0, 4))), "has no points"),
        (replace("points", np.ones((11, 3))), r"shape \(11, 3\)"),
        (replace("structure", None), "has no structure: it is no morphology"),
        (replace("structure", [[0, 1, -1], [40, 3, 0]]), "does not fit its 11 points"),
        (replace("structure", [[0, 1, -1], [2, 3, 2], [5, 3, 0]]), "after their parents"),
    ],
)
def test_a_morphology_that_cannot_be_is_refused(tmp_path, spoil, message):
    path = tmp_path / "fork.h5"
    write_morphology(path, FORK)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(InputError, match=message):
        read_segments(path, np.zeros(3), 1.0)


def test_a_missing_morphology_is_named_with_its_astrocyte(bushes, tmp_path):
    (tmp_path / "cell3.h5").unlink()
    with pytest.raises(
        InputError, match=r"Astrocyte 3 has the morphology 'cell3', but there is no"
    ):
        measure_cells(bushes)


def test_a_file_that_is_no_hdf5_is_named(tmp_path):
    (tmp_path / "nodes.h5").write_text("no")
    with pytest.raises(InputError, match=r"nodes\.h5 cannot be read"):
        read_somata(tmp_path / "nodes.h5")
    with pytest.raises(InputError, match=r"There is no .*other\.h5"):
        read_somata(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.move("nodes/astrocytes", "nodes/glia"), "its populations: glia"),
        (lambda file: file.pop("nodes/astrocytes/0/radius"), "have no radius"),
        (
            lambda file: file.create_dataset("nodes/astrocytes/0/orientation_w", data=[1.0]),
            "are turned",
        ),
        (lambda file: file["nodes/astrocytes/0/x"].write_direct(np.array([np.nan])), "no number"),
    ],
)
def test_nodes_that_are_not_those_of_astrocytes_are_refused(tmp_path, change, message):
    path = tmp_path / "nodes.h5"
    write_nodes(path, ["cell"], [[0.0, 0, 0]], [1.0])
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message):
        read_somata(path)


# Touches of cells that one can work out.


def test_a_touch_of_two_crossing_rods_is_what_one_works_out(make_cells):
    # Rods of radius 0.5 along x and along y, 0.6 above each other, in sections of two segments.
    along_x = make_rod([[0, 0, 0], [4, 0, 0], [10, 0, 0]])
    along_y = make_rod([[6, -3, 0.6], [6, -1, 0.6], [6, 4, 0.6]])
    touches = find_touches(make_cells([along_x, along_y]), [0])
    assert len(touches) == 1
    touch = touches[0]
    assert_array_equal(touch["pre_ids"], [0, 1, 1])
    assert_array_equal(touch["post_ids"], [1, 1, 1])
    # float32 after the shift by the position of a soma that is 200 um away.
    near = {"atol": 5e-5}
    assert_allclose(touch["distances"], [6, 2, 1], **near)
    assert_allclose(
        [touch["pre_section_fraction"], touch["post_section_fraction"]], [0.6, 3 / 7], **near
    )
    assert_allclose(touch["pre_position_center"], [6, 0, 0], **near)
    assert_allclose(touch["pre_position"], [6, 0, 0.5], **near)
    assert_allclose(touch["post_position"], [6, 0, 0.6], **near)
    assert_allclose(touch["post_position_surface"], [6, 0, 0.1], **near)
    assert touch["branch_order"] == 2
    assert touch["branch_type"] == 0x22


def test_both_directions_are_found_and_no_cell_touches_itself(make_cells):
    loop = make_rod([[0, 0, 0], [5, 0, 0], [5, 5, 0], [2, 5, 0], [2, -5, 0]])
    other = make_rod([[4, 2, 0], [9, 2, 0]])
    touches = find_touches(make_cells([loop, other]), [0, 1])
    assert_array_equal(touches["pre_ids"][:, 0], [0, 1])
    assert_array_equal(touches["post_ids"][:, 0], [1, 0])
    one, back = touches
    for side, other_side in (("pre", "post"), ("post", "pre")):
        assert_array_equal(one[f"{side}_ids"], back[f"{other_side}_ids"])
    assert_allclose(one["distances"][[1, 2]], back["distances"][[2, 1]], atol=1e-4)


def test_a_soma_is_touched_by_processes_but_not_by_somata(make_cells):
    away = [[20, 0, 0], [30, 0, 0]]
    through = [[0, 5, 1], [0, 0, 1], [0, -5, 1]]
    cells = make_cells([make_rod(away), make_rod(through)], [[0, 0, 0], [1, 0, 0]], radius=1.5)
    touches = find_touches(cells, [0, 1])
    # One contact of the soma, though two segments overlap it.
    assert_array_equal(touches["pre_ids"][:, 1], [0, 1])
    assert_array_equal(touches["post_ids"][:, 1], [1, 0])
    soma, process = touches
    assert soma["branch_type"] == 0x02
    assert process["branch_type"] == 0x20
    assert_array_equal(soma["pre_section_fraction"], 0)
    assert soma["branch_order"] == -1
    # The process passes 1 beside and 1 above the soma's centre: straight towards its middle.
    assert_allclose(soma["pre_position_center"], [0, 0, 0], atol=1e-6)
    assert_allclose(soma["pre_position"], np.array([1, 0, 1]) * 1.5 / np.sqrt(2), atol=1e-6)
    assert_allclose(process["distances"][0], 5, atol=1e-5)


def make_long(n=40, height=0.0):
    return make_rod([[x, 0, height] for x in np.linspace(0, 20, n + 1)])


@pytest.mark.parametrize(("spacing", "n_touches"), [(6.0, 3), (13.0, 2), (14.0, 1), (100.0, 1)])
def test_a_long_contact_of_many_segments_has_a_touch_for_every_spacing(
    make_cells, spacing, n_touches
):
    cells = make_cells([make_long(), make_rod([[0, 0, 0.5], [20, 0, 0.5]])])
    touches = find_touches(cells, [0], spacing=spacing)
    expected = 20 * (np.arange(n_touches) + 0.5) / n_touches
    assert_allclose(touches["pre_position_center"][:, 0], expected, atol=1e-4)
    assert_allclose(touches["post_position"][:, 0], expected, atol=1e-4)


def test_contacts_are_one_if_the_gap_between_them_is_small(make_cells):
    # A rod that dips into the other twice: 4 um apart along the source, less what overlaps.
    dips = make_rod([[0, 3, 0], [2, 0, 0], [4, 3, 0], [6, 0, 0], [8, 3, 0]])
    cells = make_cells([make_long(), dips])
    assert len(find_touches(cells, [0], gap=5)) == 1
    two = find_touches(cells, [0], gap=1)
    assert_allclose(two["pre_position_center"][:, 0], [2, 6], atol=1e-4)
    # In its middle, at 4, nothing overlaps.
    (one,) = find_touches(cells, [0], gap=5)
    assert min(abs(one["pre_position_center"][0] - two["pre_position_center"][:, 0])) < 1.25


def test_only_what_overlaps_by_more_than_the_least_touches(make_cells):
    cells = make_cells([make_rod([[0, 0, 0], [9, 0, 0]]), make_rod([[4, -3, 0.9], [4, 3, 0.9]])])
    assert len(find_touches(cells, [0], min_overlap=0.09)) == 1
    assert len(find_touches(cells, [0], min_overlap=0.11)) == 0


@pytest.mark.parametrize(("diameter", "n_touches"), [(0.0, 0), (0.5, 1)])
def test_a_process_without_radius_is_a_line(make_cells, diameter, n_touches):
    line = make_rod([[0, 0, 0], [9, 0, 0]], 0)
    other = make_rod([[4, -3, 0], [4, 0, 0], [4, 0, 0], [4, 3, 0]], diameter)
    touches = find_touches(make_cells([line, other]), [0])
    assert len(touches) == n_touches
    assert np.isfinite(touches["pre_position"]).all()


def test_rods_end_to_end_touch_at_their_tips(make_cells):
    cells = make_cells([make_rod([[0, 0, 0], [4, 0, 0]]), make_rod([[4.8, 0, 0], [9, 0, 0]])])
    (touch,) = find_touches(cells, [0])
    assert_allclose(touch["post_position"], [4.8, 0, 0], atol=1e-4)
    assert touch["pre_position"][0] > touch["pre_position_center"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": [0, 7]}, "Sources are 0 to 7, but the 2 astrocytes"),
        ({"sources": [-1]}, "Sources are -1"),
        ({"sources": [0], "min_overlap": -1}, "min_overlap is -1"),
        ({"sources": [0], "spacing": 0}, "spacing 0"),
    ],
)
def test_options_out_of_range_are_refused(make_cells, options, message):
    cells = make_cells([make_long(), make_long()])
    with pytest.raises(InputError, match=message):
        find_touches(cells, **options)


# Touches of any cells.


def test_cells_that_touch_are_those_with_a_pair_of_segments_that_overlap(bushes):
    touches = find_touches(bushes, range(5))
    assert len(touches) > 20
    found = {
        (int(pre), int(post))
        for pre, post in zip(touches["pre_ids"][:, 0], touches["post_ids"][:, 0], strict=True)
    }
    expected, sections = set(), set()
    for source, target in permutations(range(5), 2):
        first, second = bushes[source], bushes[target]
        i, j = np.indices((len(first.lengths), len(second.lengths))).reshape(2, -1)
        overlaps = find_deepest(first.capsules.take(i), second.capsules.take(j)).overlap > 0
        overlaps &= (i > 0) | (j > 0)
        if overlaps.any():
            expected.add((source, target))
        sections |= {(source, target, int(s)) for s in first.section_ids[i[overlaps]]}
    assert found == expected
    # Each section of the source that overlaps the target has a contact.
    assert {
        (int(t["pre_ids"][0]), int(t["post_ids"][0]), int(t["pre_ids"][1])) for t in touches
    } == sections


def test_touches_lie_where_their_segments_say(bushes):
    for touch in find_touches(bushes, range(5)):
        for side, position in (("pre", "pre_position_center"), ("post", "post_position")):
            cell, section, segment = touch[f"{side}_ids"]
            cell = bushes[cell]
            (row,) = np.flatnonzero((cell.section_ids == section) & (cell.segment_ids == segment))
            offset = touch["distances"][1 if side == "pre" else 2]
            axis = cell.capsules.ends[row] - cell.capsules.starts[row]
            along = offset / max(cell.lengths[row], 1e-12)
            # float32 of positions of some 10 um, and of lengths.
            assert_allclose(touch[position], cell.capsules.starts[row] + along * axis, atol=1e-5)
            length = max(cell.section_lengths[row], 1e-12)
            fraction = (cell.offsets[row] + offset) / length
            assert_allclose(touch[f"{side}_section_fraction"], fraction, atol=1e-5)
            assert 0 <= along <= 1 + 1e-6


def test_sources_can_be_shared_out_in_any_way(bushes):
    whole = find_touches(bushes, range(5))
    boxes = measure_cells(bushes)
    parts = [find_touches(bushes, part, boxes=boxes) for part in ([3], [4, 0], [], [1, 2])]
    shared = np.concatenate(parts)
    order = np.argsort(shared["pre_ids"][:, 0], kind="stable")
    assert_array_equal(shared[order], whole)


def test_only_neighbours_are_read(make_cells, tmp_path):
    cells = make_cells(
        [make_bush(0), make_bush(1), make_bush(2)], [[0, 0, 0], [5, 0, 0], [900, 0, 0]]
    )
    boxes = measure_cells(cells)
    (tmp_path / "cell2.h5").unlink()
    cells = Cells(cells.somata, tmp_path)
    assert len(find_touches(cells, [0, 1], boxes=boxes))


# Files.


def test_records_have_the_bytes_of_touchdetector():
    # Offsets of its struct: two times 3 ids and the order (28 bytes), 3 distances, 2 fractions ...
    assert TOUCH.itemsize == 104
    offsets = [TOUCH.fields[name][1] for name in TOUCH.names]
    assert offsets == [0, 12, 24, 28, 40, 44, 48, 60, 72, 76, 80, 92]


def test_files_give_back_what_was_written(bushes, tmp_path):
    folder = tmp_path / "touches"
    touches = find_touches(bushes, range(5))
    is_first = touches["pre_ids"][:, 0] < 2
    write_touches(folder, 1, touches[~is_first])
    write_touches(folder, 0, touches[is_first])
    assert_array_equal(read_touches(folder), touches)
    raw = (folder / "touches.1").read_bytes()
    header = np.frombuffer(raw[:32], "<f8, <i8, S16")[0]
    index = np.frombuffer(raw[32:], "<i4, <u4, <i8")
    assert header.tolist() == (1.001, len(index), b"5.6.1")
    for cell, n_touches, first_byte in index:
        part = np.fromfile(folder / "touchesData.1", TOUCH, int(n_touches), offset=int(first_byte))
        assert_array_equal(part, touches[touches["pre_ids"][:, 0] == cell])
    again = touches.copy()
    again.view(np.uint8).reshape(-1, 104)[:, 77:80] = 255  # between fields
    write_touches(tmp_path / "again", 0, again)
    data = (tmp_path / "again/touchesData.0").read_bytes()
    assert data == b"".join((folder / f"touchesData.{n}").read_bytes() for n in range(2))


def test_finishing_takes_away_files_of_an_earlier_run_and_nothing_else(tmp_path):
    none = np.empty(0, TOUCH)
    for number in range(3):
        write_touches(tmp_path, number, none)
    (tmp_path / "touches.txt").touch()
    finish_touches(tmp_path, 2)
    names = {"touches.0", "touchesData.0", "touches.1", "touchesData.1", "touches.txt", "_SUCCESS"}
    assert {path.name for path in tmp_path.iterdir()} == names
    write_touches(tmp_path, 0, none)
    assert not (tmp_path / "_SUCCESS").exists()


def test_nothing_is_finished_that_lacks_a_file(tmp_path):
    write_touches(tmp_path, 1, np.empty(0, TOUCH))
    with pytest.raises(InputError, match=r"lacks touches\.0, touchesData\.0: find touches again"):
        finish_touches(tmp_path, 2)
    with pytest.raises(InputError, match="lacks all files"):
        finish_touches(tmp_path, 0)
    assert not (tmp_path / "_SUCCESS").exists()


# Real circuits.

# touchdetector rounds places to 1/255 of a segment, here of up to 5 um, and knows the ends of an
# overlap, in the middle of which a touch is, from 250 points around the segment.
ROUNDED = 0.03


def read_cells(nodes: Path, morphologies: Path) -> Cells:
    return Cells(read_somata(nodes), morphologies)


@pytest.fixture(scope="module")
def functional_nodes(functional_circuit):
    return functional_circuit / "expected/sonata/networks/nodes/astrocytes/nodes.h5"


@pytest.fixture(scope="module")
def functional_cells(functional_circuit, functional_nodes):
    return read_cells(functional_nodes, functional_circuit / "expected/morphologies")


def connect(ngv_python, nodes, touches, out):
    """Have ArchNGV make edges of touches; return its table as columns."""
    command = [ngv_python.with_name("ngv"), "glialglial-connectivity", "--astrocytes", nodes]
    command += ["--touches-dir", touches, "--population-name", GLIALGLIAL]
    subprocess.run([*command, "--output-connectivity", out], check=True, capture_output=True)
    return read_edges(out)


def read_edges(path):
    with h5py.File(path) as file:
        group = file[f"edges/{GLIALGLIAL}"]
        columns = {name: group[name][()] for name in ("source_node_id", "target_node_id")}
        return columns | {name: values[()] for name, values in group["0"].items()}


def test_archngv_makes_the_edges_it_expects_of_our_touches(
    functional_circuit, functional_nodes, functional_cells, ngv_python, tmp_path
):
    # Without a contact, 0.007 um deep, that touchdetector does not have: see the next test.
    touches = find_touches(functional_cells, range(5), min_overlap=0.01)
    for source in range(5):
        mine = touches["pre_ids"][:, 0] == source
        write_touches(tmp_path / "touches", source, touches[mine])
    finish_touches(tmp_path / "touches", 5)
    edges = connect(ngv_python, functional_nodes, tmp_path / "touches", tmp_path / "edges.h5")
    expected_folder = functional_circuit / "expected/sonata/networks/edges/glialglial"
    expected = read_edges(expected_folder / "edges.h5")
    assert edges.keys() == expected.keys()
    for name, values in expected.items():
        assert edges[name].dtype == values.dtype
        if values.dtype.kind == "f":
            length = 7 if name.endswith("_pos") else 1  # of these sections, um
            assert_allclose(edges[name], values, atol=ROUNDED / length, err_msg=name)
        else:
            assert_array_equal(edges[name], values, err_msg=name)


def test_a_contact_more_than_touchdetector_has_is_one_of_a_segment_that_tapers(functional_cells):
    (there, *_) = touches = find_touches(functional_cells, range(5))[1:3]
    assert_array_equal(touches["pre_ids"][:, 0], [2, 3])
    assert_array_equal(touches["post_ids"][:, 0], [3, 2])
    capsules = []
    for side in ("pre_ids", "post_ids"):
        cell = functional_cells[int(there[side][0])]
        is_it = (cell.section_ids == there[side][1]) & (cell.segment_ids == there[side][2])
        capsules.append(cell.capsules.take(is_it))
    assert_allclose(find_deepest(*capsules).overlap, 0.0067, atol=1e-4)
    cylinders = [c._replace(radii=np.full((1, 2), c.radii.mean())) for c in capsules]
    assert_allclose(find_deepest(*cylinders).overlap, -0.0928, atol=1e-4)


def test_archngv_reads_that_there_are_no_touches(functional_nodes, ngv_python, tmp_path):
    write_touches(tmp_path / "touches", 0, np.empty(0, TOUCH))
    finish_touches(tmp_path / "touches", 1)
    edges = connect(ngv_python, functional_nodes, tmp_path / "touches", tmp_path / "edges.h5")
    assert len(edges["source_node_id"]) == 0


def test_columns_called_center_are_on_the_surface_and_the_other_way_round(
    functional_circuit, functional_cells
):
    # So they are in what ArchNGV expects, too: it gives columns of touchdetector wrong names.
    expected = read_edges(functional_circuit / "expected/sonata/networks/edges/glialglial/edges.h5")
    for side, column, is_surface in (
        ("efferent", "efferent_center", True),
        ("afferent", "afferent_surface", False),
    ):
        node = "source_node_id" if side == "efferent" else "target_node_id"
        for edge, cell in enumerate(expected[node]):
            point = np.array([expected[f"{column}_{axis}"][edge] for axis in "xyz"])
            section = expected[f"{side}_section_id"][edge]
            capsules = functional_cells[int(cell)].capsules.take(
                functional_cells[int(cell)].section_ids == section
            )
            nearest = np.inf
            for start, end in zip(capsules.starts, capsules.ends, strict=True):
                axis = end - start
                along = np.clip((point - start) @ axis / (axis @ axis), 0, 1)
                nearest = min(nearest, np.linalg.norm(point - start - along * axis))
            radius = capsules.radii[1, 0]  # of the segment of each touch, which does not taper
            assert_allclose(nearest, radius if is_surface else 0, atol=1e-5)


def test_a_circuit_with_long_contacts_has_the_contacts_of_touchdetector(functional_circuit):
    """Its touches were made of the same branches with fewer points, and partly other numbers."""
    frozen = functional_circuit.parent / "unit/app/data/frozen-build"
    expected = read_touches(frozen / "connectome/touches")
    cells = read_cells(frozen / "sonata/nodes/glia.h5", frozen / "morphologies")
    touches = find_touches(cells, range(5))
    assert len(touches) == len(expected) == 7
    # Seventeen pairs of segments overlap in either direction: contacts are counted, not pairs.
    for name in ("pre_ids", "post_ids"):
        assert_array_equal(np.sort(touches[name][:, 0]), np.sort(expected[name][:, 0]))
    expected = expected[np.lexsort((expected["distances"][:, 0], expected["pre_ids"][:, 0]))]
    touches = touches[np.lexsort((touches["distances"][:, 0], touches["pre_ids"][:, 0]))]
    assert_array_equal(touches["branch_order"], expected["branch_order"])
    assert_array_equal(touches["branch_type"], expected["branch_type"])
    # Points of the axes were left out there, some tenths of a um beside the lines between others.
    for name in ("pre_position_center", "post_position"):
        assert_allclose(touches[name], expected[name], atol=0.3)
    assert_array_equal(touches["spine_length"], expected["spine_length"])
