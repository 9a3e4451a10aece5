//! The flags that describe a request and its cache, for `cache plan` and `cache simulate`.

use cache::CacheConfig;
use diffusion::{InvalidRequest, MAX_INFERENCE_STEPS};
use latentd::{CacheBackend, CacheFlags, Error};

/// The flags of a request and its cache.
#[derive(clap::Args)]
pub(super) struct Scenario {
    /// Denoising steps of the request, 1 to 1000
    #[arg(long, alias = "num-inference-steps", value_name = "N", allow_negative_numbers = true)]
    steps: i64,
    #[command(flatten)]
    flags: CacheFlags,
}

impl Scenario {
    pub(super) fn steps(&self) -> Result<usize, Error> {
        match self.steps {
            1..=MAX_INFERENCE_STEPS => Ok(self.steps as usize),
            given => Err(InvalidRequest::new("steps", format!("be between 1 and {MAX_INFERENCE_STEPS}"), given).into()),
        }
    }

    /// The cache configuration of the flags, for a model whose segments have `num_blocks` blocks. The default backend
    /// is `cache_dit`.
    pub(super) fn config(&self, num_blocks: &[usize]) -> Result<CacheConfig, Error> {
        if num_blocks.contains(&0) {
            return Err(InvalidRequest::new("blocks", "be at least 1", 0).into());
        }
        let backend = Some(self.flags.cache_backend.unwrap_or(CacheBackend::CacheDit));
        let flags = CacheFlags { cache_backend: backend, ..self.flags.clone() };
        let Some(config) = flags.resolve()? else {
            return Err(Error::Flag("`--cache-backend none` leaves no cache to look at".into()));
        };
        config.validate(num_blocks).map_err(|err| Error::Flag(err.to_string()))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(steps: i64, config: &str) -> Scenario {
        Scenario { steps, flags: CacheFlags { cache_config: Some(config.into()), ..CacheFlags::default() } }
    }

    #[test]
    fn the_backend_is_understood_unless_it_is_none() {
        let warmup = scenario(28, r#"{"max_warmup_steps": 8}"#).config(&[60]).unwrap().max_warmup_steps;
        assert_eq!(warmup, 8);
        let flags = CacheFlags { cache_backend: Some(CacheBackend::None), ..CacheFlags::default() };
        let err = Scenario { steps: 28, flags }.config(&[60]).unwrap_err();
        assert_eq!(err.to_string(), "`--cache-backend none` leaves no cache to look at");
    }

    #[test]
    fn bounds_are_those_of_requests_and_models() {
        assert_eq!(scenario(1000, "{}").steps().unwrap(), 1000);
        let err = scenario(0, "{}").steps().unwrap_err();
        assert_eq!((err.to_string().as_str(), err.exit_code()), ("`steps` must be between 1 and 1000. Given: 0", 2));
        let err = scenario(28, r#"{"Fn_compute_blocks": 8}"#).config(&[60, 6]).unwrap_err();
        assert_eq!(err.to_string(), "`Fn_compute_blocks` must be at most 6, the model's blocks. Given: 8");
        let err = scenario(28, "{}").config(&[60, 0]).unwrap_err();
        assert_eq!(err.to_string(), "`blocks` must be at least 1. Given: 0");
    }
}
