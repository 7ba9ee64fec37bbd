"""Which stages come before others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.ngv.stages import STAGES, find_stage, select_stages


def find_ancestors(name: str) -> set[str]:
    return {name}.union(*(find_ancestors(other) for other in STAGES[name].after))


@given(st.lists(st.sampled_from(list(STAGES)), min_size=1))
def test_what_is_asked_for_comes_with_all_that_it_needs_in_an_order_that_works(names) -> None:
    found = select_stages(names)
    assert set(found) == set().union(*map(find_ancestors, names))
    for position, name in enumerate(found):
        assert set(STAGES[name].after) <= set(found[:position])


def test_all_is_every_stage_whatever_stands_beside_it() -> None:
    assert select_stages() == select_stages(["synthesis", "ALL"]) == list(STAGES)


@pytest.mark.parametrize(
    "name", ["endfeet-area", "endfeet_area", " Endfeet_Areas ", "endfeet-areas"]
)
def test_names_of_stages_may_be_written_as_commands_are(name: str) -> None:
    assert find_stage(name) == "endfeet_area"


def test_stages_of_earlier_versions_are_those_that_do_their_work_today() -> None:
    assert find_stage("cell_data_sonata") == find_stage("sonata_tmp") == "cell_placement"
    assert find_stage("touches") == "glial_gap_junctions"


def test_what_is_no_stage_is_told_with_what_was_meant() -> None:
    with pytest.raises(InputError, match=r"until synthesi is no stage; did you mean synthesis\?"):
        select_stages(["synthesi"])
    with pytest.raises(InputError, match=r"seeds: x is no stage; They are sonata_vasculature, "):
        find_stage("x", "seeds:")


def test_stages_of_archngvs_workflow_have_its_names(functional_circuit) -> None:
    snakefile = functional_circuit.parents[1] / "archngv" / "app" / "snakemake" / "Snakefile"
    lines = snakefile.read_text().splitlines()
    names = {line.split()[1].rstrip(":") for line in lines if line.startswith("rule ")}
    assert set(STAGES) == names - {"all"} | {"integrity"}
