"""Trains the VAE on crops of drawn pictures.

    train_vae.py MINUTES OUT                        from scratch
    train_vae.py MINUTES OUT --start VAE            continue from a VAE's folder
    train_vae.py MINUTES OUT --start VAE --decoder-only --noise 0.1
                                                    the decoder alone; the latents do not change, so the DiT stays valid

Writes OUT (a diffusers folder) every five minutes. The latents' mean and standard deviation are
measured when a DiT is trained from scratch (train_dit.py).
"""

import argparse
import math
import random
import time

import numpy as np
import torch

import checkpoint
import data
import device
import networks
import vae2d

CROP = 64  # pixels; crops are cheaper, and the network is convolutional except for one attention
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
SAVE_SECONDS = 300


def main():
    args = parse_args()
    where = device.Device(args.device, args.threads)
    torch.manual_seed(0)
    rng = random.Random(1)
    vae = (checkpoint.load_vae(args.start) if args.start else networks.vae()).to(where.device)
    drawn = data.draw_many(args.pool, data.subjects(args.subjects), "vae", args.workers)
    pool = [np.asarray(image) for image, _ in drawn]
    params = trainable(vae, args.decoder_only)
    optimizer = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.98), weight_decay=1e-5)
    std = torch.tensor(vae.config.latents_std, device=where.device).view(1, -1, 1, 1)
    start = saved = time.time()
    step = 0
    while (done := (time.time() - start) / 60 / args.minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / WARMUP_STEPS) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        pixels = where.move(crops(pool, args.batch, rng))
        with torch.set_grad_enabled(not args.decoder_only):
            latents = vae2d.encode(vae, pixels)
        # The noise makes the decoder robust to a DiT's small errors.
        noisy = latents + torch.randn_like(latents) * args.noise * (std if args.start else 1)
        with where.autocast():
            error = vae2d.decode(vae, noisy).float() - pixels
        loss = reconstruction_loss(error) + (0 if args.decoder_only else 1e-4 * latents.pow(2).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            psnr = 10 * math.log10(4 / error.pow(2).mean().item())
            print(f"{(time.time() - start) / 60:.1f}m step {step} loss {loss.item():.4f} psnr {psnr:.2f}", flush=True)
        if time.time() - saved > SAVE_SECONDS:
            vae.save_pretrained(args.out)
            saved = time.time()
    vae.save_pretrained(args.out)
    print(f"done at step {step}", flush=True)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("out")
    parser.add_argument("--start", help="VAE folder to continue from")
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--noise", type=float, default=0.03, help="noise on the latents, in their standard deviations")
    parser.add_argument("--subjects", help="a file with one subject per line, or a|b|c; default: trained.txt")
    parser.add_argument("--pool", type=int, default=6000, help="pictures drawn at the start")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=LEARNING_RATE)
    device.add_arguments(parser)
    return parser.parse_args()


def trainable(vae, decoder_only):
    """Returns the parameters to train, and freezes the others. `time_conv` never runs with a single frame."""
    for name, param in vae.named_parameters():
        of_decoder = name.startswith(("decoder.", "post_quant_conv."))
        param.requires_grad_("time_conv" not in name and (of_decoder or not decoder_only))
    return [param for param in vae.parameters() if param.requires_grad]


def crops(pool, count, rng):
    """Returns [count, 3, CROP, CROP] in -1..1. Of two random crops of a picture the one with more contrast is taken."""
    chosen = []
    for _ in range(count):
        image = rng.choice(pool)
        pair = [random_crop(image, rng) for _ in range(2)]
        chosen.append(max(pair, key=lambda crop: crop[::4, ::4].std()))
    return device.pixels(np.stack(chosen))


def random_crop(image, rng):
    top, left = (rng.randrange(0, data.SIDE - CROP + 1, 8) for _ in range(2))
    return image[top : top + CROP, left : left + CROP]


def reconstruction_loss(error):
    """Absolute and squared error, plus the absolute error of both gradients, which weights edges."""
    dx = error[..., 1:] - error[..., :-1]
    dy = error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 2 * error.pow(2).mean() + 0.5 * (dx.abs().mean() + dy.abs().mean())


if __name__ == "__main__":
    main()
