"""The SPM.mat of an export: what SPM's later steps know of a model and of its maps."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm import __version__
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.smoothness import Smoothness
from nipype_blm.data.lattices import Lattice, find_lattice
from nipype_blm.results.export import ExportedMap
from nipype_blm.results.results import ContrastResults, Results

_TYPES = {"uint8": 2, "float32": 16, "float64": 64}  # as NIfTI numbers them
_HEADER_BYTES = 116  # of text, with the time, at the start of the file
_EMPTY = np.zeros((0, 0))


def pack_spm(
    results: Results,
    smoothness: Smoothness,
    contrasts: Sequence[ContrastResults],
    erdf: int,
    maps: Sequence[ExportedMap],
    folder: Path,
) -> bytes:
    """Return the content of SPM.mat.

    The handles of maps have their voxels with them, in the field ``dat``: a handle that points to a
    file has an object of SPM's own class, which only SPM can write.

    Parameters
    ----------
    results : Results
    smoothness : Smoothness
    contrasts : sequence of ContrastResults
        In their order.
    erdf : int
        Error degrees of freedom.
    maps : sequence of ExportedMap
        All that are written.
    folder : Path
        Where SPM.mat will be.
    """
    from scipy.io import savemat

    lattice = find_lattice(results.space)
    handles = {each.info.name: _make_handle(lattice, each) for each in maps}
    betas = [each for name, each in handles.items() if name.startswith("beta_")]
    images = [f"{each.image},{each.volume + 1}" for each in results.images]
    xX = _describe_design(results, erdf)
    saved = {
        # Others, such as MarsBaR, take a file for one of SPM if this begins so.
        "SPMid": f"SPM12: nipype_blm {__version__} ({results.model})",
        "swd": str(folder),
        "nscan": float(len(results.X)),
        "xY": {"P": _make_cells(images)[:, None]},
        "xX": xX,
        "xVi": {"form": "i.i.d.", "V": xX["V"]},
        "xVol": _describe_volume(lattice, smoothness, handles["RPV"]),
        "xCon": _make_structs(
            [
                _describe_contrast(i, contrast, xX["xKXs"], handles)
                for i, contrast in enumerate(contrasts, 1)
            ]
        ),
        "Vbeta": _make_structs(betas),
        "VResMS": handles["ResMS"],
        "VM": handles["mask"],
    }
    file = io.BytesIO()
    savemat(file, {"SPM": saved}, do_compression=True)
    # The same results give the same file.
    text = f"MATLAB 5.0 MAT-file, nipype_blm {__version__}".encode()
    return text[:_HEADER_BYTES].ljust(_HEADER_BYTES) + file.getvalue()[_HEADER_BYTES:]


def find_residual_map(results: Results) -> str:
    """Return which map becomes ResMS; a mixed model may have none of y - X beta."""
    return "sigma2" if results.find("resms") is None else "resms"


def _make_handle(lattice: Lattice, exported: ExportedMap) -> dict[str, Any]:
    """Return a map as SPM's handle of a volume."""
    [values] = exported.convert()
    full = lattice.spread(values.astype(float), exported.outside)
    return {
        "fname": f"{exported.info.name}.nii",
        "dim": np.array([lattice.inside.shape], float),
        "dt": np.array([[_TYPES[exported.dtype.name], 0]], float),
        "pinfo": np.array([[1.0], [0.0], [0.0]]),
        "mat": _count_from_1(lattice.to_mm),
        "n": np.ones((1, 2)),
        "descrip": exported.info.description,
        "private": _EMPTY,
        "dat": full.astype(exported.dtype),
    }


def _count_from_1(to_mm: FloatArray) -> FloatArray:
    """Return the matrix that takes numbers of voxels from 1 to mm."""
    step = np.eye(4)
    step[:3, 3] = -1
    return to_mm @ step


def _describe_volume(
    lattice: Lattice, smoothness: Smoothness, resels: Mapping[str, Any]
) -> dict[str, Any]:
    M = _count_from_1(lattice.to_mm)
    places = np.argwhere(lattice.inside.T)[:, ::-1].T + 1  # x fastest
    return {
        "XYZ": places.astype(float),
        "M": M,
        "iM": np.linalg.inv(M),
        "DIM": np.array(lattice.inside.shape, float)[:, None],
        "FWHM": smoothness.fwhm[None, :],
        "R": smoothness.resel_counts[None, :],
        "S": float(np.count_nonzero(lattice.inside)),
        "VRpv": resels,
        "units": _make_cells(["mm", "mm", "mm"])[None, :],
    }


def _describe_design(results: Results, erdf: int) -> dict[str, Any]:
    """Return SPM's xX: X as a space, and the covariance of its estimates."""
    from scipy.sparse import eye_array

    X = results.X
    n, p = X.shape
    u, ds, vt = np.linalg.svd(X, full_matrices=False)
    tolerance = max(n, p) * ds.max() * np.finfo(float).eps
    columns = np.arange(1.0, p + 1)[None, :]
    scale = np.abs(X).max(axis=0)
    V = eye_array(n, format="csc")
    space = {
        "X": X,
        "tol": tolerance,
        "ds": ds[:, None],
        "u": u,
        "v": vt.T,
        "rk": float(np.count_nonzero(ds > tolerance)),
        **dict.fromkeys(("oP", "oPp", "ups", "sus"), _EMPTY),
    }
    return {
        "X": X,
        "name": _make_cells(results.column_names)[None, :],
        "iH": _EMPTY,
        "iC": columns,
        "iB": _EMPTY,
        "iG": _EMPTY,
        "K": 1.0,
        "W": V,
        "V": V,
        "xKXs": space,
        "pKX": np.linalg.pinv(X),
        "nKX": X / np.where(scale == 0, 1, scale),
        "Bcov": _find_covariance(results),
        "trRV": float(erdf),
        "trRVRV": float(erdf),
        "erdf": float(erdf),
    }


def _find_covariance(results: Results) -> FloatArray:
    """Return cov beta over ResMS: of a linear model with all images; of a mixed one the median."""
    X = results.X
    p = X.shape[1]
    if results.model == "blm" or results.find("cov") is None:
        return np.asarray(np.linalg.pinv(X.T @ X))
    resms = results.vector(find_residual_map(results))
    medians = np.empty((p, p))
    for row in range(p):  # not all at once: there are p^2 volumes
        volumes = range(row * p, (row + 1) * p)
        cov = results.read_volumes("cov", results.inside, volumes, np.dtype(float))
        medians[row] = np.median(cov / resms, axis=1)
    return (medians + medians.T) / 2


def _describe_contrast(
    i: int, contrast: ContrastResults, space: Mapping[str, Any], handles: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an element of SPM's xCon; spaces are in the coordinates of u, as SPM stores them."""
    c = contrast.weights.T
    ds, v = space["ds"], space["v"]
    test, effect = ("F", "ess") if contrast.is_f else ("T", "con")
    rest = np.eye(len(c)) - c @ np.linalg.pinv(c)
    return {
        "name": contrast.name,
        "STAT": test,
        "c": c,
        "X0": {"ukX0": ds * (v.T @ rest)},
        "iX0": "c",
        "X1o": {"ukX1o": (v.T @ c) / ds},
        "eidf": float(len(contrast.weights)),
        "Vcon": handles[f"{effect}_{i:04d}"],
        "Vspm": handles[f"spm{test}_{i:04d}"],
    }


def _make_cells(texts: Sequence[str]) -> NDArray[Any]:
    """Return texts as a cell array of MATLAB."""
    cells = np.empty(len(texts), object)
    cells[:] = texts
    return cells


def _make_structs(items: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """Return dictionaries with the same keys as an array of structures of MATLAB."""
    if not items:
        return _EMPTY
    structs = np.empty((1, len(items)), [(name, object) for name in items[0]])
    for i, item in enumerate(items):
        for name, value in item.items():
            structs[0, i][name] = value
    return structs
