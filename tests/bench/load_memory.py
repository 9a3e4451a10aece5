"""Measures the peak memory of loading models that edit, relative to the bytes of the weights that they need.

    python3 -m venv .venv && .venv/bin/pip install -r tests/bench/requirements.txt
    cargo build --release -p latentd
    .venv/bin/python tests/bench/load_memory.py

For each family it writes a checkpoint of random bf16 weights, of which 300 to 500 million are needed, with the
tokenizer of the tiny checkpoint in tests/goldens. Like the published files, it contains unused weights: the head of
the language model, and for FLUX.2-klein the layers after the 27th. Then it measures the peak resident memory of
`latentd edit` with one step on a picture of 64x64 pixels. That includes the program and the step, some tens of
megabytes that do not grow with the checkpoint. Exits with 1 if a ratio is above 1.15.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import Flux2Transformer2DModel, QwenImageTransformer2DModel
from PIL import Image
from safetensors import safe_open
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests/goldens/models"
BYTES = {"f32": 4, "bf16": 2}
MOST = 1.15
# Layers of FLUX.2-klein's text encoder that are needed for its hidden states.
KLEIN_LAYERS = 27
VOCABULARY = 16_000


def main():
    args = parse_args()
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.bfloat16)
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name, write in (("flux2-klein", write_klein), ("qwen-image-edit-plus", write_qwen)):
            checkpoint = Path(folder) / name
            shutil.copytree(GOLDENS / name, checkpoint, ignore=ignored)
            write(checkpoint)
            needed, on_disk = elements(checkpoint)
            for dtype, size in BYTES.items():
                weights, peak = needed * size, peak_bytes(args.latentd, checkpoint, dtype)
                rows.append((name, dtype, on_disk * 2 / 1e6, weights / 1e6, peak / 1e6, peak / weights))
            shutil.rmtree(checkpoint)
    print("| checkpoint | `--dtype` | on disk (MB) | weights (MB) | peak (MB) | ratio |\n|---|---|---|---|---|---|")
    for name, dtype, on_disk, weights, peak, ratio in rows:
        print(f"| {name} | {dtype} | {on_disk:.1f} | {weights:.1f} | {peak:.1f} | {ratio:.2f} |")
    return int(any(row[-1] > MOST for row in rows))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", type=Path, default=ROOT / "target/release/latentd", help="the program")
    parser.add_argument("--folder", help="where the checkpoints are written for the time being, 2 GB")
    return parser.parse_args()


def ignored(folder, names):
    """The files that are not copied, because new ones are written."""
    weights = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    return [] if Path(folder).name == "vae" else weights


def write_klein(folder):
    config = tiny_config(folder / "text_encoder") | {
        "hidden_size": 512, "intermediate_size": 4608, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 64, "num_hidden_layers": 36, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    }  # fmt: skip
    save(Qwen3ForCausalLM(Qwen3Config(**config)), folder / "text_encoder")
    config = tiny_config(folder / "transformer") | {
        "num_attention_heads": 6, "attention_head_dim": 128, "axes_dims_rope": [32, 32, 32, 32],
        "joint_attention_dim": 3 * 512, "num_layers": 5, "num_single_layers": 20,
    }  # fmt: skip
    save(Flux2Transformer2DModel.from_config(config), folder / "transformer")


def write_qwen(folder):
    config = tiny_config(folder / "text_encoder")
    text = {
        "hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 4,
        "num_hidden_layers": 16, "vocab_size": VOCABULARY,
        "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    config = config | text
    config["text_config"] = config["text_config"] | text
    vision = {"depth": 8, "fullatt_block_indexes": [3, 7], "hidden_size": 320, "intermediate_size": 855, "num_heads": 4}
    config["vision_config"] = config["vision_config"] | vision | {"out_hidden_size": 512}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    save(model, folder / "text_encoder")
    # The published files, like the original tiny checkpoint, have this configuration.
    (folder / "text_encoder/config.json").write_text(json.dumps(config))
    config = tiny_config(folder / "transformer") | {
        "num_attention_heads": 8, "attention_head_dim": 128, "axes_dims_rope": [16, 56, 56],
        "joint_attention_dim": 512, "num_layers": 6,
    }  # fmt: skip
    save(QwenImageTransformer2DModel.from_config(config), folder / "transformer")


def tiny_config(folder):
    return json.loads((folder / "config.json").read_text())


def save(model, folder):
    """Writes weights in bf16 shards, like the published ones, and the configuration."""
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="200MB")


def elements(checkpoint):
    """Number of elements in the tensors that latentd needs, and in all tensors."""
    needed = total = 0
    for file in checkpoint.glob("*/*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                count = math.prod(tensors.get_slice(name).get_shape())
                total += count
                needed += count if is_needed(checkpoint.name, name) else 0
    return needed, total


def is_needed(checkpoint, name):
    if name.startswith("lm_head."):
        return False
    parts = name.split(".")
    if checkpoint == "flux2-klein" and parts[:2] == ["model", "layers"]:
        return int(parts[2]) < KLEIN_LAYERS
    return name != "model.norm.weight" or checkpoint != "flux2-klein"


def peak_bytes(latentd, checkpoint, dtype):
    """The peak resident memory of an edit with one step."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "input.png"
        Image.new("RGB", (64, 64), (90, 120, 150)).save(picture)
        facts = {"edit_area": 64 * 64, "size": "64x64", "guidance_scale": 1.0}
        if checkpoint.name != "flux2-klein":
            facts["condition_area"] = 64 * 64
        (checkpoint / "latentd.json").write_text(json.dumps(facts))
        command = [latentd, "edit", "--model", checkpoint, "--dtype", dtype, "--num-inference-steps", "1"]
        command += ["--image", picture, "--output", Path(folder) / "made.png", "a cat"]
        process = subprocess.Popen([str(part) for part in command], stdout=sys.stderr)
        peak = 0
        # The kernel's count exists as long as the process. The maximum that `wait4` reports includes this program's
        # memory, from between fork and exec.
        while process.poll() is None:
            peak = max(peak, high_water_mark(process.pid))
            time.sleep(0.005)
        if process.returncode:
            sys.exit(f"latentd ended with {process.returncode}")
        return peak


def high_water_mark(pid):
    """Peak resident bytes by the kernel's count; 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
