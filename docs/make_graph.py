"""Draw the nodes of the workflow: docs/_static/blm_wf.svg.  Needs Graphviz.

Usage: python docs/make_graph.py [FILE]
"""

import shutil
import sys
import tempfile
from pathlib import Path

from nipype_blm.workflows import init_blm_wf

DEFAULT = Path(__file__).parent / "_static" / "blm_wf.svg"


def draw_graph(path: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "graph.dot")
        init_blm_wf().write_graph(str(graph), graph2use="orig", format="svg", simple_form=True)
        shutil.copy(graph.with_suffix(".svg"), path)


if __name__ == "__main__":
    draw_graph(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
