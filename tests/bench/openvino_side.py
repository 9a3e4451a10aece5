"""Times of a picture in diffusers' pipeline with transformer and decoder compiled by OpenVINO, in milliseconds.

torch encodes the prompts, which is a hundredth of the time. The networks are compiled before the clock starts.
"""

import statistics

import diffusers_side
import openvino
import torch
from diffusers import QwenImagePipeline

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def versions():
    return {"openvino": openvino.__version__}


@torch.no_grad()
def pipeline_times(args, prompt, negative_prompt):
    """Medians over `args.runs` pictures, after one that warms up and compiles."""
    pipeline = QwenImagePipeline.from_pretrained(args.weights, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    compile_transformer(pipeline.transformer, args)
    compile_decoder(pipeline.vae, args)
    times = {}
    diffusers_side.watch(pipeline.vae, "decode", times, "decode_ms")
    call = diffusers_side.picture(args, prompt, negative_prompt)
    diffusers_side.run(pipeline, call, {})
    times.clear()
    for _ in range(args.runs):
        diffusers_side.run(pipeline, call, times)
    return {key: statistics.median(values) for key, values in times.items()}


class Traced(torch.nn.Module):
    """A network whose inputs are all tensors."""

    def __init__(self, network, call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *tensors):
        return self.call(*tensors)


def compiled(network, call, example, args):
    """Compiles `call` of `network` for tensors of the example's shapes."""
    shapes = [tuple(tensor.shape) for tensor in example]
    # Cached rotary tables make the second trace differ, which is not an error.
    traced = torch.jit.trace(Traced(network, call).eval(), example, check_trace=False)
    model = openvino.convert_model(traced, example_input=example, input=shapes)
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[args.dtype],
        "INFERENCE_NUM_THREADS": args.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda *tensors: torch.from_numpy(request.infer([t.numpy() for t in tensors], share_outputs=False)[0])


def compile_transformer(transformer, args):
    """Compiles one network per prompt length, a constant in it. It has no mask, because all tokens are valid."""
    forward, by_length = transformer.forward, {}

    def run(hidden_states, timestep, encoder_hidden_states, img_shapes, **_):
        def call(hidden, time, text):
            arguments = {"encoder_hidden_states_mask": None, "img_shapes": img_shapes, "return_dict": False}
            return forward(hidden_states=hidden, timestep=time, encoder_hidden_states=text, **arguments)[0]

        tensors = (hidden_states, timestep, encoder_hidden_states)
        length = encoder_hidden_states.shape[1]
        if length not in by_length:
            by_length[length] = compiled(transformer, call, tensors, args)
        return (by_length[length](*tensors),)

    transformer.forward = run


def compile_decoder(vae, args):
    """Compiles one network, for the only picture size."""
    decode, networks = vae.decode, []
    for module in vae.modules():
        if isinstance(module, torch.nn.Upsample):
            # At a factor of two the result is the same, and OpenVINO supports this mode.
            module.mode = "nearest"

    def run(latents, return_dict):
        if not networks:
            networks.append(compiled(vae, lambda z: decode(z, return_dict=False)[0], (latents,), args))
        return (networks[0](latents),)

    vae.decode = run
