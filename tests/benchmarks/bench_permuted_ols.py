"""How much CPU time do corrected p take, against nilearn's permuted_ols?

A brain of 2 mm (235,375 voxels), 100 images without missing data, one tested column beside an
intercept and two others, both sides, one thread, data in memory; the largest voxel, then TFCE as
well.  Of each side few resamplings are measured, and what comes before them apart, so that both can
be extrapolated to 1,000.
"""

import time
from collections.abc import Callable

import nibabel as nib
import numpy as np
from harness import aim, format_table, parse_arguments, write_result
from nilearn.datasets import load_mni152_brain_mask
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from threadpoolctl import threadpool_limits

from nipype_blm.core.clusters.graph import make_graph
from nipype_blm.core.clusters.summaries import summarise_many
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.resampling.normal import find_peaks, share_to_z
from nipype_blm.data.volumes import VolumeSpace

N_OBS, MANY = 100, 1_000


def extrapolate(run: Callable[[int], object], few: int, more: int) -> float:
    """Return CPU seconds of `MANY` resamplings, from two numbers of them; once runs uncounted."""
    run(few)
    took = []
    for n in (few, more):
        start = time.process_time()
        run(n)
        took.append(time.process_time() - start)
    each = (took[1] - took[0]) / (more - few)
    return took[0] + each * (MANY - few)


def main() -> None:
    """Measure and write the result."""
    arguments = parse_arguments(__doc__ or "")
    mask = load_mni152_brain_mask(resolution=2)
    inside = mask.get_fdata() > 0
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(N_OBS, np.count_nonzero(inside))).astype(np.float32)
    X = np.column_stack([np.ones(N_OBS), rng.normal(size=(N_OBS, 3))])
    masker = NiftiMasker(nib.Nifti1Image(inside.astype(np.uint8), mask.affine)).fit()
    graph = make_graph(VolumeSpace(inside.shape, b"", inside.ravel(order="F")).find_neighbours())

    def run_ours(n: int, kind: str, names: list[str]) -> object:
        hypothesis, group = make_hypothesis(X, [0, 1, 0, 0]), np.arange(N_OBS, dtype=np.int32)
        method = RESAMPLINGS[kind]
        scores = method.prepare(Y, hypothesis, group, N_OBS)
        weights = method.draw(Exchange(N_OBS, group), 1, range(n))
        share = method.compute(scores, weights).share
        if names == ["voxel"]:
            return find_peaks(share, scores.m, 1, True)
        return summarise_many(share_to_z(share, scores.m, 1), graph, names)

    def run_nilearn(n: int, with_tfce: bool) -> object:
        more = {"masker": masker, "tfce": True} if with_tfce else {}
        return permuted_ols(
            X[:, 1], Y, X[:, 2:], n_perm=n, n_jobs=1, verbose=0, output_type="dict", **more
        )

    with threadpool_limits(1):
        peer = extrapolate(lambda n: run_nilearn(n, False), 2, 12)
        peer_tfce = extrapolate(lambda n: run_nilearn(n, True), 1, 3)
        rows = [{"what": "nilearn", "voxel": peer, "with TFCE": peer_tfce}]
        for kind, few, more in (("flip_scores", 64, 320), ("permute", 8, 40)):
            voxel = extrapolate(lambda n, kind=kind: run_ours(n, kind, ["voxel"]), few, more)
            tfce = extrapolate(lambda n, kind=kind: run_ours(n, kind, ["voxel", "tfce"]), 4, 16)
            rows.append({"what": kind, "voxel": voxel, "with TFCE": tfce})
    rows = [{k: v if isinstance(v, str) else round(v, 1) for k, v in row.items()} for row in rows]
    print(format_table(rows))
    aims = [
        aim("flips, CPU of nilearn's permutations", rows[1]["voxel"] / rows[0]["voxel"], "<=", 0.1),
        aim(
            "flips with TFCE, CPU of nilearn's permutations",
            rows[1]["with TFCE"] / rows[0]["with TFCE"],
            "<=",
            0.05,
        ),
    ]
    write_result(arguments.results, "permuted_ols", aims, rows=rows)


if __name__ == "__main__":
    main()
