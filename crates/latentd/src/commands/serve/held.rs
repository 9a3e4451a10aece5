//! The flags that bound the front end's memory.

use bytesize::ByteSize;
use server::ServerConfig;

/// Memory bounds of the front end. `--memory-budget` does not count this memory.
#[derive(clap::Args)]
#[command(next_help_heading = "Memory")]
pub(super) struct HeldFlags {
    /// Maximum bytes of all request bodies being read; a request without room is answered with 429
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "LATENTD_MAX_UPLOAD_MEMORY")]
    max_upload_memory: ByteSize,
    /// The same per client: per key, or without keys per address (for IPv6 per /64 network; behind a proxy that is the
    /// proxy's address)
    #[arg(long, value_name = "BYTES", default_value = "256MiB", env = "LATENTD_MAX_CLIENT_UPLOAD_MEMORY")]
    max_client_upload_memory: ByteSize,
    /// Maximum bytes of all decoded pictures of unanswered edits: three per pixel, and up to twelve while decoding; an
    /// edit without room is answered with 429
    #[arg(long, value_name = "BYTES", default_value = "2GiB", env = "LATENTD_MAX_PICTURE_MEMORY")]
    max_picture_memory: ByteSize,
    /// The same per client; the largest pictures of one edit, 64 megapixels, take up to 768 MiB. An edit that needs
    /// more is answered with 400
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "LATENTD_MAX_CLIENT_PICTURE_MEMORY")]
    max_client_picture_memory: ByteSize,
    /// Maximum bytes of the results of async jobs, which are kept for an hour; pictures of running jobs count
    /// uncompressed. A job without room is answered with 429
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "LATENTD_MAX_JOB_MEMORY")]
    max_job_memory: ByteSize,
    /// Maximum bytes of the answers to requests with an `Idempotency-Key`, counted the same way; the oldest are evicted
    #[arg(long, value_name = "BYTES", default_value = "512MiB", env = "LATENTD_MAX_REPLAY_MEMORY")]
    max_replay_memory: ByteSize,
    /// Maximum bytes of the pictures behind URLs, which are kept for an hour; the oldest are evicted
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
