"""The resamplings that there are: one table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.resampling.exchange import (
    Exchange,
    count_flips,
    count_permutations,
    draw_flips,
    draw_permutations,
)
from nipype_blm.core.resampling.flipping import Resampled
from nipype_blm.core.resampling.flips import FlipScores, compute_flips, prepare_scores
from nipype_blm.core.resampling.permutations import (
    PermutationScores,
    compute_permutations,
    prepare_permutations,
)


class Scores(Protocol):
    """A NamedTuple of arrays: all that the statistics of a block of voxels need."""

    @property
    def m(self) -> NDArray[np.int32]:
        """Images present less the rank of X0, (n_voxels,); 0 where nothing is tested."""

    @property
    def status(self) -> NDArray[np.uint8]:
        """`VoxelStatus`, (n_voxels,)."""

    def _asdict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Resampling:
    """One way to make data as they could have been under a null hypothesis."""

    words: str  # what it does, for users
    models: tuple[str, ...]  # "blm", "blmm"
    # (exchange, two_sided): how many resamplings differ.
    count: Callable[[Exchange, bool], int]
    # (exchange, seed, numbers, exhaustive, two_sided): weights (n_numbers, n_groups or n_obs).
    draw: Callable[..., NDArray[Any]]
    # (Y, hypothesis, group, n_groups, random, minimum_n, allowed, threads): what `compute` takes.
    prepare: Callable[..., Any]
    scores: Callable[..., Any]  # makes what `prepare` has returned, of its arrays by name
    compute: Callable[..., Resampled]  # (scores, weights, threads)

    def is_exhaustive(self, exchange: Exchange, n: int, two_sided: bool) -> bool:
        """Return whether n resamplings are at least as many as there are."""
        return n >= self.count(exchange, two_sided)


RESAMPLINGS = {
    "flip_scores": Resampling(
        words="signs of the groups' standardised scores are flipped",
        models=("blm", "blmm"),
        count=count_flips,
        draw=draw_flips,
        prepare=prepare_scores,
        scores=FlipScores,
        compute=compute_flips,
    ),
    "permute": Resampling(
        words="residuals of the other columns of X are permuted (Freedman-Lane)",
        models=("blm",),
        count=count_permutations,
        draw=draw_permutations,
        prepare=prepare_permutations,
        scores=PermutationScores,
        compute=compute_permutations,
    ),
    "flip_data": Resampling(
        words="signs of the groups' residuals of the other columns of X are flipped",
        models=("blm",),
        count=count_flips,
        draw=draw_flips,
        prepare=partial(prepare_scores, of_data=True),
        scores=FlipScores,
        compute=compute_flips,
    ),
}
