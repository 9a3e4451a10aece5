//! The flags of the step cache, under the guide's names.

use crate::error::Error;

/// Which step cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheBackend {
    /// Every step is computed.
    #[default]
    None,
    /// DBCache, TaylorSeer and SCM.
    #[value(name = "cache_dit", alias = "cache-dit")]
    CacheDit,
}

/// The flags of the step cache, as typed.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Step cache")]
pub struct CacheFlags {
    /// The step cache: `none` or `cache_dit`
    #[arg(long, value_enum, value_name = "NAME", env = "LATENTD_CACHE_BACKEND")]
    pub cache_backend: Option<CacheBackend>,
    /// The cache's settings as JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE", env = "LATENTD_CACHE_CONFIG")]
    pub cache_config: Option<String>,
    /// Leading blocks that every step computes
    #[arg(long, value_name = "N")]
    pub cache_dit_fn_compute_blocks: Option<i64>,
    /// Trailing blocks that every step computes
    #[arg(long, value_name = "N")]
    pub cache_dit_bn_compute_blocks: Option<i64>,
    /// Steps at the start that are computed
    #[arg(long, value_name = "N")]
    pub cache_dit_max_warmup_steps: Option<i64>,
    /// Reuse below this relative change of the first blocks' residual
    #[arg(long, value_name = "R")]
    pub cache_dit_residual_diff_threshold: Option<f64>,
    /// Most steps in a row that reuse; -1 for any number
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub cache_dit_max_continuous_cached_steps: Option<i64>,
    /// Forecast the residual instead of repeating it
    #[arg(long)]
    pub cache_dit_enable_taylorseer: bool,
    /// Order of the forecast
    #[arg(long, value_name = "N")]
    pub cache_dit_taylorseer_order: Option<i64>,
    /// Steps to compute by a mask: slow, medium, fast or ultra
    #[arg(long, value_name = "NAME")]
    pub cache_dit_scm_steps_mask_policy: Option<String>,
    /// What a step that the mask leaves free does: dynamic or static
    #[arg(long, value_name = "NAME")]
    pub cache_dit_scm_steps_policy: Option<String>,
}

impl CacheFlags {
    /// Refuses what is not built yet, so that no flag is accepted and ignored.
    ///
    /// # Errors
    /// A cache was asked for.
    pub fn check(&self) -> Result<(), Error> {
        let tuned = self.cache_config.is_some()
            || self.cache_dit_fn_compute_blocks.is_some()
            || self.cache_dit_bn_compute_blocks.is_some()
            || self.cache_dit_max_warmup_steps.is_some()
            || self.cache_dit_residual_diff_threshold.is_some()
            || self.cache_dit_max_continuous_cached_steps.is_some()
            || self.cache_dit_enable_taylorseer
            || self.cache_dit_taylorseer_order.is_some()
            || self.cache_dit_scm_steps_mask_policy.is_some()
            || self.cache_dit_scm_steps_policy.is_some();
        if tuned || self.cache_backend == Some(CacheBackend::CacheDit) {
            return Err(Error::Flag("the step cache is not available yet: leave the --cache flags out".into()));
        }
        Ok(())
    }
}
