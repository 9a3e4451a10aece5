//! Comparisons with the results of diffusers and cache-dit.
//!
//! The recorded files lie beside this one, or in the same layout in the folder that `LATENTD_GOLDENS` names. Every
//! comparison prints its error and its tolerance.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

mod broken_checkpoints;
mod cache_diff_unit;
mod cache_flux2_tiny;
mod cache_masks;
mod cache_qwen_tiny;
mod cache_taylorseer;
mod cache_tiny;
mod cache_toy_traces;
mod compare;
mod demo_pictures;
mod demo_previews;
mod dit_rows;
mod edit_batch;
mod edit_encodings;
mod edit_masks;
mod edit_models;
mod flux2_klein_pipeline;
mod flux2_klein_text_encoder;
mod flux2_klein_transformer;
mod flux2_klein_vae;
mod interrupts;
mod loading;
mod not_finite;
mod plans;
mod quantization;
mod qwen_image;
mod qwen_image_cache;
mod qwen_image_edit_encoder;
mod qwen_image_edit_pipeline;
mod qwen_image_edit_processor;
mod qwen_image_edit_text_encoder;
mod qwen_image_edit_transformer;
mod qwen_image_edit_vae;
mod qwen_image_edit_vision;
mod qwen_image_pipeline;
mod qwen_image_text_encoder;
mod qwen_image_transformer;
mod qwen_image_vae;
mod samplers;
mod vae_tiling;
