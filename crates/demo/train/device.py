"""Where a training runs: the processor in f32, or a CUDA device in f32 with bf16 autocast."""

import contextlib

import torch


class Device:
    """`--device` and `--threads`, put into effect."""

    def __init__(self, name, threads):
        self.device = torch.device(name)
        # bf16 autocast is slower than f32 on a processor without bf16 matmuls, so there it stays off.
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
    parser.add_argument("--threads", type=int, help="torch's threads; the processor's cores without it")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")


def pixels(images):
    """[B, 3, H, W] in -1..1 from u8 [B, H, W, 3]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x.contiguous(memory_format=torch.channels_last)
