"""The DAG in a temporary clone: nothing to do when fresh, runs in the smoke profile, re-runs only what changed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.paths import ROOT
from helpers.report import REPORTS

pytestmark = pytest.mark.pipeline
CASES = {  # of every experiment, what runs in the smoke profile
    "dga": ["none", "coverage", "full"],
    "dca": ["none", "none_again", "full"],
    "dma": ["none", "full"],
    "combinations": ["none", "source", "text_layout_drag"],
    "robustness": ["segmenter_error", "strength_drag"],
    "layout": ["none", "ilgd", "boxdiff"],
    "ilgd": ["injection"],
}
CURVES, ABLATIONS = CASES["robustness"], CASES["ilgd"]
SEARCHED = ["ilgd", "boxdiff"]  # of the experiment layout
TUNED = [f"{case}_tuned" for case in SEARCHED]


def call(folder: Path, *command: str) -> str:
    """Run a command in the clone with the clone's own helpers; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = os.environ | names | {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """This checkout's tracked and new files as a repository of its own, with models and data from the store in it."""
    folder = tmp_path_factory.mktemp("clone")
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(lambda n: n and (ROOT / n).is_file(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message", "clone")
    call(folder, "dvc", "pull", "--allow-missing")
    return folder


def test_a_fresh_clone_has_nothing_to_recompute(clone):
    output = call(clone, "dvc", "repro", "--allow-missing", "--dry")
    assert not ran(output)
    assert "up to date" in output


def left_out(dep: str) -> bool:
    """Is it the result of a case that does not run in the smoke profile?"""
    place = dep.split("/")
    experiment, case = place[:2][-1], place[-1]
    if place[:3] == ["results", "layout", "search"]:
        return case not in SEARCHED
    return experiment in CASES and case not in (*CASES[experiment], "sweep", *TUNED)


@pytest.fixture(scope="module")
def smoke(clone) -> str:
    """What the first run of the smoke profile with a few cases printed."""
    text = (clone / "params.yaml").read_text()
    text = re.sub(r"profile: \w+", "profile: smoke", text, count=1)
    for experiment, cases in CASES.items():
        text = re.sub(rf"(?ms)^({experiment}:.*?\brun: )\[.*?\]", rf"\1[{', '.join(cases)}]", text, count=1)
    text = re.sub(r"(?ms)^(layout:.*?\btuned: )\[.*?\]", rf"\1[{', '.join(SEARCHED)}]", text, count=1)
    (clone / "params.yaml").write_text(text)
    spec = yaml.safe_load((clone / "dvc.yaml").read_text())
    for name, stage in spec["stages"].items():
        if name.startswith("report_"):
            stage["deps"] = [dep for dep in stage["deps"] if not left_out(dep)]
    (clone / "dvc.yaml").write_text(yaml.safe_dump(spec))
    output = call(clone, "dvc", "repro")
    call(clone, "git", "add", "--all")
    call(clone, "git", "commit", "--quiet", "--message", "smoke")
    return output


def test_the_smoke_profile_runs_every_stage(clone, smoke):
    metrics = json.loads((clone / "figures" / "metrics.json").read_text())
    placed = ("box_iou", "mask_iou", "box_ap50", "recall", "color_acc", "clip_score")
    dragged = ("drag_md", "center_dist", "edit_fidelity", "background_psnr")
    own = {"dga": placed, "dca": ("attribute_acc", "relation_acc", *placed), "dma": dragged}
    own |= {"combinations": own["dca"] + dragged, "layout": ("attribute_acc", "clip_iqa", *placed)}
    for experiment in own:
        cases = CASES[experiment] + (TUNED if experiment == "layout" else [])
        stages = {f"{kind}_{experiment}@{case}" for kind in ("sample", "score") for case in CASES[experiment]}
        assert stages <= ran(smoke)
        assert set(metrics[experiment]) == set(cases)
        for case in cases:
            for name in (*own[experiment], "kernel_distance", "nfe", "seconds"):
                assert {"mean", "lo", "hi", "n", "diff"} <= set(metrics[experiment][case][name]), (case, name)
    kinds = ("search_layout", "sample_layout_tuned", "score_layout_tuned")
    assert {f"{kind}@{case}" for kind in kinds for case in SEARCHED} <= ran(smoke)
    reports = [f"report_{name}" for name in REPORTS]
    named = [f"robustness@{curve}" for curve in CURVES] + [f"ilgd@{ablation}" for ablation in ABLATIONS]
    assert {"sweep_dga", "perception", "quality", "report", *reports, *named} <= ran(smoke)
    for experiment, count in {"robustness": 3, "ilgd": 2}.items():
        assert set(metrics[experiment]) == set(CASES[experiment])
        for values in metrics[experiment].values():
            assert len(values) == count and all("diff" in entries["kernel_distance"] for entries in values.values())
    for case, found in metrics["layout"].items():
        assert {"mean", "lo", "hi", "n"} == set(found["iou_gain"]) == set(found["iou_gain_paper"]), case
        assert "diff_attention" in found["box_iou"], case
    assert {"ilgd", "ilgd_tuned"} == {c for c, found in metrics["layout"].items() if "diff_boxdiff" in found["box_iou"]}
    assert metrics["dga"]["none"]["recall"]["diff"] == {"mean": 0, "lo": 0, "hi": 0}
    assert 0 <= metrics["miniature"]["detector"]["ap50_x0"] <= 1
    assert 0.5 < metrics["miniature"]["quality"]["auc"] <= 1


def test_the_second_time_nothing_runs(clone, smoke):
    output = call(clone, "dvc", "repro")
    assert not ran(output)
    assert "up to date" in output


def test_saving_a_notebook_in_jupyter_re_runs_only_its_cleaning(clone, smoke):
    path = clone / "notebooks" / "11_dadg_geometry.ipynb"
    before = path.read_text()
    notebook = json.loads(before)
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["looked at\n"]}]
    cell["execution_count"] = 1
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.12.0"}
    path.write_text(json.dumps(notebook, indent=1))
    assert ran(call(clone, "dvc", "repro")) == {"clean@11_dadg_geometry"}
    path.write_text(before)


def test_one_weight_re_runs_only_its_case(clone, smoke):
    output = call(clone, "dvc", "exp", "run", "--set-param", "dga.cases.coverage.weight=30")
    case = {"sample_dga@coverage", "score_dga@coverage"}
    assert ran(output) - {"clean@11_dadg_geometry"} == {*case, "report_dga", "report"}
