"""See whether neurons and their synapses are one circuit, and the index is of these synapses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype_blm.errors import count, join_some
from nipype_blm.ngv.checks.findings import Findings, show_box

_INDEX = "brain-indexer-synapses -o FOLDER --population NAME EDGES.h5"


def check_cells(path: Path, facts: Mapping[str, Any], findings: Findings) -> None:
    """Check a file of neurons."""
    where = f"common.base_circuit_cells: {path}"
    if findings.refuse_unread(where, facts, "nodes of SONATA, in a file of HDF5"):
        return
    if not _check_populations(where, "nodes", facts, findings):
        return
    if not facts["n_cells"]:
        findings.refuse(f"{where} has no neuron.")
    if facts["positions"] != ["x", "y", "z"]:
        missing = sorted({*"xyz"} - {*facts["positions"]})
        findings.refuse(f"{where} has no {join_some(missing)} of neurons, which ArchNGV reads.")


def _check_populations(where: str, kind: str, facts: Mapping[str, Any], findings: Findings) -> bool:
    names = facts["populations"]
    if len(names) == 1:
        return True
    if names:
        findings.refuse(
            f"{where} has {len(names)} populations ({join_some(names, 5)}); ArchNGV takes files "
            "with one: write that of interest into a file of its own."
        )
    else:
        has = join_some(facts["groups"], 5) or "nothing"
        findings.refuse(f"{where} has {has}; expected {kind} of SONATA, with one population.")
    return False


def check_synapses(
    path: Path, atlas: Mapping[str, Any], facts: Mapping[str, Any], findings: Findings
) -> bool:
    """Say whether a file of synapses can be used."""
    where = f"common.base_circuit_connectome: {path}"
    if findings.refuse_unread(where, facts, "edges of SONATA, in a file of HDF5"):
        return False
    if not _check_populations(where, "edges", facts, findings):
        return False
    before = len(findings.problems)
    n = facts["n_synapses"]
    if not n:
        findings.refuse(f"{where} has no synapse.")
    elif facts["positions"] is None:
        there = sorted({name[:-2] for name in facts["properties"]})
        has = f"it has {join_some(there, 5)}" if there else "it has no positions"
        findings.refuse(
            f"{where} has neither efferent_center_x, _y and _z nor afferent_center_x, _y and _z, "
            f"of which ArchNGV takes positions of synapses; {has}: add them by one of these names."
        )
    elif set(facts["lengths"]) != {n}:
        lengths = join_some(facts["lengths"])
        findings.refuse(f"{where} has {n} synapses and {lengths} positions; expected one for each.")
    else:
        _check_positions(where, atlas, facts, findings)
    return len(findings.problems) == before


def _check_positions(
    where: str, atlas: Mapping[str, Any], facts: Mapping[str, Any], findings: Findings
) -> None:
    name = facts["positions"]
    if len(facts["types"]) > 1:
        findings.refuse(
            f"{where} has {name}_x, _y and _z of types {join_some(facts['types'])}; ArchNGV "
            "needs one type."
        )
    if facts["n_nan"]:
        findings.refuse(
            f"{where} has {count(facts['n_nan'], 'synapse')} of {facts['n_sampled']} with NaN as "
            f"{name}; drop these, or give their places."
        )
    elif facts.get("is_any_in_box") is False:
        findings.refuse(
            f"{where} has no synapse in the region: synapses are at {show_box(facts['box'])}, and "
            f"the region is at {show_box(atlas['box'])}; both have to be in um, in one space."
        )
    others = {each[:-2] for each in facts["properties"]} & {"efferent_center"}
    if name == "afferent_center" and others:
        findings.notice(
            f"{where} has some of efferent_center_x, _y and _z, and not all: afferent_center is "
            "taken in its place."
        )


def check_index(
    path: Path,
    synapses: Path,
    facts: Mapping[str, Any],
    n_synapses: int | None,
    findings: Findings,
) -> None:
    """Check a spatial index of synapses."""
    where = f"common.base_spatial_synapse_index_dir: {path}"
    make = f"`{_INDEX}` of ArchNGV's environment makes one"
    if not (path / "meta_data.json").is_file():
        findings.refuse(f"{where} has no meta_data.json, and is no spatial index; {make}.")
        return
    if "error" in facts and n_synapses is None:  # opened with these synapses, which are at fault
        return
    if findings.refuse_unread(where, facts, f"a spatial index of synapses; {make}"):
        return
    if not facts["has_heavy"]:
        what = f"{facts['heavy']} is missing" if facts["heavy"] else "no heavy_data_path is named"
        findings.refuse(f"{where}: {what}, which has the index itself; {make}.")
        return
    if facts["element_type"] != "synapse":
        kind = facts["element_type"]
        findings.refuse(f"{where} is an index of elements {kind}; expected synapse: {make}.")
        return
    n = facts.get("n")
    if n is not None and n_synapses is not None and n != n_synapses:
        findings.refuse(
            f"{where} has {count(n, 'synapse')}, and {synapses} has {n_synapses}: it is that of "
            f"another file; {make}."
        )
    elif facts.get("n_found", 0) < facts.get("n_queries", 0):
        missed = facts["n_queries"] - facts["n_found"]
        findings.refuse(
            f"{where} does not find {missed} of {facts['n_queries']} synapses of {synapses} where "
            f"they are: they have other places, or another order; {make}."
        )
    elif not facts["is_opened"] and _is_other(facts.get("source"), synapses):
        findings.notice(f"{where} was made of {facts['source']}; is that the same as {synapses}?")


def _is_other(source: str | None, path: Path) -> bool:
    return source is not None and Path(source).resolve() != path.resolve()


def check_circuit(
    path: Path, others: Mapping[str, Path], facts: Mapping[str, Any], findings: Findings
) -> None:
    """Check a configuration of a circuit of neurons.

    Parameters
    ----------
    path : Path
    others : mapping of str to Path
        What the recipe has as ``nodes`` and ``edges``, if anything reads them.
    facts, findings
    """
    where = f"common.base_circuit_sonata: {path}"
    form = "a configuration of SONATA, with networks of nodes and of edges"
    if findings.refuse_unread(where, facts, form):
        return
    for kind, key in (("nodes", "base_circuit_cells"), ("edges", "base_circuit_connectome")):
        files: Sequence[Any] = facts.get(kind) or []
        if len(files) != 1:
            names = f" ({join_some(files, 5)})" if files else ""
            findings.refuse(
                f"{where} has {len(files)} entries of {kind}{names}; ArchNGV takes one: keep that "
                "of the neurons of interest."
            )
        elif not files[0] or not Path(files[0]).is_file():
            findings.refuse(f"{where}: {kind}_file {files[0]} is not there.")
        elif kind in others and _is_other(files[0], others[kind]):
            findings.notice(
                f"{where} names {files[0]}, and common.{key} is {others[kind]}; expected the same: "
                "the finished circuit has that of the former."
            )
