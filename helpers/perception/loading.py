"""Where guides come from: a name in models/, a folder or a Hub id; and what the libraries make of it.

No network starts from random weights: whatever is missing or left over in a folder is an error that names it.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel
from transformers.utils import cached_file

from helpers import paths

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def guides() -> list[str]:
    """The names in models/, pulled or not, without the judges: what scores the results never guides."""
    lock = paths.ROOT / "dvc.lock"
    known = set(re.findall(r"path: models/([\w.-]+)", lock.read_text())) if lock.is_file() else set()
    if paths.MODELS.is_dir():
        known |= {folder.name for folder in paths.MODELS.iterdir() if folder.is_dir()}
    return sorted(name for name in known if not name.startswith("judge"))


def source(name: str | Path, *others: str) -> Path | str:
    """What a name of params.yaml means: the folder models/<name>, an existing folder, or a Hub id "owner/name".

    others: further names that the caller knows; they are returned as they are. A Path is code's own choice of a folder
    and is only looked at. ValueError for what is nowhere and for a judge, FileNotFoundError for weights not pulled.
    """
    if isinstance(name, Path):
        if not name.is_dir():
            raise ValueError(f"the model's folder {name} is not there: {_offer(name.name, others)}")
        return name
    if not isinstance(name, str):
        raise ValueError(f"a model must be named by a text or a Path, got {name!r}: {_offer('', others)}")
    folders = [] if not name.strip() else [Path(name).expanduser(), paths.ROOT / name]
    folder = next((folder for folder in folders if "/" in name and folder.is_dir()), None)
    inside = folder.resolve() if folder else paths.MODELS / name
    if inside.name.startswith("judge") and inside.parent == paths.MODELS:
        raise ValueError(f"model {name!r} is a judge, and what scores the results never guides: {_offer('', others)}")
    if name in others:
        return name
    if folder is None and name in guides():
        return paths.weights(name)
    folder = folder or next((folder for folder in folders if folder.is_dir()), None)
    if folder:
        return folder
    if HUB_ID.fullmatch(name) and not any(folder.parent.is_dir() for folder in folders):
        return name
    raise ValueError(f"there is no model {name!r}: {_offer(name, others)}")


def _offer(name: str, others: tuple[str, ...]) -> str:
    known = [*guides(), *others]
    hyphened = {one.replace("_", "-"): one for one in known}
    near = difflib.get_close_matches(name.lower().replace("_", "-").removeprefix("models/"), hyphened, 1, 0.75)
    meant = f"did you mean {hyphened[near[0]]!r}? " if near else ""
    return f"{meant}name one of {', '.join(known)}, a folder, or a Hub id such as 'owner/name'"


@contextmanager
def loading(where: Path | str) -> Iterator[None]:
    """Turns what a library says of a broken model into one ValueError with the model's name and the cure."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        said = said if len(said) <= 300 else said[:300] + " ..."
        raise ValueError(f"the model {where} cannot be loaded: {_cure(where)}. The library says: {said}") from error


def _cure(where: Path | str) -> str:
    if isinstance(where, str):
        return "check the spelling, your connection and its terms of use, or name a folder that holds it"
    if where.resolve().parent == paths.MODELS:
        return f"run `dvc pull models/{where.name} --force`"
    return "copy or download it into that folder again"


def pretrained(where: Path | str, models: Mapping[str, type[PreTrainedModel]]) -> PreTrainedModel:
    """The float32 network in a folder or a Hub id, of the class that its config.json names; it must be in `models`.

    ValueError for another class, for files that are missing or damaged, and for weights that are missing or left over.
    """
    with loading(where):
        named = AutoConfig.from_pretrained(where).architectures or ["nothing"]
    if named[0] not in models:
        raise ValueError(f"{where} holds a {named[0]}: use one of {', '.join(models)}")
    return complete(where, models[named[0]], attn_implementation="sdpa")


def complete(where: Path | str, model: type, **options) -> PreTrainedModel:
    """`model.from_pretrained` in float32; ValueError where it would fill gaps with random weights or drop some."""
    with loading(where):
        options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}  # judged here
        network, info = model.from_pretrained(where, **options)
        for what in ("missing", "unexpected", "mismatched"):
            keys = sorted(key if isinstance(key, str) else key[0] for key in info[f"{what}_keys"])
            if keys:
                raise ValueError(f"{what} weights: {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}")
    return network


def image_processor(where: Path | str, default):
    """What the model's preprocessor_config.json or processor_config.json says; `default` where it has neither."""
    with loading(where):
        files = ("preprocessor_config.json", "processor_config.json")
        if not any(cached_file(where, file, _raise_exceptions_for_missing_entries=False) for file in files):
            return default
        return AutoImageProcessor.from_pretrained(where, backend="torchvision")
