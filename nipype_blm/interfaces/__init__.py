"""Nipype interfaces: one for each stage, and one-node models."""

from nipype_blm.interfaces.blm import (
    BLM,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitLeastSquares,
    PlanBLM,
)
from nipype_blm.interfaces.blmm import BLMM, AssembleMixedMaps, FitMixedModel, PlanBLMM

__all__ = [
    "BLM",
    "BLMM",
    "AssembleMaps",
    "AssembleMixedMaps",
    "ComputeContrasts",
    "ComputeProducts",
    "FitLeastSquares",
    "FitMixedModel",
    "PlanBLM",
    "PlanBLMM",
]
