"""The site: `python -m helpers.site.build` (make html) writes out/site, which needs no server and no network.

Lessons, the quickstart and, with few pictures, the experiments were executed before (`helpers.site.execute`); what has
changed since is executed here. Below an experiment stand the figures that its report drew of all its pictures. In the
place of a live widget stands the figure that the same experiment's report drew.

The pages are made by markdown-it-py, Pygments and Jinja2. nbconvert's own HTML asks a server for MathJax, MyST drops
ipywidgets without a kernel, and nbsphinx brings Sphinx for what are thirty lines here. Formulas become MathML, which
browsers draw by themselves.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from posixpath import relpath

import nbformat
import yaml
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from helpers.files import replace_folder
from helpers.paths import MODELS, ROOT
from helpers.site import api
from helpers.site.execute import PROFILE, executed

HERE = Path(__file__).parent
OUT = ROOT / "out" / "site"
GROUPS = {
    "start": "Start",
    "learn": "Lessons",
    "explore": "Explorers",
    "experiments": "Experiments",
    "train": "Training",
}
LESSONS = ("gradient", "x0_hat", "guided_loop", "concepts", "masks", "flow", "attention", "factor_graph", "own_energy",
           "miniature")  # fmt: skip
STRIPS = {"playground": "layout_cases", "masks": "dga_steps", "flow": "dma_steps", "attention": "layout_attention",
          "factors": "sbpc_table"}  # fmt: skip
RUN = ("start", "learn", "experiments")  # whose notebooks are executed for their pages
FIGURED = {
    "experiments": "Above, the notebook ran with few pictures; these its report drew of all of them.",
    "explore": "The notebook is not run for this page; this is a still of it.",
}
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])", re.DOTALL)

Run = Callable[[Path, Mapping[str, object]], nbformat.NotebookNode]  # executes a notebook with these parameters


@dataclass
class Page:
    """source: the file of the repository that it shows, relative to it; None for pages made here."""

    title: str
    url: str
    group: str
    body: str = ""
    source: str | None = None
    measured: Mapping = field(default_factory=dict)


def colored(code: str, language: str, _attributes: str = "") -> str:
    try:
        return highlight(code, get_lexer_by_name(language), HtmlFormatter(nowrap=True))
    except ClassNotFound:
        return escape(code)


MARKDOWN = MarkdownIt("commonmark", {"html": True, "highlight": colored}).enable("table")


def markdown(text: str) -> str:
    """Markdown with formulas -> HTML with MathML."""
    formulas: list[str] = []

    def keep(match: re.Match) -> str:
        block, inline = match.groups()
        formulas.append(convert(block or inline, display="block" if block else "inline"))
        return f"MATH{len(formulas) - 1}END"

    parts = re.split(r"(```.*?```|`[^`\n]+`)", text, flags=re.DOTALL)  # a dollar in code is none
    html = MARKDOWN.render("".join(part if k % 2 else MATH.sub(keep, part) for k, part in enumerate(parts)))
    return re.sub(r"MATH(\d+)END", lambda match: formulas[int(match[1])], html)


def notebook(found: nbformat.NotebookNode) -> str:
    """Cells and outputs; a solution is folded away."""
    parts = []
    for cell in found.cells:
        if cell.cell_type == "markdown":
            parts.append(markdown(cell.source))
            continue
        tags = cell.metadata.get("tags", [])
        code = f"<pre><code>{colored(cell.source, 'python')}</code></pre>"
        if "solution" in tags:
            code = f"<details class='solution'><summary>a solution</summary>{code}</details>"
        parts.append(f"<div class='{'exercise' if 'exercise' in tags else 'code'}'>{code}</div>")
        shown = "".join(_output(output) for output in cell.outputs)
        parts.append(f"<div class='output'>{shown}</div>" if shown else "")
    return "\n".join(parts)


def _output(output: nbformat.NotebookNode) -> str:
    """A picture or what was printed; warnings and bars of the libraries stay away."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"<img alt='' src='data:image/png;base64,{data['image/png'].strip()}'>"
    text = output.get("text", "") if output.get("name") == "stdout" else data.get("text/plain", "")
    text = text.replace("Loading weights from local directory\n", "")  # huggingface_hub says so of every judge
    return f"<pre>{escape(text)}</pre>" if text.strip() and "application/vnd" not in str(data.keys()) else ""


def claim(found: nbformat.NotebookNode) -> tuple[str, str]:
    """Title and first sentence of a notebook."""
    title, _, rest = found.cells[0].source.partition("\n")
    said = re.sub(r"\$\$.*?\$\$", "", rest, flags=re.DOTALL).strip()
    return title.removeprefix("# ").strip(), said.split("\n")[0]


def plain(title: str) -> str:
    """Without formulas, for places that show text only."""
    return title.replace(r"$\hat x_0$", "x̂₀")


def figures_of(name: str) -> list[Path]:
    """What the report of an experiment drew."""
    own = STRIPS.get(name)
    names = [own] if own else [name, f"{name}_*"]
    return [path for pattern in names for path in sorted((ROOT / "figures").glob(f"{pattern}.png"))]


def pages(run: Run, only: list[Path] | None = None) -> Iterator[Page]:
    """All pages but the table of notebooks and the gallery. only: which notebooks."""
    yield Page("What it is", "index.html", "Start", markdown((ROOT / "README.md").read_text()), "README.md")
    results = markdown((ROOT / "figures" / "README.md").read_text())
    yield Page("Results", "results.html", "Start", results, "figures/README.md")
    for extra, title in (
        ("INSTALL.md", "Install"),
        ("notebooks/GLOSSARY.md", "Glossary"),
        ("MODEL_CARDS.md", "Model cards"),
    ):
        body = markdown((ROOT / extra).read_text())
        yield Page(title, f"{title.lower().replace(' ', '_')}.html", "Start", body, extra)
    order = {name: k for k, name in enumerate(LESSONS)}
    every = only or sorted(
        (p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts),
        key=lambda p: (list(GROUPS).index(p.parent.name), order.get(p.stem, 99), p.stem),
    )
    for path in every:
        folder, source = path.parent.name, path.relative_to(ROOT).as_posix()
        trained = MODELS / path.stem.replace("_", "-") / "training.ipynb"
        shown = trained if folder == "train" and trained.is_file() else path  # as it was when the model was trained
        found = run(path, few(path)) if folder in RUN else nbformat.read(shown, as_version=4)
        body = notebook(found)
        if folder in FIGURED and figures_of(path.stem):
            up = relpath("figures", f"notebooks/{folder}")
            shown = "".join(f"<figure><img alt='{p.stem}' src='{up}/{p.name}'></figure>" for p in figures_of(path.stem))
            body += f"<h2>Figures</h2><p class='note'>{FIGURED[folder]}</p>{shown}"
        url = f"notebooks/{folder}/{path.stem}.html"
        yield Page(plain(claim(found)[0]), url, GROUPS[folder], body, source, found.metadata.get("measured", {}))
    body = markdown("# The library\n\n" + "\n\n".join(map(api.markdown, api.modules())))
    yield Page("The library", "api.html", "Reference", body)


def few(path: Path) -> dict[str, str]:
    """Parameters with which an experiment's notebook draws few pictures, where nothing else looks for them."""
    return {"profile": PROFILE, "out": f"out/pages/{path.stem}"} if path.parent.name == "experiments" else {}


def table(made: list[Page]) -> Page:
    """Every notebook: what it shows, what it takes."""
    rows = ["# All notebooks", "", "| notebook | what it shows | seconds | memory |", "| --- | --- | --- | --- |"]
    for page in made:
        if page.source and page.source.endswith(".ipynb"):
            title, said = claim(nbformat.read(ROOT / page.source, as_version=4))
            seconds, peak = page.measured.get("seconds", ""), page.measured.get("peak_mb", "")
            rows.append(f"| [{title}]({page.url}) | {said} | {seconds} | {f'{peak} MB' if peak else ''} |")
    rows += [
        "",
        "Seconds and memory: of the machine that built this page. Other notebooks say under *Needs* what they take.",
    ]
    return Page("All notebooks", "notebooks.html", "Start", markdown("\n".join(rows)))


def gallery() -> Page:
    """Every figure under the sentence of figures.yaml. ValueError where the two differ."""
    said = yaml.safe_load((HERE / "figures.yaml").read_text())
    known = {name for group in said.values() for name in group}
    drawn = {path.stem for path in (ROOT / "figures").glob("*.png")}
    if known != drawn:
        raise ValueError(
            f"helpers/site/figures.yaml and figures/ differ in {sorted(known ^ drawn)}: a sentence for each"
        )
    parts = ["<h1>Gallery</h1>"]
    for group, figures in said.items():
        parts.append(f"<h2>{escape(group)}</h2>")
        for name, words in figures.items():
            what = escape(words)
            image = f"<img alt='{what}' src='figures/{name}.png'>"
            parts.append(f"<figure>{image}<figcaption>{what}</figcaption></figure>")
    return Page("Gallery", "gallery.html", "Start", "\n".join(parts))


def slug(text: str) -> str:
    """As GitHub makes anchors of headings."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def linked(page: Page, by_source: Mapping[str, str], files: set[str]) -> str:
    """The body with anchors, and with links that lead to pages of the site or to copies of the repository's files,
    which are added to `files`."""
    soup = BeautifulSoup(page.body, "html.parser")
    for heading in soup.find_all(["h1", "h2", "h3", "h4"]):
        heading["id"] = slug(heading.get_text())
    base = Path(page.source).parent if page.source else Path(page.url).parent
    for tag, key in [(t, "href") for t in soup.find_all("a", href=True)] + [(t, "src") for t in soup.find_all("img")]:
        target, _, anchor = tag[key].partition("#")
        if re.match(r"[a-z]+:", target) or not target:
            continue
        path = relpath((ROOT / base / target).resolve(), ROOT)
        if path in by_source:
            url = by_source[path]
        elif (ROOT / path).is_file():
            url = path if path.startswith("figures/") else f"files/{path}.txt"
            files.add(path)
        elif (ROOT / path).is_dir():
            tag.unwrap()  # a folder is nothing to read
            continue
        else:
            url = path  # a page made here
        tag[key] = relpath(url, Path(page.url).parent.as_posix() or ".") + (f"#{anchor}" if anchor else "")
    return str(soup)


def build(out: Path = OUT, run: Run = executed, only: list[Path] | None = None) -> Path:
    """Write the site into `out`, all or nothing. run, only: see `pages`."""
    made = list(pages(run, only))
    made += [table(made), gallery()]
    by_source = {page.source: page.url for page in made if page.source}
    groups = {group: [page for page in made if page.group == group] for group in (*GROUPS.values(), "Reference")}
    template = Environment(loader=FileSystemLoader(HERE)).get_template("page.html.j2")

    def write(folder: Path) -> None:
        files, index = {path.relative_to(ROOT).as_posix() for path in (ROOT / "figures").glob("*.png")}, []
        for page in made:
            body, depth = linked(page, by_source, files), page.url.count("/")
            place = folder / page.url
            place.parent.mkdir(parents=True, exist_ok=True)
            shown = {"up": "../" * depth, "groups": groups, "open": {page.group, "Start", "Lessons"}}
            place.write_text(template.render(title=escape(page.title), url=page.url, body=body, **shown))
            words = " ".join(BeautifulSoup(body, "html.parser").get_text(" ").split())
            index.append({"title": page.title, "url": page.url, "text": words[:20000]})
        for name in files:
            to = folder / (name if name.startswith("figures/") else f"files/{name}.txt")
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to)
        shutil.copyfile(HERE / "search.js", folder / "search.js")
        (folder / "pages.js").write_text(f"const PAGES = {json.dumps(index)};\n")
        light, dark = (HtmlFormatter(style=style).get_style_defs("pre") for style in ("default", "github-dark"))
        colors = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\npre {{ background: var(--pale); }}\n"
        (folder / "site.css").write_text((HERE / "site.css").read_text() + colors)

    return replace_folder(out, write)


if __name__ == "__main__":
    print(f"the site: {build() / 'index.html'}")
