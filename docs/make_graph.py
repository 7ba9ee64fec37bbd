"""Draw the nodes of each workflow: docs/_static/blm_wf.svg and the like.  Needs Graphviz.

Usage: python docs/make_graph.py [FOLDER]
"""

import sys
from pathlib import Path

from nipype_blm.cli.graph import draw_graph
from nipype_blm.workflows import init_blm_wf, init_blmm_wf, init_compare_wf

DEFAULT = Path(__file__).parent / "_static"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    for init_wf in (init_blm_wf, init_blmm_wf, init_compare_wf):
        workflow = init_wf()
        draw_graph(workflow, folder / f"{workflow.name}.svg")
