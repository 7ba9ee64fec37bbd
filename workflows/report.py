"""The workflow that writes a report of results."""

from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.interfaces.report import Report

from .nodes import FreshNode


def init_report_wf(
    *,
    out_file: str | Path | None = None,
    background: str | Path | None = None,
    beside: bool = False,
    name: str = "report_wf",
) -> Workflow:
    """Build a workflow that writes one page of HTML about the results of a model, or of two.

    Parameters
    ----------
    out_file : path, optional
        The page; by default it stays in the working directory.
    background : path, optional
        Anatomy to draw on; by default the MNI template, for results in MNI space.
    beside : bool
        Show the results of another model beside these.
    name : str
        Name of the workflow.

    Inputs
    ------
    results_dir
        Folder of results, such as the `out_dir` of a workflow that fits a model.
    other_dir
        With `beside`: that of the other model.

    Outputs
    -------
    out_file
        The page.
    """
    fields = ["results_dir", *(["other_dir"] if beside else [])]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = Node(IdentityInterface(fields=["out_file"]), name="outputnode")
    # By default beside the node's own folder, which is emptied whenever the node runs.
    place = "../report.html" if out_file is None else str(Path(out_file).absolute())
    report = FreshNode(Report(out_file=place), name="report", mem_gb=2)
    if background is not None:
        report.inputs.background = str(Path(background).absolute())
    workflow = Workflow(name=name)
    workflow.connect(
        [
            (inputnode, report, [(field, field) for field in fields]),
            (report, outputnode, [("out_file", "out_file")]),
        ]
    )
    return workflow
