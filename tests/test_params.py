"""params.yaml: valid, commented, used; wrong entries are refused with the name, the value and the cure."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from helpers.experiments import check, combinations, dca, dga, dma, free, ilgd, layout, robustness
from helpers.params import Profile, load, section
from helpers.paths import ROOT
from helpers.pipeline.fingerprint import ROLES
from helpers.pipeline.report import reports

TEXT = (ROOT / "params.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
EXPERIMENTS = [module.Experiment for module in (dga, dca, dma, combinations, robustness, layout, free, ilgd)]


def written(tmp_path, text: str | bytes) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def changed(tmp_path, old: str, new: str) -> Path:
    assert old in TEXT
    return written(tmp_path, TEXT.replace(old, new, 1))


@pytest.mark.parametrize("kind", EXPERIMENTS, ids=lambda kind: kind.block)
@pytest.mark.parametrize("profile", VALUES["profiles"])
def test_every_block_is_valid_under_every_profile(kind, profile):
    params = load(kind, profile)
    assert (params.name, list(params.experiment.cases)) == (profile, list(VALUES[kind.block]["cases"]))


def test_the_profile_of_the_file_is_used_unless_another_is_named():
    assert load().name == VALUES["run"]["profile"] and load().experiment is None
    assert load(profile="smoke").profile.headline < load(profile="quick").profile.headline


def test_a_case_is_counted_by_its_profile():
    params = load(dga.Experiment, "quick")
    assert params.count(params.case("full")) == VALUES["profiles"]["quick"]["headline"]
    assert params.count(params.case("window_30")) == VALUES["profiles"]["quick"]["ablation"]


WRONG = [  # what stands there, what is written instead, what is said: name, value and cure
    ("cfg_scale: 5.0", "cgf_scale: 5.0", "sampling.cgf_scale: Extra inputs are not permitted (got 5.0)"),
    ("cfg_scale: 5.0", "cfg_scale: 5.0\n  cfg_scale: 6.0", "'cfg_scale' is stated twice"),
    ("cfg_scale: 5.0", "cfg_scale: 3e-1", "sampling.cfg_scale: Input should be a valid number (got '3e-1')"),
    ("cfg_scale: 5.0", "cfg_scale: .inf", "sampling.cfg_scale: Input should be a finite number (got inf)"),
    ("cfg_scale: 5.0", "cfg_scale: .nan", "sampling.cfg_scale: Input should be a finite number (got nan)"),
    ("cfg_scale: 5.0", "cfg_scale: 1.0e+30", "sampling.cfg_scale: Input should be less than or equal to 100"),
    ("cfg_scale: 5.0", "cfg_scale: true", "sampling.cfg_scale: Input should be a valid number (got True)"),
    ("steps: 6", "steps: true", "profiles.smoke.steps: Input should be a valid integer (got True)"),
    ("headline: 4", "headline: 401", "profiles.smoke.headline: Input should be less than or equal to 200 (got 401)"),
    ("showcase: 2", "showcase: 5", "showcase=5 is more than batch=4: raise batch or lower showcase"),
    ("profile: quick", "profile: qick", "unknown profile 'qick': use one of smoke, quick, page, full"),
    ("profile: quick", "profle: quick", "unknown entry of run 'profile': use one of profle"),
    ("run:\n", "run: 3\nruns:\n", "there is no entry of run 'profile' in 3: state it as `profile: ...`"),
    ("dga:\n", "dag:\n", "unknown block 'dga': use one of run, profiles, sampling, dag"),
    # cases
    ("like: full\n", "like: full\n      beside: {weight: 3}\n", "beside.method: Field required"),
    (
        "none:\n      images: headline",
        "none:\n      images: headline\n      weight: 3",
        "a case without a method is ungu",
    ),
    ("layout: masks", "layout: circles", "dga.cases.full_masks.layout: Input should be 'boxes' or 'masks'"),
    ("images: headline", "images: all", "dga.cases.none.images: Input should be 'headline', 'ablation'"),
    ("like: full\n", "like: ful\n", "dga.cases.coverage.like: 'ful' is no other case; use one of"),
    ("like: full\n", "like: coverage\n", "dga.cases.coverage.like: 'coverage' is no other case"),
    ("    full:\n", "    full:\n      like: coverage\n", "is no other case"),
    ("like: full\n", "like: [full]\n", "dga.cases.coverage.like: ['full'] is no other case"),
    ("like: full\n", "like: full\n      baseline: nothing\n", "is compared with 'nothing', which is no case"),
    ("case: full ", "case: ful ", "unknown case 'ful': use one of none, coverage"),
    ("cases:\n    none:", "cases: 3\n  other:\n    none:", "dga.cases: Input should be a valid dictionary (got 3)"),
    *(
        (
            "    coverage_size:",
            f"    {name!r}:",
            f"String should match pattern '^[a-z0-9]+(_[a-z0-9]+)*$' (got {name!r})",
        )
        for name in ("../../x", "a b; touch pwn", "", "..", "-S", "$(id)", "Full", "a-b")
    ),
    # a model that scores never guides
    (
        "guide: guide-segmenter",
        "guide: judge",
        "dga.guide: Value error, 'judge' scores the results, so it must not steer",
    ),
    ("guide: guide-segmenter", "guide: models/judge-clip/", "'models/judge-clip/' scores the results"),
    ("guide: guide-segmenter", "guide: ''", "dga.guide: String should have at least 1 character"),
    # no such file
    ("run:", "run: [", "params.yaml is no YAML: while parsing a flow sequence"),
    ("layout: masks", "? [layout]\n      : masks", "params.yaml is no YAML: a key is a name"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[new.strip() for _, new, _ in WRONG])
def test_a_wrong_entry_is_named_with_its_cure(tmp_path, old, new, said):
    profile = "smoke" if old in TEXT.split("  quick:")[0] and not old.startswith(("run", "profile")) else None
    with pytest.raises(ValueError, match=re.escape(said)):
        load(dga.Experiment, profile, changed(tmp_path, old, new))


SETTINGS = [  # of methods, which the methods themselves know
    ("weight: 25.0", "weight: 3e-1", "DGA(weight='3e-1'): a number is needed, not str"),
    ("weight: 25.0", "weight: true", "DGA(weight=True): a number is needed, not bool"),
    ("weight: 25.0", "weight: .inf", "DGA(weight=inf): use a finite number from 0 to 1e+06"),
    ("weight: 25.0", "weight: .nan", "DGA(weight=nan): use a finite number from 0 to 1e+06"),
    ("weight: 25.0", "weight: 1.0e+30", "DGA(weight=1e+30): use a finite number from 0 to 1e+06"),
    ("distance_weight: 0.0", "distanse_weight: 0.0", "DGA has no setting 'distanse_weight': use one of"),
    ("weight: 25.0", "segmenter: judge", "DGA has no setting 'segmenter': use one of"),
    ("stop: 0.3\n", "stop: 1.3\n", "dga.cases.window_30: DGA(window={'start': 0.0, 'stop': 1.3})"),
    ("method: dga", "method: dag", "unknown method 'dag': use one of attend_excite, boxdiff"),
    ("method: dga", "method: cfg\n      paper: true", "cfg has no paper's values: leave out `paper`"),
    ("like: full\n", "like: full\n      beside: {method: dag}\n", "unknown method 'dag': use one of attend_excite"),
]


@pytest.mark.parametrize(("old", "new", "said"), SETTINGS, ids=[new.strip() for _, new, _ in SETTINGS])
def test_a_wrong_setting_of_a_method_is_named_before_any_stage_begins(tmp_path, old, new, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        check.check(changed(tmp_path, old, new))
    assert "params.yaml is not valid; correct dga.cases." in str(error.value)


@pytest.mark.parametrize(
    ("block", "change", "said"),
    [
        ("layout", lambda own: own["search"]["ilgd"][1].update(wait=3.0), "layout.search.ilgd[1]: ILGD has no setting"),
        (
            "ilgd",
            lambda own: own["cases"]["losses"]["grid"]["loss"].append("pique"),
            "ilgd.cases.losses (pique): ",
        ),
        ("ilgd", lambda own: own["cases"]["losses"]["grid"].update(lose=[1]), "ILGD has no setting 'lose'"),
        ("dma", lambda own: own["cases"]["full"].update(method="dmaa"), "dma.cases.full: unknown method 'dmaa'"),
        ("combinations", lambda own: own["cases"]["text"].update(modules=["texts"]), "combinations.cases.text.modules"),
        ("robustness", lambda own: own["cases"]["mask_error"].update(knob="maks"), "robustness.cases.mask_error.knob"),
    ],
)
def test_every_block_is_checked_with_what_it_searches_and_varies(tmp_path, block, change, said):
    values = yaml.safe_load(TEXT)
    change(values[block])
    with pytest.raises(ValueError, match=re.escape(said)):
        check.check(written(tmp_path, yaml.safe_dump(values, sort_keys=False)))


def put(tmp_path, place: str, value) -> Path:
    """params.yaml with a value at a place, "layout.search.ilgd.0"; without a value the entry is removed."""
    values = yaml.safe_load(TEXT)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    block = values
    for part in path:
        block = block[part]
    if value is ...:
        del block[last]
    else:
        block[last] = value
    return written(tmp_path, yaml.safe_dump(values, sort_keys=False))


DGA, FUSED = {"method": "dga"}, {"method": "multidiffusion"}
TOGETHER = [  # where, what is put there, what is said: what the sampler alone would have refused, hours later
    ("dga.cases.window_30.beside", DGA, "dga.cases.window_30: guidance holds 'dga' twice"),
    ("layout.search.ilgd_dga.1.beside", {"method": "ilgd"}, "layout.search.ilgd_dga[1]: guidance holds 'ilgd' twice"),
    ("ilgd.cases.masks.grid.beside", [DGA, {"method": "ilgd"}], "guidance holds 'ilgd' twice"),
    ("layout.cases.composable.beside", FUSED, "layout.cases.composable: composable and multidiffusion each decide how"),
    ("dga.cases.window_30.beside", {"method": "cfg"}, None),  # in the place of the pipeline's own
    ("dma.cases.flow_error.beside", {"method": "cfg"}, None),  # which drags have not
    ("dga.cases.mine", {"images": "subset", "method": "dma"}, "dga.cases.mine: dma: "),
    ("dma.cases.mine", {"images": "subset", "method": "ilgd"}, "'layouts': name a method that needs only what"),
    ("combinations.cases.text.modules", ["text", "text"], "combinations.cases.text: modules ['text', 'text'] names"),
    ("combinations.cases.drag.modules", ["drag", "source"], "combinations.cases.drag: guidance holds 'dma' twice"),
    ("combinations.cases.text_paper.modules", [], "text_paper: modules [] has nothing that `weights: paper` weighs"),
    ("combinations.cases.none.modules", [], None),
    ("dma.cases.full.beside", {"method": "cfg"}, "combinations.cases.drag_paper: modules ['drag'] as `weights: paper`"),
    ("dca.cases.attributes_relations", ..., "is no other case"),
    ("layout.search.ilgd.0", DGA, "layout.search.ilgd[0]: method is the case's own ('dga'): leave it out"),
    ("layout.search.ilgd.0", {"baseline": "dga"}, "layout.search.ilgd[0]: baseline is the case's own"),
    ("ilgd.cases.windows.settings.method", "dga", "ilgd.cases.windows.settings: method is the case's own"),
    ("ilgd.cases.windows.grid.method", ["dga"], "ilgd.cases.windows.grid: method is the case's own"),
    ("ilgd.cases.many.grid.split", ["tset"], "ilgd.cases.many.grid.split: unknown split 'tset': use one of dev, test"),
    ("ilgd.cases.masks.grid.layout", ["mask"], "ilgd.cases.masks.grid.layout: unknown layout 'mask': use one of boxes"),
    ("ilgd.cases.sizes.grid.size", [64], "params.yaml is not valid; correct ilgd.cases: "),
    ("layout.cases.dga_tuned", DGA, "layout.cases.dga_tuned: _tuned is what the search adds"),
    ("layout.cases.mine_tuned", DGA, "layout.cases.mine_tuned: _tuned is what the search adds"),
]


def checked(path: Path, said: str | None) -> None:
    if said is None:
        return check.check(path)
    with pytest.raises(ValueError, match=re.escape(said)):
        check.check(path)


@pytest.mark.parametrize(
    ("place", "value", "said"), TOGETHER, ids=[f"{place}: {value}" for place, value, _ in TOGETHER]
)
def test_what_cannot_be_sampled_together_is_named_before_any_stage_begins(tmp_path, place, value, said):
    checked(put(tmp_path, place, value), said)


NAMED = [
    ("dga.guide", "guide_segmenter", "dga.guide: there is no model 'guide_segmenter': did you mean 'guide-segmenter'?"),
    ("dga.guide", "Judge", "correct dga.guide: there is no model 'Judge': "),
    ("dca.detector", "models/clipp", "correct dca.detector: there is no model 'models/clipp': did you mean 'clip'?"),
    ("dma.flow", "raft_larg", "correct dma.flow: there is no model 'raft_larg'"),
    ("dma.clicks", "samm", "correct dma.clicks: there is no model 'samm'"),
    ("dma.features", "dinov2", "correct dma.features: there is no model 'dinov2'"),
    ("layout.guide", "raft_large", "correct layout.guide: there is no model 'raft_large'"),
    ("ilgd.guide", " ", "correct ilgd.guide: there is no model ' '"),
    ("dma.flow", "raft_large", None),
    ("dga.guide", "CIDAS/clipseg-rd64-refined", None),
    ("dga.guide", "models/guide-segmenter", None),
    ("sampling.backbone", "mini-sdd", "correct sampling.backbone: unknown backbone 'mini-sdd': use one of mini-sd, "),
    ("sampling.backbone", "judge", "correct sampling.backbone: unknown backbone 'judge'"),
    ("sampling.backbone", "models/judge", "correct sampling.backbone: unknown backbone 'models/judge'"),
    ("sampling.backbone", "models/mini-sdd", "correct sampling.backbone: unknown backbone 'models/mini-sdd'"),
    ("sampling.backbone", "sd15", None),
    ("sampling.backbone", "models/mini-sd", None),
    ("sampling.backbone", "stabilityai/sdxl-turbo", None),
    ("dga.benchmark", "x", "correct dga.benchmark: unknown benchmark 'x'; choose one of miniature, "),
    ("dga.benchmark", "base", "correct dga.benchmark: unknown benchmark 'base'"),
    ("ilgd.benchmark", "miniature_edits", "correct ilgd.benchmark: unknown benchmark 'miniature_edits'"),
    ("training.cilp", {"smoke": {"batch": 2, "steps": [1]}}, "correct training: unknown model 'cilp': use one of auto"),
    ("training.clip.qick", {"batch": 2, "steps": [1]}, "correct training.clip: unknown profile 'qick': use one of"),
]


@pytest.mark.parametrize(("place", "value", "said"), NAMED, ids=[f"{place}: {value}" for place, value, _ in NAMED])
def test_a_model_or_benchmark_that_is_nowhere_is_named(tmp_path, place, value, said):
    checked(put(tmp_path, place, value), said)


def test_a_model_that_is_not_pulled_is_known(tmp_path, monkeypatch):
    def missing(*names):
        raise FileNotFoundError("run `dvc pull`")

    monkeypatch.setattr(check, "source", missing)
    check.check()


BROKEN = [
    *((block, value, f"correct {block}: it is {value!r}, without entries: state them as `name: ...`")
      for block in ("profiles", "run", "sampling", "training", "training.clip") for value in (None, {}, [3], "quick")),
    ("run.profile", ..., "correct run: it is {}, without entries"),
    ("run.profle", "quick", "correct run: unknown entry 'profle': run has only the entry profile"),
    ("run.profile", ["quick"], "correct run.profile: it is ['quick']: name one of smoke, quick, page, full"),
    ("run.profile", None, "correct run.profile: it is None: name one of smoke, quick, page, full"),
    ("run.profile", "qick", "correct run.profile: unknown profile 'qick': use one of smoke, quick, page, full"),
    ("profiles.quick", None, "profiles.quick: Input should be a valid dictionary"),
    ("training.clip.quick", None, "training.clip.quick: Input should be a valid dictionary"),
    ("run", ..., "unknown block 'run': use one of profiles"),
    *((name, value, f"unknown block {name!r}: use one of run, profiles, sampling, training, combinations, dca, dga")
      for name in ("best_of", "methods", "fixtures", "check", "igld") for value in (None, {"cases": {}})),
    ("dga", None, "dga: Input should be a valid dictionary"),
    ("dga.cases", None, "dga.cases: Input should be a valid dictionary"),
    *(("dga.cases.full", value, f"correct dga.cases.full: it is {value!r}, without entries: state them as `name: ...`")
      for value in (None, 7, "none", ["none"])),
    ("dga.cases.window_30", None, "dga.cases.window_30: Input should be a valid dictionary"),
    ("layout.cases.none", 7, "layout.cases.none: Input should be a valid dictionary"),
    ("layout.search", None, "layout.search: Input should be a valid dictionary"),
    ("ilgd.cases.many.grid.case", [["none"]], "params.yaml is not valid; correct ilgd.cases: "),
    *((f"{place}.paper", value, f"{place.replace('.0', '[0]')}.paper: it is {value!r}: use true or false")
      for place in ("layout.cases.boxdiff", "layout.cases.ilgd_dga.beside", "layout.search.ilgd.0",
                    "dga.cases.window_30", "ilgd.cases.windows.settings") for value in (1, "yes", 0, None)),
    ("ilgd.cases.losses.grid.paper", [True, 1], "ilgd.cases.losses.grid.paper: it is 1: use true or false"),
    ("ilgd.cases.losses.grid.paper", [True, False], None),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "said"), BROKEN, ids=[f"{place}: {value}" for place, value, _ in BROKEN])
def test_what_has_no_entries_or_another_kind_of_value_is_named(tmp_path, place, value, said):
    checked(put(tmp_path, place, value), said)


@pytest.mark.parametrize("name", ["a.b", "..", "x y", 3, None])
def test_a_block_that_is_no_experiment_lists_the_experiments(tmp_path, name):
    values = yaml.safe_load(TEXT) | {name: {"cases": {}}}
    checked(written(tmp_path, yaml.safe_dump(values, sort_keys=False)), f"unknown block {name!r}: use one of run, ")


def test_a_case_may_be_called_paper(tmp_path):
    check.check(put(tmp_path, "dga.cases.paper", {"images": "subset", "method": "dga", "paper": True}))


def test_the_file_as_it_is_passes_the_check():
    check.check()


@pytest.mark.parametrize(("old", "text"), [("clip # ", "the open_clip"), ("# the case", "the case")])
def test_comments_are_free(tmp_path, old, text):
    assert (
        load(dca.Experiment, path=changed(tmp_path, "guide: clip", "guide: clip # " + text)).experiment.guide == "clip"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace("# seconds", "# s\xe9conds").encode("latin-1"), "params.yaml is not UTF-8 (invalid continuation"),
        ("", "params.yaml holds None, no blocks: run `git checkout params.yaml`"),
        ("- 3", "params.yaml holds [3], no blocks"),
        ("a: \x00", "params.yaml is no YAML"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load(path=written(tmp_path, text))


def test_a_missing_file_says_how_it_comes_back(tmp_path):
    with pytest.raises(ValueError, match=r"nothing.yaml is missing: run `git checkout nothing.yaml`"):
        load(path=tmp_path / "nothing.yaml")


def test_an_unknown_case_profile_or_plan_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown case 'ful': use one of none, coverage"):
        load(dga.Experiment).case("ful")
    with pytest.raises(ValueError, match="unknown profile 'fast': use one of smoke, quick, page, full"):
        load(profile="fast")
    with pytest.raises(ValueError, match="unknown block 'cilp': use one of autoencoder"):
        section(("training", "cilp", "smoke"), Profile)


def test_params_are_frozen():
    params = load(dga.Experiment)
    for change in (
        lambda: setattr(params.sampling, "cfg_scale", 1.0),
        lambda: setattr(params.case("full"), "images", "curve"),
        lambda: setattr(params, "name", "full"),
    ):
        with pytest.raises((ValueError, AttributeError), match="frozen|cannot assign"):
            change()


def test_a_case_takes_what_it_does_not_state_from_the_one_that_it_is_like(tmp_path):
    params = load(dga.Experiment)
    early = {"start": 0.0, "stop": 0.3}
    assert params.case("window_30") == params.case("full").stating(images="ablation", window=early)
    heirs = load(dca.Experiment, path=changed(tmp_path, "relation_weight: 7.0", "relation_weight: 8.0"))
    stated = [heirs.case(name).methods[0].settings["relation_weight"] for name in ("full", "full_best", "attributes")]
    assert stated == [8.0, 8.0, 0.0]
    assert heirs.case("full_best").tries == 4 and heirs.case("full").tries == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("dga.cases.coverage.weight=40", "      weight: 40"),
        ("run.profile=smoke", "  profile: smoke"),
        ("sampling.backbone=stable-diffusion-v1-5/stable-diffusion-v1-5", None),
        ("dga.cases.window_30.window.stop=0.25", "        stop: 0.25"),
        ("layout.search.ilgd.2.window.stop=0.9", "        stop: 0.9"),
        ("ilgd.cases.injection.settings.weight=0.5", "        weight: 0.5"),
        ("training.dino.quick.batch=6", "      batch: 6"),
    ],
)
def test_dvc_exp_run_s_changes_one_line(tmp_path, change, line):
    path = written(tmp_path, TEXT)
    apply_overrides(path, [change])
    pairs = [pair for pair in zip(TEXT.splitlines(), path.read_text().splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(pairs) == 1
    assert line in (None, pairs[0][1])


def test_the_file_is_written_for_people_and_for_ruamel():
    assert max(map(len, TEXT.splitlines())) < 80
    assert not re.search(r"(?m)^[^#]*[&*]\w|<<:", TEXT), "no anchors: `like` does what they do, and survives -S"
    assert not re.search(r'(?m)^[^#]*"', TEXT), "single quotes"


def test_every_tunable_is_explained_where_it_first_stands():
    """Beside it or above it; what a case states is explained by the schemas in helpers/experiments and the methods."""
    seen, above = set(), ""
    for line in TEXT.splitlines():
        key = re.match(r"( *)([a-z_]+):", line)
        if key and key[2] not in seen and len(key[1]) < 6 and not line.endswith(":"):
            seen.add(key[2])
            assert "#" in line or "#" in above, f"say what {key[2]!r} is, its default and range"
        above = line


def leaves(value, path=""):
    if not isinstance(value, dict):
        return [path]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".strip("."))]


def test_every_tunable_is_read_by_a_stage():
    """As a parameter, or, of a case, by its key in code.yaml."""
    stated = set()
    for stage in STAGES.values():
        for entry in stage.get("do", stage).get("params", []):
            for name in (n for names in entry.values() for n in names) if isinstance(entry, dict) else [entry]:
                stated.add(re.sub(r"\$\{[\w.]+\}", "*", name))
    for leaf in leaves(VALUES):
        generic = re.sub(r"^(profiles|training\.\w+|layout\.search|\w+\.cases)\.\w+", r"\1.*", leaf)
        generic = re.sub(r"^(\w+)\.cases\.\*.*", r"settings.\1.*", generic)
        generic = re.sub(rf"^(\w+)\.({'|'.join(ROLES)})$", r"models.\1", generic)
        generic = re.sub(r"^(\w+)\.(benchmark|cases_of)$", r"settings.\1.*", generic)  # part of every case's
        read = any(generic == name or generic.startswith(name + ".") for name in stated)
        unpublished = leaf.startswith("training.mini_sd3.")  # read by its notebook; its stage comes with its weights
        assert read or unpublished or leaf == "run.profile", f"no stage of dvc.yaml reads {leaf}"


def test_every_figure_belongs_to_a_report():
    reports = [stage for name, stage in STAGES.items() if name.split("_")[0] == "report"]
    outs = [next(iter(out)) for stage in reports for out in stage["outs"] if isinstance(out, dict)]
    there = [f"figures/{path.name}" for path in (ROOT / "figures").iterdir()]
    assert set(there) <= set(outs) and len(outs) == len(set(outs))


def test_the_numbers_of_every_report_are_gathered():
    made = {out for name, stage in STAGES.items() if name.startswith("report_") for out in stage["outs"][:1]}
    assert made == {f"results/metrics/{name}.json" for name in reports()}
    assert STAGES["report"]["deps"] == ["helpers/reports/results.md.j2", "results/metrics"]


def test_dvc_reads_the_pipeline():
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 500, "it is written for people"
    named = {f"{kind}_{block}@none" for kind in ("sample", "score") for block in ("dga", "dca", "dma", "combinations")}
    assert named | {"perception", "report"} <= set(listed.stdout.split())
