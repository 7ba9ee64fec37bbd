"""Tract-based spatial statistics: one interface for each stage, from FA to images on a skeleton."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nipype.external.due import BibTeX
from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from nipype_blm.interfaces.base import BLMInterface, InputSpec, defined_traits, warn_of
from nipype_blm.tbss.options import DESCRIPTIONS, FA, TARGETS

if TYPE_CHECKING:
    from nipype_blm.tbss.options import Options
    from nipype_blm.tbss.plan import Plan

_TBSS_REFERENCE = BibTeX(
    "@article{tbss, author={Smith, Stephen M. and others},"
    "title={Tract-based spatial statistics: voxelwise analysis of multi-subject diffusion data},"
    "journal={NeuroImage}, volume={31}, pages={1487--1505}, year={2006},"
    "doi={10.1016/j.neuroimage.2006.02.024}}"
)
_RUNNING = ("fa_files", "maps", "out_dir", "work_dir", "parallel_nodes")
# Outputs that are files of the group, as `Paths` names them.
GROUP_FILES = ("mean_fa", "mean_fa_mask", "skeleton", "skeleton_mask", "distance")


class TBSSInterface(BLMInterface):
    """Base of the stages, which run every time: what was registered is not registered again."""

    _always_run = True
    _references: ClassVar = [
        {
            "entry": _TBSS_REFERENCE,
            "description": "Tract-based spatial statistics",
            "tags": ["method"],
        }
    ]


class TBSSInputSpec(InputSpec):
    """What is asked of a TBSS."""

    fa_files = traits.List(File(exists=True), mandatory=True, desc="FA, an image each")
    maps = traits.Dict(
        traits.Str,
        traits.List(File(exists=True)),
        desc="images of other maps by name, such as MD, in the order of fa_files: they go the way "
        "of FA",
    )
    out_dir = Directory(mandatory=True, desc="folder for the results")
    work_dir = Directory(desc="folder for intermediate files; default: work in out_dir")
    template = File(exists=True, desc=DESCRIPTIONS["template"])
    target = traits.Enum(*TARGETS, desc=DESCRIPTIONS["target"])
    engine = traits.Str(desc=DESCRIPTIONS["engine"])
    threshold = traits.Float(desc=DESCRIPTIONS["threshold"])
    mask_share = traits.Float(desc=DESCRIPTIONS["mask_share"])
    min_correlation = traits.Float(desc=DESCRIPTIONS["min_correlation"])
    max_failed = traits.Float(desc=DESCRIPTIONS["max_failed"])
    tubular_mask = File(exists=True, desc=DESCRIPTIONS["tubular_mask"])
    search_mask = File(exists=True, desc=DESCRIPTIONS["search_mask"])
    skeleton = File(exists=True, desc=DESCRIPTIONS["skeleton"])
    directions = File(exists=True, desc=DESCRIPTIONS["directions"])
    atlas = File(exists=True, desc=DESCRIPTIONS["atlas"])
    atlas_names = File(exists=True, desc=DESCRIPTIONS["atlas_names"])
    write_4d = traits.Bool(desc=DESCRIPTIONS["write_4d"])
    parallel_nodes = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="nodes that run at the same time"
    )


class _PlanOutputSpec(TraitedSpec):
    plan_file = File(exists=True, desc="what every stage reads")
    batches = traits.List(traits.Int, desc="numbers of the batches of images")
    pair_bundles = traits.List(traits.Int, desc="numbers of the bundles of pairs")


PLAN_OUTPUTS = tuple(_PlanOutputSpec().copyable_trait_names())


def make_options(given: dict[str, Any]) -> "Options":
    """Return options of values by name; paths may be text."""
    from nipype_blm.tbss.options import PATH_OPTIONS, Options

    options: dict[str, Any] = {
        name: Path(value).absolute() if name in PATH_OPTIONS else value
        for name, value in given.items()
    }
    return Options(**options)


def write_plan(plan: "Plan") -> dict[str, Any]:
    """Write a plan; return the outputs of `PlanTBSS`."""
    from nipype_blm.tbss.plan import PLAN_FILE

    path = plan.work_dir / PLAN_FILE
    plan.write(path)
    return {
        "plan_file": str(path),
        "batches": list(range(len(plan.batches))),
        "pair_bundles": list(range(len(plan.pair_bundles))),
    }


class PlanTBSS(TBSSInterface):
    """Check what is asked of a TBSS and every image, and cut the work into pieces."""

    input_spec = TBSSInputSpec
    output_spec = _PlanOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.planning import make_plan

        given = defined_traits(self.inputs)
        options = make_options({k: v for k, v in given.items() if k not in _RUNNING})
        images = {FA: [Path(path).absolute() for path in given["fa_files"]]}
        for name, paths in given.get("maps", {}).items():
            images[name] = [Path(path).absolute() for path in paths]
        out_dir = Path(runtime.cwd, given["out_dir"]).absolute()
        work_dir = Path(runtime.cwd, given.get("work_dir", out_dir / "work")).absolute()
        plan = make_plan(images, options, out_dir, work_dir, given["parallel_nodes"])
        warn_of(plan.notices)
        self._results = write_plan(plan)
        return runtime


class _StageInputSpec(InputSpec):
    plan_file = File(exists=True, mandatory=True, desc="what every stage reads")


class _RegisterPairsInputSpec(_StageInputSpec):
    bundle = traits.Int(mandatory=True, desc="number of the bundle of pairs")


class _RegisterPairsOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="displacement and correlation of each pair, a line each")


class RegisterPairs(TBSSInterface):
    """Register some images to some others, and note how far they had to be warped."""

    input_spec = _RegisterPairsInputSpec
    output_spec = _RegisterPairsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.pairs import register_pairs

        self._results["out_file"] = str(register_pairs(_read_plan(self), self.inputs.bundle))
        return runtime


class _ChooseTargetInputSpec(_StageInputSpec):
    pair_files = traits.List(File(exists=True), desc="of all bundles of pairs, if there are any")


class _ChooseTargetOutputSpec(TraitedSpec):
    target_file = File(exists=True, desc="what all images are registered to")


class ChooseTarget(TBSSInterface):
    """Choose what all images are registered to: the template, or the most representative image."""

    input_spec = _ChooseTargetInputSpec
    output_spec = _ChooseTargetOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.pairs import choose_target, describe_failed
        from nipype_blm.tbss.subjects import set_target

        plan = _read_plan(self)
        if plan.options.target == "template":
            set_target(plan)
            _tell(plan, "choose", [])
        else:
            set_target(plan, choose_target(plan))
            _tell(plan, "choose", describe_failed(plan))
        self._results["target_file"] = str(plan.paths.target)
        return runtime


class _BatchInputSpec(_StageInputSpec):
    batch = traits.Int(mandatory=True, desc="number of the batch of images")


class _RegisterToTargetInputSpec(_BatchInputSpec):
    target_file = File(exists=True, mandatory=True, desc="what all images are registered to")


class _RegisterToTargetOutputSpec(TraitedSpec):
    record_files = traits.List(File(exists=True), desc="how each registration went")


class RegisterToTarget(TBSSInterface):
    """Register some images to the target, and bring their maps into standard space."""

    input_spec = _RegisterToTargetInputSpec
    output_spec = _RegisterToTargetOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.subjects import register_subjects

        plan = _read_plan(self)
        records = register_subjects(plan, plan.batches[self.inputs.batch])
        self._results["record_files"] = [str(path) for path in records]
        return runtime


class _MakeSkeletonInputSpec(_StageInputSpec):
    record_files = traits.List(
        traits.List(File(exists=True)), mandatory=True, desc="of all registrations"
    )


class _GroupOutputSpec(TraitedSpec):
    mean_fa = File(exists=True, desc="mean FA")
    mean_fa_mask = File(exists=True, desc="where all images have FA, or the share that is asked")
    skeleton = File(exists=True, desc="mean FA on the skeleton, without a threshold")
    skeleton_mask = File(exists=True, desc="the skeleton above its threshold")
    distance = File(exists=True, desc="distance from it in mm, where the search may go")


class MakeSkeleton(TBSSInterface):
    """Compute mean FA, its skeleton, and where to search for the centres of tracts."""

    input_spec = _MakeSkeletonInputSpec
    output_spec = _GroupOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.group import make_skeleton

        plan = _read_plan(self)
        _tell(plan, "skeleton", make_skeleton(plan))
        self._results = {name: str(getattr(plan.paths, name)) for name in GROUP_FILES}
        return runtime


class _ProjectInputSpec(_BatchInputSpec):
    skeleton_mask = File(exists=True, mandatory=True, desc="the skeleton above its threshold")


class _ProjectOutputSpec(TraitedSpec):
    out_files = traits.List(File(exists=True), desc="maps on the skeleton")


class ProjectOntoSkeleton(TBSSInterface):
    """Find the centres of tracts in some images, and write their maps on the skeleton."""

    input_spec = _ProjectInputSpec
    output_spec = _ProjectOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.group import project_subjects

        plan = _read_plan(self)
        written = project_subjects(plan, plan.batches[self.inputs.batch])
        self._results["out_files"] = [str(path) for path in written]
        return runtime


class _AssembleInputSpec(_StageInputSpec):
    projected_files = traits.List(
        traits.List(File(exists=True)), mandatory=True, desc="maps on the skeleton, of all batches"
    )


class _AssembleOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="folder of the results")
    names = traits.List(traits.Str, desc="names of the observations that are in the results")
    used = traits.List(traits.Int, desc="their places among fa_files, from 0")
    skeletonised = traits.List(File(exists=True), desc="FA on the skeleton, in this order")
    map_files = traits.Dict(
        traits.Str, traits.List(File(exists=True)), desc="the same of each map, FA too"
    )
    all_skeletonised = File(exists=True, desc="FA on the skeleton in one file, with write_4d")
    subjects_table = File(exists=True, desc="how each registration went")
    tract_tables = traits.Dict(traits.Str, File(exists=True), desc="means by tract, of each map")


ASSEMBLED = tuple(_AssembleOutputSpec().copyable_trait_names())


class AssembleTBSS(TBSSInterface):
    """Write files of all images and tables by tract; list what there is."""

    input_spec = _AssembleInputSpec
    output_spec = _AssembleOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.tbss.group import choose_used
        from nipype_blm.tbss.outputs import assemble, describe_tracts

        plan = _read_plan(self)
        assemble(plan)
        _tell(plan, "assemble", describe_tracts(plan))
        used, _ = choose_used(plan)
        names, paths = [plan.subjects[i].name for i in used], plan.paths
        files = {
            m: [str(paths.find_skeletonised(name, m)) for name in names] for m in plan.measures
        }
        self._results = {
            "out_dir": str(plan.out_dir),
            "names": names,
            "used": used,
            "skeletonised": files[FA],
            "map_files": files,
            "subjects_table": str(paths.subjects_table),
            "tract_tables": {m: str(paths.find_tracts(m)) for m in plan.measures},
        }
        if plan.options.write_4d:
            self._results["all_skeletonised"] = str(paths.stats / f"all_{FA}_skeletonised.nii.gz")
        return runtime


def _tell(plan: "Plan", stage: str, notices: Sequence[str]) -> None:
    from nipype_blm.tbss.plan import write_notices

    warn_of(notices)
    write_notices(plan, stage, notices)


def _read_plan(interface: TBSSInterface) -> "Plan":
    from nipype_blm.tbss.plan import Plan

    return Plan.read(Path(interface.inputs.plan_file))
