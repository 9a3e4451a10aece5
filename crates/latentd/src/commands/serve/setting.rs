//! One setting of a server, and its origin.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{Arg, ArgAction};

/// One setting. Its key is the name of the field, and also the key in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) values: Vec<OsString>,
    pub(super) origin: Origin,
}

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    Flag,
    Variable(String),
    File(PathBuf),
}

impl Setting {
    /// The flag, as messages name it.
    pub(super) fn flag(&self) -> String {
        format!("`--{}`", self.key.replace('_', "-"))
    }

    /// Whether this is a service link, not a port. Kubernetes sets `LATENTD_PORT=tcp://10.0.0.7:8091` in every
    /// container of a namespace that has a service `latentd`.
    pub(super) fn is_service_link(&self) -> bool {
        let is_link = |value: &OsString| {
            let value = value.to_string_lossy();
            ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
        };
        self.key == "port" && matches!(self.origin, Origin::Variable(_)) && self.values.iter().all(is_link)
    }
}

impl fmt::Display for Setting {
    /// Names the place where the user finds the setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Flag => f.write_str(&self.flag()),
            Origin::Variable(name) => f.write_str(name),
            Origin::File(path) => write!(f, "{}: `{}`", path.display(), self.key),
        }
    }
}

/// Whether a flag is a switch, which takes no value on the command line.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}
