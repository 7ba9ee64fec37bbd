"""Nipype interfaces: one for each stage, and one-node models."""

from nipype_blm.interfaces.blm import (
    BLM,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitLeastSquares,
    PlanBLM,
)

__all__ = [
    "BLM",
    "AssembleMaps",
    "ComputeContrasts",
    "ComputeProducts",
    "FitLeastSquares",
    "PlanBLM",
]
