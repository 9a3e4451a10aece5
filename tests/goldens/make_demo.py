"""Records diffusers' pictures of the built-in model, in f32 on the CPU, with one file per case.

    python tests/goldens/make_demo.py [WEIGHTS] [OUT]

The defaults are crates/demo/weights for WEIGHTS and tests/goldens/models for OUT. Run it after every change of the
weights, with the packages of crates/demo/train/requirements.txt. The keys are those of the other models' goldens:
`latents.init`, `step.N.latents` after step N, `image.float` and `image.u8`. The arguments are in a manifest.
"""

import hashlib
import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import QwenImagePipeline
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
SEED = 42
CASES = {
    "demo.t2i_cfg": {
        "prompt": "a fox on a green background",
        "negative_prompt": " ",
        "true_cfg_scale": 3.0,
        "height": 128,
        "width": 128,
        "num_inference_steps": 20,
    },
    "demo.t2i_nocfg": {
        "prompt": "a small red heart on the left on a pink background",
        "true_cfg_scale": 1.0,
        "height": 128,
        "width": 128,
        "num_inference_steps": 8,
    },
    # A size that is neither square nor the trained one, and a negative prompt that is not blank.
    "demo.t2i_wide": {
        "prompt": "a cup of coffee on a brown background",
        "negative_prompt": "a blue background",
        "true_cfg_scale": 4.0,
        "height": 96,
        "width": 128,
        "num_inference_steps": 4,
    },
}


def main(weights, out):
    pipeline = QwenImagePipeline.from_pretrained(weights, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    manifest = {
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "sha256": {
            str(path.relative_to(weights)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(weights.rglob("*.safetensors"))
        },
    }
    for case, arguments in CASES.items():
        tensors = record(pipeline, arguments)
        save_file(tensors, out / f"{case}.safetensors")
        manifest[case] = {"kw": arguments, "seed": SEED, "seq_len": tensors["latents.init"].shape[1]}
        print(f"{case}: {sum(t.nbytes for t in tensors.values()) / 1e3:.0f} kB")
    (out / "demo.manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


@torch.no_grad()
def record(pipeline, arguments):
    """Runs the pipeline once and returns the tensors of the run."""
    tensors = {}

    def keep(name, tensor):
        tensors[name] = tensor.detach().float().contiguous().clone()

    def after_step(_pipeline, step, _timestep, kwargs):
        keep(f"step.{step}.latents", kwargs["latents"])
        return {}

    generator = torch.Generator().manual_seed(SEED)
    size = arguments["height"], arguments["width"]
    latents = pipeline.prepare_latents(1, 16, *size, torch.float32, "cpu", generator)
    keep("latents.init", latents)
    for name in ("prompt", "negative_prompt"):
        if name in arguments:
            embeds, _no_mask = pipeline.encode_prompt(arguments[name])
            keep(f"{name.removesuffix('_prompt')}_embeds", embeds)
    images = pipeline(**arguments, latents=latents, output_type="np", callback_on_step_end=after_step).images
    keep("sched.sigmas", pipeline.scheduler.sigmas)
    keep("sched.timesteps", pipeline.scheduler.timesteps)
    keep("image.float", torch.from_numpy(images))
    tensors["image.u8"] = torch.from_numpy((images * 255).round().astype("uint8")).contiguous()
    return tensors


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given + [ROOT / "crates/demo/weights", ROOT / "tests/goldens/models"][len(given) :]))
