"""Names of guides, and folders that lack something: refused with the name, the value and the cure."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import paths
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.detector import ZeroShotDetector
from helpers.perception.features import Features
from helpers.perception.flow import Flow
from helpers.perception.loading import guides, loading, source
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity

GUIDES = {
    "guide-segmenter": (Segmenter, "model.safetensors"),
    "clip": (Similarity, "open_clip_model.safetensors"),
    "sam": (ClickSegmenter, "model.safetensors"),
    "dino": (Features, "model.safetensors"),
    "raft": (Flow, "model.safetensors"),
}


def test_a_name_a_folder_and_a_hub_id_are_sources(tmp_path, monkeypatch):
    assert source("clip") == paths.MODELS / "clip"
    assert source("models/clip").samefile(paths.MODELS / "clip")
    assert source(str(tmp_path)) == source(tmp_path) == tmp_path
    assert source("CIDAS/clipseg-rd64-refined") == "CIDAS/clipseg-rd64-refined"
    assert source("raft_large", "raft_large") == "raft_large"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert source("./mine") == Path("mine") and source("mine") == Path("mine")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("guide_segmenter", "no model 'guide_segmenter': did you mean 'guide-segmenter'"),
        ("models/guide_segmenter", "no model 'models/guide_segmenter': did you mean 'guide-segmenter'"),
        ("Clip", "did you mean 'clip'"),
        ("nothing", r"no model 'nothing': name one of .*clip, .*a folder, or a Hub id such as 'owner/name'"),
        ("", "no model '': name one of"),
        ("/nowhere/at/all", "no model '/nowhere/at/all'"),
        ("a/b/c", "no model 'a/b/c'"),
        (None, "got None"),
        (Path("/nowhere"), "folder /nowhere is not there"),
    ],
)
def test_what_is_nowhere_is_named_with_what_there_is(name, said):
    with pytest.raises(ValueError, match=said) as error:
        source(name)
    assert "dvc pull" not in str(error.value) and "judge" not in str(error.value)


@pytest.mark.parametrize("name", ["judge", "judge-clip", "models/judge-clip", str(paths.MODELS / "judge"), "judge-new"])
def test_a_judge_never_guides(name):
    with pytest.raises(ValueError, match=f"model '{name}' is a judge, and what scores the results never guides"):
        Similarity.load(name)
    assert not any(guide.startswith("judge") for guide in guides())


def test_weights_that_were_not_pulled_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    with pytest.raises(FileNotFoundError, match="weights of 'sam' .*: run `dvc pull models/sam`"):
        ClickSegmenter.load("sam")


@pytest.mark.parametrize("name", GUIDES)
def test_a_folder_without_its_weights_is_refused(name, tmp_path):
    guide, file = GUIDES[name]
    folder = shutil.copytree(paths.MODELS / name, tmp_path / name)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"the model {folder} cannot be loaded: copy or download it"):
        guide.load(folder)


@pytest.mark.parametrize("name", GUIDES)
def test_weights_that_are_missing_left_over_or_of_another_shape_are_refused(name, tmp_path):
    guide, file = GUIDES[name]
    folder = shutil.copytree(paths.MODELS / name, tmp_path / name)
    whole = load_file(folder / file)
    key = [k for k, v in whole.items() if v.dim() > 1 and k.endswith("weight")][-1]
    lacking = {k: v for k, v in whole.items() if k != key}
    for weights in (lacking, {**whole, "left.over": torch.zeros(2)}, {**whole, key: whole[key][:-1].contiguous()}):
        (folder / file).unlink()
        save_file(weights, folder / file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"the model {folder} cannot be loaded: copy") as error:
            guide.load(str(folder))
        assert "left.over" in str(error.value) or key in str(error.value)


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("damage", [b"", b"no weights"])
def test_damaged_weights_of_a_trained_model_name_the_pull(name, damage, tmp_path, monkeypatch):
    guide, file = GUIDES[name]
    shutil.copytree(paths.MODELS / name, tmp_path / name)
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    (tmp_path / name / file).write_bytes(damage)
    with pytest.raises(FileNotFoundError, match=f"{name} is not .* dvc.lock .*run `dvc pull models/{name} --force`"):
        guide.load(name)


def test_a_model_of_another_role_is_refused(tmp_path):
    for guide in (Segmenter, ClickSegmenter, Features):
        other = "sam" if guide is not ClickSegmenter else "dino"
        with pytest.raises(ValueError, match=f"models/{other} holds a Stemmed.*: use one of"):
            guide.load(other)
    for guide, other in ((Similarity, "sam"), (Flow, "dino"), (Segmenter, "raft"), (ZeroShotDetector, "clip")):
        with pytest.raises(ValueError, match=f"models/{other} cannot be loaded"):
            guide.load(other)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(ValueError, match="holds a nothing: use one of SamModel"):
        ClickSegmenter.load(tmp_path)


def test_a_hub_that_does_not_answer_is_named_with_its_model():
    with pytest.raises(
        ValueError, match="the model some/model cannot be loaded: check the spelling.*no route"
    ) as error:
        with loading("some/model"):
            raise OSError("no route\nto host")
    assert "dvc" not in str(error.value) and isinstance(error.value.__cause__, OSError)
