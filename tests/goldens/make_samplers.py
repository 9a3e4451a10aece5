"""Records the results of diffusers' samplers on a fake velocity and on the tiny Qwen-Image, in f32 on the CPU.

    python tests/goldens/make_samplers.py [OUT]

The default of OUT is tests/goldens/samplers. The packages are those of crates/demo/train/requirements.txt.

Every sampler uses the noise levels of the model's own FlowMatchEulerDiscreteScheduler, and the transformer gets them
unchanged. Two of diffusers' classes accept no levels, and one rounds them to whole timesteps, so `OnLevels` sets both.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    QwenImagePipeline,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from safetensors.torch import save_file

GOLDENS = Path(__file__).parent
TINY = GOLDENS / "models/qwen-image"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SAMPLERS = {
    "heun": (FlowMatchHeunDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, FLOW),
    "unipc": (UniPCMultistepScheduler, FLOW),
}
# Noise schedules, for a picture of TOKENS tokens.
SCHEDULES = {
    "qwen-image": {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
    "flux2-klein": {"use_dynamic_shifting": True},
    "fixed": {"shift": 3.0},
}
TOKENS = 64
STEPS = [1, 2, 3, 4, 6, 14, 15, 28]
# Arguments of the run with the transformer.
RUN = {
    "prompt": "a photo of a cat holding a sign that says hello world",
    "negative_prompt": " ",
    "true_cfg_scale": 4.0,
    "height": 80,
    "width": 112,
    "num_inference_steps": 6,
}
SEED = 42


def on_levels(sampler):
    """The sampler, on the noise levels of its attribute `levels`."""
    base, config = SAMPLERS[sampler]

    class OnLevels(base):
        levels = None

        def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
            euler = self.levels
            euler.set_timesteps(num_inference_steps, device, sigmas=sigmas, mu=mu)
            super().set_timesteps(len(euler.timesteps))
            self.sigmas = euler.sigmas.clone()
            if sampler == "heun":
                ends = self.sigmas[:1], self.sigmas[-1:]
                self.sigmas = torch.cat([ends[0], self.sigmas[1:-1].repeat_interleave(2), ends[1]])
            timesteps = self.sigmas[:-1] * 1000
            if sampler == "heun":
                # Both evaluations at a level get that level as their timestep, not the start of the next step.
                timesteps = torch.cat([euler.timesteps[:1], euler.timesteps[1:].repeat_interleave(2)])
            if sampler == "unipc" and abs(self.sigmas[0] - 1) < 1e-6:
                # UniPCMultistepScheduler.set_timesteps does the same with its own levels.
                self.sigmas[0] = torch.tensor(float(self.sigmas[0]) - 1e-6, dtype=torch.float32)
            self.timesteps = timesteps

    return OnLevels(**config)


def scheduler(sampler, euler):
    made = on_levels(sampler)
    made.levels = euler
    return made


def fake_velocity(x, sigma):
    return torch.tanh(2 * x) * (1.2 - sigma) + sigma * sigma * 0.5 + x * 0.3


def record_fakes():
    """The latents after each evaluation for each sampler, schedule and step count, and the levels."""
    tensors = {"latents": torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(SEED))}
    for name, config in SCHEDULES.items():
        euler = FlowMatchEulerDiscreteScheduler(**config)
        for steps in STEPS:
            if (name, steps) == ("qwen-image", 1):
                continue  # A single level stretched to a terminal value is NaN.
            levels = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
            mu = {
                "qwen-image": calculate_shift(TOKENS, 256, 8192, 0.5, 0.9),
                "flux2-klein": compute_empirical_mu(TOKENS, steps),
                "fixed": None,
            }[name]
            for sampler in SAMPLERS:
                made = scheduler(sampler, euler)
                made.set_timesteps(sigmas=levels, mu=mu)
                made.set_begin_index(0)
                x, seen = tensors["latents"], []
                for timestep in made.timesteps:
                    velocity = fake_velocity(x, timestep / 1000)
                    x = made.step(velocity, timestep, x, return_dict=False)[0]
                    seen.append(x)
                tensors[f"{sampler}.{name}.{steps}"] = torch.cat(seen).contiguous()
            tensors[f"sigmas.{name}.{steps}"] = euler.sigmas.clone()
    return tensors


@torch.no_grad()
def record_run(pipeline, sampler):
    tensors = {}

    def after_evaluation(_pipeline, evaluation, _timestep, kwargs):
        tensors[f"step.{evaluation}.latents"] = kwargs["latents"].float().contiguous().clone()
        return {}

    euler = FlowMatchEulerDiscreteScheduler.from_pretrained(TINY, subfolder="scheduler")
    pipeline.scheduler = scheduler(sampler, euler)
    # The pipeline reads the shift from its scheduler's configuration.
    pipeline.scheduler.register_to_config(**{key: euler.config[key] for key in (
        "base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")})
    generator = torch.Generator().manual_seed(SEED)
    latents = pipeline.prepare_latents(1, 16, RUN["height"], RUN["width"], torch.float32, "cpu", generator)
    tensors["latents.init"] = latents.clone()
    pipeline(**RUN, latents=latents, output_type="latent", callback_on_step_end=after_evaluation)
    tensors["sched.sigmas"] = euler.sigmas.clone()
    return tensors


def main(out):
    out.mkdir(exist_ok=True)
    manifest = {
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "tokens": TOKENS,
        "steps": STEPS,
    }
    save_file(record_fakes(), out / "fake_velocity.safetensors")
    pipeline = QwenImagePipeline.from_pretrained(TINY, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for sampler in SAMPLERS:
        case = f"qwen-image.{sampler}"
        save_file(record_run(pipeline, sampler), out / f"{case}.safetensors")
        manifest[case] = {"kw": RUN, "seed": SEED, "sampler": sampler}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    for file in sorted(out.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(*([Path(argument) for argument in sys.argv[1:]] or [GOLDENS / "samplers"]))
