"""What a report is made of: a folder of results, and all that was saved beside its maps."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.io.files import write_if_changed
from nipype_blm.results.diagnostics import SavedDiagnostics, read_diagnostics
from nipype_blm.results.findings import (
    MOST_CONTRASTS,
    Findings,
    choose_first,
    find_all,
    find_inference,
)
from nipype_blm.results.inferred import Inferred
from nipype_blm.results.results import Results
from nipype_blm.results.sampled import Sampled, choose_voxels, read_sampled
from nipype_blm.stages.sampling import MOST_BYTES, sample_values
from nipype_blm.stages.voxelfits import VoxelFit, fit_voxels

if TYPE_CHECKING:
    from nipype_blm.report.charts.views import Backdrop

_MOST_BYTES = 2**30  # that findings may take
_BYTES_PER_VOXEL = 40  # of one contrast: z, three p in double precision, and what survives


def open_reported(results: Results, background: Path | None = None) -> "Reported":
    """Return what a report is made of, on the background that is given, or on that of the last one.

    Which it is stays in ``report/background.txt``, beside what was saved for the report.
    """
    noted = results.folder / "report" / "background.txt"
    if background is not None:
        if background.is_file():  # else the page says what is wrong with it
            with suppress(OSError):  # of a folder that nobody may write to
                write_if_changed(noted, f"{background.absolute()}\n".encode())
        return Reported(results, background)
    try:
        last = Path(noted.read_text().rstrip("\n"))
    except (OSError, ValueError):
        return Reported(results)
    return Reported(results, last if last.is_file() else None)


@dataclass(frozen=True)
class Reported:
    """One run of a report; what is costly is read when it is asked for."""

    results: Results
    background: Path | None = None  # anatomy to draw on
    called: str = ""  # beside another run; default: the name of its folder

    @property
    def name(self) -> str:
        """What it is called beside another run."""
        return self.called or self.folder.name

    @property
    def folder(self) -> Path:
        """The folder of results."""
        return self.results.folder

    @property
    def title(self) -> str:
        """What is at the top of the page: the formula, or the folder."""
        study = self.results.study
        return self.name if study is None else study.formula

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
        """What each contrast found, by name; of many contrasts, or of large maps, the first."""
        n_held = _MOST_BYTES // (_BYTES_PER_VOXEL * max(1, self.results.n_fitted))
        most = max(1, min(MOST_CONTRASTS, n_held))
        names = choose_first(self.results, self.inferred, most)
        return find_all(self.results, self.inferred, names)

    @property
    def n_left_out(self) -> int:
        """How many contrasts have no findings here, for there are too many."""
        return len(self.results.contrasts) - len(self.findings) if self.results.n_fitted else 0

    @cached_property
    def backdrop(self) -> "Backdrop":
        """What maps are drawn over."""
        from nipype_blm.report.charts.views import find_backdrop

        return find_backdrop(self.results, self.background)

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

    @property
    def sampled(self) -> Sampled | None:
        """The values of the images at the highest voxels, if they are known."""
        return self._sampled[0]

    @property
    def why_not_sampled(self) -> str:
        """Why they are not; empty if they are."""
        return self._sampled[1]

    def read_values(
        self, n_threads: int = 1, work_dir: Path | None = None, most_bytes: int = MOST_BYTES
    ) -> None:
        """Have the values at the highest voxels read from the images, unless they were saved.

        What stands in the way is no error: it is said in the page.  Arguments are those of
        `sample_values`.
        """
        wanted = choose_voxels(self.findings)
        sampled, reason = None, ""
        try:
            sampled = sample_values(self.results, wanted, n_threads, work_dir, most_bytes)
        except InputError as error:
            first, *more = error.problems
            # Of many images that are gone: one of them, and at the end what to do.
            reason = " ".join(["The data at the highest voxels are not shown.", first, *more[-1:]])
        self.__dict__["_sampled"] = sampled, reason  # known from now on, also if not saved

    @cached_property
    def _sampled(self) -> tuple[Sampled | None, str]:
        try:
            return read_sampled(self.results), ""
        except InputError as error:
            return None, str(error)

    @cached_property
    def voxel_fits(self) -> dict[int, VoxelFit]:
        """The model at the voxels where values are known, by their places in the result."""
        return {} if self.sampled is None else fit_voxels(self.results, self.sampled)
