"""Which voxels have images that can tell the variances apart: decided before y is looked at.

The covariance of y is linear in its parameters, sigma2 V = sum_i t_i V_i: V_0 = I, and for each
entry of D_k that varies the matrix V_i that it multiplies.  Fixed effects are free, so that
only M V_i M matters, M being the projection that removes the columns of X; for ML as for REML.
The variances are *identified* if these matrices, of the images present, are linearly
independent.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import kernel, routine
from nipype_blm.core.deficient import (
    cholesky_semidefinite,
    solve_lower_semidefinite,
)
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import (
    FloatArray,
    packed_size,
)
from nipype_blm.core.lmm.levels import (
    Bits,
    IntArray,
    Voxels,
    has_same_images,
    is_present,
    locate_bits,
)
from nipype_blm.core.lmm.newton import eigen
from nipype_blm.core.ols import NOISE
from nipype_blm.core.products import count_bits
from nipype_blm.core.threads import Threads

# Square of the least singular value of the matrices at unit length; of small random patterns
# none lies between 1e-24 and 1e-6.
DEPENDENT = 1e-12
# What X leaves of the squared length of a matrix, where it leaves nothing.
ABSORBED = 1e-10
# Rounding error of a trace, relative to that of the matrices before X is removed.
ROUNDING = 1e-14
# Effects of a level are all well determined if the eigenvalues of Z'Z, which is I on average, are
# above this.
WHOLE = 1e-3


class Structure(NamedTuple):
    """Levels and effects of all factors, the one with the most levels first.

    A *term* is an effect of a factor: each observation has an entry of Z for each term.
    """

    bits: Bits
    level: IntArray  # (n_factors, n_obs)
    n_effects: IntArray  # (n_factors,)
    n_present: IntArray  # (n_factors, most levels), observations of each level
    # (n_factors, most levels), from how many observations on all effects are well determined,
    # whichever these are; more than there are if they never are
    enough: IntArray
    factor: IntArray  # (n_terms,), of each term
    column: IntArray  # (n_terms,), of the first level's term among all columns of Z
    Z: FloatArray  # (n_terms, n_obs), scaled
    entries: IntArray  # (m, 2), the two terms that an entry of D belongs to
    Q: FloatArray  # (n_obs, n_params)


def find_unidentified(
    voxels: Voxels,
    factors: Sequence[RandomFactor],
    scales: Sequence[FloatArray],
    Q: FloatArray,
    batches: Sequence[slice],
    threads: Threads,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return at which voxels the images present cannot tell the variances apart.

    Parameters
    ----------
    voxels : Voxels
    factors : sequence of RandomFactor
    scales : sequence of arrays of shape (n_effects, n_effects)
        What Z of each factor is multiplied by, so that Z'Z of a level is about I.
    Q : array of shape (n_obs, n_params)
    batches : sequence of slice
        Observations of each batch.

    Returns
    -------
    unidentified, saturated : bool arrays of shape (n,)
        In the order of `voxels.order`.  Where a voxel is saturated X and Z may fit all images
        exactly, so that the likelihood may be highest without any residual variance.

    Notes
    -----
    At most voxels it is enough to count levels.  At the others the Gram matrix of the M V_i M
    is computed, tr(M V_i M V_j), at unit length, and its least eigenvalue.
    """
    structure = _make_structure(factors, scales, Q, batches)
    unclear, saturated = np.zeros((2, voxels.order.size), bool)

    def count(start: int, stop: int) -> None:
        part = voxels._replace(order=voxels.order[start:stop])
        _find_unclear(part, structure, unclear[start:stop], saturated[start:stop])

    threads.split(count, unclear.size)
    unidentified = np.zeros(unclear.size, bool)
    places = np.flatnonzero(unclear)

    def decide(start: int, stop: int) -> None:
        chosen = places[start:stop]
        found = np.zeros(chosen.size, bool)
        part = voxels._replace(order=voxels.order[chosen])
        _decide(part, structure, _make_sums(structure), found)
        unidentified[chosen] = found

    threads.split(decide, places.size)
    return unidentified, saturated


def _make_structure(
    factors: Sequence[RandomFactor],
    scales: Sequence[FloatArray],
    Q: FloatArray,
    batches: Sequence[slice],
) -> Structure:
    order = sorted(range(len(factors)), key=lambda i: -factors[i].n_levels)
    scaled = [factors[i]._replace(Z=factors[i].Z @ scales[i]) for i in order]
    most = scaled[0].n_levels
    n_present = np.array([np.bincount(f.level, minlength=most) for f in scaled], np.int64)
    terms = [(k, a) for k, f in enumerate(scaled) for a in range(f.n_effects)]
    first = np.cumsum([0, *(f.n_columns for f in scaled)])
    entries = [
        (terms.index((k, a)), terms.index((k, b)))
        for k, f in enumerate(scaled)
        for a in range(f.n_effects)
        for b in range(a + 1)
        if f.correlated or a == b
    ]
    return Structure(
        bits=locate_bits(batches),
        level=np.array([f.level for f in scaled], np.int64),
        n_effects=np.array([f.n_effects for f in scaled], np.int64),
        n_present=n_present,
        enough=np.array([_find_enough(f, most) for f in scaled]),
        factor=np.array([k for k, _ in terms], np.int64),
        column=np.array([first[k] + a for k, a in terms], np.int64),
        Z=np.ascontiguousarray(np.concatenate([f.Z for f in scaled], axis=1).T),
        entries=np.array(entries, np.int64),
        Q=np.ascontiguousarray(Q),
    )


def _find_enough(factor: RandomFactor, most: int) -> IntArray:
    """Return how many observations of each level are enough to determine its effects well.

    As many as there are effects, if each such set of them is enough; else all of them.
    """
    gram = np.zeros((most, factor.n_effects, factor.n_effects))
    np.add.at(gram, factor.level, factor.Z[:, :, None] * factor.Z[:, None, :])
    n = np.bincount(factor.level, minlength=most)
    enough = np.where(np.linalg.eigvalsh(gram)[:, 0] > WHOLE, n, n + 1)
    if factor.n_effects > 2:
        return np.asarray(enough, np.int64)
    order = np.argsort(factor.level, kind="stable")
    least = np.full(most, np.inf)
    if factor.n_effects == 1:
        np.minimum.at(least, factor.level, factor.Z[:, 0] ** 2)
    for step in range(1, n.max() if factor.n_effects == 2 else 1):  # pairs of observations
        one, other = order[:-step], order[step:]
        same = factor.level[one] == factor.level[other]
        x, y = factor.Z[one[same]], factor.Z[other[same]]
        trace = (x**2).sum(axis=1) + (y**2).sum(axis=1)
        det = (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]) ** 2
        # det / trace is no more than the smaller eigenvalue, and no less than half of it.
        np.minimum.at(least, factor.level[one[same]], det / np.where(trace > 0, trace, 1))
    return np.asarray(
        np.where(least > WHOLE, np.minimum(enough, factor.n_effects), enough), np.int64
    )


@kernel
def _find_unclear(voxels: Any, structure: Any, unclear: Any, saturated: Any) -> None:
    """Write where counting is not enough; voxels with the same images follow each other."""
    n_present = structure.n_present.copy()
    last = -1
    for position in range(unclear.size):
        v = voxels.order[position]
        if last >= 0 and has_same_images(voxels.presence, v, last):
            unclear[position] = unclear[position - 1]
            saturated[position] = saturated[position - 1]
            continue
        n_present[:] = structure.n_present
        for w in range(voxels.full.size):
            missing = np.uint64(voxels.full[w] & ~voxels.presence[w, v])
            while missing != np.uint64(0):
                lowest = missing & (~missing + np.uint64(1))
                i = structure.bits.first[w] + count_bits(lowest - np.uint64(1))
                missing ^= lowest
                for f in range(n_present.shape[0]):
                    n_present[f, structure.level[f, i]] -= 1
        columns = _count_columns(structure, n_present)
        saturated[position] = voxels.n_obs[v] <= voxels.rank[v] + columns
        unclear[position] = saturated[position] or not _is_clear(
            structure, n_present, voxels.rank[v] + columns
        )
        last = v


@routine
def _count_columns(structure: Any, n_present: Any) -> int:
    """Return the rank of Z, if effects that could differ do."""
    columns = 0
    for f in range(n_present.shape[0]):
        for j in range(n_present.shape[1]):
            columns += min(n_present[f, j], structure.n_effects[f])
    return columns


@routine
def _is_clear(structure: Any, n_present: Any, restrictions: int) -> bool:
    """Return whether counting shows that the variances are identified.

    `restrictions` are the columns of X and Z, fewer than images.  Let sum_i c_i V_i be 0 on the
    residual space E.  As Z has too few columns to fill E, x'x c_0 = 0 for an x in E with
    Z'x = 0, so that c_0 = 0.  On the part of E where Z_k'x = 0 for all factors k after the
    first, the form is that of the first one: D_1 in each of J_1 levels, restricted by the rank
    of X and by the columns of those factors.  A form that vanishes on so large a space is 0: if
    J_1 is greater than these restrictions, twice as great for several effects, since their form
    may be indefinite.  Then the second factor, and so on.
    """
    n_factors, n_levels = n_present.shape
    for f in range(n_factors):
        n_whole = 0
        for j in range(n_levels):
            n = n_present[f, j]
            restrictions -= min(n, structure.n_effects[f])
            n_whole += n >= structure.enough[f, j]
        if n_whole <= restrictions * (1 if structure.n_effects[f] == 1 else 2):
            return False
    return True


class _Sums(NamedTuple):
    """Products of the rows present: C columns of Z, t terms, p columns of Q."""

    gram: FloatArray  # (packed,), Q'Q, later its Cholesky factor L
    ZtZ: FloatArray  # (C, t), of columns of the same level
    cross: FloatArray  # (C, C less the columns of the first factor), of different factors
    W: FloatArray  # (C, p), Z'Q, later Z'Q L'^-1
    T: FloatArray  # (t, t, p, p), sum over levels of w_a w_b', w the rows of W of two terms
    lengths: FloatArray  # (m,), squared length of V_i
    K: FloatArray  # (1 + m, 1 + m), tr(M V_i M V_j)


def _make_sums(structure: Structure) -> _Sums:
    p, t, m = structure.Q.shape[1], structure.factor.size, len(structure.entries)
    columns = structure.n_effects * (structure.n_present > 0).sum(axis=1)
    C, C_first = int(columns.sum()), int(columns[0])
    return _Sums(
        np.zeros(packed_size(p)),
        np.zeros((C, t)),
        np.zeros((C, C - C_first)),
        np.zeros((C, p)),
        np.zeros((t, t, p, p)),
        np.zeros(m),
        np.zeros((1 + m, 1 + m)),
    )


@kernel
def _decide(voxels: Any, structure: Any, sums: Any, out: Any) -> None:
    """Write where the variances are unidentified."""
    p = structure.Q.shape[1]
    work, solution, vectors = np.empty((2, p)), np.empty(p), np.empty(sums.K.shape)
    last = -1
    for position in range(out.size):
        v = voxels.order[position]
        if last >= 0 and has_same_images(voxels.presence, v, last):
            out[position] = out[position - 1]
            continue
        _add_up(voxels, v, structure, sums)
        rank, _ = cholesky_semidefinite(sums.gram, p, NOISE, work)
        for c in range(sums.W.shape[0]):
            solve_lower_semidefinite(sums.gram, sums.W[c], p, solution)
            sums.W[c] = solution
        _multiply_pairs(structure, sums)
        sums.K[0, 0] = voxels.n_obs[v] - rank
        _fill_gram(structure, sums)
        out[position] = not _is_independent(sums.K, sums.lengths, vectors)
        last = v


@routine
def _add_up(voxels: Any, v: int, structure: Any, sums: Any) -> None:
    """Add up the products of the rows present: they are few, and nothing cancels."""
    n_terms, p = structure.factor.size, structure.Q.shape[1]
    n_first = sums.W.shape[0] - sums.cross.shape[1]
    sums.gram[:] = 0.0
    sums.ZtZ[:] = 0.0
    sums.cross[:] = 0.0
    sums.W[:] = 0.0
    for i in range(structure.Q.shape[0]):
        if not is_present(structure.bits, voxels.presence, v, i):
            continue
        q = structure.Q[i]
        position = 0
        for a in range(p):
            for b in range(a + 1):
                sums.gram[position] += q[a] * q[b]
                position += 1
        for s in range(n_terms):
            z, f = structure.Z[s, i], structure.factor[s]
            c = structure.column[s] + structure.level[f, i] * structure.n_effects[f]
            for a in range(p):
                sums.W[c, a] += z * q[a]
            for t in range(n_terms):
                g = structure.factor[t]
                if f == g:
                    sums.ZtZ[c, t] += z * structure.Z[t, i]
                elif f < g:
                    d = structure.column[t] + structure.level[g, i] * structure.n_effects[g]
                    sums.cross[c, d - n_first] += z * structure.Z[t, i]


@routine
def _multiply_pairs(structure: Any, sums: Any) -> None:
    """Compute T."""
    p = sums.W.shape[1]
    sums.T[:] = 0.0
    for s in range(structure.factor.size):
        f = structure.factor[s]
        for t in range(structure.factor.size):
            if structure.factor[t] != f:
                continue
            for j in range(structure.n_present.shape[1]):
                if structure.n_present[f, j] == 0:
                    continue
                w = sums.W[structure.column[s] + j * structure.n_effects[f]]
                x = sums.W[structure.column[t] + j * structure.n_effects[f]]
                for a in range(p):
                    for b in range(p):
                        sums.T[s, t, a, b] += w[a] * x[b]


@routine
def _dot(x: Any, y: Any) -> float:
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@routine
def _product_of_traces(structure: Any, sums: Any, a: int, b: int, c: int, d: int) -> Any:
    """Sum B_bc B_ad over all pairs of levels, B = Z'M Z; and (Z'Z)_bc (Z'Z)_ad.

    Terms a and b belong to one factor, c and d to the same or a later one.
    """
    f, g = structure.factor[a], structure.factor[c]
    W, p = sums.W, sums.W.shape[1]
    total, raw = 0.0, 0.0
    for i in range(p):
        for k in range(p):
            total += sums.T[b, a, i, k] * sums.T[c, d, i, k]
    n_first = W.shape[0] - sums.cross.shape[1]
    for j in range(structure.n_present.shape[1]):
        if structure.n_present[f, j] == 0:
            continue
        row_a = structure.column[a] + j * structure.n_effects[f]
        row_b = structure.column[b] + j * structure.n_effects[f]
        if f == g:
            x, y = sums.ZtZ[row_b, c], sums.ZtZ[row_a, d]
            row_c = structure.column[c] + j * structure.n_effects[f]
            row_d = structure.column[d] + j * structure.n_effects[f]
            total += x * y - x * _dot(W[row_a], W[row_d]) - y * _dot(W[row_b], W[row_c])
            raw += x * y
            continue
        for k in range(structure.n_present.shape[1]):
            if structure.n_present[g, k] == 0:
                continue
            row_c = structure.column[c] + k * structure.n_effects[g]
            row_d = structure.column[d] + k * structure.n_effects[g]
            x, y = sums.cross[row_b, row_c - n_first], sums.cross[row_a, row_d - n_first]
            if x != 0.0:
                total -= x * _dot(W[row_a], W[row_d])
            if y != 0.0:
                total -= y * _dot(W[row_b], W[row_c])
            total += x * y
    return total, raw


@routine
def _fill_gram(structure: Any, sums: Any) -> None:
    """Compute tr(M V_i M V_j) of all pairs, and tr(V_i V_i)."""
    K, entries = sums.K, structure.entries
    for i in range(entries.shape[0]):
        a, b = entries[i, 0], entries[i, 1]
        f = structure.factor[a]
        trace = 0.0
        for j in range(structure.n_present.shape[1]):
            if structure.n_present[f, j] > 0:
                row_a = structure.column[a] + j * structure.n_effects[f]
                row_b = structure.column[b] + j * structure.n_effects[f]
                trace += sums.ZtZ[row_a, b] - _dot(sums.W[row_a], sums.W[row_b])
        K[0, 1 + i] = K[1 + i, 0] = trace if a == b else 2.0 * trace
        for k in range(i + 1):
            c, d = entries[k, 0], entries[k, 1]
            total, raw = _product_of_traces(structure, sums, c, d, a, b)
            if a != b:
                more, other = _product_of_traces(structure, sums, c, d, b, a)
                total, raw = total + more, raw + other
            if c != d:  # the same again with c and d exchanged, to which all is symmetric
                total, raw = 2.0 * total, 2.0 * raw
            K[1 + i, 1 + k] = K[1 + k, 1 + i] = total
            if i == k:
                sums.lengths[i] = raw


@routine
def _is_independent(K: Any, lengths: Any, vectors: Any) -> bool:
    """Return whether matrices with this Gram matrix are linearly independent; K is overwritten."""
    n = K.shape[0]
    if not K[0, 0] > 0.0:
        return False
    limit = DEPENDENT
    for i in range(1, n):
        if not K[i, i] > ABSORBED * lengths[i - 1]:
            return False
        limit = max(limit, ROUNDING * lengths[i - 1] / K[i, i])
    for i in range(n):
        vectors[0, i] = 1.0 / np.sqrt(K[i, i])
    for i in range(n):
        for j in range(n):
            K[i, j] *= vectors[0, i] * vectors[0, j]
    eigen(K, n, vectors)
    least = 1.0
    for i in range(n):
        least = min(least, K[i, i])
    return bool(least > limit)
