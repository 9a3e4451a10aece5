//! All mistakes in a server's configuration, collected to be reported at once.

use latentd::Error;

/// The mistakes found so far, one line each.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    lines: Vec<String>,
    /// The settings that are left out because of a mistake.
    keys: Vec<String>,
    /// Flags, as messages name them, and the origins of their values.
    origins: Vec<(String, String)>,
}

impl Mistakes {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    #[cfg(test)]
    pub(super) fn lines(self) -> impl Iterator<Item = String> {
        self.lines.into_iter()
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Makes later lines name `origin` in place of `flag`, for a value that is not from the command line. The checks of
    /// values name only the flag.
    pub(super) fn stands(&mut self, flag: String, origin: String) {
        self.origins.push((flag, origin));
    }

    pub(super) fn note(&mut self, line: impl ToString) {
        let line = line.to_string();
        self.lines.push(self.origins.iter().fold(line, |line, (flag, origin)| line.replace(flag, origin)));
    }

    pub(super) fn note_setting(&mut self, key: &str, line: String) {
        self.keys.push(key.to_owned());
        self.lines.push(line);
    }

    /// Whether the setting `key` was left out, so that settings that depend on it cannot be checked.
    pub(super) fn concern(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known == key)
    }

    /// The value, or `None` after noting the error.
    pub(super) fn take<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|err| self.note(err)).ok()
    }
}

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Self {
        Error::Settings(mistakes.lines)
    }
}
