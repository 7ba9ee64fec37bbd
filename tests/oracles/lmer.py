"""Mixed models fitted by lme4, their contrasts tested by lmerTest, all in one process of R."""

import atexit
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor

from .dense import ContrastTest, Fit

SCRIPT = Path(__file__).with_name("lmer.R")


class Case(NamedTuple):
    """A model to fit; observations where y is NaN are left out.

    Neighbouring cases with the very same X, factors and contrasts share one formula.
    """

    y: np.ndarray  # (n_obs,)
    X: np.ndarray  # (n_obs, n_params)
    factors: Sequence[RandomFactor]
    contrasts: Sequence[np.ndarray] = ()  # a vector is tested by t, a matrix by F
    reml: bool = True
    D: Sequence[np.ndarray] | None = None  # where to evaluate lme4's deviance, too


class LmerFit(NamedTuple):
    """What lme4 and lmerTest say about a case."""

    best: Fit  # at lme4's optimum
    tests: list[ContrastTest]  # at lme4's optimum, one per contrast
    is_singular: bool
    n_warnings: int  # of the optimisers and of lmerTest, about the Hessian
    given: Fit | None  # lme4's own evaluation at the D of the case, where it has one


@cache
def _find_problem() -> str | None:
    """Return why lme4 cannot be used."""
    if shutil.which("Rscript") is None:
        return "Rscript is not installed: apt-get install r-base-core r-cran-lme4 r-cran-lmertest"
    code = "cat(all(nzchar(c(system.file(package='lme4'), system.file(package='lmerTest')))))"
    found = subprocess.run(
        ["Rscript", "--vanilla", "-e", code], capture_output=True, text=True, check=False
    )
    if found.stdout != "TRUE":
        return "lme4 or lmerTest is not installed: apt-get install r-cran-lme4 r-cran-lmertest"
    return None


requires_lme4 = pytest.mark.skipif(_find_problem() is not None, reason=str(_find_problem()))


def make_cases(
    Y: np.ndarray,
    X: np.ndarray,
    factors: Sequence[RandomFactor],
    contrasts: Sequence[np.ndarray] = (),
    *,
    reml: bool = True,
    D: Sequence[Sequence[np.ndarray]] | None = None,
) -> list[Case]:
    """Return a case for each column of Y; D holds the blocks of each column."""
    return [
        Case(y, X, factors, contrasts, reml, None if D is None else D[v]) for v, y in enumerate(Y.T)
    ]


def run_lmer(cases: Sequence[Case]) -> list[LmerFit]:
    """Return lme4's fits.

    Raises
    ------
    ValueError
        If R fails; the message is R's.
    """
    with tempfile.TemporaryDirectory(prefix="lmer_") as folder:
        source, target = Path(folder, "input"), Path(folder, "output")
        _flatten(cases).tofile(source)
        _start_r().fit(source, target)
        stream = _Stream(np.fromfile(target))
    fits = [_read_fit(stream, case) for case in cases]
    stream.check_end()
    return fits


class _R:
    """A process of R that has loaded lme4, for one run after the other."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            ["Rscript", "--vanilla", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        atexit.register(self.close)

    def fit(self, source: Path, target: Path) -> None:
        """Fit what one file holds, and write the answers to the other."""
        assert self._process.stdin
        assert self._process.stdout
        answer = ""
        try:
            self._process.stdin.write(f"{source}\n{target}\n")
            self._process.stdin.flush()
            while not answer.startswith(("done:", "failed:")):
                answer = self._process.stdout.readline()
                if not answer:
                    self._said.seek(0)
                    answer = f"failed: R ended: {self._said.read()}"
                    _start_r.cache_clear()
        except BaseException:  # an interruption, say: its answer would be taken for the next one's
            _start_r.cache_clear()
            self.close()
            raise
        if answer.startswith("failed:"):
            raise ValueError(answer.removeprefix("failed:").strip())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@cache
def _start_r() -> _R:
    return _R()


class _Stream:
    """Numbers, taken one after the other."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._position = 0

    def take(self, *shape: int) -> np.ndarray:
        """Return the next numbers, the first index varying fastest, as in R."""
        size = int(np.prod(shape))
        start, self._position = self._position, self._position + size
        if self._position > len(self._values):
            raise ValueError("R wrote fewer numbers than expected.")
        return self._values[start : self._position].reshape(shape, order="F")

    def take_one(self) -> float:
        return float(self.take(1)[0])

    def check_end(self) -> None:
        if self._position != len(self._values):
            raise ValueError("R wrote more numbers than expected.")


def _flatten(cases: Sequence[Case]) -> np.ndarray:
    """Return the cases as one stream of numbers; `read_design` of lmer.R reads it."""
    groups = [
        list(group)
        for _, group in itertools.groupby(
            cases, lambda case: (id(case.X), id(case.factors), id(case.contrasts))
        )
    ]
    numbers: list[np.ndarray | Sequence[float]] = [[len(groups)]]
    for group in groups:
        numbers += _flatten_design(group[0])
        numbers.append([len(group)])
        for case in group:
            numbers += _flatten_case(case)
    return np.concatenate([np.ravel(np.asarray(part, float), order="F") for part in numbers])


def _flatten_design(case: Case) -> list[np.ndarray | Sequence[float]]:
    numbers: list[np.ndarray | Sequence[float]] = [case.X.shape, case.X, [len(case.factors)]]
    for factor in case.factors:
        if len(factor.level) != len(case.X) or len(factor.Z) != len(case.X):
            raise ValueError(f"{factor.name} does not have the {len(case.X)} rows of X.")
        numbers += [[factor.n_effects, factor.correlated], factor.level, factor.Z]
    numbers.append([len(case.contrasts)])
    for contrast in map(np.asarray, case.contrasts):
        if contrast.shape[-1] != case.X.shape[1]:
            raise ValueError(f"A contrast of shape {contrast.shape} does not fit X.")
        numbers += [[0 if contrast.ndim == 1 else len(contrast)], contrast]
    return numbers


def _flatten_case(case: Case) -> list[np.ndarray | Sequence[float]]:
    if case.y.shape != (len(case.X),):
        raise ValueError(f"y has shape {case.y.shape}, X {case.X.shape}.")
    numbers: list[np.ndarray | Sequence[float]] = [[case.reml, case.D is not None], case.y]
    if case.D is not None:
        for factor, block in zip(case.factors, case.D, strict=True):
            numbers.append(_factorise(np.asarray(block, float), factor))
    return numbers


def _factorise(block: np.ndarray, factor: RandomFactor) -> np.ndarray:
    """Return the lower triangular root of D_k, which may be singular."""
    size = factor.n_effects
    if block.shape != (size, size):
        raise ValueError(f"D of {factor.name} has shape {block.shape}, not {(size, size)}.")
    if not factor.correlated and np.any(block != np.diag(np.diag(block))):
        raise ValueError(f"D of {factor.name} is not diagonal.")
    sd = np.sqrt(np.diag(block))
    unit = np.where(sd > 0, sd, 1.0)
    # Of the correlations, so that effects of very different size all keep their digits.
    values, vectors = np.linalg.eigh(block / np.outer(unit, unit))
    if values.min() < -1e-12 * size:  # rounding of the eigenvalues of correlations
        raise ValueError(f"D of {factor.name} is not non-negative definite: {block.tolist()}")
    root = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T, mode="r").T
    sign = np.where(np.diag(root) < 0, -1.0, 1.0)
    return unit[:, None] * root * sign


def _read_fit(stream: _Stream, case: Case) -> LmerFit:
    evaluation = _read_evaluation(stream, case)
    roots = [stream.take(f.n_effects, f.n_effects) for f in case.factors]
    blocks = tuple(root @ root.T for root in roots)
    is_singular = bool(stream.take_one())
    given = None
    if case.D is not None:
        given = Fit(tuple(np.asarray(b, float) for b in case.D), *_read_evaluation(stream, case))
    tests = [
        ContrastTest(stat, int(rank), df)
        for stat, rank, df in (stream.take(3).tolist() for _ in case.contrasts)
    ]
    return LmerFit(Fit(blocks, *evaluation), tests, is_singular, int(stream.take_one()), given)


def _read_evaluation(stream: _Stream, case: Case) -> tuple[float, np.ndarray, float, np.ndarray]:
    """Return deviance, beta, sigma2 and the covariance of beta."""
    n_params = case.X.shape[1]
    deviance, sigma2 = stream.take(2).tolist()
    beta = stream.take(n_params)
    return deviance, beta, sigma2, stream.take(n_params, n_params)
