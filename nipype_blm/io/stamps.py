"""What each intermediate file is made from: the fingerprints that their readers check."""

from collections.abc import Iterable
from pathlib import Path

from nipype_blm.io.arrayfile import fingerprint


def batch_stamp(model_stamp: str, manifest: Path | str | bytes) -> str:
    """Return the fingerprint of a batch: the model, and its images with size and time."""
    content = manifest if isinstance(manifest, bytes) else Path(manifest).read_bytes()
    return fingerprint(model_stamp, content)


def run_stamp(model_stamp: str, manifests: Iterable[str]) -> str:
    """Return the fingerprint of a run: the model and all images, without the contrasts."""
    return fingerprint(model_stamp, *manifests)


def block_stamp(run: str, block: int) -> str:
    """Return the fingerprint of the estimates of a block."""
    return fingerprint(run, str(block))


def statistics_stamp(run: str, contrasts: str, block: int) -> str:
    """Return the fingerprint of the statistics of a block."""
    return fingerprint(block_stamp(run, block), contrasts)


def maps_stamp(run: str, contrasts: str, study: str, ending: str, declared: str) -> str:
    """Return the fingerprint of all maps and of the model beside them.

    Also of what maps are called, and which there are.
    """
    return fingerprint(run, contrasts, study, ending, declared)


def diagnostics_stamp(model: bytes, columns: slice, save: Iterable[str]) -> str:
    """Return the fingerprint of the diagnostics of some voxels of a saved model."""
    return fingerprint(model, f"{columns.start}:{columns.stop}", *save)
