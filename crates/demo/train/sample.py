"""Draws a contact sheet with diffusers: every subject once, or the given prompts.

    sample.py CHECKPOINT sheet.png [--steps 20] [--cfg 3] [PROMPT ...]
"""

import argparse

import torch
from diffusers import QwenImagePipeline
from PIL import Image, ImageDraw

import data
import device

COLUMNS = 8
CELL = (data.SIDE + 6, data.SIDE + 22)


def main():
    args = parse_args()
    where = device.Device(args.device, args.threads)
    pipeline = QwenImagePipeline.from_pretrained(args.checkpoint, dtype=torch.float32).to(where.device)
    pipeline.set_progress_bar_config(disable=True)
    prompts = args.prompts or sheet_prompts(data.subjects(args.subjects))
    images = []
    for first in range(0, len(prompts), COLUMNS):
        row = prompts[first : first + COLUMNS]
        images += pipeline(
            prompt=row,
            negative_prompt=[" "] * len(row),
            true_cfg_scale=args.cfg,
            height=data.SIDE,
            width=data.SIDE,
            num_inference_steps=args.steps,
            generator=[torch.Generator().manual_seed(args.seed + first + index) for index in range(len(row))],
        ).images
    contact_sheet(prompts, images).save(args.sheet)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("sheet")
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=100, help="seed of the first picture; each next one adds 1")
    parser.add_argument("--subjects", help="a file with one subject per line, or a|b|c; default: trained.txt")
    device.add_arguments(parser)
    return parser.parse_intermixed_args()


def sheet_prompts(names):
    """Every subject once, cycling through backgrounds, sizes and places."""
    grounds = list(data.GROUNDS)
    middle = [("", ""), ("large", ""), ("", ""), ("small", ""), ("", "")]
    poses = middle + [("", place) for place in data.PLACES if place]
    prompts = []
    for index, name in enumerate(names):
        size, place = poses[index % len(poses)]
        prompts.append(data.caption(name, size, place, grounds[index * 5 % len(grounds)]))
    return prompts


def contact_sheet(prompts, images):
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL[0], rows * CELL[1]), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (words, image) in enumerate(zip(prompts, images)):
        left, top = index % COLUMNS * CELL[0], index // COLUMNS * CELL[1]
        sheet.paste(image, (left, top))
        pen.text((left, top + data.SIDE + 2), words[:22], fill="black")
    return sheet


if __name__ == "__main__":
    main()
