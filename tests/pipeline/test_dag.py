"""The DAG in one temporary clone, in the smoke profile with a few cases: what runs, and what runs again after a change.

Every stage's imports are logged while it runs, so that no key of code.yaml can lack a file that a stage read.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.paths import ROOT

pytestmark = pytest.mark.pipeline

CASES = {  # of every experiment, what runs here
    "dga": ["none", "coverage", "full"],
    "dca": ["none", "attributes_relations", "full", "none_again"],
    "dma": ["none", "full"],
    "combinations": ["none", "source", "text_layout_drag"],
    "robustness": ["strength_drag"],
    "layout": ["none", "ilgd"],
    "free": ["none", "dga", "dga_free"],
    "ilgd": ["masks"],
    "sbpc": ["none", "maps_10"],
    "guided_factors": ["none", "map", "map_ilgd", "map_arranged_5", "none_free"],
}
SEARCHED = ["ilgd"]  # of the experiment layout
CHANGES = {  # of params.yaml: as little work as the code allows
    "run.profile": "smoke",
    "profiles.smoke.steps": 2,
    "profiles.smoke.headline": 2,
    "profiles.smoke.ablation": 2,
    "dga.sweep.scales": [0.5],
}
ONCE = {"times": 1}  # no step of a method is repeated
LOADED = "loaded.txt"  # in the clone: a line "<stage> <module>" for every module of WATCHED that a stage loads
INTERFACE = re.findall(r"^([\w-]+)==.*# interface", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
WATCHED = ["helpers", *INTERFACE]

# Python runs this at its start wherever it lies on the path: a finder that finds nothing, but sees every import.
SPY = """
import os, sys

class Spy:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {watched} and "DVC_STAGE" in os.environ:
            with open(os.path.join(os.environ["DVC_ROOT"], "{log}"), "a") as log:
                print(os.environ["DVC_STAGE"], name, file=log)

sys.meta_path.insert(0, Spy)
"""
KEYS = """
import json
from helpers.params import read
from helpers.paths import ROOT
from helpers.pipeline.fingerprint import sources
print(json.dumps({".".join(path): [str(f.relative_to(ROOT)) for f in files] for path, files in sources(read())}))
"""


def environment(folder: Path) -> dict[str, str]:
    """Of a command in the clone: its own helpers, this Python's programs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    found = os.pathsep.join(map(str, (folder, folder / ".spy")))
    return os.environ | names | {"PATH": path, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}


def call(folder: Path, *command: str, fails: bool = False) -> str:
    """Run a command in the clone; returns what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert bool(done.returncode) == fails, done.stdout[-4000:]
    return done.stdout


def runs(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def ran(output: str) -> set[str]:
    return set(runs(output))


def copy(folder: Path) -> Path:
    """This checkout's tracked and new files as a repository of its own."""
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(lambda n: n and (ROOT / n).is_file(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    call(folder, "git", "init", "--quiet")
    commit(folder, "clone")
    return folder


def commit(folder: Path, message: str) -> None:
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--allow-empty", "--message", message)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """With models and data from the store in it."""
    folder = copy(tmp_path_factory.mktemp("clone"))
    call(folder, "dvc", "pull", "--allow-missing")
    return folder


def test_a_fresh_clone_has_nothing_to_recompute(clone):
    output = call(clone, "dvc", "repro", "--allow-missing", "--dry")
    assert not ran(output)
    assert "up to date" in output


def shrink(params: dict) -> dict:
    """params.yaml with the cases and the little work of above."""
    for experiment, cases in CASES.items():
        block = params[experiment]
        block["cases"] = {name: block["cases"][name] for name in cases}
        for case in block["cases"].values():
            if "method" in case:
                case["recurrence"] = ONCE
    params["layout"]["search"] = {name: params["layout"]["search"][name] for name in SEARCHED}
    for name, value in CHANGES.items():
        *path, last = name.split(".")
        block = params
        for part in path:
            block = block[part]
        block[last] = value
    return params


@pytest.fixture(scope="module")
def smoke(clone) -> str:
    """What the first run printed. It is killed in the middle, and goes on."""
    params = shrink(yaml.safe_load((clone / "params.yaml").read_text()))
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False).replace(": null\n", ":\n"))
    shutil.rmtree(clone / "results", ignore_errors=True)  # of cases that are none here; reports depend on whole folders
    (clone / ".spy").mkdir()
    (clone / ".spy" / "sitecustomize.py").write_text(SPY.format(log=LOADED, watched=WATCHED))
    (clone / ".git" / "info" / "exclude").write_text(f".spy\n{LOADED}\n")
    killed = kill_after(clone, "sample_dga")
    assert "code" in ran(killed) and len(ran(killed)) >= 3
    output = call(clone, "dvc", "repro")
    assert not ran(output) & set(runs(killed)[:-1]), "what was done before the kill is not done again"
    call(clone, "dvc", "push")
    commit(clone, "smoke")
    return killed + output


def kill_after(folder: Path, stage: str) -> str:
    """Kill the stages of `dga` while the second one of this name runs, with all their children; what they printed."""
    log, command = folder.parent / "killed.txt", ("dvc", "repro", "report_dga")
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=out, stderr=out, start_new_session=True
        )
    while len(re.findall(rf"Running stage '{stage}", log.read_text())) < 2:
        assert process.poll() is None, log.read_text()[-4000:]
        time.sleep(0.2)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return log.read_text()


def test_every_stage_runs_and_every_case_is_reported(clone, smoke):
    metrics = json.loads((clone / "figures" / "metrics.json").read_text())
    placed = ("box_iou", "mask_iou", "box_ap50", "recall", "color_acc", "clip_score")
    dragged = ("drag_md", "center_dist", "edit_fidelity", "background_psnr")
    own = {"dga": placed, "dca": ("attribute_acc", "relation_acc", *placed), "dma": dragged}
    own |= {"combinations": own["dca"] + dragged, "layout": ("attribute_acc", "clip_iqa", *placed)}
    tuned = [f"{case}_tuned" for case in SEARCHED]
    for experiment in own:
        cases = CASES[experiment] + (tuned if experiment == "layout" else [])
        assert set(metrics[experiment]) == set(cases)
        for case in cases:
            for name in (*own[experiment], "kernel_distance", "nfe", "seconds"):
                assert {"mean", "lo", "hi", "n", "diff"} <= set(metrics[experiment][case][name]), (case, name)
    for experiment in ("robustness", "ilgd"):
        assert set(metrics[experiment]) == set(CASES[experiment])
    assert {"code", "perception", "quality", "sweep_dga", "report", f"search_layout@{SEARCHED[0]}"} <= ran(smoke)
    summary = json.loads((clone / "figures" / "summary.json").read_text())
    assert set(summary["dma"]["drag_md"]) == set(CASES["dma"])


def test_the_keys_of_a_stage_cover_every_module_that_it_loads(clone, smoke):
    files = json.loads(call(clone, sys.executable, "-c", KEYS).splitlines()[-1])
    lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    loaded: dict[str, set[str]] = {}
    for line in (clone / LOADED).read_text().splitlines():
        stage, module = line.split()
        loaded.setdefault(stage, set()).add(module)
    assert set(loaded) >= ran(smoke) - {"code"}, "every stage was watched"
    for stage in set(loaded) - {"code"}:
        keys = flat(lock[stage]["params"]["code.yaml"])
        covered = {file for key in keys for file in files.get(key, ())}
        paths = {module.replace(".", "/") for module in loaded[stage]}
        real = {p + end for p in paths for end in (".py", "/__init__.py") if (clone / (p + end)).exists()}
        assert not loaded[stage] & set(INTERFACE), f"{stage}: its pins are no part of any key"
        assert real <= covered, f"{stage}: no key of {keys} covers {sorted(real - covered)}"


def flat(params: dict, path: str = "") -> list[str]:
    if not isinstance(params, dict):
        return [path]
    return [key for name, inner in params.items() for key in flat(inner, f"{path}.{name}".strip("."))]


def test_the_second_time_nothing_runs(clone, smoke):
    output = call(clone, "dvc", "repro")
    assert not ran(output)
    assert "up to date" in output


def stale(clone: Path, path: str, change) -> set[str]:
    """Which stages but `code` would run after a change of a file, which is then taken back."""
    file = clone / path
    before = file.read_text()
    text = change(before)
    assert text != before
    file.write_text(text)
    try:
        assert ran(call(clone, "dvc", "repro", "code")) == {"code"}
        return ran(call(clone, "dvc", "repro", "--dry"))
    finally:
        file.write_text(before)
        call(clone, "dvc", "repro", "code")
        assert not call(clone, "git", "status", "--porcelain", "code.yaml", "dvc.lock")


def another_function(text: str) -> str:
    return text + "\n\ndef another() -> int:\n    return 1\n"


def another_sentence(text: str) -> str:
    notebook = json.loads(text)
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")["source"] = "# Another title"
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["looked at\n"]}]
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.12.0"}
    return json.dumps(notebook, indent=1)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("helpers/sampling/hooks.py", lambda text: "# a comment\n" + text),
        ("helpers/sampling/loop.py", lambda text: re.sub(r'(?s)\A""".*?"""', '"""Another docstring."""', text)),
        ("notebooks/experiments/dga.ipynb", another_sentence),
        ("requirements.txt", lambda text: "# a comment\n" + text),
        ("params.yaml", lambda text: "# a comment\n" + text),
    ],
)
def test_what_is_no_code_re_runs_nothing(clone, smoke, path, change):
    assert stale(clone, path, change) == set()


def test_code_re_runs_what_imports_it(clone, smoke):
    found = stale(clone, "helpers/guidance/dma.py", another_function)
    asked = "(sample_(dma|combinations)@|robustness@|report_(dma|combinations|robustness))"
    assert found == {stage for stage in ran(smoke) if re.match(asked, stage)}
    assert stale(clone, "helpers/reports/dca.py", another_function) == {"report_dca"}
    assert stale(clone, "helpers/figures/style.py", another_function) == {
        stage for stage in ran(smoke) if stage.startswith("report_")
    }


def test_a_method_re_runs_only_the_cases_that_name_it(clone, smoke):
    layout = {"sample_layout@ilgd", "sample_layout_tuned@ilgd", "search_layout@ilgd"}
    named = layout | {"ilgd@masks", "sample_guided_factors@map_ilgd"}
    assert stale(clone, "helpers/guidance/ilgd.py", another_function) == named


def test_a_schema_re_runs_only_its_experiment(clone, smoke):
    found = stale(clone, "helpers/experiments/ilgd.py", another_function)
    assert found == {"ilgd@masks", "report_ilgd"}


METHOD = '''"""A method that somebody adds: the picture is drawn towards white."""

from dataclasses import dataclass

from helpers.conditions import Layout
from helpers.sampling.hooks import EnergyGuidance
from helpers.sampling.settings import setting


@dataclass(frozen=True, kw_only=True, eq=False)
class Brighten(EnergyGuidance):
    """L = mean (1 - x0_hat)^2"""

    layouts: Layout | list[Layout]
    weight: float = setting(100.0, low=0, high=1e4)

    def energy(self, ctx, state):
        return (1 - ctx.image).square().flatten(1).mean(1), {}
'''


def test_a_method_is_one_file_and_one_case(clone, smoke):
    """And only its case runs."""
    (clone / "helpers" / "guidance" / "brighten.py").write_text(METHOD)
    file = clone / "params.yaml"
    before = file.read_text()
    values = yaml.safe_load(before)
    values["layout"]["cases"]["brighten"] = {"images": "headline", "method": "brighten"}
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    try:
        output = call(clone, "dvc", "repro")
        case = {"sample_layout@brighten", "score_layout@brighten"}
        assert ran(output) == {"code", *case, "report_layout", "report"}
        metrics = json.loads((clone / "figures" / "metrics.json").read_text())
        assert metrics["layout"]["brighten"]["nfe"]["mean"] > 0
    finally:
        (clone / "helpers" / "guidance" / "brighten.py").unlink()
        file.write_text(before)
        call(clone, "dvc", "repro")
        call(clone, "git", "checkout", "--quiet", ".")


def test_one_value_re_runs_its_case_and_those_that_are_like_it(clone, smoke):
    def heavier(text: str) -> str:
        values = yaml.safe_load(text)
        values["dca"]["cases"]["none_again"] = {"like": "full"}
        return yaml.safe_dump(values, sort_keys=False)

    assert stale(clone, "params.yaml", heavier) == {"sample_dca@none_again", "report_dca"}
    full = stale(clone, "params.yaml", lambda text: text.replace("relation_weight: 7.0", "relation_weight: 8.0"))
    named = {
        "sample_dca@full",
        *(stage for stage in ran(smoke) if re.match("(sample_combinations|robustness)@", stage)),
    }
    assert full == named | {"report_dca"}


def test_a_wrong_value_stops_before_any_other_stage(clone, smoke):
    file = clone / "params.yaml"
    before = file.read_text()
    file.write_text(before.replace("relation_weight: 7.0", "relation_weight: much"))
    try:
        output = call(clone, "dvc", "repro", fails=True)
        assert ran(output) == {"code"} and "dca.cases.full" in output and "relation_weight" in output
    finally:
        file.write_text(before)
    assert (clone / "code.yaml").exists() and not ran(call(clone, "dvc", "repro"))


def test_a_report_that_lacks_a_case_names_it(clone, smoke):
    rows = clone / "results" / "dga" / "score" / "coverage"
    rows.rename(clone / "aside")
    try:
        output = call(clone, "python", "-m", "helpers.reports.dga", fails=True)
        assert "has no rows of coverage: run `dvc repro report_dga`" in output
    finally:
        (clone / "aside").rename(rows)


def test_in_a_fresh_clone_one_value_re_runs_one_case(clone, smoke, tmp_path):
    """Samples are not there, only what was pushed."""
    fresh = tmp_path / "fresh"
    call(clone, "git", "clone", "--quiet", str(clone), str(fresh))
    call(fresh, "dvc", "pull", "--allow-missing")
    assert not list(fresh.glob("results/*/sample/*/*")) and (fresh / "results" / "dga" / "score" / "coverage").is_dir()
    assert not ran(call(fresh, "dvc", "repro", "--allow-missing"))
    output = call(fresh, "dvc", "exp", "run", "--allow-missing", "-S", "dga.cases.coverage.weight=40")
    assert ran(output) == {"code", "sample_dga@coverage", "score_dga@coverage", "report_dga", "report"}
    changed = call(fresh, "git", "diff", "--unified=0", "params.yaml").splitlines()
    assert [line for line in changed if re.match(r"[+-] ", line)] == ["-      weight: 25.0", "+      weight: 40"]
    assert "box_iou.coverage" in call(fresh, "dvc", "metrics", "diff", "--all")
    assert "dga.cases.coverage.weight" in call(fresh, "dvc", "exp", "show", "--only-changed", "--md")
    call(fresh, "dvc", "plots", "diff", "--out", str(tmp_path / "plots"))
    assert (tmp_path / "plots" / "index.html").exists()
