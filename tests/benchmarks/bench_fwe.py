"""How often is something found where nothing is there?

Family-wise error at a nominal 5 % of the largest voxel, of extent and mass of clusters and of TFCE,
and how often a false discovery rate of 5 % finds anything, on simulated data: designs, random
factors, errors that are not normal, voxels that are missing, few groups.  A rate is within limits
if a rate of 5 % would be as far off in at least 1 in 1,000 tries.  Settings whose result is
in the folder are not measured again.
"""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from harness import aim, format_table, parse_arguments, write_result
from scipy import stats
from scipy.sparse import diags_array
from scipy.special import log_ndtr

from nipype_blm.core.clusters.fdr import compute_q
from nipype_blm.core.clusters.graph import Graph, make_graph, select
from nipype_blm.core.clusters.summaries import SUMMARIES, SummaryOptions, summarise_many
from nipype_blm.core.factors import RandomFactor, select_rows
from nipype_blm.core.groups import find_groups
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.lmm.fit import fit_lmm
from nipype_blm.core.lmm.inference import compute_t_contrast
from nipype_blm.core.products import WORD, ProductAccumulator
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange, find_kinds
from nipype_blm.core.resampling.flips import RandomPart
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.resampling.normal import share_to_z
from nipype_blm.core.status import is_fitted

NOMINAL = 0.05
SMOOTH = 8  # voxels in a row that share their noise

Rng = np.random.Generator
Array = np.ndarray


class Setting(NamedTuple):
    """One kind of data, and what is tested in them."""

    n_groups: int
    design: str  # "one sample", "two samples", "regression", "between", "within", "both"
    random: str = ""  # "", "intercept", "slope", "nested"
    errors: str = "normal"  # "t4", "skewed"
    missing: float = 0.0
    by_group: bool = False  # more is missing where x is large
    smooth: bool = True
    two_sided: bool = True
    resampling: str = "flip_scores"


SETTINGS = {
    "one sample, 12": Setting(12, "one sample"),
    "one sample, 24": Setting(24, "one sample", missing=0.15),
    "one sample, 24, white": Setting(24, "one sample", missing=0.15, smooth=False),
    "one sample, 24, t4": Setting(24, "one sample", errors="t4", missing=0.15),
    "one sample, 24, skewed": Setting(24, "one sample", errors="skewed", missing=0.15),
    "one sample, 24, skewed, one-sided": Setting(
        24, "one sample", errors="skewed", missing=0.15, two_sided=False
    ),
    "one sample, 24, data": Setting(24, "one sample", missing=0.15, resampling="flip_data"),
    "two samples, 12": Setting(12, "two samples"),
    "two samples, 24": Setting(24, "two samples", missing=0.15),
    "two samples, 24, 40 % by group": Setting(24, "two samples", missing=0.4, by_group=True),
    "two samples, 24, permuted": Setting(24, "two samples", missing=0.15, resampling="permute"),
    "two samples, 24, skewed": Setting(24, "two samples", errors="skewed", missing=0.15),
    "regression, 24": Setting(24, "regression", missing=0.15),
    "regression, 24, t4, 40 %": Setting(24, "regression", errors="t4", missing=0.4),
    "regression, 100, skewed": Setting(100, "regression", errors="skewed", missing=0.15),
    "regression, 24, permuted": Setting(24, "regression", missing=0.4, resampling="permute"),
    "regression, 24, F": Setting(24, "F", missing=0.15),
    "regression, 24, two contrasts together": Setting(24, "joint", missing=0.15),
    "intercept, between, 12": Setting(12, "between", "intercept", missing=0.15),
    "intercept, between, 24": Setting(24, "between", "intercept", missing=0.15),
    "intercept, between, 24, t4": Setting(24, "between", "intercept", "t4", 0.4),
    "intercept, within, 12": Setting(12, "within", "intercept", missing=0.15),
    "intercept, within, 24, skewed": Setting(24, "within", "intercept", "skewed", 0.15),
    "intercept, one sample, 24": Setting(24, "one sample", "intercept", missing=0.15),
    "slope, within, 24": Setting(24, "within", "slope", missing=0.15),
    "slope, between, 24": Setting(24, "between", "slope", missing=0.15),
    "nested, between, 12": Setting(12, "between", "nested", missing=0.15),
    "nested, within, 12": Setting(12, "within", "nested", missing=0.15),
    "intercept, between, 100": Setting(100, "between", "intercept", missing=0.15),
}


def draw_noise(rng: Rng, setting: Setting, shape: tuple[int, int]) -> Array:
    """Return noise of variance 1 (rows, voxels), smooth along voxels if wanted."""
    n_extra = SMOOTH - 1 if setting.smooth else 0
    size = shape[0], shape[1] + n_extra
    draw: dict[str, Callable[[], Array]] = {
        "normal": lambda: rng.standard_normal(size),
        "t4": lambda: rng.standard_t(4, size) / np.sqrt(2),
        "skewed": lambda: rng.exponential(1, size) - 1,
    }
    noise = draw[setting.errors]()
    if not setting.smooth:
        return noise
    # What all of a group shares: a sum of few keeps its tails.
    total = np.cumsum(np.pad(noise, ((0, 0), (1, 0))), axis=1)
    return (total[:, SMOOTH:] - total[:, :-SMOOTH]) / np.sqrt(SMOOTH)


def make_design(rng: Rng, setting: Setting, level: Array) -> tuple[Array, Array]:
    """Return X and the contrast; levels of a mixed model are groups, else images are."""
    n_obs = level.size
    between, within = rng.normal(size=setting.n_groups)[level], rng.normal(size=n_obs)
    one, label = np.ones(n_obs), (level % 2).astype(float)
    designs = {
        "one sample": ([one], [[1]]),
        "two samples": ([one, label], [[0, 1]]),
        "regression": ([one, between, within, label], [[0, 0, 1, 0]]),
        "joint": ([one, between, within, label], [[0, 1, 0, 0], [0, 0, 1, 0]]),
        "F": ([one, between, within, label], [[0, 1, 0, 0], [0, 0, 1, 0]]),
        "between": ([one, between, within], [[0, 1, 0]]),
        "within": ([one, between, within], [[0, 0, 1]]),
    }
    columns, L = designs[setting.design]
    return np.column_stack(columns), np.array(L, float)


def make_factors(setting: Setting, level: Array, X: Array) -> list[RandomFactor]:
    """Return the random factors; the groups are the levels of the last one."""
    one = np.ones((level.size, 1))
    outer = RandomFactor("group", level, one)
    if setting.random == "slope":
        return [outer._replace(Z=np.column_stack([one, X[:, -1]]))]
    if setting.random == "nested":
        inner = np.arange(level.size, dtype=np.int32) // 3
        return [RandomFactor("inner", inner, one), outer]
    return [outer] if setting.random else []


def simulate(
    rng: Rng, setting: Setting, n_voxels: int
) -> tuple[Array, Array, Array, list[RandomFactor]]:
    """Return data without an effect, X, the contrast and the random factors."""
    per_group = {"": 1, "intercept": 4, "slope": 6, "nested": 6}[setting.random]
    level = np.repeat(np.arange(setting.n_groups), per_group).astype(np.int32)
    X, L = make_design(rng, setting, level)
    factors = make_factors(setting, level, X)
    Y = draw_noise(rng, setting, (level.size, n_voxels))
    for factor in factors:
        for z in factor.Z.T:
            effects = draw_noise(rng, setting, (factor.n_levels, n_voxels))
            Y += 0.8 * z[:, None] * effects[factor.level]
    share = np.full(level.size, setting.missing)
    if setting.by_group:
        share = setting.missing * np.where(X[:, -1] > np.median(X[:, -1]), 1.5, 0.5)
    # Half of the voxels miss images, each its own.
    missing = rng.random(Y.shape) < share[:, None]
    missing[:, ::2] = False
    Y[missing] = np.nan
    return Y.astype(np.float32), X, L, factors


def find_peaks(
    rng: Rng, setting: Setting, n_voxels: int, n_resamplings: int, seed: int
) -> tuple[dict[str, Array], bool]:
    """Return the peaks of each summary in a data set without an effect, and whether FDR finds any.

    The first is that of the data.  Where there are two contrasts, peaks are the larger of both, and
    the false discovery rate is that of the first one.
    """
    Y, X, L, factors = simulate(rng, setting, n_voxels)
    resampling = RESAMPLINGS[setting.resampling]
    group = find_groups(len(X), factors)
    exchange = Exchange(len(X), group, kind=find_kinds(X))
    part = RandomPart(factors, MixedOptions()) if factors else None
    n = min(n_resamplings, resampling.count(exchange, setting.two_sided))
    exhaustive = resampling.is_exhaustive(exchange, n, setting.two_sided)
    weights = resampling.draw(exchange, seed, range(n), exhaustive, setting.two_sided)
    found, log_ps = [], []
    for rows in [L[:1], L[1:]] if setting.design == "joint" else [L]:
        hypothesis = make_hypothesis(X, rows)
        scores = resampling.prepare(Y, hypothesis, group, int(group.max()) + 1, part, 5)
        share = resampling.compute(scores, weights).share
        two_sided = setting.two_sided and hypothesis.q == 1
        z = share_to_z(share, scores.m, hypothesis.q)[scores.m > 0]
        graph = select(make_path(n_voxels), scores.m > 0)
        options = SummaryOptions(height=2.3)
        found.append(summarise_many(z, graph, list(SUMMARIES), two_sided, options))
        log_p = log_ndtr(-np.abs(z[:, 0])) + np.log(2) if two_sided else log_ndtr(-z[:, 0])
        log_ps.append(log_p)
    if part is not None:  # the z that is resampled is not quite that of the maps
        log_ps = [np.log(find_mixed_p(Y, X, L[0], part))]
    has_discovery = bool((compute_q(log_ps[0]) <= np.log(NOMINAL)).any())
    return dict(zip(SUMMARIES, np.max(found, axis=0), strict=True)), has_discovery


def find_mixed_p(Y: Array, X: Array, vector: Array, part: RandomPart) -> Array:
    """Return two-sided p of the maps (Satterthwaite), as a fit writes them."""
    design, rows = factorise_design(X), slice(0, len(X))
    products = ProductAccumulator(
        design.Q, design.shift, Y.shape[1], select_rows(part.factors, rows)
    )
    for first in range(0, len(X), WORD):
        values = np.ascontiguousarray(Y[first : first + WORD])
        products.add(values, np.isnan(values).sum(axis=1))
    n_present = (~np.isnan(Y)).sum(axis=0, dtype=np.int32)
    batches = [(rows, products.finish())]
    estimates = fit_lmm(n_present, batches, design, part.factors, part.options, 0)
    maps = compute_t_contrast(vector, estimates, design.R, part.options.reml, two_sided=True)
    p = np.ones(Y.shape[1])
    p[is_fitted(estimates.status)] = np.where(maps.estimable, np.exp(maps.log_p), 1)
    return p


def make_path(n_voxels: int) -> Graph:
    """Return voxels in a row."""
    ones = np.ones(n_voxels - 1)
    return make_graph(diags_array([ones, ones], offsets=[1, -1]).tocsr())


def measure_setting(name: str, n_sets: int, n_voxels: int, n_resamplings: int) -> dict[str, Any]:
    """Return the rates at which a setting rejects, and their limits."""
    setting, start = SETTINGS[name], time.process_time()
    rng = np.random.default_rng(20261130)
    counts = dict.fromkeys([*SUMMARIES, "fdr"], 0)
    for seed in range(n_sets):
        peaks, has_discovery = find_peaks(rng, setting, n_voxels, n_resamplings, seed)
        for summary, values in peaks.items():
            counts[summary] += bool(np.mean(values >= values[0] * (1 - 1e-5)) <= NOMINAL)
        counts["fdr"] += has_discovery
    low, high = (stats.binom.ppf([0.0005, 0.9995], n_sets, NOMINAL) / n_sets).tolist()
    return {
        "setting": name,
        **{summary: n / n_sets for summary, n in counts.items()},
        "low": low,
        "high": high,
        "sets": n_sets,
        "cpu_s": round(time.process_time() - start, 1),
    }


def main() -> None:
    """Simulate and write the result."""
    arguments = parse_arguments(
        __doc__ or "",
        sets={"type": int, "default": 1000, "help": "data sets of each setting"},
        voxels={"type": int, "default": 150},
        resamplings={"type": int, "default": 300},
        settings={"nargs": "*", "default": list(SETTINGS), "help": "names of settings"},
    )
    rows = {}
    file = arguments.results / "fwe.json"
    if file.exists():  # settings that were measured are kept: all of them take hours
        rows = {row["setting"]: row for row in json.loads(file.read_text())["rows"]}
    for name in arguments.settings:
        if rows.get(name, {}).get("sets") == arguments.sets:
            continue
        rows[name] = measure_setting(name, arguments.sets, arguments.voxels, arguments.resamplings)
        print(rows[name], flush=True)
        found = [rows[known] for known in SETTINGS if known in rows]
        aims = [
            aim(f"{summary}, {row['setting']}", row[summary], "<=", row["high"])
            for row in found
            for summary in SUMMARIES
        ]
        write_result(arguments.results, "fwe", aims, rows=found)
    print(format_table(list(rows.values())))


if __name__ == "__main__":
    main()
