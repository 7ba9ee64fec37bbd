"""The report of results, as a node."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec

from nipype_blm.interfaces.base import (
    BLMInterface,
    InputSpec,
    defined_traits,
    results_trait,
    threads_trait,
)


class _ReportInputSpec(InputSpec):
    results_dir = results_trait()
    other_dir = Directory(exists=True, desc="results of another model, to stand beside these")
    n_procs = threads_trait()
    out_file = File(desc="file to write; default: report.html in the working directory")
    background = File(
        exists=True,
        desc="anatomy to draw on; default: the MNI template, for results in MNI space",
    )


class _ReportOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the report: one page of HTML")


class Report(BLMInterface):
    """Write one page of HTML about results: what was found, drawn, corrected and criticised.

    Needs nipype_blm[plot].  Runs every time, since Nipype does not look into the folder.

    Examples
    --------
    >>> from nipype_blm.interfaces.report import Report
    >>> report = Report(out_file="group.html")
    >>> report.inputs.results_dir = "results"  # doctest: +SKIP
    >>> page = report.run().outputs.out_file  # doctest: +SKIP
    """

    input_spec = _ReportInputSpec
    output_spec = _ReportOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.report.page import write_report
        from nipype_blm.report.reported import open_reported
        from nipype_blm.results.results import Results

        given = defined_traits(self.inputs)
        folders = [given[name] for name in ("results_dir", "other_dir") if name in given]
        background = Path(given["background"]) if "background" in given else None
        out_file = Path(runtime.cwd, given.get("out_file", "report.html")).resolve()
        runs = [open_reported(Results(folder), background) for folder in folders]
        self._results = {"out_file": str(write_report(runs, out_file, given["n_procs"]))}
        return runtime
