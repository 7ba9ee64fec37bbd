"""Nipype interfaces: stages, one-node models, comparisons, diagnostics, images of BIDS, exports."""

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
from nipype_blm.interfaces.diagnose import Diagnose
from nipype_blm.interfaces.export import ExportBIDS, ExportFSL
from nipype_blm.interfaces.find import FindImages

__all__ = [
    "BLM",
    "BLMM",
    "AssembleMaps",
    "AssembleMixedMaps",
    "CompareModels",
    "ComputeContrasts",
    "ComputeProducts",
    "Diagnose",
    "ExportBIDS",
    "ExportFSL",
    "FindImages",
    "FitModel",
    "PlanBLM",
    "PlanBLMM",
]
