"""Put the blocks together into maps; results appear only when all are complete."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.contrasts import compute_partial_r2
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.io.arrayfile import ArrayFile, fingerprint
from nipype_blm.io.maps import MapInfo, write_map
from nipype_blm.io.specfile import read_contrasts, read_model
from nipype_blm.model.contrasts import Contrast, file_labels
from nipype_blm.model.spec import ContrastSpec, ModelSpec
from nipype_blm.stages.estimates import block_stamp
from nipype_blm.stages.statistics import statistics_stamp

_RECORD = ".nipype_blm.json"
_PER_CONTRAST = ("effect", "variance", "stat", "zscore", "pvalue")


@dataclass(frozen=True)
class _Block:
    """The files of one block, and where its voxels lie in a volume."""

    estimates: ArrayFile
    statistics: ArrayFile
    voxels: NDArray[np.int64]  # positions of all voxels of the block
    status: NDArray[np.uint8]
    n_obs: NDArray[np.int32]
    fitted: NDArray[np.int64]  # positions of the fitted ones
    n_params: int

    @property
    def dof(self) -> NDArray[np.int32]:
        return np.asarray(self.n_obs[is_fitted(self.status)] - self.n_params, np.int32)

    def estimate(self, name: str, row: int) -> FloatArray:
        return self.estimates.read_rows(name, slice(row, row + 1))[0]

    def statistic(self, name: str) -> FloatArray:
        return self.statistics.read(name)

    def statistic_row(self, name: str, row: int) -> FloatArray:
        return self.statistics.read_rows(name, slice(row, row + 1))[0]


Volume = Callable[[_Block], NDArray[Any]]  # the values of one volume at a block


@dataclass(frozen=True)
class _Map:
    """One map: how it is described, and where its volumes come from."""

    info: MapInfo
    volumes: Sequence[Volume]
    dtype: str
    everywhere: bool = False  # values for all voxels of the analysis mask, not the fitted


class AssembledMaps(NamedTuple):
    """The maps of a run."""

    files: dict[str, Path]  # BLM's name, such as "beta", to its 4D map
    contrast_metadata: list[dict[str, Any]]
    contrast_maps: dict[str, list[Path]]  # effect, variance, ...: one for each contrast
    n_fitted: int
    minimum_dof: int


def assemble_maps(
    model_file: Path | str,
    contrasts_file: Path | str,
    estimates_files: Sequence[Path | str],
    statistics_files: Sequence[Path | str],
    run_stamp: str,
    out_dir: Path,
    compress: bool = False,
    inputs_file: Path | None = None,
) -> AssembledMaps:
    """Write the maps of a run to a folder.

    Maps that are there already and unchanged since are left as they are; maps of an
    earlier run that this one does not have are removed; other files are not touched.
    """
    _, spec = read_model(model_file)
    contrasts_stamp, tests = read_contrasts(contrasts_file)
    blocks = [
        _open_block(spec, number, *files, run_stamp, contrasts_stamp)
        for number, files in enumerate(zip(estimates_files, statistics_files, strict=True))
    ]
    minimum_dof = min((int(b.dof.min()) for b in blocks if b.fitted.size), default=0)
    maps = [*_model_maps(spec), *_stacked_maps(spec, tests), *_contrast_maps(spec, tests, minimum_dof)]
    extension = ".nii.gz" if compress else ".nii"
    inputs = inputs_file.read_bytes() if inputs_file is not None else b""
    stamp = fingerprint(run_stamp, contrasts_stamp, extension, inputs)

    def write(folder: Path) -> None:
        for item in maps:
            path = folder / f"{item.info.name}{extension}"
            write_map(
                path, spec.header, spec.shape, item.info, _volumes(item, blocks, spec),
                np.dtype(item.dtype),
            )
        if inputs_file is not None:
            (folder / "inputs.yml").write_bytes(inputs)

    publish(out_dir, stamp, write)
    labels = file_labels(tests.contrasts)
    edf = out_dir / f"blm_vox_edf{extension}"
    per_contrast = {
        kind: [out_dir / f"{_contrast_name(label, kind)}{extension}" for label in labels]
        for kind in _PER_CONTRAST
    }
    return AssembledMaps(
        files={
            item.info.name.removeprefix("blm_vox_"): out_dir / f"{item.info.name}{extension}"
            for item in maps
            if item.info.name.startswith("blm_vox_")
        },
        contrast_metadata=[_metadata(c, label) for c, label in zip(tests.contrasts, labels, strict=True)],
        contrast_maps=per_contrast | {"dof": [edf for _ in labels]},
        n_fitted=sum(b.fitted.size for b in blocks),
        minimum_dof=minimum_dof,
    )


def _open_block(
    spec: ModelSpec,
    number: int,
    estimates_file: Path | str,
    statistics_file: Path | str,
    run_stamp: str,
    contrasts_stamp: str,
) -> _Block:
    estimates = ArrayFile(estimates_file, block_stamp(run_stamp, number))
    statistics = ArrayFile(statistics_file, statistics_stamp(run_stamp, contrasts_stamp, number))
    voxels = np.flatnonzero(spec.mask)[spec.block(number)]
    status = estimates.read("status")
    return _Block(
        estimates,
        statistics,
        voxels,
        status,
        estimates.read("n_obs"),
        voxels[is_fitted(status)],
        spec.n_params,
    )


def _volumes(item: _Map, blocks: Sequence[_Block], spec: ModelSpec) -> Iterator[NDArray[Any]]:
    """Yield the volumes of a map, in file order, 0 where there is no value."""
    for volume in item.volumes:
        grid = np.zeros(spec.mask.size, item.dtype)
        for block in blocks:
            grid[block.voxels if item.everywhere else block.fitted] = volume(block)
        yield grid


def _model_maps(spec: ModelSpec) -> list[_Map]:
    """Return the maps that do not depend on contrasts."""
    p = spec.n_params
    floats = spec.map_dtype
    meanings = {str(int(status)): status.meaning for status in VoxelStatus}
    maps = [
        _Map(
            MapInfo("blm_vox_mask", "Voxels in the result.", "label"),
            [lambda b: np.ones(b.fitted.size, np.uint8)],
            "uint8",
        ),
        _Map(
            MapInfo("blm_vox_status", "What happened at each voxel.", "label",
                    details={"Levels": meanings}),
            [lambda b: b.status],
            "uint8",
            everywhere=True,
        ),
        _Map(
            MapInfo("blm_vox_n", "Images with data at each voxel of the analysis mask."),
            [lambda b: b.n_obs],
            "int32",
            everywhere=True,
        ),
        _Map(MapInfo("blm_vox_edf", "Residual degrees of freedom."), [lambda b: b.dof], "int32"),
        _Map(
            MapInfo("blm_vox_beta", "Estimates of the coefficients.", "estimate",
                    volumes=spec.names),
            [lambda b, i=i: b.estimate("beta", i) for i in range(p)],
            floats,
        ),
        _Map(
            MapInfo("blm_vox_resms", "Residual mean square.", "estimate"),
            [lambda b: b.estimates.read("resms")],
            floats,
        ),
        _Map(
            MapInfo("blm_vox_llh", "Maximised log-likelihood (ML).", "estimate",
                    details={"Criterion": "ML"}),
            [lambda b: b.estimates.read("llh")],
            floats,
        ),
    ]
    if spec.with_cov:
        pairs = [(i, j) for i in range(p) for j in range(p)]
        packed = [max(i, j) * (max(i, j) + 1) // 2 + min(i, j) for i, j in pairs]
        maps.append(
            _Map(
                MapInfo(
                    "blm_vox_cov", "Covariances of the estimates, row by row.", "estimate",
                    volumes=tuple(f"{spec.names[i]} x {spec.names[j]}" for i, j in pairs),
                ),
                [lambda b, k=k: b.estimate("cov", k) for k in packed],
                floats,
            )
        )
    return maps


def _log10_p(block: _Block, number: int, minlog: float) -> FloatArray:
    """Return -log10 p; infinities become |minlog| with their sign."""
    values = block.statistic(f"{number}/log_p") / -np.log(10)
    return np.clip(values, -abs(minlog), abs(minlog), where=np.isinf(values), out=values)


def _stacked_maps(spec: ModelSpec, tests: ContrastSpec) -> list[_Map]:
    """Return BLM's 4D maps, one volume for each T (or each F) contrast."""

    def stack(
        name: str, description: str, intent: str, f: bool, volume: Callable[[int, _Block], Any]
    ) -> _Map:
        chosen = [i for i, c in enumerate(tests.contrasts) if c.is_f == f]
        info = MapInfo(
            f"blm_vox_{name}", description, intent,
            volumes=tuple(tests.contrasts[i].name for i in chosen),
            details={"Contrasts": [_describe_contrast(tests.contrasts[i]) for i in chosen]},
        )
        return _Map(info, [partial(volume, i) for i in chosen], spec.map_dtype)

    def statistic(name: str) -> Callable[[int, _Block], FloatArray]:
        return lambda i, block: block.statistic(f"{i}/{name}")

    def se(i: int, block: _Block) -> FloatArray:
        return np.sqrt(block.statistic_row(f"{i}/variance", 0))

    def r2(i: int, block: _Block) -> FloatArray:
        q = len(tests.contrasts[i].matrix)
        return compute_partial_r2(block.statistic(f"{i}/stat"), q, block.dof)

    def log10_p(i: int, block: _Block) -> FloatArray:
        return _log10_p(block, i, tests.minlog)

    sides = "two-sided" if tests.two_sided else "upper tail"
    maps = [
        stack("con", "Contrasts of the estimates.", "estimate", False,
              lambda i, b: b.statistic_row(f"{i}/effect", 0)),
        stack("conSE", "Standard errors of the contrasts.", "estimate", False, se),
        stack("conT", "T statistics; degrees of freedom in blm_vox_edf.", "t", False,
              statistic("stat")),
        stack("conTlp", f"-log10 of the uncorrected p of T ({sides}).", "log10p", False, log10_p),
        stack("conF", "F statistics; error degrees of freedom in blm_vox_edf.", "f", True,
              statistic("stat")),
        stack("conFlp", "-log10 of the uncorrected p of F.", "log10p", True, log10_p),
        stack("conR2", "Partial R2 of F contrasts.", "estimate", True, r2),
    ]
    return [item for item in maps if item.volumes]


def _describe_contrast(contrast: Contrast) -> dict[str, Any]:
    return {
        "Name": contrast.name,
        "Test": "F" if contrast.is_f else "T",
        "Weights": contrast.matrix.tolist() if contrast.is_f else contrast.matrix[0].tolist(),
    }


def _contrast_name(label: str, kind: str) -> str:
    stat = {"zscore": "z", "pvalue": "p"}.get(kind, kind)
    return f"contrasts/contrast-{label}_stat-{stat}_statmap"


def _contrast_maps(spec: ModelSpec, tests: ContrastSpec, minimum_dof: int) -> list[_Map]:
    """Return the maps of each contrast by itself, as FSL, SPM and nilearn nodes take them."""
    maps = []
    for i, (contrast, label) in enumerate(
        zip(tests.contrasts, file_labels(tests.contrasts), strict=True)
    ):
        q = len(contrast.matrix)
        test, name = ("F", "f") if contrast.is_f else ("T", "t")
        df = (float(q), float(minimum_dof)) if contrast.is_f else (float(minimum_dof),)
        sides = "two-sided" if tests.two_sided and not contrast.is_f else "upper tail"
        rows = tuple(f"row {k + 1}" for k in range(q)) if contrast.is_f else None
        pairs = tuple(f"rows {a + 1}, {b + 1}" for a in range(q) for b in range(q))
        details = {"Contrast": _describe_contrast(contrast), "MinimumDegreesOfFreedom": minimum_dof}

        def add(
            kind: str,
            description: str,
            intent: str,
            volumes: list[Volume],
            parameters: tuple[float, ...] = (),
            volume_labels: tuple[str, ...] | None = None,
            label: str = label,
            details: dict[str, Any] = details,
        ) -> None:
            info = MapInfo(
                _contrast_name(label, kind), description, intent, parameters, volume_labels, details
            )
            maps.append(_Map(info, volumes, spec.map_dtype))

        add("effect", f"Effect: {contrast.name}", "estimate",
            [lambda b, i=i, k=k: b.statistic_row(f"{i}/effect", k) for k in range(q)],
            volume_labels=rows)
        add("variance", f"Variance of the effect: {contrast.name}", "estimate",
            [lambda b, i=i, k=k: b.statistic_row(f"{i}/variance", k) for k in range(q * q)],
            volume_labels=pairs if contrast.is_f else None)
        add("stat", f"{test}{{{', '.join(f'{x:g}' for x in df)}}}: {contrast.name}", name,
            [lambda b, i=i: b.statistic(f"{i}/stat")], df)
        add("zscore", f"z with the upper tail of {test}: {contrast.name}", "z",
            [lambda b, i=i: b.statistic(f"{i}/z")])
        add("pvalue", f"Uncorrected p ({sides}): {contrast.name}", "p",
            [lambda b, i=i: np.exp(b.statistic(f"{i}/log_p"))])
    return maps


def _metadata(contrast: Contrast, label: str) -> dict[str, Any]:
    """Describe a contrast to the nodes that follow."""
    return {
        "name": contrast.name,
        "contrast": label,
        "stat_type": "F" if contrast.is_f else "t",
        "weights": contrast.matrix.tolist(),
    }


def publish(out_dir: Path, stamp: str, write: Callable[[Path], None]) -> None:
    """Have files written to a folder of their own, then move them all into `out_dir`.

    A hidden record in `out_dir` tells which files a run put there and when, so that an
    unchanged result is not written again and files of an earlier run can be removed.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    record = out_dir / _RECORD
    before = _read_record(record)
    if before.get("stamp") == stamp and _is_intact(out_dir, before["files"]):
        return
    partial_dir = out_dir / f".{os.getpid()}.part"
    try:
        write(partial_dir)
        written = sorted(p.relative_to(partial_dir) for p in partial_dir.rglob("*") if p.is_file())
        names = {str(path) for path in written}
        stale = (set(before["files"]) | _standard_files(out_dir)) - names
        # From here on the record names old and new files, so that an interrupted move is
        # finished, and nothing is forgotten, by the next run.
        _write_record(record, "", sorted(names | stale), out_dir)
        for path in written:
            (out_dir / path).parent.mkdir(parents=True, exist_ok=True)
            (partial_dir / path).replace(out_dir / path)
        for name in stale:
            (out_dir / name).unlink(missing_ok=True)
        _write_record(record, stamp, sorted(names), out_dir)
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)


def _standard_files(folder: Path) -> set[str]:
    """Return the files with BLM's names, which BLM-py itself may have left."""
    names = "mask status n edf beta resms llh cov con conSE conT conTlp conF conFlp conR2".split()
    candidates = (f"blm_vox_{name}{end}" for name in names for end in (".nii", ".nii.gz", ".json"))
    return {name for name in candidates if (folder / name).is_file()}


def _read_record(path: Path) -> dict[str, Any]:
    """Read which files an earlier run wrote; names that could lead elsewhere are dropped."""
    try:
        record = json.loads(path.read_text())
        files = {str(name): list(value) for name, value in record["files"].items()}
        stamp = str(record["stamp"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"stamp": "", "files": {}}
    return {
        "stamp": stamp,
        "files": {
            name: value
            for name, value in files.items()
            if not Path(name).is_absolute()
            and ".." not in Path(name).parts
            and (name == "inputs.yml" or name.startswith(("blm_vox_", "contrasts/contrast-")))
        },
    }


def _write_record(path: Path, stamp: str, names: Sequence[str], out_dir: Path) -> None:
    files = {}
    for name in names:
        file = out_dir / name
        status = file.stat() if file.exists() else None
        files[name] = [status.st_size, status.st_mtime_ns] if status else [0, 0]
    path.write_text(json.dumps({"stamp": stamp, "files": files}, indent=1))


def _is_intact(out_dir: Path, files: dict[str, list[int]]) -> bool:
    for name, expected in files.items():
        path = out_dir / name
        if not path.is_file():
            return False
        status = path.stat()
        if [status.st_size, status.st_mtime_ns] != expected:
            return False
    return True
