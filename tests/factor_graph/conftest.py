"""Tiny ControlNets of the real class, seeded and untrained."""

from functools import cache

import pytest
import torch
from diffusers import ControlNetModel
from tiny_pipelines import tiny_backbone


@pytest.fixture(scope="session")
def control():
    @cache
    def made(conditions: int, trained: bool = True) -> ControlNetModel:
        """For so many conditions, a picture of twice the latents' side; untrained it adds exactly nothing."""
        torch.manual_seed(conditions)
        unet = tiny_backbone("sd21").denoiser
        found = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(8, 16, 16), conditioning_channels=4 * conditions
        )
        if trained:
            for name, parameter in found.named_parameters():
                if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
                    torch.nn.init.normal_(parameter, std=0.5)
        return found

    return made
