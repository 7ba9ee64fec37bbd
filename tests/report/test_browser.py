"""The report in a real browser: Debian's chromium, without a network."""

import html
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.image import imread
from small_runs import HOSTILE, write_small_run

from nipype_blm.report.page import SECTIONS, write_report
from nipype_blm.report.reported import Reported
from nipype_blm.results.results import Results

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pypdf = pytest.importorskip("pypdf", reason="pip install pypdf")

TESTS = dict(zip(HOSTILE, ([0, 1, 0], [[0, 1, 0], [0, 0, 1]], [0, 0, 1]), strict=True))
# A WebGL in software: machines of tests have no graphics card.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
CONTRAST = Path(__file__).with_name("contrast.js").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("browser") / "study"
    names = ("one", *HOSTILE[:2])
    return Reported(Results(write_small_run(folder, TESTS, names=names)))


@pytest.fixture(scope="module")
def report(run) -> Path:
    return write_report([run], run.folder / "report.html")


@pytest.fixture(scope="module")
def browser(require_command) -> Iterator[Any]:
    chromium = require_command("chromium", "chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield found
        found.close()


def open_page(browser: Any, report: Path, **options: Any) -> Any:
    """Return the page in a context without a network; what went wrong is in its ``troubles``."""
    context = browser.new_context(viewport={"width": 900, "height": 700}, **options)
    context.set_offline(True)
    page = context.new_page()
    page.troubles = []

    def note_dialog(dialog: Any) -> None:
        page.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def note_request(request: Any) -> None:
        if request.url.split(":")[0] not in ("file", "data", "blob"):
            page.troubles.append(request.url)

    page.on("dialog", note_dialog)
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on(
        "console",
        lambda said: page.troubles.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on("request", note_request)
    page.goto(report.as_uri())
    return page


@pytest.fixture(scope="module")
def page(browser, report) -> Any:
    """The page with its viewer started."""
    page = open_page(browser, report)
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_selector("#viewer[data-ready]", timeout=60_000)
    return page


def read_viewer(page: Any) -> tuple[int, float, list[float]]:
    """Return the count, the threshold, and where the cross is."""
    count = int(page.locator("#viewer-count").text_content().replace(",", ""))
    level = float(page.locator("#viewer-shown").text_content())
    places = [float(page.locator(f"#viewer-{axis}").input_value()) for axis in "xyz"]
    return count, level, places


def count_above(run: Reported, name: str, level: float) -> int:
    contrast = run.results.contrasts[name]
    z = np.rint(contrast.array("z")[run.results.mask].astype(float) / 0.01)
    heights = z if contrast.is_f else np.abs(z)
    return int((heights >= round(level / 0.01)).sum())


def test_the_viewer_draws_the_map(page):
    picture = imread(io.BytesIO(page.locator("#viewer-canvas").screenshot()))[..., :3]
    assert picture.std() > 0.05
    red, _, blue = np.moveaxis(picture, -1, 0)
    assert ((red > 0.7) & (blue < 0.3)).mean() > 0.01  # the warm colours of what survives


def test_buttons_show_what_survives_and_the_slider_what_is_above(page, run):
    name = HOSTILE[0]
    for button, correction in zip(
        page.locator("#viewer-levels button").all(), run.findings[name].corrections, strict=True
    ):
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert read_viewer(page)[0] == correction.n_voxels > 0
        assert correction.words in page.locator("#viewer [role=status]").inner_text()
    slider = page.locator("#viewer-level")
    slider.focus()
    levels = set()
    for key in ("Home", "PageUp", "PageUp", "ArrowRight", "ArrowRight", "End"):
        page.keyboard.press(key)
        count, level, _ = read_viewer(page)
        levels.add(level)
        assert count == count_above(run, name, level), (key, level)
        assert page.locator("#viewer-above").is_visible()
    assert len(levels) >= 5
    assert count == 1  # the highest is there at the end of the slider


def test_a_row_moves_the_viewer_to_its_place(page, run):
    for number in (1, 0):
        contrast = page.locator(".contrast").nth(number)
        row = contrast.locator("tr[data-map]").first
        expected = [float(row.get_attribute(f"data-{axis}")) for axis in "xyz"]
        row.locator("button.place").click()
        page.wait_for_function(
            "n => document.getElementById('viewer-map').value === `0-${n}`", arg=number
        )
        page.wait_for_function(
            "x => document.getElementById('viewer-x').value === String(x)", arg=expected[0]
        )
        assert read_viewer(page)[2] == expected
        z = float(page.locator("#viewer-value").text_content().replace("−", "-"))
        columns = contrast.locator("table.sortable th").all_text_contents()
        shown = row.locator("td").nth(columns.index("z value")).text_content()
        assert z == pytest.approx(float(shown.replace("−", "-")), rel=5e-3)
        assert contrast.locator("#viewer").count() == 1


def test_another_contrast_is_chosen_and_the_cross_is_moved_by_numbers(page, run):
    page.locator("#viewer-map").select_option("0-2")
    page.wait_for_function("() => document.getElementById('viewer-map').value === '0-2'")
    page.wait_for_function(
        "() => !document.getElementById('viewer-above').hidden"
    )  # nothing survives in it
    count, level, _ = read_viewer(page)
    assert count == count_above(run, HOSTILE[2], level)
    page.locator("#viewer-x").fill("8")
    page.locator("#viewer-x").press("Enter")
    page.wait_for_timeout(50)
    z = float(page.locator("#viewer-value").text_content().replace("−", "-"))
    _, _, place = read_viewer(page)
    voxel = tuple(round(each / 4) for each in place)
    assert voxel[0] == 2
    assert z == pytest.approx(run.results.contrasts[HOSTILE[2]].array("z")[voxel], abs=0.006)


def test_tables_are_sorted_by_numbers(page):
    table = page.locator("#contrasts table.sortable").first
    names = table.locator("th").all_text_contents()
    for column in ("z value", "x, mm", "q"):
        i = names.index(column)
        button = table.locator("th button").nth(i)
        for direction in ("descending", "ascending"):
            button.click()
            assert table.locator("th").nth(i).get_attribute("aria-sort") == direction
            cells = table.locator(f"tbody td:nth-child({i + 1})").all_text_contents()
            values = [float(each.replace("−", "-").strip("<, ").replace(",", "")) for each in cells]
            assert values == sorted(values, reverse=direction == "descending")
            assert len(values) > 1


def test_the_keyboard_reaches_all_of_the_viewer(page):
    page.locator("#viewer-map").focus()
    reached = []
    for _ in range(9):
        reached.append(page.evaluate("() => document.activeElement.id || 'button'"))
        page.keyboard.press("Tab")
    assert reached[:2] == ["viewer-map", "viewer-level"]
    assert reached[2:5].count("button") >= 1
    assert {"viewer-x", "viewer-y", "viewer-z"} <= set(reached)


def test_names_are_shown_as_they_are_and_nothing_went_wrong(page):
    shown = page.locator("#contrasts .contrast > h3").all_text_contents()
    assert [" ".join(each.split()) for each in shown] == [" ".join(n.split()) for n in HOSTILE]
    width = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert width <= 0  # no name is wider than the page
    assert page.troubles == []


def test_links_have_targets(page, report):
    links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))")
    assert len(links) > len(SECTIONS)
    for link in links:
        if link.startswith("#"):
            assert page.locator(f"[id='{link[1:]}']").count() == 1, link
        else:
            assert not re.match("[a-z]+:", link), link
            assert (report.parent / unquote(link)).exists(), link


def test_all_is_labelled_and_headings_are_nested(page):
    lacking = {
        "svg": "!each.closest('[role=img][aria-label], [aria-hidden=true]')",
        "[role=img]": "!each.getAttribute('aria-label')",
        "img": "!each.alt",
        "input, select": "!each.labels.length",
        "[role=group], [role=region]": "!each.matches('[aria-label], [aria-labelledby]')",
    }
    for selector, condition in lacking.items():
        found = page.eval_on_selector_all(
            selector,
            f"all => all.filter(each => {condition}).map(each => each.outerHTML.slice(0, 99))",
        )
        assert found == [], selector
    levels = page.eval_on_selector_all("h1,h2,h3,h4,h5,h6", "all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    ids = page.eval_on_selector_all("[id]", "all => all.map(each => each.id)")
    assert [each for each in ids if ids.count(each) > 1] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_on_its_background(page, scheme):
    page.emulate_media(color_scheme=scheme)
    pale = page.evaluate(CONTRAST, 4.5)
    page.emulate_media(color_scheme=None)
    assert pale == []


def test_without_scripts_all_numbers_are_there(browser, report):
    page = open_page(browser, report, java_script_enabled=False)
    assert page.locator("#viewer").is_hidden()
    text = " ".join(page.locator("#contrasts").inner_text().split())
    whole = report.read_text()
    [section] = re.findall(r'<section id="contrasts".*?</section>', whole, re.DOTALL)
    cells = re.findall(r"<td>([^<]*)</td>", section)
    assert len(cells) > 50
    for cell in set(cells) - {""}:
        assert " ".join(html.unescape(cell).split()) in text, cell
    page.context.close()


def test_print_has_every_section(browser, report):
    page = open_page(browser, report)
    printed = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
    text = "".join(each.extract_text() for each in printed.pages)
    text = " ".join(unicodedata.normalize("NFKC", text).split())  # without ligatures
    for title in page.locator("h2").all_text_contents():
        assert title in text
    assert "Viewer" not in text
    page.context.close()


def test_without_webgl_the_viewer_says_so(browser, report):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        "return kind.startsWith('webgl') ? null : get.call(this, kind, ...rest); };"
    )
    page.goto(report.as_uri())
    assert page.locator("#viewer-absent").is_visible()
    assert page.locator("#viewer-body").is_hidden()
    context.close()
