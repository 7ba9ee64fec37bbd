"""See whether folders can take what a run writes, and whether anything would be lost."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nipype_blm.data.kinds import glob_maps
from nipype_blm.data.manifest import ImageEntry
from nipype_blm.errors import InputError, Problem
from nipype_blm.model.planning import Plan
from nipype_blm.model.request import TILES_FOLDER, Request
from nipype_blm.private import find_existing, find_obstacle
from nipype_blm.results.maps import is_map_name, is_result_name
from nipype_blm.results.saved import find_foreign


def check_folders(request: Request, work_folder: Path) -> list[Problem]:
    """Return what prevents writing to the output folder and that of intermediate files."""
    problems = []
    out_dir = request.out_dir
    obstacle = find_obstacle(out_dir)
    if obstacle is not None:
        template = "{out_dir} {folder} {obstacle}."
        problems.append(Problem("out_dir", template, folder=out_dir, obstacle=obstacle))
    is_within = request.work_dir is None and bool(problems)
    obstacle = None if is_within else find_obstacle(work_folder)
    if obstacle is not None:
        template = "{work_dir} {folder} {obstacle}; choose another {work_dir}."
        folder = request.work_folder
        problems.append(Problem("work_dir", template, folder=folder, obstacle=obstacle))
    if _follow(out_dir).is_relative_to(_follow(request.workflow_folder)):
        template = (
            "{out_dir} {folder} lies in {work}, a folder for intermediate files that may be "
            "removed; choose another {out_dir} or {work_dir}."
        )
        work = request.workflow_folder
        problems.append(Problem("out_dir", template, folder=out_dir, work=work))
    return problems


def check_writable(*folders: Path) -> None:
    """Raise InputError if nothing can be written to some of these folders, before work begins."""
    obstacles = {folder: find_obstacle(folder) for folder in folders}
    problems = [f"{folder} {why}." for folder, why in obstacles.items() if why is not None]
    if problems:
        raise InputError(problems)


def _follow(path: Path) -> Path:
    """Return where links lead; `Path.resolve` fails if they lead in a circle."""
    return Path(os.path.realpath(path))


def check_overwriting(request: Request, images: list[ImageEntry]) -> list[Problem]:
    """Return what would be lost: inputs with the place and name of a map, maps of another model."""
    model, other = ("blmm", "blm") if request.is_mixed else ("blm", "blmm")
    given = [*request.files, request.analysis_mask, request.post_mask]
    folder = _follow(request.out_dir)
    files = [*glob_maps(folder, "*"), *glob_maps(folder, "contrasts/*"), *folder.glob("model/*")]
    maps = {path for path in files if is_result_name(str(path.relative_to(folder)), model)}
    names = {path.name for path in maps}
    given += [path for files in {image.files for image in images} for path in files]
    lost = {
        str(path)
        for path in given
        if maps
        and path is not None
        and (path.name in names or path.is_symlink())
        and _follow(path) in maps
    }
    template = "{path} is read, but the maps would replace it; choose another {out_dir}."
    problems = [Problem("out_dir", template, path=path) for path in sorted(lost)]
    template = (
        "{path} was written by no run, but the model, which is saved beside the maps, would "
        "replace it; choose another {out_dir}, or move it."
    )
    problems += [
        Problem("out_dir", template, path=path)
        for path in find_foreign(folder)
        if str(path) not in lost
    ]
    others = [p for p in glob_maps(folder, f"{other}_vox_*") if is_map_name(p.name, other)]
    if others:  # contrasts and inputs.yml have the same names
        template = (
            f"{{out_dir}} {{folder}} has maps of {other} ({{name}}), some of which those of "
            f"{model} would replace; choose another {{out_dir}}, or remove them."
        )
        problems.append(Problem("out_dir", template, folder=folder, name=min(others).name))
    return problems


def check_disk(plan: Plan, out_dir: Path, work_folder: Path) -> list[str]:
    """Compare what a run needs with what is free on each disk.

    Intermediate files of an earlier run count as free, because new ones take their place; its
    maps do not, because they stay until the new ones are complete.
    """
    # Tiles that are not to be kept are no more replaced, but removed in the end.
    stays = TILES_FOLDER if not plan.tiles_bytes else ""
    needs = [(work_folder, plan.disk_bytes), (out_dir, plan.map_bytes)]
    return find_shortages(needs, work_folder, stays)


def find_shortages(
    needs: Sequence[tuple[Path, int]], work_folder: Path, stays: str = ""
) -> list[str]:
    """Return which disks have too little space.

    Parameters
    ----------
    needs : sequence of (Path, int)
        Folders, and the bytes that go there.
    work_folder : Path
        Its intermediate files are replaced.
    stays : str
        Name of a folder in there whose files are not.
    """
    disks: dict[int, list[tuple[Path, int]]] = {}
    for folder, size in needs:
        disks.setdefault(find_existing(folder).stat().st_dev, []).append((folder, size))
    problems = []
    for needs_of_disk in disks.values():
        folders, sizes = zip(*needs_of_disk, strict=True)
        required = sum(sizes)
        free = shutil.disk_usage(find_existing(folders[0])).free
        if required > free and work_folder in folders:
            files = work_folder.rglob("*.blm")
            states = [path.stat() for path in files if path.parent.name != stays]
            free += sum(found.st_size // found.st_nlink for found in states)  # a file once
        if required > free:
            problems.append(
                f"The disk of {' and '.join(map(str, folders))} has {free / 1e6:,.1f} MB free, "
                f"but up to {required / 1e6:,.1f} MB are needed; free some space, or choose a "
                "folder on another disk."
            )
    return problems
