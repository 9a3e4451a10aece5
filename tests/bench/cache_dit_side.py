"""Pictures by diffusers with cache-dit, and the decision of each step of each branch."""

import copy
import os
import time

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")

import cache_dit
import diffusers
import numpy as np
import torch
from blazediff_ssim import compare_rgba
from cache_dit import DBCacheConfig, TaylorSeerCalibratorConfig
from diffusers import QwenImagePipeline

# Every key is set, because cache-dit's own defaults (F8, W8, R0.08, any number in a row) are not the guide's.
GUIDE = {
    "Fn_compute_blocks": 1,
    "Bn_compute_blocks": 0,
    "max_warmup_steps": 4,
    "max_cached_steps": -1,
    "max_continuous_cached_steps": 3,
    "residual_diff_threshold": 0.24,
    "enable_taylorseer": False,
    "taylorseer_order": 1,
    "scm_steps_mask_policy": None,
    "scm_steps_policy": "dynamic",
}


def versions():
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "cache-dit": cache_dit.__version__}


def expressible(keys):
    """Whether cache-dit has these keys. Presets and agreeing branches exist only in latentd."""
    return keys is not None and set(keys) <= set(GUIDE)


def threshold(keys):
    return (GUIDE | keys)["residual_diff_threshold"]


def load(weights, threads):
    torch.set_num_threads(threads)
    pipeline = QwenImagePipeline.from_pretrained(weights, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def enable(pipeline, keys, steps):
    """Enables the cache on the pipeline. Each call starts with an empty cache."""
    keys = GUIDE | keys
    config = DBCacheConfig(
        Fn_compute_blocks=keys["Fn_compute_blocks"],
        Bn_compute_blocks=keys["Bn_compute_blocks"],
        max_warmup_steps=keys["max_warmup_steps"],
        max_cached_steps=keys["max_cached_steps"],
        max_continuous_cached_steps=keys["max_continuous_cached_steps"],
        residual_diff_threshold=keys["residual_diff_threshold"],
        enable_separate_cfg=True,
    )
    if keys["scm_steps_mask_policy"] is not None:
        policy = keys["scm_steps_mask_policy"]
        config.steps_computation_mask = cache_dit.steps_mask(mask_policy=policy, total_steps=steps)
        config.steps_computation_policy = keys["scm_steps_policy"]
    calibrator = None
    if keys["enable_taylorseer"]:
        calibrator = TaylorSeerCalibratorConfig(
            enable_calibrator=True, enable_encoder_calibrator=True, taylorseer_order=keys["taylorseer_order"]
        )
    cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=calibrator)


def disable(pipeline):
    cache_dit.disable_cache(pipeline)


def picture(pipeline, setting, prompt, i, steps):
    """Makes the `i`th prompt's picture. Returns its bytes, `[height, width, 3]`, and the milliseconds of all steps."""
    times = {"encode": 0.0, "decode": 0.0}
    restore = [watch(pipeline, "encode_prompt", times, "encode"), watch(pipeline.vae, "decode", times, "decode")]
    start = time.perf_counter()
    images = pipeline(
        prompt=prompt,
        negative_prompt=setting["negative_prompt"],
        true_cfg_scale=setting["true_cfg_scale"],
        height=setting["height"],
        width=setting["width"],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(setting["seed"] + i),
        output_type="np",
    ).images
    whole = (time.perf_counter() - start) * 1e3
    for undo in restore:
        undo()
    return (images[0] * 255).round().astype(np.uint8), whole - times["encode"] - times["decode"]


def watch(owner, method, times, key):
    """Adds each call's milliseconds to `times[key]`. Returns a function that undoes this."""
    inner = getattr(owner, method)

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = inner(*args, **kwargs)
        times[key] += (time.perf_counter() - start) * 1e3
        return result

    setattr(owner, method, timed)
    return lambda: delattr(owner, method)


def runs(pipeline, steps):
    """Decisions (`1` computed, `C` reused) and diffs of the last picture, for each branch."""
    transformer = pipeline.transformer
    branches = [
        ("cond", transformer._cached_steps, transformer._residual_diffs),
        ("uncond", transformer._cfg_cached_steps, transformer._cfg_residual_diffs),
    ]
    return [
        {
            "branch": branch,
            "decisions": "".join("C" if step in cached else "1" for step in range(steps)),
            "diffs": [measured(diffs, step) for step in range(steps)],
        }
        for branch, cached, diffs in map(copy.deepcopy, branches)
    ]


def measured(diffs, step):
    """The diff of a step, or None if none was measured. cache-dit uses -1 and -2 for other results."""
    diff = diffs[str(step)] if str(step) in diffs else None
    return diff if diff is not None and diff >= 0 else None


def psnr(reference, picture):
    """PSNR in dB over all bytes; None if the pictures are equal."""
    error = np.mean((reference.astype(np.float64) - picture.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else None


def ssim(reference, picture):
    """SSIM by the same library as in latentd."""
    height, width, _ = reference.shape
    return compare_rgba(rgba(reference), rgba(picture), width, height, metric="ssim").score


def rgba(picture):
    opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
    return np.concatenate([picture, opaque], axis=2).tobytes()
