"""Models of a few voxels, for tests of what is made from a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.volumes import VolumeSpace


def make_spec(
    X: np.ndarray,
    shape: tuple[int, int, int],
    mask: np.ndarray | None = None,
    factors: Sequence[RandomFactor] = (),
    template: bytes = b"",
    **changes: Any,
) -> ModelSpec:
    """Return a model of volumes; a mixed one, if there are factors.

    `mask` is in file order; `template` is the header of maps.
    """
    mask = np.ones(np.prod(shape), bool) if mask is None else mask
    given: dict[str, Any] = {
        "design": factorise_design(X),
        "names": tuple(f"x{i}" for i in range(X.shape[1])),
        "space": VolumeSpace(shape, template, mask),
        "allowed": np.ones(mask.sum(), bool),
        "minimum_n": 0,
        "threshold": -np.inf,
        "zero_is_missing": True,
        "staged_dtype": "float32",
        "map_dtype": "float64",
        "with_cov": False,
        "images_per_batch": 4,
        "voxels_per_block": 3,
        "rows_per_chunk": 4,
    }
    if factors:
        names = tuple(tuple(f"e{i}" for i in range(f.n_effects)) for f in factors)
        mixed = {"factors": tuple(factors), "effect_names": names, "options": MixedOptions()}
        given |= mixed
    return ModelSpec(**given | changes)
