//! Everything that is wrong with how a server was configured, to be told at once.

use latentd::Error;

/// What was found so far, a line each.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    lines: Vec<String>,
    /// The settings that are left out because of it.
    keys: Vec<String>,
    /// Flags, as messages name them, and where their values really stand.
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

    /// From now on lines name this place for a flag that is not at the command line: what checks a value knows the
    /// flag alone.
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

    /// Whether a setting was left out, so that what needs it cannot be judged.
    pub(super) fn concern(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known == key)
    }

    /// The value, or nothing and a line.
    pub(super) fn take<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|err| self.note(err)).ok()
    }
}

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Self {
        Error::Settings(mistakes.lines)
    }
}
