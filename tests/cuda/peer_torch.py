"""Times a full-size diffusion transformer on one GPU, alternately in plain PyTorch and in latentd.

    python3 tests/cuda/peer_torch.py --latentd target/release/latentd --model qwen-image --size 1024x1024
    python3 tests/cuda/peer_torch.py --check            # the networks below against diffusers', on the CPU

Both have synthetic weights of the same shapes. PyTorch's side is written here with torch alone: bf16 products by its own
cuBLAS, attention by scaled_dot_product_attention with its fastest backend on this machine, and each block compiled by
torch.compile. A step is a denoising step of a picture: with guidance two rows, which both sides compute as one batch. Rounds
alternate, and a figure is the median over all rounds. A ratio is latentd / PyTorch; below 1 latentd is faster.

`--layers N --device cpu` compares a pass of one row through N blocks per list, for machines without a GPU.
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    sys.exit("peer: skipped, for there is no torch")

EPS = 1e-6
MODELS = {
    "qwen-image": {"heads": 24, "blocks": (60,), "text": 3584, "rows": 2},
    "flux2-klein-4b": {"heads": 24, "blocks": (5, 20), "text": 7680, "rows": 1},
    "flux2-klein-9b": {"heads": 32, "blocks": (8, 24), "text": 12288, "rows": 1},
}
HEAD_DIM = 128


def modulated(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def rotated(x, cos, sin):
    """Rotates neighbouring features as complex numbers. `x` is [rows, tokens, heads, head_dim]."""
    pairs = x.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def attend(q, k, v, rope):
    cos, sin = rope
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class JointAttention(nn.Module):
    """Two streams, each with its own projections, that attend to both."""

    def __init__(self, dim, head_dim, bias):
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.norm_q, self.norm_k = nn.RMSNorm(head_dim, eps=EPS), nn.RMSNorm(head_dim, eps=EPS)
        self.norm_added_q, self.norm_added_k = nn.RMSNorm(head_dim, eps=EPS), nn.RMSNorm(head_dim, eps=EPS)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=bias)])
        self.to_add_out = nn.Linear(dim, dim, bias=bias)

    def forward(self, hidden, text, rope):
        def heads(x):
            return x.unflatten(-1, (-1, self.head_dim))

        q = torch.cat([self.norm_added_q(heads(self.add_q_proj(text))), self.norm_q(heads(self.to_q(hidden)))], 1)
        k = torch.cat([self.norm_added_k(heads(self.add_k_proj(text))), self.norm_k(heads(self.to_k(hidden)))], 1)
        v = torch.cat([heads(self.add_v_proj(text)), heads(self.to_v(hidden))], 1)
        out = attend(q, k, v, rope)
        text_out, hidden_out = out.split([text.shape[1], hidden.shape[1]], 1)
        return self.to_out[0](hidden_out), self.to_add_out(text_out)


class GeluMlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        proj = nn.Module()
        proj.proj = nn.Linear(dim, 4 * dim)
        self.net = nn.ModuleList([proj, nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class QwenBlock(nn.Module):
    def __init__(self, dim, head_dim):
        super().__init__()
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.attn = JointAttention(dim, head_dim, True)
        self.img_mlp, self.txt_mlp = GeluMlp(dim), GeluMlp(dim)

    def forward(self, hidden, text, temb, rope):
        image = self.img_mod(temb).unsqueeze(1).chunk(6, -1)
        words = self.txt_mod(temb).unsqueeze(1).chunk(6, -1)
        image_out, text_out = self.attn(modulated(hidden, *image[:2]), modulated(text, *words[:2]), rope)
        hidden, text = hidden + image[2] * image_out, text + words[2] * text_out
        hidden = hidden + image[5] * self.img_mlp(modulated(hidden, *image[3:5]))
        return hidden, text + words[5] * self.txt_mlp(modulated(text, *words[3:5]))


class TimeEmbedding(nn.Module):
    def __init__(self, dim, bias):
        super().__init__()
        embedder = nn.Module()
        embedder.linear_1, embedder.linear_2 = nn.Linear(256, dim, bias=bias), nn.Linear(dim, dim, bias=bias)
        self.timestep_embedder = embedder

    def forward(self, sigma, dtype):
        half = 128
        rates = torch.exp(-math.log(10000) * torch.arange(half, device=sigma.device, dtype=torch.float32) / half)
        angles = 1000 * sigma.float()[:, None] * rates
        sinusoid = torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
        embedder = self.timestep_embedder
        return embedder.linear_2(F.silu(embedder.linear_1(sinusoid)))


class LastNorm(nn.Module):
    def __init__(self, dim, bias):
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim, bias=bias)

    def forward(self, x, temb):
        scale, shift = self.linear(F.silu(temb)).unsqueeze(1).chunk(2, -1)
        return modulated(x, shift, scale)


class QwenImage(nn.Module):
    """QwenImageTransformer2DModel, with its checkpoint's names."""

    def __init__(self, heads, blocks, text, head_dim=HEAD_DIM, axes=(16, 56, 56)):
        super().__init__()
        dim = heads * head_dim
        self.axes, self.channels = axes, 64
        self.time_text_embed = TimeEmbedding(dim, True)
        self.txt_norm = nn.RMSNorm(text, eps=EPS)
        self.img_in, self.txt_in = nn.Linear(64, dim), nn.Linear(text, dim)
        self.transformer_blocks = nn.ModuleList(QwenBlock(dim, head_dim) for _ in range(blocks[0]))
        self.norm_out, self.proj_out = LastNorm(dim, True), nn.Linear(dim, 64)

    def rope(self, rows, columns, text_tokens, device):
        def centred(count):
            return torch.arange(count) - (count - count // 2)

        first = max(rows // 2, columns // 2)
        image = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), centred(rows), centred(columns))
        text = (first + torch.arange(text_tokens))[:, None].expand(-1, 3)
        return angles(torch.cat([text, image]), self.axes, 10000, device)

    def forward(self, hidden, text, sigma, rope):
        temb = self.time_text_embed(sigma, hidden.dtype)
        hidden, text = self.img_in(hidden), self.txt_in(self.txt_norm(text))
        for block in self.transformer_blocks:
            hidden, text = block(hidden, text, temb, rope)
        return self.proj_out(self.norm_out(hidden, temb))


class SwigluMlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear_in = nn.Linear(dim, 6 * dim, bias=False)
        self.linear_out = nn.Linear(3 * dim, dim, bias=False)

    def forward(self, x):
        gate, up = self.linear_in(x).chunk(2, -1)
        return self.linear_out(F.silu(gate) * up)


class FluxBlock(nn.Module):
    def __init__(self, dim, head_dim):
        super().__init__()
        self.attn = JointAttention(dim, head_dim, False)
        self.ff, self.ff_context = SwigluMlp(dim), SwigluMlp(dim)

    def forward(self, hidden, text, image, words, rope):
        image_out, text_out = self.attn(modulated(hidden, *image[:2]), modulated(text, *words[:2]), rope)
        hidden, text = hidden + image[2] * image_out, text + words[2] * text_out
        hidden = hidden + image[5] * self.ff(modulated(hidden, *image[3:5]))
        return hidden, text + words[5] * self.ff_context(modulated(text, *words[3:5]))


class ParallelAttention(nn.Module):
    def __init__(self, dim, head_dim):
        super().__init__()
        self.dim, self.head_dim = dim, head_dim
        self.to_qkv_mlp_proj = nn.Linear(dim, 9 * dim, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(head_dim, eps=EPS), nn.RMSNorm(head_dim, eps=EPS)
        self.to_out = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x, rope):
        q, k, v, mlp = self.to_qkv_mlp_proj(x).split([self.dim, self.dim, self.dim, 6 * self.dim], -1)
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))
        gate, up = mlp.chunk(2, -1)
        out = attend(self.norm_q(q), self.norm_k(k), v, rope)
        return self.to_out(torch.cat([out, F.silu(gate) * up], -1))


class FluxSingleBlock(nn.Module):
    def __init__(self, dim, head_dim):
        super().__init__()
        self.attn = ParallelAttention(dim, head_dim)

    def forward(self, x, shift, scale, gate, rope):
        return x + gate * self.attn(modulated(x, shift, scale), rope)


class Modulation(nn.Module):
    def __init__(self, dim, sets):
        super().__init__()
        self.sets, self.linear = sets, nn.Linear(dim, 3 * sets * dim, bias=False)

    def forward(self, temb):
        return self.linear(F.silu(temb)).unsqueeze(1).chunk(3 * self.sets, -1)


class Flux2(nn.Module):
    """Flux2Transformer2DModel without guidance, with its checkpoint's names."""

    def __init__(self, heads, blocks, text, head_dim=HEAD_DIM):
        super().__init__()
        dim = heads * head_dim
        self.axes, self.channels = (head_dim // 4,) * 4, 128
        self.time_guidance_embed = TimeEmbedding(dim, False)
        self.double_stream_modulation_img, self.double_stream_modulation_txt = Modulation(dim, 2), Modulation(dim, 2)
        self.single_stream_modulation = Modulation(dim, 1)
        self.x_embedder, self.context_embedder = nn.Linear(128, dim, bias=False), nn.Linear(text, dim, bias=False)
        self.transformer_blocks = nn.ModuleList(FluxBlock(dim, head_dim) for _ in range(blocks[0]))
        self.single_transformer_blocks = nn.ModuleList(FluxSingleBlock(dim, head_dim) for _ in range(blocks[1]))
        self.norm_out, self.proj_out = LastNorm(dim, False), nn.Linear(dim, 128, bias=False)

    def rope(self, rows, columns, text_tokens, device):
        zero = torch.zeros(1, dtype=torch.int64)
        image = torch.cartesian_prod(zero, torch.arange(rows), torch.arange(columns), zero)
        text = torch.cartesian_prod(zero, zero, zero, torch.arange(text_tokens))
        return angles(torch.cat([text, image]), self.axes, 2000, device)

    def forward(self, hidden, text, sigma, rope):
        temb = self.time_guidance_embed(sigma, hidden.dtype)
        image, words = self.double_stream_modulation_img(temb), self.double_stream_modulation_txt(temb)
        hidden, text = self.x_embedder(hidden), self.context_embedder(text)
        for block in self.transformer_blocks:
            hidden, text = block(hidden, text, image, words, rope)
        single, text_tokens = self.single_stream_modulation(temb), text.shape[1]
        hidden = torch.cat([text, hidden], 1)
        for block in self.single_transformer_blocks:
            hidden = block(hidden, *single, rope)
        return self.proj_out(self.norm_out(hidden[:, text_tokens:], temb))


def angles(positions, axes, theta, device):
    """Cosines and sines, [1, tokens, 1, head_dim / 2], of positions [tokens, axes]."""
    parts = []
    for position, dim in zip(positions.unbind(-1), axes):
        rates = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        parts.append(position[:, None].double() * rates)
    table = torch.cat(parts, -1)[None, :, None]
    return table.cos().float().to(device), table.sin().float().to(device)


def blocks_of(model):
    return [*model.transformer_blocks, *getattr(model, "single_transformer_blocks", [])]


def main():
    args = parse_args()
    if args.check:
        return check()
    device, dtype = torch.device(args.device), {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    if device.type == "cpu":
        torch.set_num_threads(args.threads or torch.get_num_threads())
    shape = MODELS[args.model]
    rows = 1 if args.layers else shape["rows"]
    width, height = map(int, args.size.split("x"))
    grid = (height // 16, width // 16)
    model = made_up(args, shape, device, dtype)
    given = inputs(model, shape, rows, grid, args.text_tokens, device, dtype)
    with torch.inference_mode(), backend(args, model, given) as name:
        if not args.no_compile:
            for block in blocks_of(model):
                block.compile(dynamic=False)
        started = time.perf_counter()
        step(model, given, device)
        print(f"peer: attention by {name}; compiled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        theirs, ours = [], []
        for _ in range(args.rounds):
            theirs += [step(model, given, device) for _ in range(args.passes + 1)][1:]
            ours += latentd_steps(args)
    report = {
        "model": args.model,
        "size": args.size,
        "rows": rows,
        "torch": torch.__version__,
        "attention": name,
        "compiled": not args.no_compile,
        "torch_ms": statistics.median(theirs),
        "latentd_ms": statistics.median(ours) if ours else None,
    }
    report["ratio"] = report["latentd_ms"] / report["torch_ms"] if ours else None
    print(json.dumps(report))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", help="the program; PyTorch alone without it")
    parser.add_argument("--model", choices=MODELS, default="qwen-image")
    parser.add_argument("--size", default="1024x1024", help="WIDTHxHEIGHT, multiples of 16")
    parser.add_argument("--text-tokens", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--layers", type=int, help="blocks of each list, and one row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=8, help="steps of a round")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--check", action="store_true", help="compare the networks with diffusers'")
    return parser.parse_args()


def made_up(args, shape, device, dtype):
    blocks = tuple(args.layers or count for count in shape["blocks"])
    network = QwenImage if args.model == "qwen-image" else Flux2
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return network(shape["heads"], blocks, shape["text"]).eval()
    finally:
        torch.set_default_dtype(default)


def inputs(model, shape, rows, grid, text_tokens, device, dtype):
    hidden = torch.randn(rows, grid[0] * grid[1], model.channels, device=device, dtype=dtype)
    text = torch.randn(rows, text_tokens, shape["text"], device=device, dtype=dtype)
    sigma = torch.full((rows,), 0.5, device=device)
    return hidden, text, sigma, model.rope(*grid, text_tokens, device)


@contextlib.contextmanager
def backend(args, model, given):
    """Selects the fastest available attention for these shapes."""
    hidden, text, _, _ = given
    if hidden.device.type == "cpu":
        yield "torch's default"
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    heads = MODELS[args.model]["heads"]
    q = torch.randn(hidden.shape[0], heads, hidden.shape[1] + text.shape[1], HEAD_DIM, device=hidden.device).to(hidden.dtype)
    times = {}
    for candidate in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        with contextlib.suppress(RuntimeError), sdpa_kernel(candidate):
            for _ in range(3):
                F.scaled_dot_product_attention(q, q, q)
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(5):
                F.scaled_dot_product_attention(q, q, q)
            torch.cuda.synchronize()
            times[candidate] = time.perf_counter() - started
    del q
    fastest = min(times, key=times.get)
    with sdpa_kernel(fastest):
        yield fastest.name


def step(model, given, device):
    """The milliseconds of a pass of all rows."""

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    started = time.perf_counter()
    model(*given)
    wait()
    return (time.perf_counter() - started) * 1e3


def latentd_steps(args):
    """One round of latentd: the median of its steps; empty without latentd."""
    if not args.latentd:
        return []
    command = [args.latentd, "bench", "--synthetic", args.model, "--size", args.size, "--device", args.device]
    command += ["--dtype", args.dtype, "--text-tokens", str(args.text_tokens), "--json"]
    command += ["--layers", str(args.layers)] if args.layers else ["--steps", str(args.passes)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return [found["measured"]["step_ms"] if args.layers else found["computed"]["median_ms"]]


def check():
    """Checks that small networks of both kinds with diffusers' weights have diffusers' outputs."""
    import diffusers

    torch.manual_seed(0)
    grid, text_tokens = (3, 5), 7
    qwen = {"attention_head_dim": 16, "num_attention_heads": 2, "num_layers": 3, "joint_attention_dim": 32}
    qwen["axes_dims_rope"] = (4, 6, 6)
    flux = {"attention_head_dim": 16, "num_attention_heads": 2, "num_layers": 2, "num_single_layers": 3}
    flux |= {"joint_attention_dim": 32, "axes_dims_rope": (4,) * 4, "guidance_embeds": False}
    cases = [
        (diffusers.QwenImageTransformer2DModel(**qwen), QwenImage(2, (3,), 32, 16, (4, 6, 6))),
        (diffusers.Flux2Transformer2DModel(**flux), Flux2(2, (2, 3), 32, 16)),
    ]
    for theirs, ours in cases:
        ours.load_state_dict(theirs.state_dict())
        hidden, text, sigma, rope = inputs(ours, {"text": 32}, 1, grid, text_tokens, "cpu", torch.float32)
        arguments = {"hidden_states": hidden, "encoder_hidden_states": text, "timestep": sigma, "return_dict": False}
        if isinstance(ours, QwenImage):
            arguments |= {"encoder_hidden_states_mask": None, "img_shapes": [[(1, *grid)]]}
        else:
            zero = torch.zeros(1, dtype=torch.int64)
            arguments["img_ids"] = torch.cartesian_prod(zero, *map(torch.arange, grid), zero)
            arguments["txt_ids"] = torch.cartesian_prod(zero, zero, zero, torch.arange(text_tokens))
        with torch.no_grad():
            expected, given = theirs(**arguments)[0], ours(hidden, text, sigma, rope)
        error = ((expected - given).norm() / expected.norm()).item()
        print(f"{type(theirs).__name__}: {error:.1e} apart")
        if not error < 1e-5:
            sys.exit("the networks differ")


if __name__ == "__main__":
    main()
