"""Reads and writes the diffusers layout, in the style of the published Qwen-Image repository."""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

import networks

COMPONENTS = {
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}
DIT_FILE = "transformer/diffusion_pytorch_model.safetensors"
TEXT_ENCODER_FILE = "text_encoder/model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"


def load_vae(folder):
    """Loads the VAE in `folder` in f32; its config holds the latents' mean and standard deviation."""
    return AutoencoderKLQwenImage.from_pretrained(folder, dtype=torch.float32)


def load_into(dit, text_encoder, folder):
    """Fills both networks from the weights in `folder`, which may have any dtype."""
    folder = Path(folder)
    dit.load_state_dict({name: t.float() for name, t in load_file(folder / DIT_FILE).items()})
    # On disk the language model is `model.*` and the vision tower `visual.*`; in memory both lie under `model`.
    state = {}
    for name, tensor in load_file(folder / TEXT_ENCODER_FILE).items():
        prefix = "model.language_model." if name.startswith("model.") else "model."
        state[prefix + name.removeprefix("model.")] = tensor.float()
    missing, unexpected = text_encoder.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)  # the head is tied


def save(folder, dit, text_encoder):
    """Writes DiT, text encoder, scheduler and index; tokenizer and VAE were written when the run began."""
    dit.save_pretrained(f"{folder}/transformer")
    text_encoder.save_pretrained(f"{folder}/text_encoder")
    config_in_v4_style(Path(folder) / "text_encoder/config.json")
    FlowMatchEulerDiscreteScheduler(**networks.SCHEDULER).save_pretrained(f"{folder}/scheduler")
    index = {"_class_name": "QwenImagePipeline", "_diffusers_version": diffusers.__version__, **COMPONENTS}
    (Path(folder) / "model_index.json").write_text(json.dumps(index, indent=2))


def export_bf16(folder, out):
    """Copies the checkpoint without the training state, and rounds its weights to bf16."""
    folder, out = Path(folder), Path(out)
    for name in COMPONENTS:
        shutil.copytree(folder / name, out / name, dirs_exist_ok=True)
    shutil.copy(folder / "model_index.json", out / "model_index.json")
    for path in (DIT_FILE, TEXT_ENCODER_FILE, VAE_FILE):
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / path).items()}
        save_file(tensors, out / path, metadata={"format": "pt"})
    config = out / "text_encoder/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "torch_dtype": "bfloat16"}, indent=2))


def config_in_v4_style(path):
    """Rewrites the config in the style of transformers 4, as published checkpoints have it: version 5 writes
    `rope_parameters` and `dtype`, version 4 other names and the text fields a second time at the top level."""
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype", "float32")
    text = with_rope_theta(config["text_config"])
    config["text_config"] = text
    config["vision_config"] = with_rope_theta(config["vision_config"])
    config |= {key: value for key, value in text.items() if key != "model_type" and key not in config}
    config["transformers_version"] = "4.56.1"
    path.write_text(json.dumps(config, indent=2))


def with_rope_theta(config):
    config = dict(config)
    rope = config.pop("rope_parameters", None) or {}
    config.pop("layer_types", None)
    if "mrope_section" in rope:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = {"mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"}
    return config
