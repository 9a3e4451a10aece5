"""The device of a training run: the CPU in f32, or a CUDA device in f32 with bf16 autocast."""

import contextlib

import torch


class Device:
    """Applies `--device` and `--threads`."""

    def __init__(self, name, threads):
        self.device = torch.device(name)
        # On a CPU without bf16 matmuls autocast is slower than f32, so it stays off there.
        self.bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        if threads:
            torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True

    def autocast(self):
        """The context of a forward pass."""
        if self.bf16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def move(self, tensor):
        return tensor.to(self.device, non_blocking=True)


def add_arguments(parser):
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="number of torch's threads; default: the CPU's cores")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")


def pixels(images):
    """Converts u8 [B, H, W, 3] to [B, 3, H, W] in -1..1."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x.contiguous(memory_format=torch.channels_last)
