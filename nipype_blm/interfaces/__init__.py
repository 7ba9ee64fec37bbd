"""Nipype interfaces: one for each stage, one-node models, and their comparison."""

from nipype_blm.interfaces.blm import (
    BLM,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitModel,
    PlanBLM,
)
from nipype_blm.interfaces.blmm import BLMM, AssembleMixedMaps, PlanBLMM
from nipype_blm.interfaces.compare import CompareModels

__all__ = [
    "BLM",
    "BLMM",
    "AssembleMaps",
    "AssembleMixedMaps",
    "CompareModels",
    "ComputeContrasts",
    "ComputeProducts",
    "FitModel",
    "PlanBLM",
    "PlanBLMM",
]
