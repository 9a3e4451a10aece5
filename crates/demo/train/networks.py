"""The three networks of the built-in model: Qwen-Image's own classes with small sizes."""

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

TEXT_WIDTH = 128
TEXT_ENCODER = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"},
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
# The class requires a vision tower. Text to image never runs it, so it has minimal sizes.
VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_heads": 2,
    "out_hidden_size": TEXT_WIDTH,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "fullatt_block_indexes": [0],
    "hidden_act": "silu",
}
DIT = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 12,
    "attention_head_dim": 32,
    "num_attention_heads": 5,
    "joint_attention_dim": TEXT_WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 12, 12),
}
VAE = {
    "base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
# The values of Qwen/Qwen-Image's scheduler_config.json.
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}


def vae():
    return AutoencoderKLQwenImage(**VAE)


def text_encoder(vocab_size, added):
    """`added` maps the added tokens to their ids."""
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT_ENCODER,
            "vocab_size": vocab_size,
            "bos_token_id": added["<|endoftext|>"],
            "eos_token_id": added["<|im_end|>"],
        },
        vision_config=VISION,
        tie_word_embeddings=True,
        image_token_id=added["<|image_pad|>"],
        video_token_id=added["<|video_pad|>"],
        vision_start_token_id=added["<|vision_start|>"],
        vision_end_token_id=added["<|vision_end|>"],
        vision_token_id=added["<|vision_pad|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.5)
    return model


def dit():
    """Creates a DiT whose blocks start close to the identity, with a velocity of zero."""
    model = QwenImageTransformer2DModel(**DIT)
    for block in model.transformer_blocks:
        for linear in (block.img_mod[1], block.txt_mod[1]):
            torch.nn.init.normal_(linear.weight, std=0.01)
            torch.nn.init.zeros_(linear.bias)
    torch.nn.init.normal_(model.norm_out.linear.weight, std=0.01)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model
