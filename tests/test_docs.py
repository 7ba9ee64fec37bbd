"""What README and docs say is true: snippets run, tables are complete, links lead somewhere."""

import ast
import configparser
import html
import importlib
import json
import re
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from nipype.pipeline.engine import Workflow
from snippets import (
    CHECKOUT,
    FENCED,
    fork_command,
    run_snippets,
    write_fsl,
    write_study,
    write_tables,
)

from nipype_blm import interfaces
from nipype_blm.core.status import VoxelStatus
from nipype_blm.frontends import traits
from nipype_blm.frontends.blm import IGNORED, MISSINGNESS, NAMES, Entry, list_entries
from nipype_blm.interfaces import BLM, BLMM
from nipype_blm.model.arithmetic import parse_number
from nipype_blm.results.compare import DECLARED as COMPARISON_MAPS
from nipype_blm.results.declared import Declaration, select_declared
from nipype_blm.tasks.options import PoolOptions
from nipype_blm.workflows import (
    init_blm_wf,
    init_blmm_wf,
    init_blockmap_wf,
    init_inference_wf,
    init_tbss_wf,
)

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
README = PAGES[0]
USER_GUIDE, OUTPUTS, METHODS, DESIGN, COMPARE, CLUSTERS, FROM_FMRIPREP, FROM_FEAT, NGV = (
    CHECKOUT / "docs" / f"{name}.md"
    for name in (
        *("user_guide", "outputs", "methods", "design", "compare", "clusters"),
        *("from_fmriprep", "from_feat", "ngv"),
    )
)
EXAMPLES = {  # in the order of the page
    "README.md": ("pipeline.py", "mixed_pipeline.py", "pool.py"),
    "docs/from_fmriprep.md": ("bids_pipeline.py",),
    "docs/from_feat.md": ("feat_pipeline.py",),
}
LINEAR, MIXED = list_entries("blm"), list_entries("blmm")
GRAPHS = runpy.run_path(str(CHECKOUT / "docs" / "make_graph.py"))
WORKFLOWS = GRAPHS["WORKFLOWS"]


def list_all(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Return fields, and those that they hold."""
    for entry in entries:
        yield entry
        yield from list_all(entry.entries)


def page_id(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


def read_tables(page: Path, first_header: str) -> list[list[str]]:
    """Return the cells of every row of all tables whose first column has this header."""
    rows, is_wanted = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if not line.startswith("|"):
            is_wanted = False
        elif cells[0] == first_header:
            is_wanted = True
        elif is_wanted and not line.startswith("|---"):
            rows.append(cells)
    assert rows, f"{page_id(page)} has no table of {first_header}"
    return rows


def unquote(cell: str) -> str:
    """Return what stands in backticks."""
    [text] = re.findall(r"`([^`]+)`", cell)
    return text


@pytest.fixture
def study(tmp_path) -> Path:
    return write_study(tmp_path)


_ALONE = (CLUSTERS, FROM_FMRIPREP, FROM_FEAT, NGV)
OTHER_PAGES = [page for page in PAGES[1:] if page not in _ALONE]


@pytest.mark.parametrize("page", OTHER_PAGES, ids=page_id)
def test_all_snippets_of_a_page_run_one_after_the_other(page, study):
    write_tables(study)
    run_snippets(page, study, fork_command)


def test_the_page_of_circuits_leaves_one_that_is_whole_and_drawn(tmp_path, monkeypatch, ngv_python):
    environment = tmp_path / "home" / "nipype_blm" / "ngv"  # which is installed already
    environment.parent.mkdir(parents=True)
    environment.symlink_to(ngv_python.parent.parent)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NIPYPE_BLM_NGV_PYTHON", raising=False)
    run_snippets(NGV, tmp_path, fork_command)
    assert (tmp_path / "circuit" / "build" / "integrity.txt").is_file()
    assert (tmp_path / "circuit" / "circuit.png").is_file()
    made = {path.name for path in (tmp_path / "by_workflow" / "build").iterdir()}
    assert made == {"microdomains.h5", "recipe", "sonata", "sonata.tmp"}


def test_the_pipeline_from_bids_leaves_the_maps_of_the_command_in_bids(study):
    write_tables(study)
    run_snippets(FROM_FMRIPREP, study, fork_command)
    folder = study / "bids" / "derivatives" / "group" / "group"
    [exported] = folder.glob("task-faces_space-*_contrast-years_stat-z_statmap.nii.gz")
    z = study / "results" / "contrasts" / "contrast-years_stat-z_statmap.nii"
    # The command masks each image with its own brain mask; the pipeline leaves it at zeros.
    complete = nib.load(study / "results" / "blmm_vox_n.nii").get_fdata() == 23
    assert complete.sum() > 50
    np.testing.assert_allclose(
        nib.load(exported).get_fdata()[complete], nib.load(z).get_fdata()[complete], rtol=1e-5
    )


def test_the_pipeline_from_feat_ends_with_the_command_lines_of_fsl(study, monkeypatch):
    write_tables(study)
    for name, value in write_fsl(study).items():
        monkeypatch.setenv(name, value)
    run_snippets(FROM_FEAT, study, fork_command)
    lines = [line.split() for line in (study / "fsl.log").read_text().splitlines()]
    stats, mask = study / "site_fsl" / "stats", study / "site_fsl" / "mask.nii.gz"
    of_smoothness = {"--dlh=0.1250000000", "--volume=120"}
    of_thresholds = {"--thresh=2.3000000000", "--pthresh=0.0500000000"}
    for n in (1, 2):
        z, cope = stats / f"zstat{n}.nii.gz", stats / f"cope{n}.nii.gz"
        assert np.any(nib.load(z).get_fdata())
        [smoothest] = [set(words) for words in lines if f"--zstat={z}" in words]
        assert smoothest == {"smoothest", f"--zstat={z}", f"--mask={mask}"}
        [cluster] = [set(words) for words in lines if f"--in={z}" in words]
        assert {"cluster", f"--cope={cope}"} | of_smoothness | of_thresholds <= cluster


def test_the_snippets_of_the_readme_write_maps_and_thresholded_z_maps(study):
    run_snippets(README, study)
    assert (study / "results" / "blmm_vox_conT_swedf.nii").is_file()
    assert (study / "linear_results" / "blm_vox_conF.nii").is_file()
    assert (study / "mixed_results" / "blmm_vox_conT_swedf.nii").is_file()
    assert (study / "slopes" / "blmm_vox_Chi2lp.nii").is_file()
    assert (study / "maps" / "blm_vox_beta.nii").is_file()
    [thresholded] = (study / "work").rglob("thresholded.nii.gz")
    assert np.any(nib.load(thresholded).get_fdata() > 0)  # every voxel has an effect of age


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_pipelines_of_a_page_are_the_examples(page):
    snippets = FENCED.findall((CHECKOUT / page).read_text(encoding="utf-8"))
    pipelines = [text for _, text in snippets if "Workflow" in text or "_wf(" in text]
    for name, snippet in zip(EXAMPLES[page], pipelines, strict=True):
        assert (CHECKOUT / "examples" / name).read_text(encoding="utf-8").endswith(snippet)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("https://")]
    assert local or page == METHODS
    for link in local:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(CHECKOUT), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_names_every_page():
    index = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    assert pages == set(re.findall(r"^\* \[.+\]\((.+)\)", index, re.MULTILINE))


def test_the_table_of_arguments_names_every_argument_of_the_plugin_with_its_default():
    documented = {unquote(row[0]): row[1:] for row in read_tables(CLUSTERS, "Argument")}
    fields = PoolOptions.model_fields
    assert list(documented) == list(fields)
    for name, (default, description) in documented.items():
        assert default == ("none" if fields[name].default is None else f"`{fields[name].default}`")
        assert description == fields[name].description


def test_the_tables_of_fields_name_every_field_and_no_other():
    documented = {unquote(row[0]) for row in read_tables(USER_GUIDE, "Field")}
    assert documented == {entry.name for entry in list_all(MIXED)}


def test_fields_without_effect_and_versions_are_named():
    text = USER_GUIDE.read_text(encoding="utf-8")
    section = text[text.index("### Without effect") : text.index("### Contrasts")]
    assert set(re.findall(r"`(\w+)`", section)) == set(IGNORED) | {"versions"}


def test_mandatory_fields_have_a_table_of_their_own():
    text = USER_GUIDE.read_text(encoding="utf-8")
    section = text[text.index("### Mandatory") : text.index("### Which voxels")]
    documented = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert documented == [entry.name for entry in LINEAR if entry.is_mandatory]
    mixed = {entry.name for entry in MIXED if entry.is_mandatory}
    assert mixed - set(documented) == {"Z"}


def test_the_tables_of_random_factors_and_estimation_hold_the_fields_of_mixed_models():
    text = USER_GUIDE.read_text(encoding="utf-8")
    own = [entry for entry in MIXED if entry not in LINEAR]
    factors, others = [e for e in own if e.name == "Z"], [e for e in own if e.name != "Z"]
    for start, end, fields in (
        ("### Random factors", "### Estimation", {entry.name for entry in list_all(factors)}),
        ("### Estimation", "### Missing levels", {entry.name for entry in others}),
    ):
        section = text[text.index(start) : text.index(end)]
        assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == fields


def test_the_defaults_in_the_tables_are_those_of_the_code():
    defaults = {entry.name: entry.default for entry in list_all(MIXED)}
    checked = set()
    for name_cell, default_cell, *_ in (r for r in read_tables(USER_GUIDE, "Field") if len(r) > 2):
        default = defaults.get(unquote(name_cell))
        if default is None:
            continue
        value = yaml.safe_load(unquote(default_cell))
        is_arithmetic = isinstance(value, str) and isinstance(default, int | float)
        assert (parse_number(value) if is_arithmetic else value) == default
        checked.add(unquote(name_cell))
    assert checked == {n for n, default in defaults.items() if default is not None}


def test_the_table_of_traits_is_that_of_the_code():
    rows = [row for row in read_tables(USER_GUIDE, "Field") if len(row) == 2]
    documented = {unquote(field): unquote(trait) for field, trait in rows}
    names = {field: trait for trait, field in traits.NAMES.items() if field != "out_dir"}
    fields = {**NAMES, **MISSINGNESS}
    assert documented == {n: names[field] for n, field in fields.items() if field in names}
    assert set(documented.values()) <= set(BLMM().inputs.copyable_trait_names())
    linear = {documented[entry.name] for entry in list_all(LINEAR) if entry.name in documented}
    assert linear <= set(BLM().inputs.copyable_trait_names())


def fit(study: Path, model: str) -> Path:
    """Fit a T and an F contrast; return the folder of the maps."""
    contrasts = [
        {"name": "age", "vector": [0, 1, 0]},
        {"name": "any", "vector": np.eye(3).tolist()},
    ]
    traits = {
        "in_files": [str(study / "images.txt")],
        "design_file": study / "design.csv",
        "contrasts": contrasts,
        "out_dir": study / model,
    }
    if model == "blm":
        BLM(**traits).run(cwd=study)
    else:
        factor = {"name": "person", "factor": study / "person.txt"}
        random_factors = [factor | {"design": study / "random.csv"}]
        BLMM(**traits, random_factors=random_factors, resms=True).run(cwd=study)
    return study / model


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_the_tables_of_maps_hold_names_dimensions_and_intents_of_the_files(model, study):
    maps = {path.stem: nib.load(path) for path in fit(study, model).glob("*.nii")}
    rows = [row for row in read_tables(OUTPUTS, "File") if len(row) == 5]
    rows = [row for row in rows if unquote(row[0]).startswith(f"{model}_")]
    assert {unquote(row[0]) for row in rows} == maps.keys()
    for name, volumes, _, _, intent in rows:
        image = maps[unquote(name)]
        assert (image.ndim == 3) == (volumes == "1, 3D"), name
        assert image.header["intent_code"] == int(intent.split()[0]), name


def test_the_volumes_of_d_are_in_the_order_that_the_page_gives(study):
    text = OUTPUTS.read_text(encoding="utf-8")
    listed = re.search(r"volumes are: (.+?)\. ", text.replace("\n", " "))[1]
    (study / "three.csv").write_text(
        "intercept,a,b\n" + "".join(f"1,{i},{i**2 % 7}\n" for i in range(20))
    )
    design = {"name": "person", "factor": study / "person.txt", "design": study / "three.csv"}
    BLMM(
        in_files=[str(study / "images.txt")],
        design_file=study / "design.csv",
        contrasts=[{"name": "age", "vector": [0, 1, 0]}],
        random_factors=[design],
        out_dir=study / "maps",
    ).run(cwd=study)
    volumes = json.loads((study / "maps" / "blmm_vox_D.json").read_text())["Volumes"]
    assert [
        name.removeprefix("person: ").replace(" x ", " × ") for name in volumes
    ] == listed.split(", ")


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_the_table_of_contrast_maps_holds_kinds_dimensions_and_intents(model, study):
    maps = {
        path.name.split("_stat-")[1].split("_")[0]: nib.load(path)
        for path in sorted((fit(study, model) / "contrasts").glob("*.nii"), reverse=True)
        if "contrast-age" in path.name or "_stat-F_" in path.name
    }
    rows = {row[0]: row for row in read_tables(OUTPUTS, "`WHAT`")}
    if model == "blm":
        assert "of `blmm` only" in rows.pop("`dof`")[2]
    kinds = {kind: cell for cell in rows for kind in re.findall(r"`(\w+)`", cell)}
    assert kinds.keys() == maps.keys()
    for kind, image in maps.items():
        assert image.ndim == 3  # of a T contrast, and F itself
        codes = [int(code) for code in re.findall(r"\d+", rows[kinds[kind]][-1])]
        assert image.header["intent_code"] in codes


def list_outputs(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".json"}


def test_the_readme_names_every_output(study):
    documented = {unquote(row[0]).rstrip("/") for row in read_tables(README, "File")}
    assert documented == list_outputs(fit(study, "blm"))
    more = [row[0] for row in read_tables(README, "File of `blmm`")]
    shared = {name.replace("blm_vox_", "blmm_vox_") for name in documented}
    assert shared | {unquote(name) for name in more} == list_outputs(fit(study, "blmm"))


def check_row(row: list[str], declared: Declaration, name: str, model: str) -> None:
    """Assert that a row of a table says what is declared, and perhaps more."""
    file, volumes, meaning, units, intent = row
    plain = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", meaning).replace("`", "")
    assert unquote(file) == name
    assert volumes == declared.volumes.words
    assert plain.startswith(declared.describe(model).rstrip(".")), name
    assert units == declared.units
    assert int(intent.split()[0]) == nib.nifti1.intent_codes.code[declared.intent], name


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_the_tables_of_maps_are_the_declarations_row_by_row(model):
    rows = [row for row in read_tables(OUTPUTS, "File") if len(row) == 5]
    rows = [row for row in rows if unquote(row[0]).startswith(f"{model}_")]
    for row, declared in zip(rows, select_declared(model), strict=True):
        check_row(row, declared, declared.name_file(model), model)


def test_the_table_of_a_comparison_is_the_declarations_row_by_row():
    for row, declared in zip(read_tables(COMPARE, "File"), COMPARISON_MAPS, strict=True):
        check_row(row, declared, declared.name_file("blmm"), "blmm")


def test_the_table_of_contrast_maps_is_the_declarations_row_by_row():
    declared = select_declared("blmm", of_contrast=True)
    rows = read_tables(OUTPUTS, "`WHAT`")
    for (name, volumes, _, units, intent), each in zip(rows, declared, strict=False):
        assert name == {"stat": "`t` or `F`"}.get(each.name, f"`{each.name}`")
        assert (volumes, units) == (each.volumes.words, each.units)
        intents = [each.intent] if isinstance(each.intent, str) else each.intent
        codes = [nib.nifti1.intent_codes.code[one] for one in intents]
        assert [int(code) for code in re.findall(r"\d+", intent)] == codes
    assert [each.name for each in declared[len(rows) :]] == ["estimable"]  # a table of its own


def test_the_files_of_a_saved_model_are_documented(study):
    rows = read_tables(OUTPUTS, "File")
    documented = {unquote(row[0]) for row in rows if row[0].startswith("`model/")} - {"model/"}
    written = {f"model/{path.name}" for path in (fit(study, "blmm") / "model").iterdir()}
    assert documented == written


def test_the_table_of_states_is_the_enumeration():
    rows = read_tables(OUTPUTS, "Value")
    documented = [(int(value), unquote(name), meaning) for value, name, meaning in rows]
    assert documented == [(int(s), s.name, s.meaning) for s in VoxelStatus]


def resolve(name: str) -> object:
    """Return what a dotted name below nipype_blm stands for."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["nipype_blm", *parts[:n]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[n:]:
            found = getattr(found, attribute)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("page", [METHODS, DESIGN], ids=page_id)
def test_every_name_of_the_code_exists(page):
    names = set(re.findall(r"`((?:core|model|stages|io)\.[\w.]+)`", page.read_text("utf-8")))
    assert len(names) > 4
    for name in names:
        assert resolve(name) is not None, name


def test_constants_in_methods_have_the_values_of_the_code():
    found = re.findall(r"`(core\.[\w.]+)` = ([\d.e-]+\d)", METHODS.read_text(encoding="utf-8"))
    assert len(found) >= 4
    for name, value in found:
        assert resolve(name) == ast.literal_eval(value), name


def workflow_edges(workflow: Workflow) -> set[tuple[str, str]]:
    return {(a.name, b.name) for a, b in workflow._graph.edges}


def edges_of_picture(svg: Path) -> set[tuple[str, str]]:
    titles = [html.unescape(t) for t in re.findall("<title>(.*?)</title>", svg.read_text())]
    pairs = [title.split("->") for title in titles if "->" in title]
    return {(a.split()[0], b.split()[0]) for a, b in pairs}


@pytest.mark.parametrize("init_wf", WORKFLOWS)
def test_the_picture_shows_the_edges_of_the_workflow(init_wf):
    workflow = init_wf()
    picture = CHECKOUT / "docs" / "_static" / f"{workflow.name}.svg"
    assert edges_of_picture(picture) == workflow_edges(workflow)
    assert any(f"_static/{picture.name}" in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_picture_of_an_example_shows_its_edges(tmp_path, monkeypatch):
    (tmp_path / "bids").mkdir()
    monkeypatch.setitem(GRAPHS["build_example"].__globals__, "STUDY", tmp_path)
    for name in GRAPHS["list_examples"]():
        picture = CHECKOUT / "docs" / "_static" / f"{name}.svg"
        assert edges_of_picture(picture) == workflow_edges(GRAPHS["build_example"](name))


def test_the_script_draws_the_picture(require_command, tmp_path):
    require_command("dot", "graphviz")
    GRAPHS["draw_graph"](init_blmm_wf(), tmp_path / "graph.svg")
    assert edges_of_picture(tmp_path / "graph.svg") == workflow_edges(init_blmm_wf())


def test_the_table_of_nodes_names_every_node_and_its_interface():
    rows = read_tables(DESIGN, "Node")
    named = {"BLM", "BLMM", "CompareModels", "Diagnose", "ExportBIDS", "ExportFSL", "FindImages"}
    for column, workflow in enumerate((init_blm_wf(), init_blmm_wf()), 1):
        documented = {unquote(row[0]): unquote(row[column]) for row in rows}
        nodes = {name: workflow.get_node(name) for name in workflow.list_node_names()}
        stages = {n: node for n, node in nodes.items() if n not in ("inputnode", "outputnode")}
        assert documented == {n: type(node.interface).__name__ for n, node in stages.items()}
        named |= set(documented.values())
    pairs = init_tbss_wf(out_dir="out", target="most_representative")
    for header, workflow in (
        ("Stage of an inference", init_inference_wf()),
        ("Stage of a TBSS", pairs),
        ("Stage of a block map", init_blockmap_wf(out_dir="out")),
        ("Stage of a circuit", GRAPHS["init_circuit_wf"]()),
    ):
        stages = {unquote(row[0]): unquote(row[1]) for row in read_tables(DESIGN, header)}
        assert stages == {n: type(workflow.get_node(n).interface).__name__ for n in stages}
        assert set(stages) == set(workflow.list_node_names()) - {"inputnode", "outputnode"}
        named |= set(stages.values())
    named |= {"ResampleMaps", "ExportSPM", "Report", "CommandBatch", "BlockMap"}
    named.add("RunTouchDetector")
    assert named == set(interfaces.__all__)
    for name in interfaces.__all__:
        assert f"`{name}`" in DESIGN.read_text(encoding="utf-8") or name in ("BLM", "BLMM")


def test_the_table_of_rooms_names_every_package():
    config = configparser.ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    packages = config["options"]["packages"].split()
    rooms = {name.partition(".")[2] for name in packages} - {""}
    assert {unquote(row[0]) for row in read_tables(DESIGN, "Room")} == rooms
