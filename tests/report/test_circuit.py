"""The picture of a circuit."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.testing import assert_allclose
from small_circuits import (
    CUBE,
    name_glia,
    write_base,
    write_endfeet,
    write_small,
    write_somata,
    write_synapses,
    write_vessels,
)

from nipype_blm.errors import InputError
from nipype_blm.ngv.layout import Layout
from nipype_blm.report.charts.drawing import COLOURS
from nipype_blm.report.charts.scenes import (
    Scene,
    choose_round,
    colour_neighbours,
    cut_triangles,
    find_hull,
    look_along,
    look_aslant,
    look_at_widest,
)
from nipype_blm.report.circuit import draw_circuit

MANIFEST = {
    "cell_placement": {"soma_radius": [5.5, 0.5, 4.0, 7.0]},
    "gliovascular_connectivity": {"connection": {"endfeet_distribution": [2, 2, 0, 15]}},
    "endfeet_surface_meshes": {"area_distribution": [93.0, 10.0, 0.0, 1000.0]},
}


def read_words(layout, manifest=None, **options):
    """Draw a circuit, and return all the text that is in the picture."""
    path = draw_circuit(layout, layout.folder / "picture.svg", manifest, **options)
    return re.findall(r"<text[^>]*>(?:<tspan[^>]*>)?([^<]*)", path.read_text())


def count_orange(path):
    """Return how many pixels of the panels, above the legend, have the colour of endfeet."""
    pixels = imread(path)[:900, :, :3]
    hue = np.array(to_rgb(COLOURS[1]))
    shade = pixels / np.maximum(pixels.max(axis=2, keepdims=True), 1e-9)
    return int((np.abs(shade - hue / hue.max()).max(axis=2) < 0.03).sum())


def test_a_picture_of_the_same_circuit_is_the_same(tmp_path):
    layout = write_small(tmp_path)
    one, two = (draw_circuit(layout, tmp_path / f"{k}.png", MANIFEST) for k in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert imread(one).shape[:2] == (1350, 2400)  # 16:9


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_vector_formats_are_the_same_again_too(tmp_path, suffix, start):
    layout = write_small(tmp_path)
    one, two = (draw_circuit(layout, tmp_path / f"{k}.{suffix}") for k in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().startswith(start)


def test_counts_and_targets_are_told(tmp_path):
    words = read_words(write_small(tmp_path), MANIFEST)
    title = "8 astrocytes, 8 endfeet, 24 synapses, 4 segments of vessels"
    assert {title, "1 endfoot", "3 synapses, places unknown", "GLIA_0000000000000"} <= set(words)
    assert words.count("as asked") == 3
    assert "not there yet" not in words


def test_the_astrocyte_with_most_endfeet_and_then_synapses_is_chosen(tmp_path):
    layout = write_small(tmp_path)
    layout.endfeet_meshes.unlink()
    write_endfeet(layout, [1, 1, 4, 4, 6], [0] * 5, np.full((5, 3), 20.0))
    write_synapses(layout, np.arange(6), [6, 6, 6, 4, 4, 1], [0] * 6)
    assert name_glia(8)[4] in read_words(layout)
    (layout.morphologies / f"{name_glia(8)[4]}.h5").unlink()
    assert name_glia(8)[1] in read_words(layout)  # one with branches goes before it
    assert name_glia(8)[6] in read_words(layout, astrocyte=name_glia(8)[6])


def test_endfeet_are_drawn_only_if_they_are_there(tmp_path):
    layout = write_small(tmp_path)
    # The line of a target has the same colour, but is below.
    assert count_orange(draw_circuit(layout, tmp_path / "with.png")) > 100
    layout.gliovascular_connectivity.unlink()
    layout.endfeet_meshes.unlink()
    assert count_orange(draw_circuit(layout, tmp_path / "without.png")) == 0


def test_what_is_missing_is_said(tmp_path):
    layout = write_small(tmp_path)
    for path in (
        *(layout.gliovascular_connectivity, layout.endfeet_meshes, layout.microdomains),
        *(layout.neuroglial_connectivity, *layout.morphologies.glob("*.h5")),
    ):
        path.unlink()
    words = read_words(layout, MANIFEST)
    expected = {"no microdomains yet", "no endfeet yet", "no synapses yet", "no branches yet"}
    assert expected <= set(words)
    assert words.count("not there yet") == 3
    layout.somata.unlink()
    assert {"4 segments of vessels", "no astrocytes yet"} <= set(read_words(layout))


def test_somata_are_drawn_without_vessels(tmp_path):
    layout = Layout(tmp_path)
    write_somata(layout.somata, np.array([[1.0, 2, 3]]), [5.0])
    assert "1 astrocyte" in read_words(layout)


def test_stages_that_found_nothing_are_drawn(tmp_path):
    layout = write_small(tmp_path)
    layout.endfeet_meshes.unlink()
    write_endfeet(layout, [], [], [])
    write_synapses(layout, [], [], [])
    assert {"0 endfeet", "0 synapses"} <= set(read_words(layout, MANIFEST))


def test_synapses_are_drawn_where_the_circuit_of_neurons_has_them(tmp_path):
    layout = write_small(tmp_path)
    manifest = {"common": {"base_circuit_connectome": str(tmp_path / "edges.h5")}}
    write_base(tmp_path / "edges.h5", np.full((16, 3), 20.0))
    near = draw_circuit(layout, tmp_path / "near.png", manifest).read_bytes()
    write_base(tmp_path / "edges.h5", np.full((16, 3), 8.0))
    assert draw_circuit(layout, tmp_path / "far.png", manifest).read_bytes() != near


def test_of_many_astrocytes_a_slab_is_drawn(tmp_path):
    layout = write_small(tmp_path, side=6, edge=30.0)
    words = read_words(layout)
    # Layers of 36 are 30 um apart: three of them make 108, and five 180.
    [depth] = [re.search(r"(\d+) µm deep", word) for word in words if "deep" in word]
    assert 60 <= int(depth[1]) <= 120
    assert "216 astrocytes, 216 endfeet, 648 synapses, 36 segments of vessels" in words


def test_where_vessels_hide_all_else_they_are_drawn_thinner(tmp_path):
    layout = write_small(tmp_path)
    rows = np.array(list(np.ndindex(9, 9))) * 10.0
    starts = np.column_stack([np.zeros(81), rows])
    layout.gliovascular_connectivity.unlink()
    write_vessels(layout, starts, starts + np.array([80.0, 0, 0]))
    # 81 vessels of 80 um by 6 um, before a square of 84 um: 0.9 of it at 0.163; the least is 0.25.
    assert "vessels at 25 % of their width" in read_words(layout)


def test_an_astrocyte_that_is_not_there_is_named(tmp_path):
    layout = write_small(tmp_path)
    with pytest.raises(InputError, match="no astrocyte 'GLIA_9'; there are GLIA_0000000000000,"):
        draw_circuit(layout, tmp_path / "a.png", astrocyte="GLIA_9")


def test_nothing_is_drawn_of_nothing(tmp_path):
    with pytest.raises(InputError, match="neither vessels nor astrocytes"):
        draw_circuit(Layout(tmp_path), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a name in \.png, \.svg, \.pdf"):
        draw_circuit(write_small(tmp_path), tmp_path / "a.jpg")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cut_through_a_box_has_its_outline(axis):
    size = np.array([2.0, 3.0, 5.0])
    corners = size * np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)])
    lines = cut_triangles(corners[CUBE], axis, 0.3)
    others = np.delete(size, axis)
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1).sum()
    assert length == pytest.approx(2 * others.sum())
    hull = find_hull(lines.reshape(-1, 2))
    x, y = hull.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2  # the shoelace formula
    assert area == pytest.approx(others.prod())
    assert len(cut_triangles(corners[CUBE], axis, 9.0)) == 0


def test_flat_outlines_are_none():
    assert find_hull(np.zeros((2, 2))) is None
    assert find_hull(np.column_stack([np.arange(5.0), np.arange(5.0)])) is None


@pytest.mark.parametrize(
    "view",
    [*map(look_along, range(3)), look_aslant(), look_at_widest(np.eye(5, 3) * [1, 2, 3])],
)
def test_views_keep_lengths_and_hands(view):
    assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view.axes) == pytest.approx(1)


def test_the_widest_view_has_the_longest_axis_to_the_right():
    points = np.random.default_rng(0).normal(size=(500, 3)) * [1, 20, 5]
    flat = look_at_widest(points).flatten(points)
    assert_allclose(flat.std(axis=0), [20, 5], rtol=0.1)


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_near_hides_what_is_far(tmp_path, order):
    corners = np.array([[[-9.0, -9, 0], [9, -9, 0], [0, 9, 0]]])
    scene = Scene(look_along(2))
    for height, colour in [(0.0, "#ff0000"), (5.0, "#0000ff")][::order]:
        scene.add_triangles(corners + np.array([0, 0, height]), colour)
    figure = Figure(figsize=(1, 1), dpi=50)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(-5, 5), ylim=(-5, 5))
    scene.draw(axis)
    figure.savefig(tmp_path / "scene.png")
    red, _, blue = imread(tmp_path / "scene.png")[25, 25, :3]
    assert blue > 0.9
    assert red < 0.5


def test_neighbours_have_different_colours():
    cells = np.array(list(np.ndindex(4, 4, 4)))
    near = [np.flatnonzero(np.abs(cells - each).sum(axis=1) == 1) for each in cells]
    colours = colour_neighbours(near, 6)
    assert all(colours[i] != colours[j] for i, each in enumerate(near) for j in each)


@pytest.mark.parametrize(("length", "expected"), [(21, 20), (19.9, 10), (7, 5), (0.3, 0.2)])
def test_scales_are_round(length, expected):
    assert choose_round(length) == pytest.approx(expected)
