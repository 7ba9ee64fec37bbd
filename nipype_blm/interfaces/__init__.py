"""Nipype interfaces: each stage, one-node models, and all that goes on from their results."""

from nipype_blm.interfaces.blm import (
    BLM,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitModel,
    PlanBLM,
)
from nipype_blm.interfaces.blmm import BLMM, AssembleMixedMaps, PlanBLMM
from nipype_blm.interfaces.blockmap import AssembleBlocks, BlockMap, MapBlocks, PlanBlocks
from nipype_blm.interfaces.commands import CommandBatch
from nipype_blm.interfaces.compare import CompareModels
from nipype_blm.interfaces.diagnose import Diagnose
from nipype_blm.interfaces.export import ExportBIDS, ExportFSL, ExportSPM
from nipype_blm.interfaces.find import FindImages
from nipype_blm.interfaces.inference import (
    ComputeNulls,
    ComputeScores,
    ComputeTiles,
    CorrectMaps,
    PlanInference,
    ResampleMaps,
)
from nipype_blm.interfaces.report import Report
from nipype_blm.interfaces.tbss import (
    AssembleTBSS,
    ChooseTarget,
    MakeSkeleton,
    PlanTBSS,
    ProjectOntoSkeleton,
    RegisterPairs,
    RegisterToTarget,
)

__all__ = [
    "BLM",
    "BLMM",
    "AssembleBlocks",
    "AssembleMaps",
    "AssembleMixedMaps",
    "AssembleTBSS",
    "BlockMap",
    "ChooseTarget",
    "CommandBatch",
    "CompareModels",
    "ComputeContrasts",
    "ComputeNulls",
    "ComputeProducts",
    "ComputeScores",
    "ComputeTiles",
    "CorrectMaps",
    "Diagnose",
    "ExportBIDS",
    "ExportFSL",
    "ExportSPM",
    "FindImages",
    "FitModel",
    "MakeSkeleton",
    "MapBlocks",
    "PlanBLM",
    "PlanBLMM",
    "PlanBlocks",
    "PlanInference",
    "PlanTBSS",
    "ProjectOntoSkeleton",
    "RegisterPairs",
    "RegisterToTarget",
    "Report",
    "ResampleMaps",
]
