"""Pieces of work."""

from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.tasks.pieces import cut_evenly


@given(st.integers(0, 500), st.integers(1, 40))
def test_pieces_have_everything_once_and_in_order(n, parallel_nodes):
    pieces = cut_evenly(list(range(n)), parallel_nodes, 12)
    assert [item for piece in pieces for item in piece] == list(range(n))
    assert all(1 <= len(piece) <= 12 for piece in pieces)
    if n >= 4 * parallel_nodes:  # all nodes have some, and the last is not alone for long
        assert len(pieces) >= 2 * parallel_nodes
