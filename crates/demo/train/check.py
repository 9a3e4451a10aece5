"""Checks that the fast forms used for training equal the classes that a pipeline runs, with a checkpoint's weights.

    check.py [../weights]
"""

import sys

import torch
from diffusers import QwenImagePipeline

import dit as dit_forward
import tokenizer
import vae2d


@torch.no_grad()
def main(folder):
    pipeline = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    tokenizer.load(f"{folder}/tokenizer")
    torch.manual_seed(0)
    compare("VAE encoder", *encoders(pipeline.vae), 1e-5)
    compare("VAE decoder", *decoders(pipeline.vae), 1e-5)
    compare("DiT", *transformers(pipeline.transformer), 1e-5)


def encoders(vae):
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    return vae2d.encode(vae, x), vae.encode(x[:, :, None]).latent_dist.mode()[:, :, 0]


def decoders(vae):
    z = torch.randn(1, vae.config.z_dim, 8, 8)
    return vae2d.decode(vae, z).clamp(-1, 1), vae.decode(z[:, :, None]).sample[:, :, 0]


def transformers(dit):
    """Two prompts of different lengths, on 4x6 tokens."""
    latents, sigma = torch.randn(2, 24, 64), torch.tensor([0.9, 0.3])
    text = torch.randn(2, 7, dit.config.joint_attention_dim)
    text_mask = torch.arange(7) < torch.tensor([[7], [4]])
    mask = torch.cat([text_mask, torch.ones(2, 24, dtype=torch.bool)], 1)[:, None, None]
    rope = dit_forward.rope_tables(dit, 4, 6, 7, "cpu")
    theirs = dit(latents, text, text_mask, sigma, img_shapes=[[(1, 4, 6)]] * 2, return_dict=False)[0]
    return dit_forward.forward(dit, latents, sigma, text, mask, rope), theirs


def compare(name, ours, theirs, tolerance):
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"{name}: relative error {error:.1e} (at most {tolerance:.0e})")
    assert error <= tolerance, name


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "../weights")
