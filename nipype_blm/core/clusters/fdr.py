"""False discovery rate and Bonferroni's correction, of logarithms of p: nothing underflows."""

import math

import numpy as np
from numpy.typing import ArrayLike

from nipype_blm.core.linalg import FloatArray


def compute_q(log_p: ArrayLike, method: str = "bh") -> FloatArray:
    """Return the natural logarithm of q: the least rate of false discoveries that finds a test.

    Parameters
    ----------
    log_p : array
        Natural logarithms of p-values.  NaN is no test: it gives NaN and does not count.
    method : {"bh", "by"}
        Of Benjamini and Hochberg [1]_, for tests that are independent or positively dependent,
        or of Benjamini and Yekutieli [2]_, for any.

    Returns
    -------
    log_q : array in the shape of `log_p`

    Notes
    -----
    With p sorted, q of the i-th of n is the least of ``n p_j / j`` over j >= i, at most 1; times
    ``1 + 1/2 + ... + 1/n`` for "by".

    References
    ----------
    .. [1] Y. Benjamini and Y. Hochberg (1995). Controlling the false discovery rate. JRSS B 57,
       289-300.
    .. [2] Y. Benjamini and D. Yekutieli (2001). The control of the false discovery rate in
       multiple testing under dependency. Annals of Statistics 29, 1165-1188.
    """
    if method not in ("bh", "by"):
        raise ValueError(f"method is {method!r}, expected 'bh' or 'by'")
    log_p = _check(log_p)
    is_test = ~np.isnan(log_p)
    tests = log_p[is_test]
    order = np.argsort(tests)
    rank = np.arange(1, tests.size + 1)
    factor = np.log(np.sum(1 / rank)) if method == "by" and tests.size else 0.0
    log_q = tests[order] + (np.log(tests.size / rank) + factor)
    log_q = np.minimum(np.minimum.accumulate(log_q[::-1])[::-1], 0.0)
    out = np.full(log_p.shape, np.nan)
    found = np.empty(tests.size)
    found[order] = log_q
    out[is_test] = found
    return out


def correct_bonferroni(log_p: ArrayLike) -> FloatArray:
    """Return the natural logarithm of p times the number of tests, at most 0; NaN is no test."""
    log_p = _check(log_p)
    n_tests = int(np.count_nonzero(~np.isnan(log_p)))
    return np.asarray(np.minimum(log_p + math.log(max(1, n_tests)), 0.0))


def _check(log_p: ArrayLike) -> FloatArray:
    """Return an array of logarithms, none of which may be above 0."""
    array = np.asarray(log_p, np.float64)
    # A tail that rounds to 1 may have a logarithm just above 0.
    if array.size and np.nanmax(array, initial=-np.inf) > 1e-9:
        raise ValueError(f"ln p is {np.nanmax(array):g}, expected natural logarithms of p-values")
    return array
