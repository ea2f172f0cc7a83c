"""params.yaml: valid, commented, used; wrong entries are refused with the name, the value and the cure."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.params import load
from helpers.paths import ROOT
from helpers.report import REPORTS

TEXT = (ROOT / "params.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def changed(tmp_path, old: str, new: str) -> Path:
    assert old in TEXT
    (tmp_path / "params.yaml").write_text(TEXT.replace(old, new, 1))
    return tmp_path / "params.yaml"


def test_the_file_is_valid_and_profiles_can_be_chosen():
    for name in ("smoke", "quick", "full"):
        assert load(name).run.profile == name
    assert load("smoke").profile.headline < load("quick").profile.headline
    assert load().run.profile == VALUES["run"]["profile"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cfg_scale: ", "cgf_scale: ", "sampling.cgf_scale"),
        ("distance: ", "distanse: ", "distanse"),
        ("profile: quick", "profile: qick", "'qick': use one of smoke, quick, full"),
        ("run: [none,", "run: [nothing,", "'nothing': use one of none, coverage"),
        ("run: [none,", "run: [", "'coverage' is compared with 'none', which run lacks: add it"),
        ("none_shuffled, ", "", "'full_shuffled' is compared with 'none_shuffled', which run lacks"),
        ("headline: 4", "headline: 401", "profiles.smoke.headline"),
        ("window: 0.3", "window: 1.3", "dga.cases.window_30.window"),
        ("layout: masks", "layout: circles", "'boxes' or 'masks'"),
        ("rule: ", "rule: strong_", "dga.strength.rule"),
        ("layout: null", "layout: null, weight: 3", "not guided"),
        ("tuned: [dga,", "tuned: [none, dga,", "'none' shall be tuned, but nothing is searched for it"),
        ("run: [injection,", "run: [injektion,", "unknown ablation 'injektion': use one of injection, loss_strength"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, old, new, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load(path=changed(tmp_path, old, new))


def test_an_unknown_case_or_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown case 'ful': use one of none"):
        load().dga.case("ful")
    with pytest.raises(ValueError, match="unknown profile 'fast': use one of smoke"):
        load("fast")


def test_params_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load().sampling.cfg_scale = 1.0


def test_every_tunable_is_explained_where_it_first_stands():
    seen = set()
    for line in TEXT.splitlines():
        key = re.match(r"\s*([a-z_]+):", line)
        if key and key[1] not in seen and not re.search(r"[{]", line):
            seen.add(key[1])
            assert "#" in line or line.rstrip().endswith(":"), f"say what {key[1]!r} is, its default and range"


def leaves(value, path=""):
    if not isinstance(value, dict):
        return [path]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".strip("."))]


def test_every_tunable_is_read_by_a_stage():
    text = (ROOT / "dvc.yaml").read_text()
    stated = [re.sub(r"\$\{[\w.]+\}", "*", p) for stage in STAGES.values() for p in stage.get("params", [])]
    for leaf in leaves(VALUES):
        generic = re.sub(r"^(profiles|d\wa\.cases|combinations\.cases|robustness\.curves)\.\w+", r"\1.*", leaf)
        generic = re.sub(r"^(training\.\w+)\.\w+", r"\1.*", generic)
        read = any(generic == p or generic.startswith(p + ".") for p in stated)
        assert read or "${" + leaf + "}" in text, f"no stage of dvc.yaml reads {leaf}"


@pytest.mark.parametrize("experiment", ["dga", "dca", "dma", "combinations"])
def test_the_report_waits_for_every_case(experiment):
    deps = STAGES[f"report_{experiment}"]["deps"]
    scores = {d.split("/")[-1] for d in deps if d.startswith(f"results/{experiment}/score/")}
    assert scores == set(VALUES[experiment]["run"]) == set(VALUES[experiment]["cases"])


def test_the_report_waits_for_every_curve():
    curves = {d.split("/")[-1] for d in STAGES["report_robustness"]["deps"] if d.startswith("results/robustness/")}
    assert curves == set(VALUES["robustness"]["run"]) == set(VALUES["robustness"]["curves"])


def test_every_figure_belongs_to_a_report():
    reports = [stage for name, stage in STAGES.items() if name.split("_")[0] == "report"]
    outs = [next(iter(out)) for stage in reports for out in stage["outs"] if isinstance(out, dict)]
    assert sorted(outs) == sorted(f"figures/{path.name}" for path in (ROOT / "figures").iterdir())


def test_the_numbers_of_every_report_are_gathered():
    made = {out for name, stage in STAGES.items() if name.startswith("report_") for out in stage["outs"][:1]}
    gathered = {dep for dep in STAGES["report"]["deps"] if dep.startswith("results/")}
    assert made == gathered == {f"results/{name}/metrics.json" for name in REPORTS}


def test_dvc_reads_the_pipeline():
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    named = {f"{kind}_{block}@none" for kind in ("sample", "score") for block in ("dga", "dca", "dma", "combinations")}
    assert named | {"perception", "report"} <= set(listed.stdout.split())
