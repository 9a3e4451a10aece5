"""Records diffusers' tiled VAE decoding of latents, and the encoding of the result, in f32 on the CPU, per family.

    python tests/goldens/make_vae_tiling.py [MODELS] [OUT]

MODELS has the tiny checkpoints. The default of MODELS and OUT is tests/goldens/models. The packages are those of
crates/demo/train/requirements.txt. The tiles are small, to keep the files small. The manifest has their size and the
VAEs' default tiling parameters.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKLFlux2, AutoencoderKLQwenImage
from safetensors.torch import save_file

MODELS = Path(__file__).parent / "models"
# Side of a tile and stride between tiles, in latents.
SIDE, STRIDE = 8, 6
# Rows and columns that end inside a tile, just after one, and at its end.
SIZES = [(15, 11), (8, 13), (7, 20)]


def qwen_image(vae):
    defaults = {"side": vae.tile_sample_min_height, "stride": vae.tile_sample_stride_height}
    vae.enable_tiling(8 * SIDE, 8 * SIDE, 8 * STRIDE, 8 * STRIDE)
    return defaults


def flux2(vae):
    stride = int(vae.tile_latent_min_size * (1 - vae.tile_overlap_factor))
    defaults = {"side": vae.tile_sample_min_size, "stride": 8 * stride}
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 8 * SIDE, SIDE
    return defaults


@torch.no_grad()
def main(models, out):
    manifest = {"versions": {"torch": torch.__version__, "diffusers": diffusers.__version__}, "side": SIDE, "stride": STRIDE}
    for name, kind, prepare in [
        ("qwen-image", AutoencoderKLQwenImage, qwen_image),
        ("flux2-klein", AutoencoderKLFlux2, flux2),
    ]:
        vae = kind.from_pretrained(models / name, subfolder="vae", torch_dtype=torch.float32)
        # The default tiling parameters of the VAE, in pixels.
        defaults = prepare(vae)
        manifest[name] = {"defaults": defaults, "sizes": SIZES}
        channels = vae.config.z_dim if name == "qwen-image" else vae.config.latent_channels
        tensors = {}
        for rows, columns in SIZES:
            generator = torch.Generator().manual_seed(rows)
            latents = torch.randn(1, channels, rows, columns, generator=generator)
            given = latents.unsqueeze(2) if name == "qwen-image" else latents
            pixels = vae.decode(given).sample.reshape(3, 8 * rows, 8 * columns)
            encoded = vae.encode(pixels.reshape(1, 3, *([1] if name == "qwen-image" else []), 8 * rows, 8 * columns))
            encoded = encoded.latent_dist.mean.reshape(channels, rows, columns)
            tensors[f"{rows}x{columns}.encoded"] = encoded.permute(1, 2, 0).contiguous()
            tensors[f"{rows}x{columns}.latents"] = latents[0].permute(1, 2, 0).contiguous()
            tensors[f"{rows}x{columns}.pixels"] = pixels.permute(1, 2, 0).contiguous()
        save_file(tensors, out / f"vae_tiling.{name}.safetensors")
        print(f"{name}: {sum(t.nbytes for t in tensors.values()) / 1e3:.0f} kB, in pixels {defaults}")
    (out / "vae_tiling.manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given + [MODELS, MODELS][len(given) :]))
