"""Models by name: what is missing, damaged or called otherwise is refused with the command that mends it."""

import shutil
import subprocess
import sys

import pytest

from helpers import paths
from helpers.paths import weights

NAMES = ("autoencoder", "clip", "dino", "guide-segmenter", "judge", "judge-clip", "mini-sd", "raft", "sam", "text")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Copies of two models that may be damaged."""
    for name in ("clip", "mini-sd"):
        shutil.copytree(paths.MODELS / name, tmp_path / name)
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_the_recorded_one(name):
    assert weights(name) == paths.MODELS / name


@pytest.mark.parametrize(
    "name",
    ["CIDAS/clipseg-rd64-refined", "guide_segmenter", "mini_sd", "", ".", "..", "../models/clip", "clip/", "/", None],
)
def test_a_name_that_is_none_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError) as error:
        weights(name)
    assert f"no model {name!r}" in str(error.value) and "dvc pull" not in str(error.value)
    assert all(known in str(error.value) for known in NAMES)


def remove_weights(folder):
    (folder / "open_clip_model.safetensors").unlink()


def remove_config(folder):
    (folder / "open_clip_config.json").unlink()


def truncate(folder):
    file = folder / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip(folder):
    file = folder / "open_clip_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize("damage", [shutil.rmtree, empty, remove_weights, remove_config, truncate, flip])
def test_whatever_is_wrong_the_error_says_what_to_pull(models, damage):
    damage(models / "clip")
    with pytest.raises(FileNotFoundError, match="clip.*run `dvc pull models/clip( --force)?`"):
        weights("clip")


def test_one_part_of_a_pipeline_is_missed(models):
    next((models / "mini-sd" / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="run `dvc pull models/mini-sd --force`.*`dvc commit train_mini_sd`"):
        weights("mini-sd")


def test_what_dvc_ignores_does_not_matter_and_own_models_are_taken(models):
    (models / "clip" / ".ipynb_checkpoints").mkdir()
    (models / "clip" / ".ipynb_checkpoints" / "config.json").write_text("{}")
    assert weights("clip") == models / "clip"
    shutil.copytree(models / "clip", models / "my_own")
    assert weights("my_own") == models / "my_own"
    (models / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="weights of 'none' are not in"):
        weights("none")


def test_paths_cost_no_libraries():
    code = (
        "import sys, helpers.paths, helpers.files; print([m for m in ('torch', 'numpy', 'yaml') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
