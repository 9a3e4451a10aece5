//! The flags that bound what the front end holds in memory.

use bytesize::ByteSize;
use server::ServerConfig;

/// What the front end holds, beside what `--memory-budget` counts.
#[derive(clap::Args)]
#[command(next_help_heading = "Memory")]
pub(super) struct HeldFlags {
    /// Most bytes of all bodies together that are being read; one that finds no room is answered with 429
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "LATENTD_MAX_UPLOAD_MEMORY")]
    max_upload_memory: ByteSize,
    /// The most of these of one client: of a key, or without keys of an address (of IPv6 a /64 network; behind a proxy
    /// that is the proxy)
    #[arg(long, value_name = "BYTES", default_value = "256MiB", env = "LATENTD_MAX_CLIENT_UPLOAD_MEMORY")]
    max_client_upload_memory: ByteSize,
    /// Most bytes of all decoded pictures together, those of edits that are not answered yet, three a pixel, and while
    /// they are decoded up to twelve; an edit that finds no room is answered with 429
    #[arg(long, value_name = "BYTES", default_value = "2GiB", env = "LATENTD_MAX_PICTURE_MEMORY")]
    max_picture_memory: ByteSize,
    /// The most of these of one client; the largest pictures of one edit, 64 megapixels, take up to 768 MiB. An edit
    /// that needs more is answered with 400
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "LATENTD_MAX_CLIENT_PICTURE_MEMORY")]
    max_client_picture_memory: ByteSize,
    /// Most bytes of the results of async jobs, which are kept for an hour; of jobs that go on their pictures count
    /// uncompressed. A job that finds no room is answered with 429
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "LATENTD_MAX_JOB_MEMORY")]
    max_job_memory: ByteSize,
    /// Most bytes of the answers to requests with an `Idempotency-Key`, counted alike; the oldest make way
    #[arg(long, value_name = "BYTES", default_value = "512MiB", env = "LATENTD_MAX_REPLAY_MEMORY")]
    max_replay_memory: ByteSize,
    /// Most bytes of the pictures behind URLs, which are kept for an hour; the oldest make way
    #[arg(long, value_name = "BYTES", default_value = "512MiB", env = "LATENTD_MAX_FILE_MEMORY")]
    max_file_memory: ByteSize,
}

impl HeldFlags {
    /// Writes the flags into the front end's settings.
    pub(super) fn settle(&self, config: &mut ServerConfig) {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        config.uploads.upload_memory = bytes(self.max_upload_memory);
        config.uploads.client_upload_memory = bytes(self.max_client_upload_memory);
        config.uploads.picture_memory = bytes(self.max_picture_memory);
        config.uploads.client_picture_memory = bytes(self.max_client_picture_memory);
        config.job_memory = bytes(self.max_job_memory);
        config.replay_memory = bytes(self.max_replay_memory);
        config.file_memory = bytes(self.max_file_memory);
    }
}
