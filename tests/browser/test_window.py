"""The explorers as `make repro` leaves them, in a window of 1280 x 800: at once, no sideways scrolling, clicks, SVG;
how fast a step is, what closing frees, what is kept when a cell runs again."""

import shutil

import pytest
from playwright.sync_api import Page, expect
from test_explorers import (  # noqa: F401
    FINISHED,
    NOTEBOOKS,
    PATIENCE,
    browser_type_launch_args,
    cell_below,
    errors,
    pytestmark,
    run_all,
    served,
)

from helpers.paths import ROOT

SHOWN = ("attention", "flow", "masks", "failures")
FAST = 100  # ms from a key to the next picture
# the milliseconds that the picture takes to follow an arrow key on the step slider
FOLLOWS = """() => new Promise(resolve => {
    const begin = performance.now(), handle = document.querySelector(".widget-slider .noUi-handle");
    const seen = new MutationObserver(() => { seen.disconnect(); resolve(performance.now() - begin); });
    seen.observe(document.querySelector("img.widget-image"), {attributes: true});
    handle.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true, cancelable: true}));
})"""
ALIVE = "import ipywidgets; print(len(ipywidgets.widgets.widget._instances))"
CLOSE = "[shown for shown in Out.values() if hasattr(shown, 'choices')][-1].close(); " + ALIVE


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("window")
    for name in SHOWN:
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", folder)
    with served(folder) as address:
        yield address


@pytest.fixture(scope="session")
def browser_context_args():
    return {"viewport": {"width": 1280, "height": 800}}


def wide(page: Page) -> list[str]:
    """What of the explorer reaches beyond its cell, or has to be scrolled sideways."""
    return page.evaluate("""() => {
        const found = [];
        for (const output of document.querySelectorAll(".jp-OutputArea-output")) {
            const right = output.getBoundingClientRect().right + 1;
            if (output.scrollWidth > output.clientWidth + 1) found.push("scrolls: " + output.scrollWidth);
            for (const part of output.querySelectorAll(".jupyter-widgets, .widget-image, img"))
                if (part.getBoundingClientRect().right > right) found.push(part.className);
        }
        return found;
    }""")


@pytest.mark.parametrize("name", SHOWN)
def test_it_fits_the_window(lab, page, tmp_path, name):
    run_all(page, lab, f"{name}.ipynb")
    assert errors(page) == []
    images = page.locator("img.widget-image")
    images.last.scroll_into_view_if_needed()
    expect(images.last).to_be_visible(timeout=PATIENCE)
    explorer = page.locator(".jp-OutputArea-output", has=images).first
    explorer.screenshot(path=tmp_path / f"{name}.png")
    page.screenshot(path=tmp_path / f"{name}_window.png")
    print("screenshots in", tmp_path)
    assert wide(page) == []
    {"attention": listens, "failures": fails}.get(name, saves)(page, explorer, tmp_path)
    assert errors(page) == [] and wide(page) == []


def listens(page: Page, explorer, folder) -> None:
    """A click, then an arrow key."""
    picture = page.locator("img.widget-image").nth(1)
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.5 + 2, "y": box["height"] * 0.25 + 2})
    said = page.locator(".widget-html-content", has_text="listens to").first
    expect(said).to_contain_text("5, 3 of 8 x 8", timeout=PATIENCE)
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("3, 3 of 8 x 8", timeout=PATIENCE)  # ten of 64 steps
    explorer.screenshot(path=folder / "listens.png")


def fails(page: Page, explorer, folder) -> None:
    """Another experiment, a limit that is none, a row, its explorer."""
    experiment, case = page.locator(".widget-dropdown select").all()[:2]
    experiment.select_option("layout")
    case.select_option("layout_guidance")
    first = page.locator(".widget-text input").first
    first.fill("<img src=x>")
    first.press("Tab")
    expect(page.locator(".widget-html-content", has_text="is no number").first).to_be_visible(timeout=PATIENCE)
    assert page.locator("img[src='x']").count() == 0
    first.fill("")
    first.press("Tab")
    page.locator(".widget-button", has_text="next").click()
    expect(page.locator(".widget-html-content", has_text="page 2 of").first).to_be_visible(timeout=PATIENCE)
    case.select_option("densediffusion")  # whose worst picture is one that the store has whole
    page.locator(".widget-button", has_text="Open attention").click()
    expect(page.locator(".widget-html-content", has_text="step 1 of").first).to_be_visible(timeout=PATIENCE)
    explorer.screenshot(path=folder / "opened.png")


def saves(page: Page, explorer, folder) -> None:
    page.locator(".widget-button", has_text="Save as SVG").click()
    written = page.locator(".widget-html-content", has_text="written: ").first
    expect(written).to_be_visible(timeout=PATIENCE)
    path = ROOT / written.inner_text().removeprefix("written: ")
    page.goto(path.as_uri())
    page.screenshot(path=folder / "svg.png")
    assert page.locator("image").count() in (4, 12)
    page.go_back()


def test_a_step_is_fast_choices_stay_and_closing_frees(lab, page):
    run_all(page, lab, "masks.ipynb")
    step = lambda n: page.locator(".widget-html-content", has_text=f"step {n} of").first  # noqa: E731
    expect(step(1)).to_be_visible(timeout=PATIENCE)
    page.locator(".widget-slider .noUi-handle").scroll_into_view_if_needed()
    times = [page.evaluate(FOLLOWS) for _ in range(5)]
    assert min(times) < FAST, f"a busy machine delays some, but not all: {times}"
    expect(step(6)).to_be_visible(timeout=PATIENCE)

    method = page.locator(".widget-dropdown select").nth(1)
    method.select_option(index=1)
    chosen = method.evaluate("select => select.selectedOptions[0].text")
    cell = page.locator(".jp-CodeCell", has=page.locator(".widget-slider"))
    cell.locator(".jp-InputArea-prompt").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(1000)  # until it is sent
    page.wait_for_function(FINISHED, polling=500)
    expect(step(6)).to_be_visible(timeout=PATIENCE)
    assert method.evaluate("select => select.selectedOptions[0].text") == chosen

    before = int(cell_below(page, ALIVE))
    after = int(cell_below(page, CLOSE).splitlines()[-1])
    expect(page.locator(".widget-slider")).to_have_count(0)
    assert before > 20 and after == 0, "nothing of the explorer is left in Python"
    assert errors(page) == []
