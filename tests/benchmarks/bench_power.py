"""How often is an effect found, at the same family-wise error?

Flips of scores against permutations of Freedman and Lane and against the z of the maps, by how
many of the images a voxel has.  Each method's limit is the one that 5 % of data sets without any
effect pass, so that none gains by an error that is too large.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from bench_fwe import find_mixed_p
from harness import HERE, aim, format_table, parse_arguments, write_result
from matplotlib import pyplot as plt
from scipy import stats

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange, find_kinds
from nipype_blm.core.resampling.flips import RandomPart
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.resampling.normal import share_to_z

NOMINAL = 0.05
L = np.array([[0.0, 1.0, 0.0]])  # a difference of two groups, beside a mean and a covariate
# Sd of the noise of an image; of the random intercept and the noise together.
EFFECT = {"linear": 2.2, "mixed": 2.0}
SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.33)
PER_SHARE, WITH_EFFECT = 40, 4  # voxels of each share of images, and those with an effect
METHODS = {
    "linear": ("flips of scores", "permutations", "z of the maps", "flips, score instead of z"),
    "mixed": ("flips of scores", "z of the maps", "flips, score instead of z"),
}
FIGURE = HERE.parents[1] / "docs" / "_static" / "power.svg"

Array = np.ndarray


def simulate(rng: np.random.Generator, kind: str, is_null: bool) -> tuple[Array, Array, Array]:
    """Return data (images, voxels), X and the group of each image."""
    n_groups, per_group = (24, 1) if kind == "linear" else (24, 4)
    group = np.repeat(np.arange(n_groups), per_group).astype(np.int32)
    n_obs, n_voxels = group.size, PER_SHARE * len(SHARES)
    X = np.column_stack([np.ones(n_obs), group % 2, rng.normal(size=n_obs)])
    Y = rng.normal(size=(n_obs, n_voxels))
    if kind == "mixed":
        Y = (Y + rng.normal(size=(n_groups, n_voxels))[group]) / np.sqrt(2)
    if not is_null:
        for k in range(len(SHARES)):
            Y[:, k * PER_SHARE : k * PER_SHARE + WITH_EFFECT] += EFFECT[kind] * X[:, 1:2]
    for v in range(n_voxels):
        n_present = round(SHARES[v // PER_SHARE] * n_obs)
        Y[rng.permutation(n_obs)[n_present:], v] = np.nan
    return Y, X, group


def resample(
    kind: str, Y: Array, X: Array, group: Array, part: RandomPart | None, seed: int, n: int
) -> tuple[Array, Array]:
    """Return corrected p of each voxel, by z and by the standardised score itself."""
    resampling, hypothesis = RESAMPLINGS[kind], make_hypothesis(X, L)
    n_groups = int(group.max()) + 1
    scores = resampling.prepare(Y, hypothesis, group, n_groups, part)
    exchange = Exchange(len(X), group, kind=find_kinds(X))
    weights = resampling.draw(exchange, seed, range(n), exhaustive=False, two_sided=True)
    share = resampling.compute(scores, weights).share
    corrected = []
    score = np.sqrt(np.abs(share) * scores.m[:, None])
    for values in (share_to_z(share, scores.m, 1), score):
        size = np.abs(values) * (1 - 1e-5 * (np.arange(n) == 0))  # of the data: ties are reached
        largest = np.max(np.abs(values), axis=0)
        corrected.append(np.mean(largest >= size[:, :1], axis=1))
    return corrected[0], corrected[1]


def find_linear_p(Y: Array, X: Array) -> Array:
    """Return two-sided p of least squares on the images present."""
    p = np.ones(Y.shape[1])
    for v, y in enumerate(Y.T):
        there = ~np.isnan(y)
        A, b = X[there], y[there]
        beta, square, rank, _ = np.linalg.lstsq(A, b)
        if rank == A.shape[1] < len(b):
            dof = len(b) - rank
            se = np.sqrt(square[0] / dof * (L @ np.linalg.inv(A.T @ A) @ L.T).item())
            p[v] = 2 * stats.t.sf(abs((L @ beta).item() / se), dof)
    return p


def find_p(kind: str, rng: np.random.Generator, is_null: bool, seed: int, n: int) -> list[Array]:
    """Return p of each method at each voxel of a data set."""
    Y, X, group = simulate(rng, kind, is_null)
    if kind == "linear":
        by_z, by_score = resample("flip_scores", Y, X, group, None, seed, n)
        permuted, _ = resample("permute", Y, X, group, None, seed, n)
        return [by_z, permuted, find_linear_p(Y, X), by_score]
    ones = np.ones((len(X), 1))
    part = RandomPart([RandomFactor("subject", group, ones)], MixedOptions())
    by_z, by_score = resample("flip_scores", Y, X, group, part, seed, n)
    return [by_z, find_mixed_p(Y, X, L[0], part), by_score]


def measure(kind: str, n_sets: int, n: int) -> list[dict[str, Any]]:
    """Return the power of each method at each share of images present."""
    rng = np.random.default_rng(20261130)
    null = np.array([np.min(find_p(kind, rng, True, s, n), axis=1) for s in range(n_sets)])
    # The limit that at most 5 % of the sets without an effect reach.
    last = int(NOMINAL * n_sets)
    limits = np.sort(null, axis=0)[last]
    has_effect = np.arange(PER_SHARE * len(SHARES)) % PER_SHARE < WITH_EFFECT
    found = [np.less(find_p(kind, rng, False, s, n), limits[:, None]) for s in range(n_sets)]
    power = np.mean(found, axis=0)[:, has_effect].reshape(-1, len(SHARES), WITH_EFFECT).mean(2)
    error = np.mean(null <= NOMINAL, axis=0)
    return [
        {
            "model": kind,
            "method": name,
            "error_at_nominal": None if name.startswith("z") else round(float(error[i]), 3),
            "power": dict(zip(map(str, SHARES), power[i].round(3).tolist(), strict=True)),
            "sets": n_sets,
        }
        for i, name in enumerate(METHODS[kind])
    ]


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw power against images present, a panel for each model."""
    mpl.rcParams["svg.hashsalt"] = "power"  # the same file each time
    styles: dict[str, Callable[[], dict[str, Any]]] = {
        "flips of scores": lambda: {"color": "#0b6e99", "lw": 2.2, "marker": "o"},
        "permutations": lambda: {"color": "#d1495b", "lw": 1.4, "marker": "s", "ms": 4},
        "z of the maps": lambda: {"color": "#444444", "lw": 1.4, "ls": "--", "marker": "^"},
        "flips, score instead of z": lambda: {"color": "#0b6e99", "lw": 1, "ls": ":"},
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    titles = {"linear": "Linear: 24 images", "mixed": "Mixed: 24 people, 4 images each"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        for row in rows:
            if row["model"] == kind:
                x = [100 * float(share) for share in row["power"]]
                y = [100 * power for power in row["power"].values()]
                ax.plot(x, y, label=row["method"], **styles[row["method"]]())
        ax.set(title=title, xlabel="images present at the voxel (%)", ylim=(0, 100))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("effects found (%)")
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Simulate, write the result and draw it."""
    arguments = parse_arguments(
        __doc__ or "",
        sets={"type": int, "default": 400, "help": "data sets with an effect, and without"},
        resamplings={"type": int, "default": 1000},
        figure={"type": Path, "default": FIGURE},
    )
    rows = []
    for kind in METHODS:
        rows += measure(kind, arguments.sets, arguments.resamplings)
        print(format_table(rows), flush=True)
    aims = []
    for kind, names in METHODS.items():
        power = {
            r["method"]: float(np.mean(list(r["power"].values())))
            for r in rows
            if r["model"] == kind
        }
        aims += [
            aim(f"{kind}: power of flips / of {name}", power[names[0]] / power[name], ">=", 0.95)
            for name in names[1:]
            if "instead" not in name
        ]
    write_result(arguments.results, "power", aims, rows=rows)
    draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
