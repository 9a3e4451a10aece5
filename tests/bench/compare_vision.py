"""Times the vision tower of Qwen2.5-VL in f32, alternately in transformers and latentd.

    cargo build --release -p models --example vision_tower
    .venv/bin/python tests/bench/compare_vision.py

The cases are the tiny tower of the goldens, and one of width 960 (heads of 80, as in the real model) with random
weights on 1,024 patches. A ratio is latentd / transformers; below 1 latentd is faster. Rounds alternate, and figures
are medians over them. Run it on an idle machine, for the reason given in compare_diffusers.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from compare_diffusers import ROOT, SETTLE_SECONDS, processor

EXAMPLE = ROOT / "target/release/examples/vision_tower"
TINY = ROOT / "tests/goldens/models/qwen-image-edit-plus"
# The real model's proportions: heads of 80, an MLP of 2.67 times the width, windows of 112 pixels, full attention in
# every fourth block.
WIDE = {"depth": 4, "hidden_size": 960, "num_heads": 12, "intermediate_size": 2560, "out_hidden_size": 1024}
CASES = [("tiny, 120 patches", TINY, (12, 10), 200), ("960 wide, 1,024 patches", WIDE, (32, 32), 5)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads; torch {torch.__version__}, transformers {transformers.__version__}")
    print("| vision tower | transformers (ms) | latentd (ms) | ratio |")
    print("|---|---|---|---|")
    for name, source, grid, passes in CASES:
        with tempfile.TemporaryDirectory() as folder:
            tower, folder = checkpoint(source, folder)
            theirs, ours = [], []
            for _ in range(args.rounds):
                theirs.append(transformers_ms(tower, grid, passes))
                time.sleep(SETTLE_SECONDS)
                ours.append(latentd_ms(folder, grid))
        theirs, ours = statistics.median(theirs), statistics.median(ours)
        print(f"| {name} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |", flush=True)


def checkpoint(source, folder):
    """The tower, and the folder that both sides load it from."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    if isinstance(source, Path):
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source / "text_encoder", dtype=torch.float32)
        return model.model.visual.eval(), source
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(fullatt_block_indexes=[3], **source)
    config._attn_implementation = "sdpa"
    tower = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    component = Path(folder) / "text_encoder"
    component.mkdir()
    save_file({f"visual.{key}": value for key, value in tower.state_dict().items()}, component / "model.safetensors")
    written = {**source, "fullatt_block_indexes": [3]}
    (component / "config.json").write_text(json.dumps({"vision_config": written}))
    return tower, folder


def transformers_ms(tower, grid, passes):
    import torch

    pixels = torch.randn(grid[0] * grid[1], 3 * 2 * 14 * 14)
    shape = torch.tensor([[1, *grid]])
    times = []
    with torch.no_grad():
        tower(pixels, grid_thw=shape)
        for _ in range(passes):
            start = time.perf_counter()
            tower(pixels, grid_thw=shape)
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def latentd_ms(folder, grid):
    command = [str(EXAMPLE), str(folder), str(grid[0]), str(grid[1])]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)["tower_ms"]


if __name__ == "__main__":
    main()
