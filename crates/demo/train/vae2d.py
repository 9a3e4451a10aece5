"""The Qwen-Image VAE for a single frame, run as a plain 2D network with the class's own modules.

With a single frame, only the last time slice of every causal Conv3d sees the picture, and `time_conv` never runs.
Equal to AutoencoderKLQwenImage within 3e-6 and several times faster; pictures are [B, 3, H, W] in -1..1.
"""

import torch.nn as nn
import torch.nn.functional as F


def encode(vae, x):
    """Encodes to unnormalised latents [B, z_dim, H/8, W/8], the mean of the posterior."""
    encoder = vae.encoder
    x = conv(encoder.conv_in, x)
    for layer in encoder.down_blocks:
        kind = type(layer).__name__
        if "Resample" in kind:
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.resample[1].weight, layer.resample[1].bias, stride=2)
        elif "Attention" in kind:
            x = attention(layer, x)
        else:
            x = residual(layer, x)
    x = middle(encoder.mid_block, x)
    x = conv(encoder.conv_out, F.silu(rms_norm(encoder.norm_out, x)))
    return conv(vae.quant_conv, x)[:, : vae.z_dim]


def decode(vae, z):
    """Decodes unnormalised latents to pictures [B, 3, H, W]."""
    decoder = vae.decoder
    x = conv(decoder.conv_in, conv(vae.post_quant_conv, z))
    x = middle(decoder.mid_block, x)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = residual(resnet, x)
        if block.upsamplers is not None:
            up = block.upsamplers[0].resample[1]
            x = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), up.weight, up.bias, padding=1)
    return conv(decoder.conv_out, F.silu(rms_norm(decoder.norm_out, x)))


def conv(module, x):
    weight = module.weight[:, :, -1]
    return F.conv2d(x, weight, module.bias, padding=weight.shape[-1] // 2)


def rms_norm(module, x):
    return F.normalize(x.float(), dim=1).to(x.dtype) * (module.scale * module.gamma.view(1, -1, 1, 1))


def residual(block, x):
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else conv(block.conv_shortcut, x)
    x = conv(block.conv1, F.silu(rms_norm(block.norm1, x)))
    return conv(block.conv2, F.silu(rms_norm(block.norm2, x))) + shortcut


def attention(block, x):
    batch, channels, height, width = x.shape
    qkv = F.conv2d(rms_norm(block.norm, x), block.to_qkv.weight, block.to_qkv.bias)
    q, k, v = qkv.reshape(batch, 1, 3 * channels, height * width).transpose(2, 3).chunk(3, -1)
    out = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(batch, channels, height, width)
    return F.conv2d(out, block.proj.weight, block.proj.bias) + x


def middle(block, x):
    x = residual(block.resnets[0], x)
    x = attention(block.attentions[0], x)
    return residual(block.resnets[1], x)
