//! Fused tensor operations of the denoising step, each beside its plain-candle reference
