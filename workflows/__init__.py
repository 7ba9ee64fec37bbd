"""Nipype workflows: nodes and edges only."""

from .blm import init_blm_wf
from .blmm import init_blmm_wf
from .blockmap import init_blockmap_wf
from .compare import init_compare_wf
from .export import init_fsl_handover_wf, init_spm_handover_wf
from .inference import init_inference_wf
from .ngv import init_ngv_wf
from .report import init_report_wf
from .tbss import init_tbss_wf

__all__ = [
    "init_blm_wf",
    "init_blmm_wf",
    "init_blockmap_wf",
    "init_compare_wf",
    "init_fsl_handover_wf",
    "init_inference_wf",
    "init_ngv_wf",
    "init_report_wf",
    "init_spm_handover_wf",
    "init_tbss_wf",
]
