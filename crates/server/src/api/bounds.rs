//! Server limits that a request can exceed, as errors name them.

use std::fmt;

/// Most bytes of an `Idempotency-Key`.
pub(crate) const MAX_KEY_LEN: usize = 255;

/// Most bytes of a body, and the flag that sets the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyLimit {
    pub(crate) bytes: usize,
    pub(crate) flag: &'static str,
}

/// Which limit a slow transfer exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooSlow {
    /// No bytes for too long.
    #[error("made no progress for too long (the server's --body-timeout)")]
    Idle,
    /// Too few bytes a second.
    #[error("came too slowly (the server's --min-transfer-rate)")]
    Rate,
    /// Too long in total, however fast.
    #[error("took too long (the server's --upload-timeout)")]
    Total,
}

/// What held memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Bodies that are being read.
    Uploads,
    /// Decoded pictures, until their request is answered.
    Pictures,
}

/// Whose bound it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    All,
    Client,
}

/// The memory is full; some may be free soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The {what} of {} hold as much as they may (the server's {})", whose.named(), what.flag(*whose))]
pub(crate) struct MemoryFull {
    pub(crate) what: Purpose,
    pub(crate) whose: Whose,
}

impl Whose {
    fn named(self) -> &'static str {
        match self {
            Whose::All => "all clients together",
            Whose::Client => "this client",
        }
    }
}

impl Purpose {
    /// The flag that sets the bound.
    pub(crate) fn flag(self, whose: Whose) -> &'static str {
        match (self, whose) {
            (Purpose::Uploads, Whose::All) => "--max-upload-memory",
            (Purpose::Uploads, Whose::Client) => "--max-client-upload-memory",
            (Purpose::Pictures, Whose::All) => "--max-picture-memory",
            (Purpose::Pictures, Whose::Client) => "--max-client-picture-memory",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Uploads => "uploads",
            Purpose::Pictures => "pictures",
        })
    }
}
