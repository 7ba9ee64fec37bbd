"""Saved models that no run has made: of fits whose numbers a test knows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.core.factors import RandomFactor
from nipype_blm.results.results import Results
from nipype_blm.results.saved import FOLDER, FittedModel, SavedModel, pack_fitted


def load_fitted(saved: SavedModel) -> FittedModel:
    """Return all of a saved model."""
    return FittedModel(
        model=saved.model,
        X=saved.X,
        column_names=saved.column_names,
        contrasts=saved.saved_contrasts,
        images=saved.images,
        options=saved.options,
        versions=saved.versions,
        factors=saved.factors,
        effect_names=saved.effect_names,
        level_names=saved.level_names,
        notices=saved.notices,
    )


def write_fitted(folder: Path, fitted: FittedModel) -> None:
    """Replace the saved model of a folder of results."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, content in pack_fitted(fitted).items():
        (folder / FOLDER / name).write_bytes(content)


def change_fitted(folder: Path, **changes: Any) -> None:
    """Replace fields of the saved model of a folder, and options."""
    fitted = load_fitted(Results(folder))
    options = {k: changes.pop(k) for k in list(changes) if k in fitted.options}
    write_fitted(folder, replace(fitted, options=fitted.options | options, **changes))


def write_mixed_model(
    plain: Path,
    folder: Path,
    labels: list[str],
    Z: np.ndarray,
    *,
    name: str = "subject",
    correlated: bool = True,
    reml: bool = True,
) -> None:
    """Write the model of a linear one with a random factor besides."""
    fitted = load_fitted(Results(plain))
    names, level = np.unique(labels, return_inverse=True)
    write_fitted(
        folder,
        replace(
            fitted,
            model="blmm",
            factors=[RandomFactor(name, level.astype(np.int32), Z, correlated)],
            effect_names=[[f"effect {i + 1}" for i in range(Z.shape[1])]],
            level_names=[names.tolist()],
            options=fitted.options | {"reml": reml},
        ),
    )
