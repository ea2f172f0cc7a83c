"""Held-out scenes, on which trained models are measured."""

import torch

from helpers.benchmarks.miniature import load_scenes, scene_of
from helpers.miniature.captions import Caption, Phrase
from helpers.miniature.items import Case
from helpers.miniature.layouts import layout_case
from helpers.miniature.scene import Scene


def held_out(n: int) -> tuple[list[Scene], torch.Tensor]:
    """The first n held-out scenes and their images (n, 3, 64, 64) in [0, 1]."""
    arrays, _ = load_scenes()
    images = torch.from_numpy(arrays["images"][:n]).permute(0, 3, 1, 2).float() / 255
    return [scene_of(arrays, i) for i in range(len(images))], images


def caption_cases(n: int) -> list[Case]:
    """n held-out scenes as benchmark cases; prompts are short captions, in every fourth block of four the long ones.

    The order takes scenes from everywhere in the file, so one in five shows a composition that training held out.
    """
    arrays, captions = load_scenes()
    cases = []
    for k in range(n):
        i = (k // 4 * 2 % 249) * 4 + k % 4
        scene, said = scene_of(arrays, i), captions[i]["long" if k // 4 % 4 == 3 else "short"]
        phrases = tuple(Phrase(**phrase) for phrase in said["phrases"])
        caption = Caption(said["text"], phrases, tuple(said["relations"]), scene.background)
        cases.append(layout_case(scene, caption, f"scene-{i:03d}", 500_000 + i))
    return cases
