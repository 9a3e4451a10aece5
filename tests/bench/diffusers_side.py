"""Times of a picture and of one transformer block in diffusers, in milliseconds."""

import statistics
import time

import diffusers
import torch
from diffusers import QwenImagePipeline
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope, QwenImageTransformerBlock

# One block of Qwen/Qwen-Image: 24 heads of 128, 1024 image tokens (512x512 pixels) and 128 of text.
WIDTH, HEADS, IMAGE_SIDE, TEXT_TOKENS = 3072, 24, 32, 128
BLOCK_RUNS = 3


def set_threads(threads):
    torch.set_num_threads(threads)


def versions():
    return {"torch": torch.__version__, "diffusers": diffusers.__version__}


def pipeline_times(args, prompt, negative_prompt):
    """Medians over `args.runs` pictures, after a warm-up. `load_ms` is a single load."""
    start = time.perf_counter()
    pipeline = QwenImagePipeline.from_pretrained(args.weights, torch_dtype=getattr(torch, args.dtype))
    times = {"load_ms": [since(start)]}
    pipeline.set_progress_bar_config(disable=True)
    watch(pipeline, "encode_prompt", times, "encode_ms")
    watch(pipeline.vae, "decode", times, "decode_ms")
    call = picture(args, prompt, negative_prompt)
    run(pipeline, call, {})
    for key in ("encode_ms", "decode_ms"):
        times.pop(key, None)
    for _ in range(args.runs):
        run(pipeline, call, times)
    # The prompt and the negative prompt are encoded one after the other, and a picture needs both.
    passes = len(times["encode_ms"]) // args.runs
    return {key: statistics.median(values) * (passes if key == "encode_ms" else 1) for key, values in times.items()}


def picture(args, prompt, negative_prompt):
    """The arguments of a pipeline call."""
    return {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "true_cfg_scale": args.cfg,
        "height": 128,
        "width": 128,
        "num_inference_steps": args.steps,
    }


def run(pipeline, call, times):
    """Makes one picture. Records `end_to_end_ms`, and `step_ms` from the end of one step to the end of the next."""
    ends = []

    def after_step(_pipeline, _step, _timestep, _kwargs):
        ends.append(time.perf_counter())
        return {}

    start = time.perf_counter()
    pipeline(**call, generator=torch.Generator().manual_seed(0), callback_on_step_end=after_step)
    times.setdefault("end_to_end_ms", []).append(since(start))
    times.setdefault("step_ms", []).extend((b - a) * 1e3 for a, b in zip(ends, ends[1:]))


def watch(owner, method, times, key):
    """Wraps a method so that each call's time is recorded."""
    inner = getattr(owner, method)

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = inner(*args, **kwargs)
        times.setdefault(key, []).append(since(start))
        return result

    setattr(owner, method, timed)


def block_and_arguments(dtype=torch.float32):
    """One QwenImageTransformerBlock of the real size with random weights, and the arguments to call it with."""
    block = QwenImageTransformerBlock(dim=WIDTH, num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS)
    rope = QwenEmbedRope(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    shape = [(1, IMAGE_SIDE, IMAGE_SIDE)]
    freqs = rope(shape, max_txt_seq_len=TEXT_TOKENS, device=torch.device("cpu"))
    arguments = {
        "hidden_states": torch.randn(1, IMAGE_SIDE**2, WIDTH, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, WIDTH, dtype=dtype),
        "encoder_hidden_states_mask": None,
        "temb": torch.randn(1, WIDTH, dtype=dtype),
        "image_rotary_emb": freqs,
    }
    return block.to(dtype).eval(), arguments


@torch.no_grad()
def block_times():
    block, arguments = block_and_arguments()
    block(**arguments)
    times = []
    for _ in range(BLOCK_RUNS):
        start = time.perf_counter()
        block(**arguments)
        times.append(since(start))
    return {"block_ms": statistics.median(times)}


def since(start):
    return (time.perf_counter() - start) * 1e3
