"""The explorers in a real JupyterLab in Chromium: run as a person would, then moved with keyboard and mouse."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect

from helpers.paths import ROOT

NOTEBOOKS = ROOT / "notebooks" / "explore"
CHROMIUM = shutil.which("chromium")
QUIET = ["disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"]
TOKEN = "explorers"
PATIENCE = 400_000  # ms for one thing to happen: a whole notebook, models and sampling included, on a busy machine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on the PATH: install it (Debian: apt-get install chromium)"
    ),
]

ERROR = '.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]'
# every code cell shows a number, not [*] (waits or runs) or [ ] (never sent), or one shows an error
FINISHED = f"""() => {{
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")];
    const done = prompts.length && prompts.every(prompt => /\\d/.test(prompt.textContent));
    return done || document.querySelector('{ERROR}');
}}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own: copies of the explorers, settings and workspaces in a new folder."""
    folder = tmp_path_factory.mktemp("lab")
    for notebook in NOTEBOOKS.glob("*.ipynb"):  # the store has one prompt of each case, this wants several
        text = re.sub(r"results/\w+/score", "nowhere", notebook.read_text())
        (folder / notebook.name).write_text(text)
    with served(folder) as address:
        yield address


@contextmanager
def served(folder: Path):
    """The address of a JupyterLab that shows a folder, as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    places += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    env = os.environ | {name: str(folder / ".jupyter" / name) for name in places}
    quiet = Path(env["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    options = ["--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1"]
    options += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}"]
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, "-m", "jupyter", "lab", *options]
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen, log: Path, seconds: int = PATIENCE // 1000) -> None:
    for _ in range(seconds):
        try:
            return urlopen(address, timeout=5).close()
        except (URLError, OSError):
            assert server.poll() is None, f"JupyterLab stopped: {log.read_text()[-2000:]}"
            time.sleep(1)
    raise AssertionError(f"JupyterLab did not answer in {seconds} s: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def browser_type_launch_args():
    """Read by pytest-playwright: the system's Chromium."""
    return {"executable_path": CHROMIUM, "args": ["--no-sandbox", *(f"--{name}" for name in QUIET)]}


@pytest.fixture(scope="session")
def browser_context_args():
    return {"viewport": {"width": 1500, "height": 1150}}


def run_all(page: Page, address: str, notebook: str) -> None:
    """Open a notebook and choose Run All Cells; returns when the last code cell has been executed.

    It has a workspace of its own: another one would open the notebooks of the tests before it as well.
    """
    page.set_default_timeout(PATIENCE)
    cells = len(json.loads((NOTEBOOKS / notebook).read_text())["cells"])
    page.goto(f"{address}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}?token={TOKEN}", wait_until="commit")
    expect(page.locator(".jp-NotebookPanel .jp-Cell")).to_have_count(cells, timeout=PATIENCE)
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE)
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
    page.wait_for_function(FINISHED, polling=1000)


def errors(page: Page) -> list[str]:
    return page.locator(ERROR).all_inner_texts()


def pictures(page: Page) -> list[str]:
    """The bytes of every picture of the explorer, as the browser has them."""
    read = """images => Promise.all(images.map(async image => {
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return Array.from(bytes, b => b.toString(16).padStart(2, "0")).join("");
    }))"""
    return page.locator("img.widget-image").evaluate_all(read)


def moved(page: Page, words: str, before: list[str], still: tuple[int, ...] = ()) -> list[str]:
    """The pictures once the label says `words` and none of them, except those at `still`, is as before."""
    expect(page.locator(".widget-html-content", has_text=words).first).to_be_visible(timeout=PATIENCE)
    for _ in range(PATIENCE // 1000):
        now = pictures(page)
        same = [k for k, (a, b) in enumerate(zip(before, now)) if a == b]
        if len(now) == len(before) and set(same) <= set(still):
            return now
        page.wait_for_timeout(1000)
    labels = page.locator(".widget-html-content").all_inner_texts()
    raise AssertionError(f"at {words!r} these of {len(now)} pictures are as before: {same}; the labels say {labels}")


def slider(page: Page):
    """The handle of the step slider, in view, and how many steps there are."""
    handle = page.locator(".widget-slider .noUi-handle")
    handle.scroll_into_view_if_needed()
    return handle, int(handle.get_attribute("aria-valuemax").split(".")[0])


def to_the_end(page: Page) -> None:
    """Click where the step slider ends."""
    track = page.locator(".widget-slider .noUi-base").bounding_box()
    page.mouse.click(track["x"] + track["width"] - 1, track["y"] + track["height"] / 2)


def choose_the_second_prompt(page, explorer, steps: int, before: list[str], folder: Path) -> None:
    """At the last step: every picture changes, and nothing went wrong until then."""
    page.locator(".widget-dropdown select").first.select_option(index=1)
    moved(page, f"step {steps} of {steps}", before)
    explorer.screenshot(path=folder / "other_prompt.png")
    page.screenshot(path=folder / "jupyterlab.png")
    assert errors(page) == []
    print("screenshots in", folder)


def test_explore_masks(lab, page, tmp_path):
    run_all(page, lab, "masks.ipynb")
    assert errors(page) == []
    handle, steps = slider(page)

    first = moved(page, f"step 1 of {steps}", [""] * 6)  # x0_hat, masks and curves of two cases
    assert all(picture.startswith("89504e47") for picture in first), "every picture is a PNG"
    explorer = page.locator(".jp-OutputArea-output", has=page.locator("img.widget-image"))
    explorer.screenshot(path=tmp_path / "first_step.png")

    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    fourth = moved(page, f"step 4 of {steps}", first)
    explorer.screenshot(path=tmp_path / "fourth_step.png")

    to_the_end(page)
    last = moved(page, f"step {steps} of {steps}", fourth)
    assert last[0] != last[3], "baseline and method end in different pictures"

    choose_the_second_prompt(page, explorer, steps, last, tmp_path)


def test_explore_flow(lab, page, tmp_path):
    run_all(page, lab, "flow.ipynb")
    assert errors(page) == []
    handle, steps = slider(page)

    first = moved(page, f"step 1 of {steps}", [""] * 14)  # six pictures and curves of two cases
    assert all(picture.startswith("89504e47") for picture in first), "every picture is a PNG"
    assert first[0] == first[7], "both cases show the same source and drag"
    explorer = page.locator(".jp-OutputArea-output", has=page.locator("img.widget-image"))
    explorer.screenshot(path=tmp_path / "first_step.png")

    asked = (0, 1, 3, 7, 8, 10)  # source, mask and reference flow are the same at every step
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    fourth = moved(page, f"step 4 of {steps}", first, still=asked)
    assert all(first[k] == fourth[k] for k in asked)
    explorer.screenshot(path=tmp_path / "fourth_step.png")

    to_the_end(page)
    last = moved(page, f"step {steps} of {steps}", fourth, still=(*asked, 4))  # a flow of nothing stays white
    assert last[2] != last[9], "baseline and method end in different pictures"
    assert page.locator("img[src^='data:image/png']").count() == 2, "the wheel of colours, and the figure"
    explorer.screenshot(path=tmp_path / "last_step.png")

    choose_the_second_prompt(page, explorer, steps, last, tmp_path)


def test_explore_attention(lab, page, tmp_path):
    run_all(page, lab, "attention.ipynb")
    assert errors(page) == []
    assert page.locator(".jp-RenderedImage").count() == 2, "the two figures"
    handle, steps = slider(page)

    first = moved(page, f"step 1 of {steps}", [""] * 6)  # x0_hat, attention and curves of two cases
    assert all(picture.startswith("89504e47") for picture in first), "every picture is a PNG"
    explorer = page.locator(".jp-OutputArea-output", has=page.locator("img.widget-image"))
    explorer.screenshot(path=tmp_path / "first_step.png")

    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    fourth = moved(page, f"step 4 of {steps}", first)
    assert fourth[1] != fourth[4], "baseline and method attend to different places"
    explorer.screenshot(path=tmp_path / "fourth_step.png")

    _, _, layer = page.locator(".widget-dropdown select").all()
    layer.select_option(index=2)
    finer = moved(page, f"step 4 of {steps}", fourth, still=(0, 3))
    assert (finer[0], finer[3]) == (fourth[0], fourth[3]), "the pictures know no layer"
    explorer.screenshot(path=tmp_path / "other_layer.png")

    to_the_end(page)
    last = moved(page, f"step {steps} of {steps}", finer)
    choose_the_second_prompt(page, explorer, steps, last, tmp_path)

    tokens, other = page.locator(".region-tokens button"), pictures(page)
    expect(tokens).to_have_count(2)
    tokens.nth(1).click()
    second = moved(page, f"step {steps} of {steps}", other)
    assert len(second) == 6 and errors(page) == []
    chips = tokens.evaluate_all("buttons => buttons.map(button => getComputedStyle(button).borderBottomColor)")
    assert chips == ["rgb(86, 180, 233)", "rgb(230, 159, 0)"], "a chip has its region's colour"
    explorer.screenshot(path=tmp_path / "other_token.png")


def test_explore_factors(lab, page, tmp_path):
    """Maps are drawn by a click, one is edited, the picture follows; what is typed stays text."""
    run_all(page, lab, "factors.ipynb")
    assert errors(page) == []
    button = lambda name: page.locator(".widget-button", has_text=name).first  # noqa: E731
    explorer = page.locator(".jp-OutputArea-output", has=page.locator("img.widget-image")).first
    # the cell below the explorer has drawn six maps and a picture: candidates, the map, the picture before, and now
    first = moved(page, "recall", [""] * 9, still=(7,))
    explorer.screenshot(path=tmp_path / "planned.png")

    button("Delete").click()
    deleted = moved(page, "recall", first, still=(*range(6), 7, 8))
    assert deleted[6] != first[6], "the map has an object less"
    button("Draw the picture").click()
    painted = moved(page, "recall", deleted, still=range(7))
    assert painted[7] == first[8] != painted[8], "the picture before moves to the left"
    explorer.screenshot(path=tmp_path / "deleted.png")
    button("Undo").click()
    undone = moved(page, "recall", painted, still=(*range(6), 7, 8))
    assert undone[6] == first[6]

    prompt = page.locator(".widget-text input").first
    prompt.fill("<img src=x onerror=alert(1)>")
    prompt.press("Tab")
    button("Draw maps").click()
    expect(page.locator(".widget-html-content", has_text="<img src=x onerror=alert(1)>").first).to_be_visible()
    assert page.locator("img[src='x']").count() == 0 and pictures(page) == undone and errors(page) == []
    explorer.screenshot(path=tmp_path / "refused.png")


SURFACE = ".canvas-widget svg"


def cell_below(page: Page, code: str) -> str:
    """Put a cell at the end, run it, return what it printed."""
    before = page.locator(".jp-Notebook .jp-CodeCell").count()
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-prompt").last.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    expect(page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(before + 1)
    page.keyboard.press("Enter")
    page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(FINISHED, polling=500)
    return page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-OutputArea").inner_text()


def drawn_from(page: Page, start: tuple[float, float], stop: tuple[float, float]) -> None:
    """Press, move and let go on the canvas, in shares of its side."""
    frame = page.locator(SURFACE).bounding_box()
    (x0, y0), (x1, y1) = ((frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, stop))
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2)
    page.mouse.move(x1, y1)
    page.mouse.up()


def test_playground(lab, page, tmp_path):
    """A layout and a drag by mouse and by keyboard, a run, its code, a run that is cancelled; what is typed is text."""
    page.set_viewport_size({"width": 1280, "height": 800})
    run_all(page, lab, "playground.ipynb")
    assert errors(page) == []
    button = lambda name: page.locator(".widget-button", has_text=name).first  # noqa: E731
    field = lambda name: page.locator(".widget-text", has_text=name).locator("input")  # noqa: E731
    asked = "print([(r.phrase, [round(v, 3) for v in r.box]) for r in play.request().regions])"
    wide = page.locator(".jp-WindowedPanel-outer").first.evaluate("e => e.scrollWidth - e.clientWidth")
    assert wide <= 0, "nothing to scroll sideways"

    field("prompt").fill("a blue ball and a red house in the snow")
    field("prompt").press("Enter")
    page.locator(SURFACE).scroll_into_view_if_needed()
    boxes = page.locator(f"{SURFACE} g[role=button]")
    expect(boxes).to_have_count(1)  # the preset's, of a car that is not asked for any more
    boxes.first.click()
    page.keyboard.press("Delete")
    expect(boxes).to_have_count(0)
    drawn_from(page, (0.5, 0.1), (0.9, 0.5))
    expect(boxes).to_have_count(1)
    page.locator(SURFACE).focus()
    page.keyboard.press("Enter")  # of the next phrase
    expect(boxes).to_have_count(2)
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight"):
        for _ in range(8):
            page.keyboard.press(key)
    page.locator(SURFACE).screenshot(path=tmp_path / "canvas.png")
    said = cell_below(page, asked)
    assert said.strip() == "[('blue ball', [0.5, 0.1, 0.9, 0.5]), ('red house', [0.175, 0.425, 0.7, 0.825])]"

    button("Run").click()
    expect(page.locator(".widget-html-content", has_text="done in").first).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=tmp_path / "done.png")
    code = page.locator("textarea").first
    if not code.is_visible():
        page.locator(".lm-AccordionPanel-title, .jupyter-widget-Collapse-header", has_text="the code").first.click()
    text = code.input_value()
    said = cell_below(page, text + "print(float((run.images - play.history[-1].guided.images).abs().max()))")
    assert said.strip().splitlines()[-1] == "0.0", "the code draws the same picture"

    field("seeds").fill("5, 6, 7, 8")
    field("seeds").press("Enter")
    button("Run").click()
    expect(page.locator(".widget-html-content", has_text="the baseline").first).to_be_visible(timeout=PATIENCE)
    button("Cancel").click()
    expect(page.locator(".widget-html-content", has_text="cancelled after").first).to_be_visible(timeout=20_000)

    button("Drag in the last picture").click()
    expect(page.locator(f"{SURFACE}[aria-label^=Drag]")).to_be_visible(timeout=PATIENCE)
    arrows = page.locator(f"{SURFACE} line.canvas-arrow")
    drawn_from(page, (0.7, 0.3), (0.4, 0.3))
    expect(arrows).to_have_count(1)
    moves = cell_below(page, "print(play.request().drag.moves[0])")
    assert "handle=(0.7, 0.3" in moves and "target=(0.4, 0.3" in moves
    page.locator(SURFACE).screenshot(path=tmp_path / "drag.png")

    field("prompt").fill("<img src=x onerror=\"document.title='broken'\">")
    field("prompt").press("Enter")
    button("Run").click()
    expect(page.locator(".widget-html-content", has_text="img").first).to_be_visible(timeout=20_000)
    assert page.locator(".widget-html-content img").count() == 0 and page.title() != "broken"
    page.screenshot(path=tmp_path / "wrong.png")
    print("screenshots in", tmp_path)
