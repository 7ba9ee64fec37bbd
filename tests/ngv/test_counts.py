"""What is measured of a circuit, and whether it is as asked."""

import csv
from itertools import combinations

import h5py
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose
from small_circuits import (
    measure_area,
    write_base,
    write_endfeet,
    write_endfeet_meshes,
    write_small,
    write_somata,
)

from nipype_blm.errors import InputError
from nipype_blm.ngv.circuit.counts import describe_counts, write_counts
from nipype_blm.ngv.circuit.files import count_tetrahedra
from nipype_blm.ngv.circuit.measures import measure_circuit
from nipype_blm.ngv.circuit.targets import find_share, find_target, judge
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.region import Region

MANIFEST = {
    "common": {},
    "cell_placement": {"soma_radius": [5.5, 0.5, 4.0, 7.0]},
    "microdomains": {"overlap_distribution": {"type": "normal", "values": [0.4522, 1e-4]}},
    "gliovascular_connectivity": {"connection": {"endfeet_distribution": [2, 2, 0, 15]}},
    "endfeet_surface_meshes": {
        "area_distribution": [93.0, 10.0, 0.0, 1000.0],
        "thickness_distribution": [1.0, 0.1, 0.01, 2.0],
    },
}


def measure(layout, manifest=MANIFEST):
    return {(count.stage, count.what): count for count in measure_circuit(layout, manifest)}


@pytest.mark.parametrize("expected", [6.4, 8.3, 30.0])
def test_somata_are_compared_with_the_region_that_was_checked(tmp_path, expected):
    layout = write_small(tmp_path)
    layout.recipe.mkdir()
    volume = 0.08**3  # mm^3
    Region(volume * 1e9, expected).write(layout.region)
    found = measure(layout)
    count = found["cell-placement", "astrocytes"]
    assert (count.measured, count.target) == (8, round(expected))
    density = found["cell-placement", "density in the region"]
    assert_allclose([density.measured, density.target], [8 / volume, round(expected) / volume])
    assert count.fits == density.fits == {6: "above", 8: "as asked", 30: "below"}[round(expected)]


def test_a_damaged_record_of_the_region_is_named(tmp_path):
    layout = write_small(tmp_path)
    layout.recipe.mkdir()
    layout.region.write_text('{"volume": 3}')
    with pytest.raises(InputError, match=r"region\.json is damaged .*writes it anew"):
        measure(layout)


def test_without_a_region_there_is_no_target_of_somata(tmp_path):
    found = measure(write_small(tmp_path))
    count = found["cell-placement", "astrocytes"]
    assert (count.measured, count.target, count.fits) == (8, None, "")
    # Cubes of 40 um, widened by a tenth: 84 um in all.
    density = found["cell-placement", "density in the box of the microdomains"]
    assert density.measured == pytest.approx(8 / 0.084**3)


def test_a_small_circuit_is_counted_by_hand(tmp_path):
    layout = write_small(tmp_path)
    write_base(tmp_path / "edges.h5", np.zeros((20, 3)))
    manifest = {**MANIFEST, "common": {"base_circuit_connectome": str(tmp_path / "edges.h5")}}
    found = measure(layout, manifest)
    assert_allclose(
        [
            found[key].measured
            for key in [
                ("vasculature", "length"),  # four of 80 um
                ("vasculature", "length density in their box"),
                ("cell-placement", "distance to the nearest astrocyte, mean"),
                ("microdomains", "volume, mean"),
                ("microdomains", "overlap, mean"),
                ("microdomains", "neighbours of an astrocyte, mean"),
                ("gliovascular-connectivity", "endfeet"),
                ("gliovascular-connectivity", "endfeet of an astrocyte, mean"),
                ("gliovascular-connectivity", "astrocytes with an endfoot"),
                ("gliovascular-connectivity", "endfeet per length of vessel"),
                ("neuroglial-connectivity", "synapses with an astrocyte"),
                ("neuroglial-connectivity", "share of all synapses"),
                ("neuroglial-connectivity", "synapses of an astrocyte, mean"),
                ("glialglial-connectivity", "gap junctions of an astrocyte, mean"),
                ("glialglial-connectivity", "astrocytes coupled to one, mean"),
                ("synthesis", "length, mean"),
                ("synthesis", "branchings, mean"),
                ("synthesis", "perivascular sections, mean"),
                ("synthesis", "processes from the soma, mean"),
            ]
        ],
        [
            *(0.32, 0.32 / (0.08 * 0.04 * 0.04)),
            *(40, 44**3, 1 - (0.9 / 1.1) ** 3, 3),
            *(8, 1, 100, 8 / 0.32),
            *(16, 80, 3),
            *(3, 3),
            *(6 + 2 * 9 * 2**0.5 + 4, 1, 1, 2),
        ],
        rtol=1e-6,  # morphologies and vessels are in single precision
    )
    assert found["synthesis", "morphologies that are missing"].fits == "as asked"
    assert found["microdomains", "overlap, mean"].fits == "as asked"
    assert found["endfeet-area", "area, mean"].fits == "as asked"


def test_pairs_of_neurons_and_astrocytes_count_once(tmp_path):
    layout = write_small(tmp_path)
    with h5py.File(layout.neuroglial_connectivity) as file:
        edges = file["edges/neuroglial"]
        pairs = set(zip(edges["source_node_id"][:], edges["target_node_id"][:], strict=True))
    found = measure(layout)
    per_astrocyte = found["neuroglial-connectivity", "neurons of an astrocyte, mean"].measured
    per_neuron = found["neuroglial-connectivity", "astrocytes of a neuron, mean"].measured
    assert per_astrocyte == len(pairs) / 8
    assert per_neuron == len(pairs) / len({neuron for _, neuron in pairs})


def test_the_nearest_astrocyte_is_found_among_all(tmp_path):
    layout, rng = Layout(tmp_path), np.random.default_rng(3)
    positions = rng.uniform(0, 100, (30, 3))
    write_somata(layout.somata, positions, np.ones(30))
    nearest = np.full(30, np.inf)
    for i, j in combinations(range(30), 2):
        distance = np.linalg.norm(positions[i] - positions[j])
        nearest[[i, j]] = np.minimum(nearest[[i, j]], distance)
    found = measure(layout, None)
    for what, value in (("mean", nearest.mean()), ("sd", nearest.std(ddof=1))):
        count = found["cell-placement", f"distance to the nearest astrocyte, {what}"]
        assert count.measured == pytest.approx(value)


def test_missing_morphologies_are_named(tmp_path):
    layout = write_small(tmp_path)
    (layout.morphologies / "GLIA_0000000000003.h5").unlink()
    count = measure(layout)["synthesis", "morphologies that are missing"]
    assert (count.measured, count.fits, count.note) == (1, "above", "GLIA_0000000000003")


def test_endfeet_without_a_surface_count_in_no_area(tmp_path):
    layout = write_small(tmp_path)
    square = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0]])
    halves = np.array([[0, 1, 2], [1, 3, 2]])
    none = np.zeros((0, 3))
    write_endfeet(layout, [0, 1], [0, 0], np.zeros((2, 3)))
    area = measure_area(square, halves)
    write_endfeet_meshes(layout, [square, none], [halves, none], [area, 0], [1.0, 0])
    found = measure(layout)
    assert found["endfeet-area", "endfeet without a surface"].measured == 50
    assert found["endfeet-area", "area, mean"].measured == pytest.approx(100)
    assert ("endfeet-area", "area, sd") not in found  # of one


def test_stages_that_have_not_been_run_are_left_out(tmp_path):
    layout = write_small(tmp_path)
    for path in (layout.gliovascular_connectivity, layout.endfeet_meshes, layout.microdomains):
        path.unlink()
    layout.glialglial.unlink()
    stages = dict.fromkeys(stage for stage, _ in measure(layout))
    expected = ["vasculature", "cell-placement", "neuroglial-connectivity", "synthesis"]
    assert list(stages) == expected


def test_nothing_is_measured_of_nothing(tmp_path):
    assert measure_circuit(Layout(tmp_path)) == []
    assert describe_counts([]) == "Nothing of this circuit has been built."


@pytest.mark.parametrize("values", [(5.6, 0.74, 0.1, 20), (2, 2, 0, 15), (1, 3, 0, 1.5)])
def test_moments_of_a_cut_normal_are_those_of_its_density(values):
    mean, sd, low, high = values
    x = np.linspace(low, high, 200_001)
    weights = np.exp(-0.5 * ((x - mean) / sd) ** 2)
    weights[[0, -1]] /= 2  # the trapezoidal rule
    weights /= weights.sum()
    found = find_target(values)
    m = weights @ x
    variance = weights @ (x - m) ** 2
    kurtosis = weights @ (x - m) ** 4 / variance**2
    # The rule is good to the square of a step.
    assert_allclose(found[:3], [m, variance**0.5, kurtosis], rtol=1e-5)
    assert found.median == pytest.approx(x[np.cumsum(weights).searchsorted(0.5)], abs=1e-3)


def test_moments_of_rounded_draws_are_those_of_many():
    values, rng = (2, 2, 0, 15), np.random.default_rng(0)
    draws = rng.normal(2, 2, 400_000)
    draws = np.round(draws[(draws >= 0) & (draws <= 15)])
    found = find_target(values, is_whole=True)
    # Five standard errors of 300,000 draws.
    assert found.mean == pytest.approx(draws.mean(), abs=0.015)
    assert found.sd == pytest.approx(draws.std(), abs=0.012)
    assert found.median == np.median(draws)
    shares = [(draws == k).mean() for k in range(6)]
    assert_allclose(find_share(values, np.arange(6)), shares, atol=0.005)


def test_draws_of_the_target_are_as_asked_but_for_three_errors(tmp_path):
    layout, rng = Layout(tmp_path), np.random.default_rng(1)
    n_above = {"mean": 0, "sd": 0}
    for _ in range(60):
        radii = rng.normal(5.5, 0.5, 40).clip(4, 7)  # three sd: almost never cut
        write_somata(layout.somata, rng.uniform(0, 100, (40, 3)), radii)
        found = measure(layout)
        for what in n_above:
            n_above[what] += found["cell-placement", f"soma radius, {what}"].fits != "as asked"
    # 0.3 % of normal draws are beyond three errors: three of 60 by chance in 1 of 1000 tests.
    assert max(n_above.values()) < 3


@pytest.mark.parametrize(("shift", "fits"), [(0.4, "above"), (-0.4, "below"), (0.1, "as asked")])
def test_a_mean_that_is_shifted_is_told(tmp_path, shift, fits):
    layout, n = Layout(tmp_path), 40
    radii = 5.5 + shift + 0.5 * np.resize([-1, 1], n)  # three errors are 0.237
    write_somata(layout.somata, np.random.default_rng(0).uniform(0, 100, (n, 3)), radii)
    assert measure(layout)["cell-placement", "soma radius, mean"].fits == fits


def test_what_is_not_drawn_has_to_be_met():
    assert judge(5, 5) == "as asked"
    assert judge(4, 5) == "below"
    assert judge(6, 5) == "above"
    assert judge(6, 5, error=0.34) == "as asked"


@pytest.mark.parametrize("given", ["many", [1, 2, 3], [5, 0, 0, 9], [5, 1, 9, 0], [5, 1, "a", 9]])
def test_a_distribution_that_is_none_is_shown(tmp_path, given):
    layout = write_small(tmp_path)
    with pytest.raises(InputError, match=r"soma_radius of cell_placement.*expected four numbers"):
        measure_circuit(layout, {"ngv": {"cell_placement": {"soma_radius": given}}})


def test_parts_of_a_manifest_that_are_no_mappings_are_not_there(tmp_path):
    layout = write_small(tmp_path)
    odd = {"common": None, "cell_placement": 3, "microdomains": {"overlap_distribution": []}}
    assert measure_circuit(layout, odd) == measure_circuit(layout, None)


def test_tables_hold_all_digits(tmp_path):
    layout = write_small(tmp_path)
    counts = measure_circuit(layout, MANIFEST)
    write_counts(tmp_path / "counts.tsv", counts)
    with (tmp_path / "counts.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["stage"], row["what"]) for row in rows] == [c[:2] for c in counts]
    # Nine digits are written.
    assert_allclose([float(r["measured"]) for r in rows], [c.measured for c in counts], rtol=1e-8)
    targets = [float(row["target"].replace("n/a", "nan")) for row in rows]
    assert_allclose(targets, [np.nan if c.target is None else c.target for c in counts], rtol=1e-8)


def test_a_terminal_shows_mean_and_sd_in_a_line(tmp_path):
    text = describe_counts(measure_circuit(write_small(tmp_path), MANIFEST))
    [line] = [line for line in text.splitlines() if line.startswith("  soma radius ")]
    assert " ".join(line.split()) == "soma radius 5.5 ± 0.3499 um asked 5.5 ± 0.4933 as asked"
    assert max(map(len, text.splitlines())) <= 120


def test_tetrahedra_are_counted_among_other_elements(tmp_path):
    path = tmp_path / "mesh.msh"
    head = "$MeshFormat\n4.1 0 8\n$EndMeshFormat\n$Nodes\n0 0 0 0\n$EndNodes\n$Elements\n"
    faces, cells = "2 1 2 2\n1 1 2 3\n2 2 3 4\n", "3 1 4 3\n3 1 2 3 4\n4 2 3 4 5\n5 3 4 5 6\n"
    path.write_text(f"{head}3 6 1 6\n{faces}{cells}3 2 4 1\n6 1 2 3 5\n$EndElements\n")
    assert count_tetrahedra(path) == 4
    path.write_text(f"{head}2 5 1 5\n{faces}3 1 4 9\n")
    with pytest.raises(InputError, match="ends within its elements"):
        count_tetrahedra(path)
    path.write_text(head.replace("4.1 0", "4.1 1"))  # binary
    assert count_tetrahedra(path) is None


def test_the_circuit_of_archngv_is_as_asked_where_it_can_be(functional_circuit, tmp_path):
    (tmp_path / "build").symlink_to(functional_circuit / "expected")
    layout, recipe = Layout(tmp_path), functional_circuit / "bioname"
    manifest = yaml.safe_load((recipe / "MANIFEST.yaml").read_text())
    common = manifest["ngv"]["common"]
    common["base_circuit_connectome"] = str(recipe / common["base_circuit_connectome"])
    found = measure(layout, manifest)
    assert found["cell-placement", "astrocytes"].measured == 5
    assert found["gliovascular-connectivity", "endfeet"].measured == 9
    share = found["neuroglial-connectivity", "share of all synapses"]
    assert share.measured == 95  # 475 of 500; two of the 477 edges are of shared synapses
    assert found["microdomains", "overlap, mean"].fits == "as asked"
    assert found["endfeet-area", "area, median"].fits == "as asked"
    assert found["endfeet-area", "area, mean"].note.startswith("one endfoot has the largest area")
    assert found["refined mesh", "tetrahedra"].measured == 48
    assert found["glialglial-connectivity", "contacts, in both directions"].measured == 2


def test_the_somata_of_a_computed_circuit_are_those_that_its_atlas_asks_for(built_circuit):
    layout = Layout(built_circuit)
    # Of 1,000 voxels of 7 um; densities are numbers of 32 bits.
    assert Region.read(layout.region) == pytest.approx((343_000, 5.1), rel=1e-7)
    assert measure(layout)["cell-placement", "astrocytes"][2:4] == (5, 5)
