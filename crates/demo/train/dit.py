"""The Qwen-Image DiT as one plain function of the class's own modules, for training.

Equal to QwenImageTransformer2DModel bit for bit in f32, and faster on a small model: real-valued RoPE, one matmul
for the modulations of all blocks, one for q, k and v.
"""

import torch
import torch.nn.functional as F


def rope_tables(dit, height, width, text_len, device):
    """Returns cosines and sines [1, text_len + height * width, 1, head_dim / 2] for height x width image tokens."""
    image, text = dit.pos_embed([(1, height, width)], max_txt_seq_len=text_len, device=torch.device("cpu"))
    table = torch.cat([text, image])
    return tuple(part.float().contiguous()[None, :, None].to(device) for part in (table.real, table.imag))


def forward(dit, latents, sigma, text, mask, rope):
    """Returns the velocity [B, n, 64].

    latents [B, n, 64] packed; sigma [B] in 0..1; text [B, t, joint_attention_dim];
    mask [B, 1, 1, t + n] bool, false at padding; rope from `rope_tables`.
    """
    # The residual streams stay f32 under autocast.
    image = dit.img_in(latents).float()
    text = dit.txt_in(dit.txt_norm(text)).float()
    temb = F.silu(dit.time_text_embed(sigma, image, None))
    blocks = dit.transformer_blocks
    modulations = modulate_all(blocks, temb)
    for index, block in enumerate(blocks):
        image_mods, text_mods = modulations[:, index, 0], modulations[:, index, 1]
        is_last = index + 1 == len(blocks)  # nothing reads the last block's text stream
        image, text = run_block(block, image, text, image_mods, text_mods, mask, rope, is_last)
    scale, shift = dit.norm_out.linear(temb)[:, None].chunk(2, -1)
    return dit.proj_out(layer_norm(image) * (1 + scale) + shift)


def modulate_all(blocks, temb):
    """[B, blocks, 2 streams, 6, 1, dim]; the six are shift, scale and gate of the attention, then of the MLP."""
    linears = [linear for block in blocks for linear in (block.img_mod[1], block.txt_mod[1])]
    weight = torch.cat([linear.weight for linear in linears])
    bias = torch.cat([linear.bias for linear in linears])
    return F.linear(temb, weight, bias).view(temb.shape[0], len(blocks), 2, 6, 1, -1)


def run_block(block, image, text, image_mods, text_mods, mask, rope, is_last):
    attn = block.attn
    text_len = text.shape[1]
    image_in = layer_norm(image) * (1 + image_mods[:, 1]) + image_mods[:, 0]
    text_in = layer_norm(text) * (1 + text_mods[:, 1]) + text_mods[:, 0]
    image_q, image_k, image_v = project(image_in, attn.heads, attn.to_q, attn.to_k, attn.to_v)
    text_q, text_k, text_v = project(text_in, attn.heads, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    q = torch.cat([rms_norm(text_q, attn.norm_added_q.weight), rms_norm(image_q, attn.norm_q.weight)], 1)
    k = torch.cat([rms_norm(text_k, attn.norm_added_k.weight), rms_norm(image_k, attn.norm_k.weight)], 1)
    v = torch.cat([text_v, image_v], 1)
    q, k, v = (part.transpose(1, 2) for part in (rotate(q, *rope), rotate(k, *rope), v))
    out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask).transpose(1, 2).flatten(2)
    image = image + image_mods[:, 2] * attn.to_out[0](out[:, text_len:])
    text = text + text_mods[:, 2] * attn.to_add_out(out[:, :text_len])
    image = image + image_mods[:, 5] * mlp(block.img_mlp, layer_norm(image) * (1 + image_mods[:, 4]) + image_mods[:, 3])
    if not is_last:
        text = text + text_mods[:, 5] * mlp(block.txt_mlp, layer_norm(text) * (1 + text_mods[:, 4]) + text_mods[:, 3])
    return image, text


def project(x, heads, *linears):
    """q, k and v, each [B, n, heads, head_dim]."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = torch.cat([linear.bias for linear in linears])
    return F.linear(x, weight, bias).unflatten(-1, (3 * heads, -1)).chunk(3, 2)


def rms_norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def rotate(x, cos, sin):
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def layer_norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def mlp(module, x):
    return module.net[2](F.gelu(module.net[0].proj(x), approximate="tanh"))
