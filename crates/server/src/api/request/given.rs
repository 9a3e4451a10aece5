//! One value of a request, as it was given: what its field may mean is kept, of anything else only what an error
//! shows of it. Whatever a body holds, it is never built as a tree.

use std::fmt;

use serde_json::Number;

use super::shown::{Shown, beginning, quoted};

/// What of a field's value is kept where it is no single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing but what an error shows.
    Single,
    /// The text of an object, which is read in its own way.
    Settings,
    /// More fields of the request.
    Fields {
        /// Whether more is kept of their pictures than how many there are.
        keeps_pictures: bool,
    },
    /// Pictures, one or a list.
    Pictures,
    /// One picture.
    Picture,
    /// Pictures, of which it only matters how many there are.
    Counted,
}

/// A value as a request gives it; `null` is as none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    Bool(bool),
    Number(Number),
    Text(String),
    /// An object, as it was written.
    Settings(Box<str>),
    Fields(Box<Fields>),
    Pictures(Pictures),
    /// A list or an object where there should be none.
    Other(Shown),
}

/// Pictures that a field names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pictures {
    /// Those that are kept: no more than a request may bring.
    pub(crate) items: Vec<Picture>,
    /// How many were given.
    pub(crate) count: usize,
}

/// OpenAI's `{"image_url": …}` or `{"file_id": …}`, or just the URL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Picture {
    Url(String),
    FileId(Shown),
    Other(Shown),
}

impl Given {
    /// Whether it says as much as nothing.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Given::Text(text) => text.is_empty(),
            _ => self.len() == 0,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Given::Text(text) => Some(text),
            _ => None,
        }
    }

    /// How many values a list has; 1 for everything else.
    pub(crate) fn len(&self) -> usize {
        match self {
            Given::Pictures(pictures) => pictures.count,
            Given::Other(shown) => shown.len,
            _ => 1,
        }
    }
}

impl fmt::Display for Given {
    /// The JSON of it, or the beginning of that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Bool(value) => write!(f, "{value}"),
            Given::Number(number) => write!(f, "{number}"),
            Given::Text(text) => f.write_str(&quoted(text)),
            Given::Settings(text) => f.write_str(beginning(text)),
            Given::Fields(_) => f.write_str("an object"),
            Given::Pictures(pictures) => f.write_str(&pictures_of(pictures.count)),
            Given::Other(shown) => write!(f, "{shown}"),
        }
    }
}

/// So many pictures, in words.
pub(crate) fn pictures_of(count: usize) -> String {
    match count {
        0 => "no picture".into(),
        1 => "1 picture".into(),
        count => format!("{count} pictures"),
    }
}

/// Most bytes of the names without effect that are kept: as many as an answer tells of.
pub(super) const MAX_UNKNOWN_BYTES: usize = 1024;

/// The fields of a request that were not taken yet. `null` is the same as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    pub(super) values: Vec<(&'static str, Given)>,
    /// Names without a meaning: as many as there is room for.
    pub(super) unknown: Vec<String>,
    pub(super) unknown_bytes: usize,
    /// The values came as text (a form): each is what its field's type makes of it, and an empty one
    /// is absent where text is not what the field holds.
    pub(super) spelt: bool,
    /// Names that came again, of which the first value stands.
    pub(super) repeated: Vec<&'static str>,
}

impl Fields {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.values.iter().any(|(known, _)| *known == name)
    }

    pub(crate) fn set(&mut self, name: &'static str, given: Given) {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, value)) => *value = given,
            None => self.values.push((name, given)),
        }
    }

    /// A name that came again, and whose second value was not read.
    pub(crate) fn note_repeated(&mut self, name: &'static str) {
        if !self.repeated.contains(&name) {
            self.repeated.push(name);
        }
    }

    /// A name without a meaning.
    pub(crate) fn note_unknown(&mut self, name: &str) {
        let has_room =
            self.unknown_bytes + name.len() <= MAX_UNKNOWN_BYTES && self.unknown.len() < MAX_UNKNOWN_BYTES / 8;
        if has_room && !self.unknown.iter().any(|known| known == name) {
            self.unknown_bytes += name.len();
            self.unknown.push(name.to_owned());
        }
    }

    /// A value as it was given, whatever it is.
    pub(crate) fn any(&mut self, name: &str) -> Option<Given> {
        let at = self.values.iter().position(|(known, _)| *known == name)?;
        Some(self.values.swap_remove(at).1)
    }
}
