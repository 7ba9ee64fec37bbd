"""``--graph FILE``: draw the workflow that would run."""

import logging
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError
from nipype_blm.private import find_obstacle

_FORMATS = (".svg", ".png", ".pdf")


def check_picture(path: Path) -> None:
    """Raise InputError if a picture cannot be drawn there, or not at all."""
    if path.suffix not in _FORMATS:
        raise InputError(
            f"--graph {path}: the name ends in {path.suffix or 'nothing'}, which says no format; "
            f"expected one of {', '.join(_FORMATS)}."
        )
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else f"lies in no folder that exists ({path.parent})"
        raise InputError(f"--graph {path} {what}; give the name of a picture.")
    obstacle = find_obstacle(path.absolute().parent)
    if obstacle is not None:
        raise InputError(f"--graph {path}: its folder {obstacle}.")
    if shutil.which("dot") is None:
        raise InputError(
            "--graph draws with `dot`, which is not on the PATH of this machine; install Graphviz "
            "(such as by `apt-get install graphviz`)."
        )


def draw_graph(workflow: Any, path: Path) -> None:
    """Draw the nodes of a workflow and their edges, by Graphviz, in the format of the name.

    Raises
    ------
    OSError
        If Graphviz cannot draw it.
    """
    logging.getLogger("nipype.workflow").setLevel("WARNING")  # it tells where its own file is
    with tempfile.TemporaryDirectory() as folder:
        dot_file, picture = Path(folder, "graph.dot"), Path(folder, f"graph{path.suffix}")
        workflow.write_graph(str(dot_file), graph2use="orig", format="dot", simple_form=True)
        command = ["dot", f"-T{path.suffix[1:]}", str(dot_file), "-o", str(picture)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"Graphviz could not draw {path}: {done.stderr.strip()}")
        shutil.copyfile(picture, path)
