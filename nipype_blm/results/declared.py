"""Every map of a model, declared once: name, words, intent, volumes, and where its values are from.

Outputs of interfaces, the tables in the docs, names of files and the maps of a run all come from
`DECLARED`.  A new map is one more line there, and its arithmetic in `core`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.contrasts import compute_partial_r2, compute_standard_error
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.lmm.components import compute_component, compute_intraclass_correlation
from nipype_blm.core.status import VoxelStatus
from nipype_blm.core.tails import compute_log10_p, compute_p
from nipype_blm.results.blocks import Block
from nipype_blm.results.volumes import (
    COLUMNS,
    ENTRIES,
    F_CONTRASTS,
    INTERCEPTS,
    ONE,
    PAIRS,
    ROW_PAIRS,
    ROWS,
    T_CONTRASTS,
    Run,
    Volume,
    Volumes,
)

MODELS = ("blm", "blmm")


# The values of a volume at a block of voxels: of a Block, a Volume and a Run.
Source = Callable[..., NDArray[Any]]


def _estimate(name: str) -> Source:
    """Return the source of a saved estimate: all of it, or the row of each volume."""
    return lambda block, volume, run: block.estimate(name, volume.key)


def _statistic(name: str) -> Source:
    """Return the source of a saved statistic of a contrast."""
    return lambda block, volume, run: block.statistic(volume.contrast, name, volume.key)


def _read_component(block: Block, volume: Volume, run: Run) -> FloatArray:
    return compute_component(block.estimate("sigma2"), block.estimate("D", volume.key))


def _read_intraclass_correlation(block: Block, volume: Volume, run: Run) -> FloatArray:
    rows, heights = zip(*run.intercepts.values(), strict=True)
    D = [block.estimate("D", row) for row in rows]
    return compute_intraclass_correlation(D, heights, volume.key)


def _read_standard_error(block: Block, volume: Volume, run: Run) -> FloatArray:
    return compute_standard_error(block.statistic(volume.contrast, "variance", 0))


def _read_log10_p(block: Block, volume: Volume, run: Run) -> FloatArray:
    return compute_log10_p(block.statistic(volume.contrast, "log_p"), run.tests.minlog)


def _read_partial_r2(block: Block, volume: Volume, run: Run) -> FloatArray:
    F, dof = block.statistic(volume.contrast, "stat"), block.contrast_dof(volume.contrast)
    return compute_partial_r2(F, len(run.contrasts[volume.contrast].matrix), dof)


def _tell_criterion(run: Run) -> dict[str, Any]:
    return {"Criterion": "REML" if run.spec.options is not None and run.spec.options.reml else "ML"}


def _tell_levels(run: Run) -> dict[str, Any]:
    return {"Levels": {str(int(status)): status.meaning for status in VoxelStatus}}


def _tell_notices(run: Run) -> dict[str, Any]:
    return {"Notices": list(run.notices)} if run.notices else {}


def _tell_tail(run: Run) -> dict[str, Any]:
    return {"Tail": "two-sided" if run.tests.two_sided else "upper"}


_OF_RUN = "{model}_vox_{name}"
_OF_CONTRAST = "contrasts/contrast-{label}_stat-{name}_statmap"
_T_OR_F = ("t test", "f test")


@dataclass(frozen=True)
class Declaration:
    """One map of a model."""

    name: str
    words: str  # one sentence, or its beginning if the map is of one contrast
    intent: str | tuple[str, str]  # as nibabel calls it; of a T and of an F contrast
    volumes: Volumes
    source: Source
    units: str = "–"
    mixed_words: str | None = None  # of a mixed model, where they differ
    models: tuple[str, ...] = MODELS
    dtype: str | None = None  # None: that of the maps of the run
    everywhere: bool = False  # values at all voxels of the analysis mask, not the fitted
    details: Callable[[Any], dict[str, Any]] = lambda run: {}  # for the sidecar, of a Run
    is_wanted: Callable[[Run, Any], bool] = lambda run, _: True  # by a run, or a contrast of it
    file: str = _OF_RUN  # below the output folder, without extension
    output: tuple[str, str] = ("", "")  # of interfaces, if of one contrast: name, description

    @property
    def is_of_contrast(self) -> bool:
        """Whether each contrast has a map of its own."""
        return self.file != _OF_RUN

    def name_file(self, model: str) -> str:
        """Return the name of the map of a whole run, without extension."""
        return self.file.format(model=model, name=self.name)

    def describe(self, model: str) -> str:
        """Return the words for a model."""
        return self.mixed_words if model == "blmm" and self.mixed_words else self.words


_ESTIMABLE = "contrasts/contrast-{label}_desc-estimable_mask"
_EFFECT = "y per unit of the contrast"
_BETAS = "products of the units of beta"

DECLARED = (
    Declaration(
        *("mask", "Voxels in the result.", "label", ONE),
        source=lambda block, volume, run: np.ones(block.fitted.size, np.uint8),
        dtype="uint8",
    ),
    Declaration(
        *("status", "What happened at each voxel.", "label", ONE),
        source=lambda block, volume, run: block.status,
        dtype="uint8",
        everywhere=True,
        details=_tell_levels,
    ),
    Declaration(
        *("n", "Images with data at each voxel of the analysis mask.", "none", ONE),
        source=lambda block, volume, run: block.n_obs,
        units="images",
        dtype="int32",
        everywhere=True,
        details=_tell_notices,
    ),
    Declaration(
        *("edf", "Residual degrees of freedom.", "none", ONE),
        source=lambda block, volume, run: block.dof,
        mixed_words="Images with data less the rank of their rows of X.",
        dtype="int32",
    ),
    Declaration(
        "beta",
        "Estimates, one volume for each column of X; 0 where it is not estimable by itself.",
        *("estimate", COLUMNS),
        source=lambda block, volume, run: block.coefficient(volume.key),
        units="y per unit of the column",
    ),
    Declaration(
        *("sigma2", "Residual variance.", "estimate", ONE, _estimate("sigma2")),
        units="y²",
        models=("blmm",),
    ),
    Declaration(
        *("D", "Covariances of the random effects of a level, relative to sigma2.", "estimate"),
        *(ENTRIES, _estimate("D")),
        units="1 per product of the units of the effects",
        models=("blmm",),
    ),
    Declaration(
        *("varcomp", "Covariances of the random effects of a level: sigma2 times D.", "estimate"),
        *(ENTRIES, _read_component),
        units="y² per product of the units of the effects",
        models=("blmm",),
    ),
    Declaration(
        *("icc", "Share of each factor in the variance of intercepts and residuals.", "estimate"),
        *(INTERCEPTS, _read_intraclass_correlation),
        models=("blmm",),
    ),
    Declaration(
        *("resms", "Residual mean square.", "estimate", ONE, _estimate("resms")),
        units="y²",
        mixed_words="Mean square of y - X beta, over n less the rank of X.",
        is_wanted=lambda run, _: run.spec.with_resms,
    ),
    Declaration(
        *("llh", "Maximised log-likelihood.", "estimate", ONE, _estimate("llh")),
        units="nats",
        mixed_words="Maximised log-likelihood, by the criterion named below.",
        details=_tell_criterion,
    ),
    Declaration(
        *("nit", "Evaluations of the likelihood.", "none", ONE, _estimate("nit")),
        models=("blmm",),
        dtype="int32",
    ),
    Declaration(
        *("cov", "Covariances of the estimates, row by row.", "estimate", PAIRS, _estimate("cov")),
        units=_BETAS,
        is_wanted=lambda run, _: run.spec.with_cov,
    ),
    Declaration(
        *("con", "Effects of the T contrasts.", "estimate", T_CONTRASTS),
        source=lambda block, volume, run: block.statistic(volume.contrast, "effect", 0),
        units=_EFFECT,
    ),
    Declaration(
        *("conSE", "Standard errors of the T contrasts.", "estimate"),
        *(T_CONTRASTS, _read_standard_error),
        units=_EFFECT,
    ),
    Declaration(
        *("conT", "T statistics; degrees of freedom in blm_vox_edf.", "t test"),
        *(T_CONTRASTS, _statistic("stat")),
        mixed_words="T statistics; degrees of freedom in blmm_vox_conT_swedf.",
    ),
    Declaration(
        *("conT_swedf", "Satterthwaite's degrees of freedom of T.", "none"),
        *(T_CONTRASTS, _statistic("dof")),
        models=("blmm",),
    ),
    Declaration(
        *("conTlp", "-log10 of the uncorrected p of T.", "log10 p value"),
        *(T_CONTRASTS, _read_log10_p),
        details=_tell_tail,
    ),
    Declaration(
        *("conF", "F statistics; error degrees of freedom in blm_vox_edf.", "f test"),
        *(F_CONTRASTS, _statistic("stat")),
        mixed_words="F statistics; error degrees of freedom in blmm_vox_conF_swedf.",
    ),
    Declaration(
        *("conF_swedf", "Satterthwaite's error degrees of freedom of F.", "none"),
        *(F_CONTRASTS, _statistic("dof")),
        models=("blmm",),
    ),
    Declaration(
        *("conFlp", "-log10 of the uncorrected p of F.", "log10 p value"),
        *(F_CONTRASTS, _read_log10_p),
        details=lambda run: {"Tail": "upper"},
    ),
    Declaration(
        *("conR2", "Partial R2 of the F contrasts.", "estimate", F_CONTRASTS, _read_partial_r2),
    ),
    Declaration(
        *("effect", "Effect", "estimate", ROWS, _statistic("effect")),
        units=_EFFECT,
        file=_OF_CONTRAST,
        output=("effect_maps", "effect of each contrast; F: one volume for each row"),
    ),
    Declaration(
        *("variance", "Variance", "estimate", ROW_PAIRS, _statistic("variance")),
        units="squares of the effect's units",
        file=_OF_CONTRAST,
        output=("variance_maps", "variance of each effect; F: covariances, row by row"),
    ),
    Declaration(
        *("stat", "{test}_[{df}]", _T_OR_F, ONE, _statistic("stat")),
        file=_OF_CONTRAST,
        output=("stat_maps", "T or F of each contrast"),
    ),
    Declaration(
        *("z", "z with the upper tail of {test}", "z score", ONE, _statistic("z")),
        units="standard deviations",
        file=_OF_CONTRAST,
        output=("zscore_maps", "normal deviate with the same upper tail, for each contrast"),
    ),
    Declaration(
        *("p", "Uncorrected p ({tail})", "p value", ONE),
        source=lambda block, volume, run: compute_p(block.statistic(volume.contrast, "log_p")),
        file=_OF_CONTRAST,
        output=("pvalue_maps", "p of each contrast"),
    ),
    Declaration(
        *("dof", "Error degrees of freedom of {test}", "none", ONE, _statistic("dof")),
        models=("blmm",),
        file=_OF_CONTRAST,
        output=("dof_maps", "error degrees of freedom of each contrast"),
    ),
    Declaration(
        *("estimable", "Voxels at which the contrast is estimable", "label", ONE),
        source=lambda block, volume, run: block.is_estimable(volume.contrast),
        dtype="uint8",
        is_wanted=lambda run, contrast: run.has_gaps[contrast],
        file=_ESTIMABLE,
        output=(
            "contrast_masks",
            "where each contrast is estimable: mask_file, unless images are missing that it needs",
        ),
    ),
)


def select_declared(model: str, of_contrast: bool = False) -> list[Declaration]:
    """Return what is declared for a model: maps of the whole run, or those of each contrast."""
    chosen = [each for each in DECLARED if model in each.models]
    return [each for each in chosen if each.is_of_contrast == of_contrast]


def describe_declared(model: str) -> str:
    """Return what is declared for a model, as text: another version may have other maps."""
    rows = [
        (each.file, each.name, each.describe(model), each.intent, each.volumes.words, each.dtype)
        for each in DECLARED
        if model in each.models
    ]
    return repr(rows)
