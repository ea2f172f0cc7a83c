"""How long and how each miniature model is trained: the block `training` of params.yaml."""

from helpers.params import Block, Count, Positive, Weight, section


class Phase(Block):
    """Of the autoencoder: steps, learning rate, weights of the Kullback-Leibler and half-scale terms."""

    steps: Count
    lr: Positive
    kl_weight: Weight
    scale_weight: Weight


class AutoencoderPlan(Block):
    batch: Count
    phases: tuple[Phase, Phase]


class SinglePlan(Block):
    """bank: scenes that are encoded beforehand, for models that learn from latents."""

    batch: Count
    steps: Count
    lr: Positive
    bank: Count | None = None


class StagedPlan(Block):
    """Runs that follow one another: steps of each."""

    batch: Count
    steps: tuple[Count, ...]


SINGLE = ("text", "mini_sd", "mini_sd3", "fgdm_autoencoder", "fgdm_segmentation", "fgdm_image")
KINDS = {"autoencoder": AutoencoderPlan} | dict.fromkeys(SINGLE, SinglePlan)  # the others are staged


def plan(model: str, profile: str, data: dict | None = None) -> AutoencoderPlan | SinglePlan | StagedPlan:
    """The plan of a model ("guide_segmenter") in a profile; ValueError as for every other block of params.yaml."""
    return section(("training", model, profile), KINDS.get(model, StagedPlan), data)
