"""Put the blocks together into maps; results appear only when all are complete."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.status import VoxelStatus
from nipype_blm.data.kinds import name_map
from nipype_blm.data.specfile import read_contrasts, read_model, read_study
from nipype_blm.errors import InputError
from nipype_blm.io.publish import Claim, publish
from nipype_blm.io.stamps import maps_stamp
from nipype_blm.results.blocks import Block, open_blocks
from nipype_blm.results.declared import describe_declared, select_declared
from nipype_blm.results.maps import Map, is_result_name, list_maps, name_contrast_map
from nipype_blm.results.saved import EXCLUDED, FOLDER, pack_excluded, pack_fitted
from nipype_blm.results.volumes import DofRange, Run
from nipype_blm.stages.fitted import describe_fitted
from nipype_blm.stages.zeros import describe_zeros

NOTICES = "nipype_blm.notices"  # the logger of what is no fault but may not be meant

_logger = logging.getLogger(__name__)


class AssembledMaps(NamedTuple):
    """The maps of a run."""

    files: dict[str, Path]  # name, such as blm_vox_beta, to its map
    mask_file: Path  # voxels in the result
    status_file: Path  # what became of each voxel
    contrast_metadata: list[dict[str, Any]]
    contrast_maps: dict[str, list[Path]]  # effect, variance, stat, z, p, dof: of each contrast
    contrast_masks: list[Path]  # where each contrast is estimable
    dof: int  # smallest of the contrasts' medians, rounded down
    notices: list[str]  # what the user should know of the result
    n_fitted: int  # voxels in the result


def assemble_maps(
    model_file: Path | str,
    contrasts_file: Path | str,
    batch_files: Sequence[Path | str],
    estimates_files: Sequence[Path | str],
    statistics_files: Sequence[Path | str],
    run_stamp: str,
    out_dir: Path,
    claim: Claim,
    compress: bool = False,
    inputs_file: Path | None = None,
    study_file: Path | str | None = None,
) -> AssembledMaps:
    """Write the maps of a run to a folder.

    Parameters
    ----------
    batch_files : sequence of paths
        As `write_plan` wrote them.
    estimates_files, statistics_files : sequences of paths
        Of all blocks, in order.
    run_stamp : str
        Fingerprint of the model and all images.
    claim : Claim
        Whether maps that are in the folder may be replaced.
    compress : bool
        Write compressed maps, such as .nii.gz instead of .nii.
    inputs_file : Path, optional
        The configuration, copied to the maps as inputs.yml.
    study_file : path, optional
        As `write_plan` wrote it, of a model that a formula has made.
    """
    _, spec = read_model(model_file)
    contrasts_stamp, tests = read_contrasts(contrasts_file)
    study_stamp, study = ("", None) if study_file is None else read_study(study_file)
    blocks = open_blocks(spec, estimates_files, statistics_files, run_stamp, contrasts_stamp)
    _warn_of_unconverged(blocks)
    notices = describe_zeros(spec, batch_files, blocks)
    for notice in notices:
        logging.getLogger(NOTICES).warning(notice)
    n_contrasts = len(tests.contrasts)
    dof = [_find_dof_range(blocks, i) for i in range(n_contrasts)]
    has_gaps = [not all(b.is_estimable(i).all() for b in blocks) for i in range(n_contrasts)]
    run = Run(spec, tests, dof, has_gaps, notices)
    maps = list_maps(run)
    name_file = partial(name_map, spec.space, compress=compress)

    def write_one(path: Path, item: Map) -> None:
        vectors = item.assemble(blocks, spec.n_voxels)
        spec.space.write(path, item.info, vectors, np.dtype(item.dtype))

    def write(folder: Path) -> None:
        for item in maps:
            path = folder / name_file(item.info.name)
            try:
                write_one(path, item)
            except OverflowError:  # images in unusual units
                write_one(path, replace(item, dtype="float64"))
        (folder / FOLDER).mkdir()
        fitted = replace(describe_fitted(run, batch_files), study=study)
        for name, content in pack_fitted(fitted).items():
            (folder / FOLDER / name).write_bytes(content)
        if study is not None and study.excluded:
            (folder / EXCLUDED).write_bytes(pack_excluded(study.excluded))

    declared = describe_declared(spec.model)
    stamp = maps_stamp(run_stamp, contrasts_stamp, study_stamp, name_file(""), declared)
    companions = {} if inputs_file is None else {"inputs.yml": inputs_file.read_bytes()}
    publish(out_dir, stamp, claim, write, partial(is_result_name, model=spec.model), companions)

    written = {item.info.name: out_dir / name_file(item.info.name) for item in maps}
    named = list(zip(tests.contrasts, run.labels, strict=True))

    def list_contrast_maps(kind: str) -> list[Path | None]:
        names = [name_contrast_map(kind, label, c.is_f) for c, label in named]
        return [written.get(name) for name in names]

    contrast_maps = {
        each.name: [path for path in list_contrast_maps(each.name) if path is not None]
        for each in select_declared(spec.model, of_contrast=True)
        if each.name != "estimable"
    }
    if spec.options is None:  # the same for all contrasts
        contrast_maps["dof"] = [written["blm_vox_edf"]] * len(named)
    mask = written[f"{spec.model}_vox_mask"]
    return AssembledMaps(
        files={name: path for name, path in written.items() if "/" not in name},
        mask_file=mask,
        status_file=written[f"{spec.model}_vox_status"],
        contrast_metadata=[
            {
                "name": contrast.name,
                "contrast": label,
                "stat_type": "F" if contrast.is_f else "t",
                "weights": contrast.matrix.tolist(),
            }
            for contrast, label in named
        ],
        contrast_maps=contrast_maps,
        contrast_masks=[own or mask for own in list_contrast_maps("estimable")],
        dof=int(min(found.median for found in dof)),
        notices=notices,
        n_fitted=sum(block.fitted.size for block in blocks),
    )


def check_fitted(n_fitted: int, status_map: Path, notices: Sequence[str]) -> None:
    """Refuse a result without any voxel; the maps that say why are there.

    Raises
    ------
    InputError
    """
    if n_fitted == 0:
        reason = " ".join([f"{status_map} says why.", *notices])
        raise InputError(f"no voxel could be fitted; {reason} allow_empty accepts such a result.")


def _find_dof_range(blocks: Sequence[Block], contrast: int) -> DofRange:
    """Return the error degrees of freedom in the mask; zeros without any voxel."""
    dof = np.concatenate([block.contrast_dof(contrast) for block in blocks])
    if not dof.size:
        return DofRange(0, 0, 0)
    return DofRange(dof.min().item(), np.median(dof).item(), dof.max().item())


def _warn_of_unconverged(blocks: Sequence[Block]) -> None:
    n = sum(int((block.status == VoxelStatus.NOT_CONVERGED).sum()) for block in blocks)
    if n:
        _logger.warning(
            "%d voxels have status %d: %s.",
            n,
            VoxelStatus.NOT_CONVERGED,
            VoxelStatus.NOT_CONVERGED.meaning,
        )
