"""How long do flips and permutations take, and what goes before and after them?

One thread; 100 images, in the mixed model of 25 subjects.  Each is extrapolated to a brain of
235,375 voxels, 5,000 resamplings.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from harness import aim, format_table, parse_arguments, write_result

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange
from nipype_blm.core.resampling.flips import RandomPart
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.resampling.normal import find_peaks, share_to_z

BRAIN, MANY = 235_375, 5_000
N_OBS, N_VISITS, N_PARAMS = 100, 4, 4
AIMS = {"full": 15.0, "ring": 30.0}
FLIPS = ("draw", "compute", "peaks")  # what each resampling takes


def make_case(
    kind: str, missing: float, mixed: bool, n_voxels: int, n_resamplings: int
) -> Callable[[], dict[str, float]]:
    """Return what gives the CPU seconds of each step for a brain."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(N_OBS), rng.normal(size=(N_OBS, N_PARAMS - 1))])
    Y = rng.normal(size=(N_OBS, n_voxels)).astype(np.float32)
    if missing:
        ring = np.flatnonzero(rng.random(n_voxels) < missing)
        absent = rng.random((N_OBS, ring.size)) < 0.1
        Y[:, ring] = np.where(absent, np.float32(np.nan), Y[:, ring])
    hypothesis, resampling = make_hypothesis(X, [0, 1, 0, 0]), RESAMPLINGS[kind]
    group = np.arange(N_OBS, dtype=np.int32) // (N_VISITS if mixed else 1)
    part = None
    if mixed:
        Y += rng.normal(size=(group.max() + 1, n_voxels)).astype(np.float32)[group]
        part = RandomPart([RandomFactor("subject", group, np.ones((N_OBS, 1)))], MixedOptions())
    voxels, numbers = BRAIN / n_voxels, MANY / n_resamplings
    factors = {"prepare": voxels, "draw": numbers}

    def steps() -> Iterator[tuple[str, float]]:
        clock = time.process_time()
        scores = resampling.prepare(Y, hypothesis, group, int(group.max()) + 1, part)
        yield "prepare", time.process_time() - clock
        clock = time.process_time()
        weights = resampling.draw(Exchange(N_OBS, group), 1, range(n_resamplings))
        yield "draw", time.process_time() - clock
        clock = time.process_time()
        share = resampling.compute(scores, weights).share
        yield "compute", time.process_time() - clock
        clock = time.process_time()
        find_peaks(share, scores.m, 1, True)
        yield "peaks", time.process_time() - clock
        clock = time.process_time()
        share_to_z(share, scores.m, 1)
        yield "z", time.process_time() - clock

    return lambda: {step: took * factors.get(step, voxels * numbers) for step, took in steps()}


def measure(cases: dict[str, Callable[[], dict[str, float]]], repeats: int) -> list[dict[str, Any]]:
    """Return the least CPU seconds of each step; cases take turns, the first of which is apart."""
    turns = [{name: run() for name, run in cases.items()} for _ in range(1 + repeats)][1:]
    return [
        {"case": name} | {step: min(turn[name][step] for turn in turns) for step in turns[0][name]}
        for name in cases
    ]


def main() -> None:
    """Measure and write the result."""
    arguments = parse_arguments(
        __doc__ or "",
        voxels={"type": int, "default": 20_000},
        resamplings={"type": int, "default": 500},
    )
    cases = {}
    for name, kind, missing, mixed in (
        ("full", "flip_scores", 0.0, False),
        ("ring", "flip_scores", 0.4, False),
        ("mixed", "flip_scores", 0.0, True),
        ("mixed, ring", "flip_scores", 0.4, True),
        ("data, ring", "flip_data", 0.4, False),
        ("permute, full", "permute", 0.0, False),
        ("permute, ring", "permute", 0.4, False),
    ):
        scale = 20 if kind == "permute" else 1
        size = arguments.voxels // scale, arguments.resamplings
        cases[name] = make_case(kind, missing, mixed, *size)
    rows = measure(cases, arguments.repeats)
    flips = {row["case"]: sum(row[step] for step in FLIPS) for row in rows}
    aims = [
        aim(f"CPU s of 5,000 flips of 235,375 voxels, {name}", flips[name], "<=", most)
        for name, most in AIMS.items()
    ]
    # Scores and p0 columns of W of each group, where full voxels of a linear model have scores.
    expected = N_PARAMS * (N_OBS // N_VISITS) / N_OBS
    for name in ("mixed", "mixed, ring"):
        question = f"flips, {name} / full of BLM / ((1 + p0) J / n)"
        aims.append(aim(question, flips[name] / flips["full"] / expected, "<=", 1))
    rows = [{k: v if isinstance(v, str) else round(v, 2) for k, v in row.items()} for row in rows]
    print(format_table(rows))
    write_result(arguments.results, "flips", aims, rows=rows)


if __name__ == "__main__":
    main()
