//! The bounds of the server that a request can meet with, as it is told of them.

use std::fmt;

/// Most bytes of an `Idempotency-Key`.
pub(crate) const MAX_KEY_LEN: usize = 255;

/// Most bytes of a body, and the flag that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyLimit {
    pub(crate) bytes: usize,
    pub(crate) flag: &'static str,
}

/// What is too slow about a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooSlow {
    /// Nothing came for too long.
    #[error("made no progress for too long (the server's --body-timeout)")]
    Idle,
    /// It trickles.
    #[error("came too slowly (the server's --min-transfer-rate)")]
    Rate,
    /// It took too long, however fast it was.
    #[error("took too long (the server's --upload-timeout)")]
    Total,
}

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Bodies that are read.
    Uploads,
    /// Decoded pictures, until what was asked with them is answered.
    Pictures,
}

/// Whose memory has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    All,
    Client,
}

/// There is no room for more: it may be there soon.
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
    /// The flag of its bound.
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
