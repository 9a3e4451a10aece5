"""Trains text encoder and DiT together by flow matching, on latents of a trained VAE.

    train_dit.py MINUTES OUT --vae VAE              from scratch, with a new tokenizer
    train_dit.py MINUTES OUT --start ../weights     continue from exported weights (with a new optimiser)
    train_dit.py MINUTES OUT                        continue from OUT/train_state.pt

OUT is a checkpoint in the diffusers layout with the averaged weights in f32 (sample.py draws from it, export.py
rounds it), rewritten every four minutes together with OUT/train_state.pt. A run may be killed at any time.
"""

import argparse
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch

import checkpoint
import data
import device
import dit as dit_forward
import networks
import tokenizer
import vae2d

LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 200
CAPTION_DROPOUT = 0.1  # share of pictures without words, which teach true CFG's negative prompt " "
EMA_DECAY = 0.999
SAVE_SECONDS = 240


def main():
    args = parse_args()
    where = device.Device(args.device, args.threads)
    torch.manual_seed(args.seed)
    state = prepare(args)
    run = Run(args, where, state)
    pool = Pool(args, where, run)
    run.train(pool)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, help="the learning rate falls to 3 %% over this time")
    parser.add_argument("out")
    parser.add_argument("--start", help="checkpoint to continue from")
    parser.add_argument("--vae", help="the VAE's folder; default: the one of --start or OUT")
    parser.add_argument("--subjects", help="a file with one subject per line, or a|b|c; default: trained.txt")
    parser.add_argument("--pool", type=int, default=9000, help="pictures drawn and encoded at the start")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures, the noise and new weights")
    device.add_arguments(parser)
    return parser.parse_args()


def prepare(args):
    """Puts tokenizer and VAE into OUT, and returns the saved state to continue from, if there is one."""
    out = Path(args.out)
    state_path = out / "train_state.pt"
    state = torch.load(state_path, map_location="cpu") if state_path.exists() else None
    if state is not None and args.start:
        raise SystemExit(f"{state_path} exists: leave out --start to continue from it, or name another OUT")
    if state is None and args.start is None:
        if args.vae is None:
            raise SystemExit("a first run needs --vae (train_vae.py makes one), or --start with a checkpoint")
        tokenizer.build(out / "tokenizer")
    if args.start:
        shutil.copytree(Path(args.start) / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    vae = args.vae or (f"{args.start}/vae" if args.start else None)
    if vae:
        shutil.copytree(vae, out / "vae", dirs_exist_ok=True)
    return state


class Run:
    """Networks, optimiser and the average of the weights."""

    def __init__(self, args, where, state):
        self.args, self.where = args, where
        folder = f"{args.out}/tokenizer"
        self.dit = networks.dit()
        self.text_encoder = networks.text_encoder(tokenizer.vocab_size(folder), tokenizer.added_tokens(folder))
        if args.start:
            checkpoint.load_into(self.dit, self.text_encoder, args.start)
        modules = (("dit.", self.dit.to(where.device)), ("te.", self.text_encoder.to(where.device)))
        named = [(prefix + name, p) for prefix, module in modules for name, p in module.named_parameters()]
        self.named = [(name, p) for name, p in named if "visual" not in name]
        self.params = [p for _, p in self.named]
        if state:
            with torch.no_grad():
                for name, p in self.named:
                    p.copy_(state["raw"][name])
        self.ema = [(state["ema"][name].to(p.device) if state else p.detach()).clone() for name, p in self.named]
        self.optimizer = torch.optim.AdamW(self.param_groups(), lr=args.lr, betas=(0.9, 0.98), fused=True)
        if state:
            self.optimizer.load_state_dict(state["opt"])
        self.step, self.samples = (state["step"], state["samples"]) if state else (0, 0)
        self.is_new = state is None and args.start is None
        count = sum(p.numel() for p in self.params) / 1e6
        print(f"{count:.2f} M parameters at step {self.step}, {where.device}, bf16 {where.bf16}", flush=True)

    def param_groups(self):
        """Weight decay applies to matrices only, except the embedding."""
        decayed = {name for name, p in self.named if p.ndim > 1 and "embed" not in name}
        return [
            {"params": [p for name, p in self.named if name in decayed], "weight_decay": 0.01},
            {"params": [p for name, p in self.named if name not in decayed], "weight_decay": 0.0},
        ]

    def train(self, pool):
        start = saved = time.time()
        first_step, losses = self.step, []
        while (done := (time.time() - start) / 60 / self.args.minutes) < 1:
            warmup = min(1, (self.step - first_step + 1) / WARMUP_STEPS)
            lr = self.args.lr * warmup * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
            losses.append(self.update(pool.batch(self.args.batch), lr))
            if self.step % 50 == 0:
                minutes, loss = (time.time() - start) / 60, torch.stack(losses).mean().item()
                print(f"{minutes:.1f}m step {self.step} samples {self.samples} loss {loss:.4f} lr {lr:.2e}", flush=True)
                losses = []
            if time.time() - saved > SAVE_SECONDS:
                self.save()
                saved = time.time()
        self.save()
        print(f"done at step {self.step}", flush=True)

    def update(self, batch, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.loss(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += self.args.batch
        decay = min(EMA_DECAY, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.params, 1 - decay)
        return loss.detach()

    def loss(self, latents, ids, attention_mask, rope):
        """Squared error of the velocity at a noise level drawn from a logit-normal."""
        count = latents.shape[0]
        sigma = torch.sigmoid(torch.randn(count, device=latents.device) + 0.3)
        noise = torch.randn_like(latents)
        weight = sigma.view(-1, 1, 1)
        noisy = (1 - weight) * latents + weight * noise
        with self.where.autocast():
            language_model = self.text_encoder.model.language_model
            text = language_model(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            text, text_mask = text[:, tokenizer.DROPPED :], attention_mask[:, tokenizer.DROPPED :].bool()
            image_mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
            mask = torch.cat([text_mask, image_mask], 1)[:, None, None]
            velocity = dit_forward.forward(self.dit, noisy, sigma, text, mask, rope)
        return (velocity.float() - (noise - latents)).pow(2).mean()

    def save(self):
        """Saves the state atomically, then the averaged weights as a checkpoint."""
        current = [p.detach().clone() for p in self.params]
        names = [name for name, _ in self.named]
        state = {
            "step": self.step,
            "samples": self.samples,
            "opt": self.optimizer.state_dict(),
            "raw": dict(zip(names, current)),
            "ema": dict(zip(names, self.ema)),
        }
        torch.save(state, f"{self.args.out}/train_state.tmp")
        os.replace(f"{self.args.out}/train_state.tmp", f"{self.args.out}/train_state.pt")
        with torch.no_grad():
            for p, average in zip(self.params, self.ema):
                p.copy_(average)
            checkpoint.save(self.args.out, self.dit, self.text_encoder)
            for p, raw in zip(self.params, current):
                p.copy_(raw)


class Pool:
    """Drawn pictures as packed, normalised latents, and their captions as token ids. Drawn once, used many times."""

    def __init__(self, args, where, run):
        start = time.time()
        drawn = data.draw_many(args.pool, data.subjects(args.subjects), f"dit-{args.seed}", args.workers)
        vae = checkpoint.load_vae(f"{args.out}/vae").to(where.device)
        latents = encode_all(vae, [image for image, _ in drawn], where)
        if run.is_new:
            # Measured once and saved with the VAE, so that every later run and pipeline normalises in the same way.
            mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
            vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
            vae.save_pretrained(f"{args.out}/vae")
        mean = torch.tensor(vae.config.latents_mean, device=where.device).view(1, -1, 1, 1)
        std = torch.tensor(vae.config.latents_std, device=where.device).view(1, -1, 1, 1)
        self.latents = pack((latents - mean) / std).contiguous()
        tok = tokenizer.load(f"{args.out}/tokenizer")
        # The last row is the empty caption.
        texts = [tokenizer.TEMPLATE.format(words) for words in [*(words for _, words in drawn), " "]]
        tokens = tok(texts, padding=True, padding_side="right", return_tensors="pt")
        self.ids, self.mask = where.move(tokens["input_ids"]), where.move(tokens["attention_mask"])
        side = latents.shape[2] // 2
        self.rope = dit_forward.rope_tables(run.dit, side, side, self.ids.shape[1] - tokenizer.DROPPED, where.device)
        print(f"pool of {args.pool} in {time.time() - start:.0f} s, e.g. {drawn[0][1]!r}", flush=True)

    def batch(self, count):
        """Returns latents, token ids, their mask and the RoPE tables of `count` pictures."""
        place = self.latents.device
        pictures = torch.randint(len(self.latents), (count,), device=place)
        unnamed = torch.rand(count, device=place) < CAPTION_DROPOUT
        captions = torch.where(unnamed, len(self.latents), pictures)
        return self.latents[pictures], self.ids[captions], self.mask[captions], self.rope


@torch.no_grad()
def encode_all(vae, images, where, chunk=50):
    """Encodes all images to unnormalised latents, in chunks to save memory."""
    chunks = (np.stack([np.asarray(image) for image in images[at : at + chunk]]) for at in range(0, len(images), chunk))
    return torch.cat([vae2d.encode(vae, where.move(device.pixels(pixels))) for pixels in chunks])


def pack(latents):
    """Packs [B, C, H, W] into tokens of 2x2: [B, H/2 * W/2, C * 4], channels in the order c * 4 + dy * 2 + dx."""
    batch, channels, height, width = latents.shape
    tiles = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


if __name__ == "__main__":
    main()
