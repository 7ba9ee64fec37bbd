"""A function over blocks of volumes: as one node, and as a stage for each part of the work."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from nipype_blm.blockmap.options import Config
from nipype_blm.interfaces.base import (
    BLMInterface,
    InputSpec,
    PoolInputSpec,
    defined_traits,
    find_plugin_args,
    threads_trait,
    warn_of,
)

if TYPE_CHECKING:
    from nipype_blm.blockmap.assembling import Result
    from nipype_blm.blockmap.plan import Plan

DESCRIPTIONS = {name: each.description for name, each in Config.model_fields.items()}
# Inputs that are no fields of a configuration.
_RUNNING = (
    *("config_file", "out_dir", "n_procs", "pool_file", "plugin_args", "overwrite"),
    *("base_dir", "parallel_nodes"),
)


class BlockMapInputSpec(InputSpec):
    """What is asked of a run over blocks; all that a configuration has, or in its place."""

    # Not hashed: a neurodata.cfg has a token, which may be another one next time.
    config_file = File(
        exists=True,
        nohash=True,
        desc="YAML with these inputs, or a neurodata.cfg; others are given besides",
    )
    # Text or a mapping: old versions of traits have no dictionary of either.
    channels = traits.Dict(traits.Str, traits.Any, desc=DESCRIPTIONS["channels"])
    function = traits.Str(desc=DESCRIPTIONS["function"])
    arguments = traits.Dict(traits.Str, desc=DESCRIPTIONS["arguments"])
    ranges = traits.Dict(traits.Str, traits.Any, desc=DESCRIPTIONS["ranges"])
    block_size = traits.Either(
        traits.Enum("auto"),
        traits.Dict(traits.Str, traits.Int),
        traits.List(traits.Int),
        desc=DESCRIPTIONS["block_size"],
    )
    halo = traits.Either(
        traits.Int,
        traits.Dict(traits.Str, traits.Int),
        traits.List(traits.Int),
        desc=DESCRIPTIONS["halo"],
    )
    outputs = traits.Dict(traits.Str, traits.Any, desc=DESCRIPTIONS["outputs"])
    table = traits.Str(desc=DESCRIPTIONS["table"])
    on_error = traits.Enum("skip", "stop", desc=DESCRIPTIONS["on_error"])
    on_read_error = traits.Enum("stop", "skip", desc=DESCRIPTIONS["on_read_error"])
    max_skipped = traits.Range(low=0, desc=DESCRIPTIONS["max_skipped"])
    retries = traits.Range(low=0, high=100, nohash=True, desc=DESCRIPTIONS["retries"])
    retry_pause_s = traits.Float(nohash=True, desc=DESCRIPTIONS["retry_pause_s"])
    max_mem_gb = traits.Float(desc=DESCRIPTIONS["max_mem_gb"])
    base_dir = Directory(
        exists=True, desc="where relative paths start without a config_file; default: here"
    )
    out_dir = Directory(
        desc="folder for results, tables and journal, from which a run that was killed goes on; "
        "default: blocks in the working directory, which Nipype empties before a node runs again"
    )
    overwrite = traits.Bool(
        False, usedefault=True, nohash=True, desc="remove what a run before has left in out_dir"
    )


class _BlockMapNodeInputSpec(BlockMapInputSpec, PoolInputSpec):
    n_procs = threads_trait()


class BlockMapOutputSpec(TraitedSpec):
    """What a run over blocks has made."""

    out_dir = Directory(exists=True, desc="folder of all results")
    outputs = traits.Dict(traits.Str, traits.Str, desc="where the arrays are, by name")
    table = File(exists=True, desc="records that the function has returned")
    blocks_table = File(exists=True, desc="a row for each block")
    skipped_table = File(exists=True, desc="blocks that were skipped, and why; if there are any")
    keys = traits.List(traits.Str, desc="blocks that are done: z_y_x of the first voxel")
    skipped = traits.List(traits.Str, desc="blocks that were skipped")


class _BlockMapInterface(BLMInterface):
    """Base: these run every time, and do not do again what is done."""

    _always_run = True
    _references: ClassVar = []

    def _pre_run_hook(self, runtime: Any) -> Any:
        # Nipype keeps the environment with the result, and in a report: a token may be in it.
        runtime.environ = {}
        return runtime


class BlockMap(_BlockMapInterface):
    """Run a function on every block of volumes, with threads or on a pool.

    Examples
    --------
    >>> from nipype_blm.interfaces.blockmap import BlockMap
    >>> blocks = BlockMap(channels={"em": "em.zarr"}, function="cells.py:detect", n_procs=2)
    >>> blocks.run().outputs.skipped  # doctest: +SKIP
    []
    """

    input_spec = _BlockMapNodeInputSpec
    output_spec = BlockMapOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.blockmap.run import run_plan

        given = defined_traits(self.inputs)
        plan = make_plan(given, Path(runtime.cwd))
        warn_of(plan.notices)
        result = run_plan(plan, given["n_procs"], find_plugin_args(given), given["overwrite"])
        self._results = describe_result(result)
        return runtime


class _PlanBlocksInputSpec(BlockMapInputSpec):
    parallel_nodes = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="nodes that run at the same time"
    )


class _PlanBlocksOutputSpec(TraitedSpec):
    plan_file = File(exists=True, desc="what every stage reads")
    bundles = traits.List(traits.List(traits.Int), desc="numbers of the blocks of each node")
    journals = traits.List(traits.Str, desc="where each node notes what it has done")


class PlanBlocks(_BlockMapInterface):
    """Check what is asked for, do the first block, and cut the rest into bundles."""

    input_spec = _PlanBlocksInputSpec
    output_spec = _PlanBlocksOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.blockmap.journal import name_journal
        from nipype_blm.blockmap.preparing import prepare
        from nipype_blm.blockmap.run import cut
        from nipype_blm.stages.commands import holding

        given = defined_traits(self.inputs)
        plan = make_plan(given, Path(runtime.cwd))
        warn_of(plan.notices)
        with holding(plan.out_dir, "out_dir"):
            prepared = prepare(plan, given["overwrite"])
            # One without blocks where all are done: Nipype runs no list of no node.
            bundles = cut(prepared.waiting, given["parallel_nodes"]) or [[]]
        self._results = {
            "plan_file": str(plan.paths.plan),
            "bundles": bundles,
            "journals": [str(name_journal(plan.paths.journal)) for _ in bundles],
        }
        return runtime


class _MapBlocksInputSpec(InputSpec):
    plan_file = File(exists=True, mandatory=True, desc="what every stage reads")
    bundle = traits.List(traits.Int, mandatory=True, desc="numbers of the blocks")
    journal = traits.Str(mandatory=True, desc="where it is noted what is done")


class _MapBlocksOutputSpec(TraitedSpec):
    journal_file = File(exists=True, desc="how each block has ended")


class MapBlocks(_BlockMapInterface):
    """Run the function on some blocks, one after the other."""

    input_spec = _MapBlocksInputSpec
    output_spec = _MapBlocksOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.blockmap.run import run_bundle

        inputs = self.inputs
        run_bundle(_read_plan(inputs.plan_file), inputs.bundle, Path(inputs.journal))
        self._results["journal_file"] = inputs.journal
        return runtime


class _AssembleBlocksInputSpec(InputSpec):
    plan_file = File(exists=True, mandatory=True, desc="what every stage reads")
    journal_files = traits.List(File(exists=True), desc="of all bundles")
    n_procs = threads_trait()


class AssembleBlocks(_BlockMapInterface):
    """Put blocks together where they overlap, and write outputs and tables."""

    input_spec = _AssembleBlocksInputSpec
    output_spec = BlockMapOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.blockmap.assembling import assemble
        from nipype_blm.blockmap.outputs import Learned
        from nipype_blm.stages.commands import holding

        plan = _read_plan(self.inputs.plan_file)
        learned = Learned.read(plan.paths.outputs)
        assert learned is not None
        with holding(plan.out_dir, "out_dir"):
            result = assemble(plan, learned, self.inputs.n_procs)
        self._results = describe_result(result)
        return runtime


def make_plan(given: dict[str, Any], cwd: Path) -> "Plan":
    """Return the plan of what the inputs of a node ask for."""
    from nipype_blm.blockmap import planning
    from nipype_blm.blockmap.options import make_config, read_config

    fields: dict[str, Any] = {}
    base = Path(cwd, given.get("base_dir", "")).absolute()
    if "config_file" in given:
        path = Path(cwd, given["config_file"]).absolute()
        fields, base = read_config(path), path.parent
    fields |= {name: value for name, value in given.items() if name not in _RUNNING}
    out_dir = Path(cwd, given.get("out_dir", "blocks")).absolute()
    return planning.make_plan(make_config(fields, base), out_dir, str(base))


def describe_result(result: "Result") -> dict[str, Any]:
    """Return the outputs of `BlockMapOutputSpec`."""
    outputs: dict[str, Any] = {
        "out_dir": str(result.out_dir),
        "outputs": result.outputs,
        "blocks_table": str(result.blocks_table),
        "keys": result.keys,
        "skipped": [each.key for each in result.skipped],
    }
    if result.table is not None:
        outputs["table"] = str(result.table)
    if result.skipped:
        outputs["skipped_table"] = str(result.out_dir / "skipped.tsv")
    return outputs


def _read_plan(path: str) -> "Plan":
    from nipype_blm.blockmap.plan import Plan

    return Plan.read(Path(path))
