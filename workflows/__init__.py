"""Nipype workflows: nodes and edges only."""

from .blm import init_blm_wf

__all__ = ["init_blm_wf"]
