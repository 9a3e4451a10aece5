//! How long a body may be.

/// Most bytes of a body, and the flag that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bytes: usize,
    pub(crate) flag: &'static str,
}
