"""The site: every link leads somewhere, nothing is loaded from elsewhere, what is typed stays text."""

import io
import json
from base64 import b64decode, b64encode
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from helpers.paths import ROOT
from helpers.site import api, build, execute
from helpers.site.build import markdown, notebook, slug


def unexecuted(path: Path, parameters: dict) -> nbformat.NotebookNode:
    assert bool(parameters) == (path.parent.name == "experiments")
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, BeautifulSoup]:
    """All pages, no notebook run: url -> what stands there."""
    folder = build.build(tmp_path_factory.mktemp("site") / "site", run=unexecuted)
    pages = {path: BeautifulSoup(path.read_text(), "html.parser") for path in folder.rglob("*.html")}
    return {path.relative_to(folder).as_posix(): page for path, page in pages.items()} | {"": folder}


def targets(page: BeautifulSoup):
    for name, key in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
        yield from ((name, tag[key]) for tag in page.find_all(name) if tag.has_attr(key))


def test_every_link_of_every_page_leads_somewhere(site):
    folder, checked = site[""], 0
    for url, page in site.items():
        for name, target in targets(page) if url else ():
            if target.startswith(("http:", "https:", "mailto:", "data:")):
                assert name == "a" or target.startswith("data:image/"), f"{url} loads {target} from elsewhere"
                continue
            path, _, anchor = unquote(target).partition("#")
            place = (folder / url).parent / path if path else folder / url
            assert place.is_file(), f"{url}: {target}"
            if anchor:
                assert site[place.resolve().relative_to(folder.resolve()).as_posix()].find(id=anchor), (
                    f"{url}: {target}"
                )
            checked += 1
    assert checked > 1000


def test_every_notebook_has_a_page_and_a_line(site):
    listed = {tag["href"] for tag in site["notebooks.html"].main.find_all("a")}
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        url = path.relative_to(ROOT).with_suffix(".html").as_posix()
        assert url in site and url in listed


def test_words_are_found_without_a_server(site):
    index = json.loads((site[""] / "pages.js").read_text().removeprefix("const PAGES = ").rstrip(";\n"))
    assert {page["url"] for page in index} == set(site) - {""}
    assert any("iLGD" in page["text"] for page in index) and all(page["title"] for page in index)


def test_no_formula_is_left_as_it_was_typed(site):
    for url, page in site.items():
        if url.startswith("notebooks/learn"):
            for code in page.main.find_all(["pre", "code"]):
                code.extract()
            assert "$" not in page.main.get_text(), url
            assert page.main.find("math") or "quickstart" in url


@pytest.mark.parametrize(
    ("text", "tag", "words"),
    [
        ("a $x_t$ b", "mi", "x"),
        ("$$\\frac{a}{b}$$", "mfrac", "a"),
        ("it costs $5 and `$x$`", "code", "$x$"),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", "td", "1"),
        ("```python\nx = '$a$'\n```", "code", "$a$"),
    ],
)
def test_markdown(text, tag, words):
    assert words in BeautifulSoup(markdown(text), "html.parser").find(tag).get_text()


def test_cells_outputs_and_solutions():
    typed = "<img src=x onerror=alert(1)>"
    printed = new_output("stream", name="stdout", text=typed)
    picture = new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
    bar = new_output("stream", name="stderr", text="100%|####|")
    cells = [
        new_markdown_cell("# T\n\nsaid"),
        new_code_cell(f"prompt = {typed!r}", outputs=[printed, picture, bar]),
        new_code_cell("answer = 42", metadata={"tags": ["solution"]}),
    ]
    page = BeautifulSoup(notebook(new_notebook(cells=cells)), "html.parser")
    assert [tag["src"][:21] for tag in page.find_all("img")] == ["data:image/png;base64"], "what is typed stays text"
    assert typed in page.find(class_="output").get_text() and "100%" not in page.get_text()
    assert page.find("details", class_="solution").find("pre").get_text().strip() == "answer = 42"


def test_anchors_are_those_of_the_repository_page():
    assert slug("What differs from the papers") == "what-differs-from-the-papers"
    assert slug("Layouts by a segmenter's gradient (`dga`)") == "layouts-by-a-segmenters-gradient-dga"


def test_the_library_tells_signatures_and_docstrings():
    text = api.markdown(ROOT / "helpers" / "guidance" / "dga.py")
    assert "### class DGA" in text and "weight: float = setting(25.0" in text and "L_cov" in text
    assert "def _mean(" not in text and "def soft_iou(masks" in text
    assert ROOT / "helpers" / "sampling" / "loop.py" in api.modules()


def test_a_notebook_runs_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "notebooks" / "tiny.ipynb"
    path.parent.mkdir()
    stated = new_code_cell("number: int = 6", metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Tiny"), stated, new_code_cell("print(number * 7)")]
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(execute, "_key", lambda path, parameters: f"key {parameters}")
    first = execute.executed(path)
    assert first.cells[-1].outputs[0].text == "42\n" and first.metadata.measured["peak_mb"] > 10
    assert execute.executed(path, {"number": 2}).cells[-1].outputs[0].text == "14\n"
    assert execute.executed(path).cells[-1].outputs[0].text == "42\n", "other parameters are another run"
    monkeypatch.setattr(execute, "NotebookClient", None)
    assert execute.executed(path).cells[-1].outputs == first.cells[-1].outputs
    monkeypatch.setattr(execute, "_key", lambda path, parameters: "other")
    with pytest.raises(TypeError):
        execute.executed(path)


def test_what_decides_a_run_is_in_its_key(tmp_path, monkeypatch):
    path, page = ROOT / "notebooks" / "experiments" / "dga.ipynb", {"profile": "page", "out": "out/x"}
    key = execute._key(path, page)
    assert key != execute._key(path, {}) and key != execute._key(path, page | {"out": "out/y"})
    for name in ("code.yaml", "dvc.lock", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "notebooks" / "experiments").mkdir(parents=True)
    copy = tmp_path / path.relative_to(ROOT)
    copy.write_text(path.read_text())
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    assert execute._key(copy, page) == key

    def changed(name: str, old: str, new: str) -> str:
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new, 1))
        found = execute._key(copy, page)
        (tmp_path / name).write_text(text)
        return found

    assert changed("params.yaml", "cfg_scale: 5.0", "cfg_scale: 4.0") != key
    assert changed("params.yaml", "profiles:", "profiles:  # said otherwise") == key
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    assert changed("dvc.lock", lock["train_guide_segmenter"]["outs"][0]["md5"], "f" * 32) != key


def test_bars_and_warnings_of_one_machine_are_not_kept():
    cell = new_code_cell("1")
    said = [new_output("stream", name=name, text=name) for name in ("stdout", "stderr")]
    cell.outputs = said
    notebook = new_notebook(cells=[new_markdown_cell("# Tiny"), cell])
    execute.tidy(notebook)
    assert notebook.cells[1].outputs == said[:1]


def test_kept_pictures_are_smaller_and_look_the_same():
    x, y = np.meshgrid(np.arange(200), np.arange(150))
    picture = np.stack([x, y, (x + y) / 2 + 20 * np.sin(x * y)], 2).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png")
    before = b64encode(stream.getvalue()).decode()
    after = execute.smaller(before + "\n")
    assert len(after) < 0.6 * len(before)
    found = np.asarray(Image.open(io.BytesIO(b64decode(after))).convert("RGB")).astype(int)
    assert np.abs(found - picture.astype(int)).mean() < 12
