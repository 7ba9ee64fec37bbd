"""How long do flips and permutations take, and what goes before and after them?

One thread; 100 images.  Each is extrapolated to a brain of 235,375 voxels, 5,000 resamplings.
"""

import time
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
AIMS = {"full": 15.0, "ring": 30.0}


def measure(
    kind: str, missing: float, mixed: bool, n_voxels: int, n_resamplings: int
) -> dict[str, Any]:
    """Return CPU seconds of each step for a brain, the second time it is done."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(100), rng.normal(size=(100, 3))])
    Y = rng.normal(size=(100, n_voxels)).astype(np.float32)
    if missing:
        ring = np.flatnonzero(rng.random(n_voxels) < missing)
        Y[:, ring] = np.where(rng.random((100, ring.size)) < 0.1, np.float32(np.nan), Y[:, ring])
    hypothesis, resampling = make_hypothesis(X, [0, 1, 0, 0]), RESAMPLINGS[kind]
    group = np.arange(100, dtype=np.int32) // (4 if mixed else 1)
    part = None
    if mixed:
        part = RandomPart([RandomFactor("subject", group, np.ones((100, 1)))], MixedOptions())
    took: dict[str, float] = {}
    for _ in range(2):
        clock = time.process_time()
        scores = resampling.prepare(Y, hypothesis, group, int(group.max()) + 1, part)
        took["prepare"], clock = time.process_time() - clock, time.process_time()
        weights = resampling.draw(Exchange(100, group), 1, range(n_resamplings))
        took["draw"], clock = time.process_time() - clock, time.process_time()
        share = resampling.compute(scores, weights).share
        took["compute"], clock = time.process_time() - clock, time.process_time()
        find_peaks(share, scores.m, 1, True)
        took["peaks"], clock = time.process_time() - clock, time.process_time()
        share_to_z(share, scores.m, 1)
        took["z"] = time.process_time() - clock
    voxels, numbers = BRAIN / n_voxels, MANY / n_resamplings
    factors = {"prepare": voxels, "draw": numbers}
    return {step: took[step] * factors.get(step, voxels * numbers) for step in took}


def main() -> None:
    """Measure and write the result."""
    arguments = parse_arguments(
        __doc__ or "",
        voxels={"type": int, "default": 20_000},
        resamplings={"type": int, "default": 500},
    )
    cases = [
        ("full", "flip_scores", 0.0, False),
        ("ring", "flip_scores", 0.4, False),
        ("mixed", "flip_scores", 0.4, True),
        ("data, ring", "flip_data", 0.4, False),
        ("permute, full", "permute", 0.0, False),
        ("permute, ring", "permute", 0.4, False),
    ]
    rows, aims = [], []
    for name, kind, missing, mixed in cases:
        scale = 20 if kind == "permute" else 1
        size = arguments.voxels // scale, arguments.resamplings
        found = measure(kind, missing, mixed, *size)
        rows.append({"case": name} | {step: round(x, 2) for step, x in found.items()})
        print(rows[-1], flush=True)
        if name in AIMS:
            total = found["draw"] + found["compute"] + found["peaks"]
            question = f"CPU s of 5,000 flips of 235,375 voxels, {name}"
            aims.append(aim(question, total, "<=", AIMS[name]))
    print(format_table(rows))
    write_result(arguments.results, "flips", aims, rows=rows)


if __name__ == "__main__":
    main()
