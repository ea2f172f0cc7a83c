"""What reaches a network is what its library's own processor makes of the same picture; tiny networks of real classes.

Pictures are bytes for the library and floats for us. Where nothing is resized both agree to 1e-6. Where something is,
the library rounds to whole grey values, once or twice: each rounding errs by a quarter of a grey value on average.
"""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import interpolate
from transformers import (
    BitImageProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    ViTImageProcessor,
)

from helpers.miniature.world import Scene, Thing, render
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.crops import crop
from helpers.perception.detector import MaskDetector
from helpers.perception.features import Features
from helpers.perception.flow import Flow
from helpers.perception.preprocessing import prepare
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity
from helpers.training.text import tokenizer

SIZES = [(64, 64), (48, 72), (512, 768), (300, 200)]
GREY = 1 / 255
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
THIN = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def picture(height, width):
    """Bytes (H, W, 3) with smooth parts, noise and hard edges, and the floats (1, 3, H, W) of the same picture."""
    rng = np.random.default_rng([height, width])
    y, x = np.mgrid[:height, :width] / max(height, width)
    smooth = np.stack([x, y, (x + y) / 2], 2) * 255
    smooth[: height // 3] = rng.integers(0, 256, (height // 3, width, 3))
    smooth[height // 2 :, : width // 4] = (0, 255, 0)
    bytes_ = smooth.round().astype(np.uint8)
    return bytes_, torch.from_numpy(bytes_).permute(2, 0, 1)[None].float() / 255


def same(ours, theirs, std, resized=True):
    """Equal normalised pixel values: to 1e-3 on average, and to two grey values everywhere; exactly if not resized."""
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    off = (ours - theirs) * torch.tensor(std)[:, None, None]
    if not resized:
        assert off.abs().max() < 1e-6
    assert off.mean().abs() < 1e-3 and off.abs().mean() < 0.5 * GREY and off.abs().max() <= 2 * GREY


@pytest.fixture
def fed(monkeypatch):
    """What a module gets as its first input, while the guide works."""

    def watch(module, call):
        seen = []
        hook = module.register_forward_pre_hook(
            lambda _, inputs, kwargs: seen.append([*inputs, *kwargs.values()][0]), with_kwargs=True
        )
        result = call()
        hook.remove()
        return result, seen[0]

    return watch


# --- CLIPSeg ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("clipseg"), tokenizer()
    ids = {f"{k}_token_id": getattr(words, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config={**THIN, "vocab_size": len(words), **ids},
        vision_config={**THIN, "image_size": 224, "patch_size": 16},
        projection_dim=32,
        extract_layers=[0, 1],
        reduce_dim=16,
    )
    model = CLIPSegForImageSegmentation(config).eval()
    model.save_pretrained(folder)
    # the published file: a size as one number, and the name that processors had then
    published = {"feature_extractor_type": "ViTFeatureExtractor", "size": 352, "resample": 2, **IMAGENET}
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    words.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("size", SIZES)
def test_clipseg_sees_and_says_what_its_processor_and_model_do(clipseg, fed, size):
    folder, model = clipseg
    bytes_, image = picture(*size)
    segmenter = Segmenter.load(str(folder))
    words = segmenter.embed(["red car"])
    ours, pixels = fed(segmenter.model.clip.vision_model.embeddings, lambda: segmenter(image, words))
    processor = CLIPSegProcessor(ViTImageProcessor.from_pretrained(folder), tokenizer())
    inputs = processor(text=["red car"], images=[Image.fromarray(bytes_)], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 352, 352)
    same(pixels, inputs["pixel_values"], IMAGENET["image_std"])
    floats = processor.image_processor(image, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, floats, atol=1e-5, rtol=0)
    with torch.no_grad():
        theirs = model(input_ids=inputs["input_ids"], pixel_values=pixels).logits.reshape(1, 1, 352, 352)
    assert ours.shape == (1, 1, *size)
    wanted = interpolate(theirs, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-3)


def test_a_clipseg_without_a_processor_is_taken_for_the_published_one(clipseg, tmp_path, fed):
    clipseg[1].save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    one, other = (Segmenter.load(folder) for folder in (clipseg[0], tmp_path))
    image, words = picture(48, 72)[1], one.embed(["red car"])
    torch.testing.assert_close(one(image, words), other(image, words))


# --- SAM --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    folder, square = tmp_path_factory.mktemp("sam"), {"hidden_size": 32, "image_size": 256, "patch_size": 16}
    vision = {"output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_pos_feats": 16}
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={**square, **vision, "initializer_range": 0.02, "global_attn_indexes": [1]},
        prompt_encoder_config=square,
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )
    model = SamModel(config).eval()
    model.save_pretrained(folder)
    processor = SamProcessor(
        SamImageProcessor(size={"longest_edge": 256}, pad_size={"height": 256, "width": 256}, **IMAGENET)
    )
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.mark.parametrize("size", SIZES)
def test_sam_sees_and_says_what_its_processor_and_model_do(sam, fed, size):
    folder, model, processor = sam
    bytes_, image = picture(*size)
    clicks = [[10.0, 20.0], [31.0, 40.0]]
    guide = ClickSegmenter.load(folder)
    ours, pixels = fed(guide.model.vision_encoder, lambda: guide(image, torch.tensor([clicks])))
    inputs = processor(Image.fromarray(bytes_), input_points=[[clicks]], return_tensors="pt")
    same(pixels, inputs["pixel_values"], IMAGENET["image_std"])
    floats = processor.image_processor(image, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, floats, atol=1e-5, rtol=0)
    h, w = inputs["reshaped_input_sizes"][0].tolist()
    assert max(h, w) == 256 and (pixels[..., h:, :] == 0).all() and (pixels[..., w:] == 0).all()
    with torch.no_grad():
        out = model(pixel_values=pixels, input_points=inputs["input_points"].float(), multimask_output=False)
    theirs = processor.image_processor.post_process_masks(
        out.pred_masks,
        [size],
        inputs["reshaped_input_sizes"].tolist(),
        binarize=False,
        pad_size={"height": 256, "width": 256},
    )
    torch.testing.assert_close(ours, theirs[0][0], atol=1e-4, rtol=1e-3)


def test_published_sam_is_padded_to_1024(tmp_path):
    """The processor's own defaults, without a network of that size."""
    bytes_, image = picture(512, 768)
    theirs = SamImageProcessor()(Image.fromarray(bytes_), return_tensors="pt")["pixel_values"]
    assert theirs.shape == (1, 3, 1024, 1024)
    same(prepare(SamImageProcessor(), image), theirs, IMAGENET["image_std"])


# --- DINOv2 -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 4])
def dino(request, tmp_path_factory):
    folder, shape = tmp_path_factory.mktemp("dino"), {"patch_size": 14, "image_size": 70}
    torch.manual_seed(0)
    if request.param:
        thin = {**THIN, **shape, "num_register_tokens": request.param}
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**thin)).eval()
    else:
        model = Dinov2Model(Dinov2Config(**THIN, **shape)).eval()
    model.save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 256}, **IMAGENET).save_pretrained(folder)
    return folder, model, request.param


@pytest.mark.parametrize("size", [*SIZES, (98, 126)])
def test_dinov2_sees_and_says_what_its_processor_and_model_do(dino, fed, size):
    folder, model, registers = dino
    bytes_, image = picture(*size)
    guide = Features.load(folder)
    ours, pixels = fed(guide.model.embeddings, lambda: guide(image))
    h, w = (round(side / 14) for side in size)
    theirs = BitImageProcessor.from_pretrained(folder)(
        Image.fromarray(bytes_), size={"height": 14 * h, "width": 14 * w}, do_center_crop=False, return_tensors="pt"
    )["pixel_values"]
    same(pixels, theirs, IMAGENET["image_std"], resized=(14 * h, 14 * w) != size)
    with torch.no_grad():
        states = model(pixels).last_hidden_state
    assert states.size(1) == 1 + registers + h * w
    wanted = states[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))
    torch.testing.assert_close(ours, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-4, rtol=1e-3)


# --- open_clip --------------------------------------------------------------------------------------------------------

TOWERS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
RECIPES = {
    "openai": {},
    "statistics": {"mean": IMAGENET["image_mean"], "std": IMAGENET["image_std"]},
    "siglip": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"},
    "longest": {"resize_mode": "longest", "fill_color": 51},
}


def clip_folder(folder, recipe):
    torch.manual_seed(0)
    model = open_clip.CLIP(**json.loads(json.dumps(TOWERS)))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TOWERS, "preprocess_cfg": recipe}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_clip_sees_what_open_clips_transform_makes(recipe, tmp_path, fed):
    guide = Similarity.load(clip_folder(tmp_path, RECIPES[recipe]))
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    std = RECIPES[recipe].get("std", open_clip.OPENAI_DATASET_STD)
    for size in SIZES:
        bytes_, image = picture(*size)
        ours, pixels = fed(guide.model.visual, lambda image=image: guide(image))
        same(pixels, transform(Image.fromarray(bytes_))[None], std, resized=size != (64, 64))
        with torch.no_grad():
            torch.testing.assert_close(ours, model.eval().encode_image(pixels, normalize=True))


def test_clip_reads_as_many_tokens_as_it_has_places(tmp_path):
    guide = Similarity.load(clip_folder(tmp_path, {}))
    for words in (74, 75):
        text = " ".join(["red"] * words)
        (ours,) = guide.embed([text])
        with torch.no_grad():
            (theirs,) = guide.model.encode_text(open_clip.get_tokenizer("ViT-B-32")([text]), normalize=True)
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="red' does not fit into the 77 tokens"):
        guide.embed(["red car", " ".join(["red"] * 76)])


def test_the_miniature_reads_as_many_tokens_as_it_has_places():
    guide = Similarity.load("clip")
    assert guide.embed([" ".join(["red"] * 14)]).shape == (1, 128)
    with pytest.raises(ValueError, match="red' does not fit into the 16 tokens"):
        guide.embed([" ".join(["red"] * 15)])


# --- all of them ------------------------------------------------------------------------------------------------------


def loaded(kind, request, tmp_path):
    """A guide of a real class and its call with one picture."""
    if kind == "clip":
        return Similarity.load(clip_folder(tmp_path, {}))
    if kind == "segmenter":
        guide = Segmenter.load(request.getfixturevalue("clipseg")[0])
        return lambda images: guide(images, guide.embed(["red car"]))
    if kind == "clicks":
        guide = ClickSegmenter.load(request.getfixturevalue("sam")[0])
        return lambda images: guide(images, torch.full((len(images), 1, 2), 20.0))
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**THIN, patch_size=14, image_size=70)).save_pretrained(tmp_path)
    return Features.load(tmp_path)


@pytest.mark.parametrize("kind", ["clip", "segmenter", "clicks", "features"])
def test_gradients_reach_the_picture_and_half_precision_is_computed_in_float32(kind, request, tmp_path):
    guide, image = loaded(kind, request, tmp_path), picture(48, 72)[1]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        given = image.detach().to(dtype).clone().requires_grad_()
        out = guide(given)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, guide(given.detach().float()))
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        assert given.grad.dtype == dtype and given.grad.isfinite().all() and given.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["clip", "segmenter", "clicks", "features"])
def test_the_gradient_is_that_of_finite_differences(kind, request, tmp_path):
    guide = loaded(kind, request, tmp_path)
    given = (picture(48, 72)[1] * 0.8 + 0.1).requires_grad_()
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(guide(given).shape, generator=g)
    value = lambda images: (guide(images) * mix).sum().double()  # noqa: E731
    (gradient,) = torch.autograd.grad(value(given), given)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (value(given + 0.005 * direction) - value(given - 0.005 * direction)) / 0.01
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_crops_of_half_precision_pictures_are_float32(dtype):
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    boxes = torch.tensor([[4.0, 5.0, 20.0, 21.0]])
    cut = crop(images, boxes.to(dtype), torch.zeros(1), 16)
    assert cut.dtype == torch.float32
    torch.testing.assert_close(cut, crop(images.detach().float(), boxes, torch.zeros(1), 16))
    cut.sum().backward()
    assert images.grad.abs().sum() > 0


def test_boxes_of_half_precision_pictures_keep_every_pixel():
    class Half(torch.nn.Module):
        def embed(self, phrases):
            return torch.zeros(len(phrases), 1)

        def forward(self, images, embeddings):
            logits = torch.full((1, 1, 400, 400), -9.0)
            logits[..., 10:301, 20:399] = 9
            return logits

    boxes, scores = MaskDetector(Half())(torch.zeros(1, 3, 400, 400, dtype=torch.bfloat16), [["a thing"]])
    assert boxes.tolist() == [[[20, 10, 399, 301]]] and scores.dtype == torch.float32


def test_the_miniatures_say_what_they_always_said():
    """Numbers of the miniatures as the results know them; a picture of 64 pixels is normalised and nothing else."""
    things = [Thing("ball", "green", "plain", "large", 30, 26, 32), Thing("box", "red", "plain", "large", 30, 42, 32)]
    moved = [things[0], Thing("box", "red", "plain", "large", 30, 46, 30)]
    x = np.stack([render(Scene("snow", tuple(t))).image for t in (things, moved)])
    x = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    segmenter, clip, raft = Segmenter.load("guide-segmenter"), Similarity.load("clip"), Flow.load("raft")
    sam, dino = ClickSegmenter.load("sam"), Features.load("dino")
    words = ["red box", "green ball"]
    with torch.no_grad():
        said = {
            "segmenter": segmenter(x, segmenter.embed(words)),
            "clip": clip(x),
            "text": clip.embed(words),
            "sam": sam(x, torch.tensor([[[18.0, 32.0]], [[42.0, 34.0]]])),
            "dino": dino(x),
            "raft": raft(x[:1], x[1:])[:, :, 24:40:4, 40:56:4],
        }
    for name, values in RECORDED.items():
        got = said[name].flatten()[:: said[name].numel() // 4][:4]
        torch.testing.assert_close(got, torch.tensor(values), atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


RECORDED = {
    "segmenter": [-10.08834, -9.43974, -10.76541, -10.13983],
    "clip": [0.0039, -0.00583, -0.01616, -0.01835],
    "text": [-0.01836, 0.14247, 0.05774, 0.0202],
    "sam": [-10.8105, -10.10428, -10.57157, -10.86584],
    "dino": [-0.16154, 0.03429, -0.1644, 0.03072],
}
