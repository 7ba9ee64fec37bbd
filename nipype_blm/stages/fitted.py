"""Gather the model as fitted, to be written beside its maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.data.manifest import ImageEntry, read_manifest
from nipype_blm.data.spec import NUMERICS
from nipype_blm.io.versions import read_versions
from nipype_blm.results.saved import FittedModel, SavedContrast, SavedImage
from nipype_blm.results.volumes import Run


def describe_fitted(run: Run, batch_files: Sequence[Path | str]) -> FittedModel:
    """Return the model of a run as it was fitted, with the images of all its batches."""
    spec = run.spec
    entries = [entry for path in batch_files for entry in read_manifest(Path(path))]
    contrasts = zip(run.contrasts, run.labels, strict=True)
    return FittedModel(
        model=spec.model,
        X=spec.X,
        column_names=spec.names,
        contrasts=[SavedContrast(c.name, label, c.is_f, c.matrix) for c, label in contrasts],
        images=[_describe_image(entry) for entry in entries],
        options=_list_options(run),
        versions=read_versions(),
        factors=spec.factors,
        effect_names=spec.effect_names,
        level_names=spec.level_names,
        notices=run.notices,
    )


def _describe_image(entry: ImageEntry) -> SavedImage:
    state, of_mask = entry.state, entry.mask_state
    image = SavedImage(
        str(entry.image), entry.volume, state.size, state.mtime_ns, listed=entry.listed
    )
    if entry.mask is None:
        return image
    return image._replace(
        mask=str(entry.mask),
        mask_volume=entry.mask_volume,
        mask_size=of_mask.size,
        mask_mtime_ns=of_mask.mtime_ns,
    )


def _list_options(run: Run) -> dict[str, Any]:
    """Return all that the estimates and the tests depend on, besides the data."""
    spec = run.spec
    return {
        "minimum_n": spec.minimum_n,
        "threshold": None if np.isneginf(spec.threshold) else spec.threshold,
        "zero_is_missing": spec.zero_is_missing,
        "deficient": spec.deficient,
        **({} if spec.options is None else spec.options._asdict()),
        "two_sided": run.tests.two_sided,
        "minlog": run.tests.minlog,
        "numerics": NUMERICS,
    }
