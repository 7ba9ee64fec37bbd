"""What a report is made of: a folder of results, and all that was saved beside its maps."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.results.diagnostics import SavedDiagnostics, read_diagnostics
from nipype_blm.results.findings import Findings, find_all, find_inference
from nipype_blm.results.inferred import Inferred
from nipype_blm.results.results import Results

if TYPE_CHECKING:
    from nipype_blm.report.views import Backdrop


@dataclass(frozen=True)
class Reported:
    """One run of a report; what is costly is read when it is asked for."""

    results: Results
    background: Path | None = None  # anatomy to draw on

    @property
    def folder(self) -> Path:
        """The folder of results."""
        return self.results.folder

    @property
    def title(self) -> str:
        """What is at the top of the page: the formula, or the folder."""
        study = self.results.study
        return self.folder.name if study is None else study.formula

    @property
    def is_mixed(self) -> bool:
        """Whether the model has random effects."""
        return bool(self.results.factors)

    @cached_property
    def inferred(self) -> Inferred | None:
        """The corrected inference of these maps, if there is one."""
        return find_inference(self.results)

    @cached_property
    def _diagnostics(self) -> SavedDiagnostics | InputError:
        try:
            return read_diagnostics(self.results)
        except InputError as error:
            return error

    @property
    def diagnosed(self) -> SavedDiagnostics | None:
        """The diagnostics of these maps, if there are any."""
        found = self._diagnostics
        return None if isinstance(found, InputError) else found

    @property
    def why_undiagnosed(self) -> str:
        """Why there are no diagnostics, and how to get them; empty where there are."""
        found = self._diagnostics
        return str(found) if isinstance(found, InputError) else ""

    @cached_property
    def findings(self) -> dict[str, Findings]:
        """What each contrast found, by name."""
        return find_all(self.results, self.inferred)

    @cached_property
    def backdrop(self) -> "Backdrop":
        """What maps are drawn over."""
        from nipype_blm.report.views import find_backdrop

        return find_backdrop(self)

    @cached_property
    def coordinates(self) -> FloatArray:
        """Where the voxels of the result are, in mm."""
        return self.results.space.find_coordinates()

    @cached_property
    def record(self) -> str:
        """The configuration of the run, as YAML; empty where it was not kept."""
        try:
            return (self.folder / "inputs.yml").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @cached_property
    def options(self) -> dict[str, object]:
        """The fields of the configuration, as far as they can be read."""
        try:
            found = yaml.safe_load(self.record)
        except yaml.YAMLError:
            return {}
        return found if isinstance(found, dict) else {}
