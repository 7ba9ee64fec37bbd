"""Big linear models: one model at every voxel of thousands of images, inside Nipype."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nipype_blm.cli.python import fit as fit
    from nipype_blm.report.notebook import Results as Results

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Results":  # when it is wanted: it needs NumPy and nibabel
        from nipype_blm.report.notebook import Results

        return Results
    if name == "fit":
        from nipype_blm.cli.python import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
