"""What the builders take: every trait of the plan, by name, with its type, default and words."""

import inspect

import pytest
from nipype.interfaces.base import isdefined

from nipype_blm.errors import InputError
from nipype_blm.interfaces import PlanBLM, PlanBLMM
from nipype_blm.workflows import init_blm_wf, init_blmm_wf

BUILDERS = [(init_blm_wf, PlanBLM), (init_blmm_wf, PlanBLMM)]
OF_BUILDER = {"n_procs", "mem_gb", "copy_inputs", "name"}  # no traits of the plan
# What a plan and a workflow do not say alike: where a folder is that is not given.
OF_PLAN = {"plan_dir"}


def list_inputs(init_wf):
    return set(init_wf().inputs.inputnode.copyable_trait_names())


@pytest.mark.parametrize(("init_wf", "plan"), BUILDERS)
def test_every_trait_of_the_plan_is_a_keyword_or_an_input(init_wf, plan):
    parameters = set(inspect.signature(init_wf).parameters)
    traits = set(plan.input_spec().copyable_trait_names())
    assert parameters - OF_BUILDER == traits - OF_PLAN - list_inputs(init_wf)


@pytest.mark.parametrize(("init_wf", "plan"), BUILDERS)
def test_defaults_are_those_of_the_traits(init_wf, plan):
    traits = plan().inputs
    for name, parameter in inspect.signature(init_wf).parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.annotation is not parameter.empty
        if name not in OF_BUILDER:
            default = getattr(traits, name)
            assert parameter.default == (default if isdefined(default) else None), name


@pytest.mark.parametrize(("init_wf", "plan"), BUILDERS)
def test_every_keyword_is_documented_once(init_wf, plan):
    text = inspect.getdoc(init_wf)
    described = text.split("Parameters\n----------\n")[1].split("\n\n")[0].splitlines()
    names = [
        name
        for line in described
        if not line.startswith(" ")
        for name in line.split(" : ")[0].split(", ")
    ]
    assert sorted(names) == sorted(inspect.signature(init_wf).parameters)
    assert "{parameters}" not in text


def test_a_mixed_model_takes_what_a_linear_one_does_and_more():
    linear, mixed = (inspect.signature(init_wf).parameters for init_wf, _ in BUILDERS)
    shared = {name: mixed[name].replace(default=linear[name].default) for name in linear}
    assert shared == dict(linear)
    assert {name for name in linear if linear[name].default != mixed[name].default} == {"name"}
    assert {"reml", "method", "n_starts"} < mixed.keys() - linear.keys()


@pytest.mark.parametrize(
    ("init_wf", "given"),
    [
        (init_blm_wf, {"min_n": 7, "two_sided": True, "row_names": "id", "keep": "contrasts"}),
        (init_blmm_wf, {"reml": False, "n_starts": 2, "parallel_nodes": 3, "min_percent": "10%"}),
    ],
)
def test_keywords_reach_the_plan(init_wf, given):
    inputs = init_wf(**given).get_node("plan").inputs
    assert {name: getattr(inputs, name) for name in given} == given
    assert not isdefined(inputs.max_blocks)


def test_an_input_given_as_keyword_is_told_its_place():
    with pytest.raises(InputError, match=r"in_files is an input .* inputs\.inputnode\.in_files"):
        init_blm_wf(in_files=["a.nii"])
    with pytest.raises(InputError, match=r"random_factors is no known input"):
        init_blm_wf(random_factors=[])
    with pytest.raises(InputError, match=r"inputs\.inputnode\.random_factors"):
        init_blmm_wf(random_factors=[])


def test_a_value_that_a_trait_refuses_is_refused_at_once():
    with pytest.raises(Exception, match=r"keep: 'nothing' was given; expected 'all' or 'contrasts"):
        init_blm_wf(keep="nothing")
