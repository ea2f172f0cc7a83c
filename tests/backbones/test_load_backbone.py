"""Loading: what serves a folder is read from it, and what does not serve is refused by name, with the cure."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from tiny_pipelines import PIPELINES, sd15, sdxl, tiny_backbone

from helpers.backbones.load import load_backbone, wrap
from helpers.backbones.mmdit import MMDiTBackbone
from helpers.backbones.unet import UNetBackbone
from helpers.guidance.cfg import CFG
from helpers.sampling.loop import sample


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            PIPELINES[name]().save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of a folder, to be broken."""

    def copy(name):
        return shutil.copytree(folders(name), tmp_path / name)

    return copy


@pytest.mark.parametrize("name", PIPELINES)
def test_every_folder_loads_as_what_it_is(name):
    backbone = tiny_backbone(name)
    assert type(backbone) is (MMDiTBackbone if name.startswith("sd3") else UNetBackbone)
    assert type(backbone.pipe) is type(PIPELINES[name]())
    assert backbone.latent_shape == (4, 16, 16) and backbone.image_size == (64, 64)
    networks = [part for part in backbone.pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert not any(part.training or p.requires_grad for part in networks for p in part.parameters())


def test_weights_are_those_of_the_folder(folders):
    original = sd15().unet.state_dict()
    with pytest.warns(UserWarning, match="PNDMScheduler"):
        loaded = load_backbone(folders("sd15"), device="cpu")
    assert all(torch.equal(value, original[key]) for key, value in loaded.pipe.unet.state_dict().items())


@pytest.mark.parametrize(
    "name", ["FluxPipeline", "PixArtAlphaPipeline", "SanaPipeline", "StableDiffusionInpaintPipeline"]
)
def test_another_architecture_is_refused_with_those_that_serve(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.1"}))
    served = "StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline"
    with pytest.raises(ValueError, match=f"{tmp_path}: no backbone serves a {name}: use one of {served}"):
        load_backbone(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=f"no backbone serves a str: use one of {served}"):
        wrap(name)


def test_an_inpainting_unet_is_refused_at_load(tmp_path):
    sd15(in_channels=9).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes 9 channels where the autoencoder has 4: it was made for inpainting"):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["mini-sd9", "", "no/such/folder", "models"])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match="unknown backbone .*mini-sd, sd15, sd21, sdxl, sd3, a folder"):
        load_backbone(name, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda"), "gpu", "mps", 0, 1.5])
def test_a_device_that_is_not_there_is_refused(folders, device):
    with pytest.raises(ValueError, match="is not here: use 'cpu', or leave it out"):
        load_backbone(folders("sd21"), device=device)


@pytest.mark.parametrize("dtype", ["float32", 32, None, torch.int8, float])
def test_a_dtype_is_one_of_torchs_floats(folders, dtype):
    with pytest.raises(ValueError, match=r"cannot be served: use torch\.float32, torch\.float16 or torch\.bfloat16"):
        load_backbone(folders("sd21"), device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    "name, part", [("sd21", "unet"), ("sd21", "vae"), ("sd21", "text_encoder"), ("sd3", "transformer")]
)
def test_a_part_without_its_weights_is_refused(broken, name, part):
    folder = broken(name)
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=f"weights of {folder}/{part} cannot be read: fetch the model again"):
        load_backbone(folder, device="cpu")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_damaged_weights_are_refused(broken, part):
    folder = broken("sd21")
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"weights of {folder}/{part} cannot be read: fetch the model again"):
        load_backbone(folder, device="cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_lack_a_tensor_are_refused(broken, part):
    """The libraries leave it random, and only log it."""
    folder = broken("sd21")
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = sorted(tensors)[3]
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=f"weights of {folder}/{part} lack 1 of the tensors of .*{lost.split('.')[-1]}"
    ):
        load_backbone(folder, device="cpu")


def test_an_index_that_is_no_json_is_refused(broken):
    folder = broken("sd21")
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index.json is no JSON .*fetch the model again"):
        load_backbone(folder, device="cpu")


def test_without_t5_or_with():
    full, without = tiny_backbone("sd3"), tiny_backbone("sd3_without_t5")
    assert full.pipe.text_encoder_3 is not None and without.pipe.text_encoder_3 is None
    text = without.encode_text(["a red car"])["tokens"]
    assert text.shape == (1, 77 + 256, 32) and not text[:, 77:].any() and text[:, :77].all(-1).any()
    assert full.encode_text(["a red car"])["tokens"][:, 77:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["sd21", "sdxl", "sd3"])
@pytest.mark.filterwarnings("ignore:the model comes with")
def test_half_precision_draws(folders, name, dtype):
    backbone = load_backbone(folders(name), device="cpu", dtype=dtype)
    assert backbone.dtype == dtype
    # XL's autoencoder says that it leaves the range of float16
    assert backbone.pipe.vae.dtype == (torch.float32 if (name, dtype) == ("sdxl", torch.float16) else dtype)
    run = sample(backbone, "a red car", [CFG(3.0)], steps=3, strict=True)
    exact = sample(load_backbone(folders(name), device="cpu"), "a red car", [CFG(3.0)], steps=3)
    assert run.images.dtype == torch.float32 and (run.images - exact.images).abs().mean() < 0.02
    assert backbone.encode(run.images.to(dtype)).dtype == dtype


@pytest.mark.parametrize("name, cell", [("sd15", 8), ("sdxl", 16), ("sd3", 8)])
def test_sizes_are_multiples_of_the_coarsest_cell(name, cell):
    backbone = tiny_backbone(name)
    assert backbone.cell == cell
    other = backbone.at(64, 96)
    assert other.image_size == (64, 96) and other.latent_shape == (4, 16, 24) and backbone.image_size == (64, 64)
    for size in ((60, 64), (64, 60), (0, 64), (-8, 64), (64.0, 64)):
        with pytest.raises(ValueError, match=rf"(height|width)=.* must be a multiple of {cell} pixels"):
            backbone.at(*size)


def test_sizes_end_where_positions_do():
    assert tiny_backbone("sd3").at(96, 64).image_size == (96, 64)
    with pytest.raises(ValueError, match="104 x 64 pixels are more than the model knows: at most 96 a side"):
        tiny_backbone("sd3").at(104, 64)


def test_encoding_undoes_decoding_scales():
    """Scale and shift of the autoencoder's latents are its configuration's."""
    backbone = tiny_backbone("sd3")
    assert isinstance(backbone.pipe.vae, AutoencoderKL)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = backbone.pipe.vae.encode(2 * images - 1).latent_dist.mean
    torch.testing.assert_close(backbone.encode(images), (mean - 0.0609) * 1.5305)
    shown = backbone.pipe.image_processor.postprocess(backbone.pipe.vae.decode(mean).sample, "pt")
    torch.testing.assert_close(backbone.decode(backbone.encode(images)).clamp(0, 1), shown, atol=1e-5, rtol=0)


def test_a_guide_that_nobody_names_is_refused(recwarn):
    assert tiny_backbone("sd15").guide("segmenter") == "CIDAS/clipseg-rd64-refined"
    with pytest.raises(ValueError, match="names no segmenter: give the method one"):
        wrap(sdxl()).guide("segmenter")


@pytest.mark.filterwarnings("ignore:the model comes with")
def test_a_compiled_denoiser_is_seen():
    pipe = sdxl()
    plain = wrap(pipe)
    x_t, t = torch.ones(1, *plain.latent_shape), torch.tensor(5)
    expected = plain.predict(x_t, t, plain.encode_text(["a red car"]))
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    for backbone in (plain, wrap(pipe)):
        assert hasattr(backbone.denoiser, "_orig_mod") and backbone.cell == 16
        with torch.compiler.set_stance("force_eager"):
            found = backbone.predict(x_t, t, backbone.encode_text(["a red car"]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_checkpointing_recomputes_the_same_gradient(folders):
    grads = []
    for checkpointing in (False, True):
        backbone = load_backbone(folders("sd21"), device="cpu", checkpointing=checkpointing)
        x_t = torch.ones(1, *backbone.latent_shape, requires_grad=True)
        pred = backbone.predict(x_t, torch.tensor(500), backbone.encode_text(["a red car"]))
        x0_hat = backbone.schedule.to_x0(pred, x_t, backbone.schedule.level(500))
        grads += torch.autograd.grad(backbone.decode(x0_hat).square().sum(), x_t)
    torch.testing.assert_close(*grads)


def test_xl_zeroes_its_empty_text_and_only_that():
    backbone = tiny_backbone("sdxl")
    text = backbone.encode_text(["", "a red car"])
    assert not text["tokens"][0].any() and not text["pooled"][0].any()
    alone = backbone.encode_text(["a red car"])
    torch.testing.assert_close(text["tokens"][1:], alone["tokens"])
    torch.testing.assert_close(text["pooled"][1:], alone["pooled"])
    with pytest.warns(UserWarning, match="EulerDiscreteScheduler"):
        reading = wrap(sdxl(force_zeros_for_empty_prompt=False))
    assert reading.encode_text([""])["tokens"].any()


def test_weights_of_older_libraries_load(broken):
    """As the Hub has them of Stable Diffusion 1.5, where attention and the text encoder have other names."""
    folder = broken("sd21")
    original = {part: getattr(load_backbone(folder, device="cpu").pipe, part) for part in ("vae", "text_encoder")}
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part, network in original.items():
        (file,) = (folder / part).glob("*.safetensors")
        tensors = {}
        for key, value in load_file(file).items():
            for new, old in names.items():
                key = key.replace(new, old) if "attentions" in key else key
            tensors[key if part == "vae" else f"text_model.{key.removeprefix('text_model.')}"] = value
        if part == "text_encoder":
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        assert set(tensors) != set(network.state_dict())
        save_file(tensors, file, metadata={"format": "pt"})
    loaded = load_backbone(folder, device="cpu").pipe
    for part, network in original.items():
        found = getattr(loaded, part).state_dict()
        assert all(torch.equal(value, found[key]) for key, value in network.state_dict().items())
