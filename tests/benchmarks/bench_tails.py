"""Are corrected p-values of 500 resamplings with a tail those of 5,000, and of all there are?

Peaks of 12,000 maps of smooth noise (32 x 32 x 32 voxels, FWHM 3 voxels, both signs) stand for all;
500 or 5,000 of them are drawn 100 times. p is compared with the share of the 12,000.
"""

from pathlib import Path
from typing import Any

import numpy as np
from harness import aim, format_table, parse_arguments, write_result
from scipy.ndimage import gaussian_filter

from nipype_blm.core.clusters.graph import make_graph
from nipype_blm.core.clusters.nulls import extend_p, fit_tail
from nipype_blm.core.clusters.summaries import SummaryOptions, summarise
from nipype_blm.core.clusters.tree import Workspace
from nipype_blm.data.volumes import VolumeSpace

SHAPE = (32, 32, 32)
SEEDS, N_EACH = (1, 2), 6000
N_DRAWS = 100
NAMES = ("voxel", "extent above 3.1", "tfce", "extent above 2.3")
P = np.array([0.05, 0.02, 0.01, 0.005, 0.002, 0.001])


def make_peaks(file: Path, seed: int) -> np.ndarray:
    """Return peaks of maps of noise, (n_maps, n_names), and keep them."""
    if not file.exists():
        space = VolumeSpace(SHAPE, b"", np.ones(np.prod(SHAPE), bool))
        graph = make_graph(space.find_neighbours())
        work = Workspace(graph)
        rng = np.random.default_rng(seed)
        peaks = []
        for _ in range(N_EACH):
            noise = rng.standard_normal(SHAPE, dtype=np.float32)
            z = gaussian_filter(noise, 3 / 2.355, mode="wrap").ravel()
            z /= z.std()
            high = SummaryOptions(3.1), work
            peaks.append(
                [
                    *summarise(z, graph, ["voxel", "extent", "tfce"], True, *high),
                    *summarise(z, graph, ["extent"], True, SummaryOptions(2.3), work),
                ]
            )
        np.save(file, peaks)
    return np.load(file)


def compare_p(peaks: np.ndarray, n_drawn: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return p over the true one, its scatter, and how far critical values are off."""
    values = np.quantile(peaks, 1 - P)
    true = np.array([(peaks >= value).mean() for value in values])
    grid = np.linspace(0.9 * values[0], 1.15 * values[-1], 400)
    ratios, critical, n_without = [], [], 0
    for _ in range(N_DRAWS):
        null = rng.choice(peaks, n_drawn, replace=False)
        tail = fit_tail(null)
        n_without += tail is None
        ratios.append(extend_p(values, null, tail).p / true)
        reached = extend_p(grid, null, tail).p <= P[:, None]
        first = np.where(reached.any(axis=1), grid[reached.argmax(axis=1)], np.nan)
        critical.append(first / values)
    return {
        "without_tail": n_without,
        "mean": np.mean(ratios, axis=0).round(2).tolist(),
        "rms_log": np.sqrt(np.mean(np.log(ratios) ** 2, axis=0)).round(2).tolist(),
        "critical_mean": np.nanmean(critical, axis=0).round(3).tolist(),
        "critical_worst": np.nanmax(np.abs(np.subtract(critical, 1)), axis=0).round(3).tolist(),
    }


def main() -> None:
    arguments = parse_arguments(__doc__)
    all_peaks = np.concatenate(
        [make_peaks(arguments.data / f"peaks_{seed}.npy", seed) for seed in SEEDS]
    )
    rng = np.random.default_rng(0)
    rows = [
        {"summary": name, "drawn": n} | compare_p(peaks, n, rng)
        for n in (500, 5000)
        for name, peaks in zip(NAMES, all_peaks.T, strict=True)
    ]
    print(format_table(rows))
    aims = []
    for row in rows:
        what = f"{row['summary']}, {row['drawn']:,} and tail"
        off = np.abs(np.array(row["mean"]) - 1)
        value = np.abs(np.array(row["critical_mean"]) - 1).max()
        aims += [
            aim(f"{what}: mean p / true p - 1 at 0.05 to 0.005", float(off[:4].max()), "<=", 0.1),
            aim(f"{what}: the same at 0.002 and 0.001", float(off[4:].max()), "<=", 0.1),
            aim(f"{what}: mean critical value / true one - 1", float(value), "<=", 0.1),
        ]
    write_result(arguments.results, "tails", aims, p=P.tolist(), rows=rows)


if __name__ == "__main__":
    main()
