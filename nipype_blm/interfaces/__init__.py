"""Nipype interfaces: each stage, one-node models, comparisons, images of BIDS, exports."""

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
from nipype_blm.interfaces.export import ExportBIDS, ExportFSL, ExportSPM
from nipype_blm.interfaces.find import FindImages

__all__ = [
    "BLM",
    "BLMM",
    "AssembleMaps",
    "AssembleMixedMaps",
    "CompareModels",
    "ComputeContrasts",
    "ComputeProducts",
    "ExportBIDS",
    "ExportFSL",
    "ExportSPM",
    "FindImages",
    "FitModel",
    "PlanBLM",
    "PlanBLMM",
]
