"""Maps of exports and of diagnostics, as outputs of interfaces: from their tables of kinds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from nipype_blm.results.export import ExportedKind


def add_maps(spec: type[TraitedSpec], kinds: Sequence[ExportedKind]) -> None:
    """Give outputs a file for each kind of map of the run, and a list for each other kind."""
    for each in kinds:
        if each.output:
            file = File(exists=True, desc=each.words)
            is_one = each.of == "run"
            trait = file if is_one else traits.List(File(exists=True), desc=each.words)
            spec.add_class_trait(each.output, trait)


def list_maps(
    kinds: Sequence[ExportedKind], outputs: Mapping[str, Sequence[Path]]
) -> dict[str, Any]:
    """Return the paths of maps as values of these outputs; a list may be empty."""
    found: dict[str, Any] = {each.output: [] for each in kinds if each.output}
    found |= {name: list(map(str, paths)) for name, paths in outputs.items()}
    for each in kinds:
        if each.output and each.of == "run":
            [found[each.output]] = found[each.output]
    return found
