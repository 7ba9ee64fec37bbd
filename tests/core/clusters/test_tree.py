"""The component tree against the components of every threshold."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from nipype_blm.core.clusters.graph import make_graph, select
from nipype_blm.core.clusters.tree import LARGEST, Workspace, find_roots, grow_tree


def label_above(case, height: float, or_equal: bool = False) -> np.ndarray:
    """Return numbers of components from 0, -1 outside."""
    inside = case.values >= height if or_equal else case.values > height
    labels = np.full(case.values.size, -1)
    if inside.any():
        labels[inside] = connected_components(case.touches[inside][:, inside])[1]
    return labels


def test_a_feature_has_the_cluster_of_its_own_height(case):
    tree = grow_tree(case.values, case.graph)
    assert sorted(tree.order) == list(np.flatnonzero(case.values > 0))
    assert (np.diff(tree.heights) <= 0).all()
    is_last = np.append(np.diff(tree.heights) != 0, True)[: tree.order.size]
    for i in np.flatnonzero(is_last):  # of equal ones the last has all of them
        labels = label_above(case, case.values[tree.order[i]], or_equal=True)
        assert tree.sizes[i] == np.count_nonzero(labels == labels[tree.order[i]])


def test_a_feature_hangs_on_a_later_one_of_its_cluster(case):
    tree = grow_tree(case.values, case.graph)
    m = tree.order.size
    assert (tree.parent > np.arange(m)).all()
    labels = label_above(case, 0.0)[tree.order]
    hangs = tree.parent < m
    assert (labels[hangs] == labels[tree.parent[hangs]]).all()
    assert np.count_nonzero(~hangs) == np.unique(labels).size


@pytest.mark.parametrize("height", [0.0, 0.7, 2.0, 1e13])
def test_clusters_above_a_height_are_the_components_there(case, height):
    tree = grow_tree(case.values, case.graph)
    roots = find_roots(tree, height)
    expected = label_above(case, height)[tree.order[: roots.size]]
    assert roots.size == np.count_nonzero(case.values > height)
    pairs = np.unique(np.column_stack([roots, expected]), axis=0)
    assert pairs.shape[0] == np.unique(roots).size == np.unique(expected).size


def test_a_tree_above_a_height_is_the_top_of_the_whole(case):
    whole = grow_tree(case.values, case.graph)
    top = grow_tree(case.values, case.graph, floor=0.7)
    k = whole.count_above(0.7)
    np.testing.assert_array_equal(top.order, whole.order[:k])
    np.testing.assert_array_equal(top.sizes, whole.sizes[:k])
    np.testing.assert_array_equal(top.parent, np.minimum(whole.parent[:k], k))


def test_a_workspace_gives_the_same_tree_after_any_other(case):
    work = Workspace(case.graph)
    grow_tree(-case.values[::-1], case.graph, workspace=work)
    for one, other in zip(
        grow_tree(case.values, case.graph, workspace=work),
        grow_tree(case.values, case.graph),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_what_is_missing_is_in_no_tree_and_infinity_is_the_largest_number():
    line = make_graph(csr_array(np.eye(5, k=1) + np.eye(5, k=-1)))
    tree = grow_tree([np.nan, np.inf, 1.0, -np.inf, np.nan], line)
    assert tree.top == LARGEST
    assert list(tree.order) == [1, 2]
    assert list(tree.heights) == [np.float32(LARGEST), 1.0]
    assert grow_tree(np.full(5, np.nan), line).top == 0.0
    assert grow_tree([-3.0, -2.0, np.nan, -9.0, -7.0], line).top == -2.0


def test_selected_features_touch_as_they_did(case):
    keep = np.random.default_rng(8).random(case.values.size) < 0.6
    expected = make_graph(case.touches[keep][:, keep])
    found = select(case.graph, keep)
    np.testing.assert_array_equal(found.start, expected.start)
    for start, stop in zip(found.start[:-1], found.start[1:], strict=True):
        one, other = found.neighbour[start:stop], expected.neighbour[start:stop]
        np.testing.assert_array_equal(np.sort(one), np.sort(other))


@pytest.mark.parametrize("height", [-0.1, np.nan])
def test_a_height_below_0_is_refused(height):
    line = make_graph(csr_array(np.eye(3, k=1) + np.eye(3, k=-1)))
    with pytest.raises(ValueError, match="expected 0 or more"):
        grow_tree([1.0, 2.0, 3.0], line, height)
    with pytest.raises(ValueError, match="expected 0 or more"):
        find_roots(grow_tree([1.0, 2.0, 3.0], line), height)


def test_a_map_of_other_features_is_refused():
    graph = make_graph(csr_array((3, 3), dtype=bool))
    with pytest.raises(ValueError, match=r"\(4,\), the graph has 3"):
        grow_tree(np.ones(4), graph)
    with pytest.raises(ValueError, match=r"\(4,\), the graph 3"):
        select(graph, np.ones(4, bool))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        make_graph(csr_array((2, 3), dtype=bool))


def test_values_that_may_not_be_changed_are_taken(case):
    values = case.values.copy()
    values.flags.writeable = False
    expected = grow_tree(case.values, case.graph)
    np.testing.assert_array_equal(grow_tree(values, case.graph).parent, expected.parent)
