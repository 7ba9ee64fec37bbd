"""Nipype interfaces: one for each stage, one-node models, and their comparison."""

from nipype_blm.interfaces.blm import (
    BLM,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitLeastSquares,
    PlanBLM,
)
from nipype_blm.interfaces.blmm import BLMM, AssembleMixedMaps, FitMixedModel, PlanBLMM
from nipype_blm.interfaces.compare import CompareModels

__all__ = [
    "BLM",
    "BLMM",
    "AssembleMaps",
    "AssembleMixedMaps",
    "CompareModels",
    "ComputeContrasts",
    "ComputeProducts",
    "FitLeastSquares",
    "FitMixedModel",
    "PlanBLM",
    "PlanBLMM",
]
