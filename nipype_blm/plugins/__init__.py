"""How nodes run: Nipype's plugin for the pools of `nipype_blm.tasks`; it knows no voxels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nipype_blm.plugins.dask import DaskPlugin

__all__ = ["DaskPlugin", "register"]


def __getattr__(name: str) -> Any:
    # Dask takes a second to import, and most runs do without.
    if name == "DaskPlugin":
        from nipype_blm.plugins.dask import DaskPlugin

        return DaskPlugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Let Nipype know the plugin by name: ``workflow.run(plugin="Dask")``."""
    import nipype.pipeline.plugins

    from nipype_blm.plugins.dask import DaskPlugin

    nipype.pipeline.plugins.DaskPlugin = DaskPlugin
