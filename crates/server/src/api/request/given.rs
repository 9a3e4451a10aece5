//! A given value of a request: kept as its field's shape needs; of any other value only the beginning for an error. No
//! body is ever built as a tree.

use std::fmt;

use serde_json::Number;

use super::shown::{Shown, beginning, quoted};

/// What is kept of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A single value; of lists and objects only the beginning for an error.
    Single,
    /// The text of an object, which is parsed separately.
    Settings,
    /// Further fields of the request.
    Fields {
        /// Whether their pictures are kept, not only counted.
        keeps_pictures: bool,
    },
    /// One picture or a list.
    Pictures,
    /// One picture.
    Picture,
    /// Pictures that are only counted.
    Counted,
}

/// A given value; `null` is the same as absent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    Bool(bool),
    Number(Number),
    Text(String),
    /// The text of an object.
    Settings(Box<str>),
    Fields(Box<Fields>),
    Pictures(Pictures),
    /// A list or an object in place of a single value.
    Other(Shown),
}

/// The pictures of a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pictures {
    /// The kept ones: no more than a request may have.
    pub(crate) items: Vec<GivenPicture>,
    /// Number of given pictures.
    pub(crate) count: usize,
}

/// OpenAI's `{"image_url": …}` or `{"file_id": …}`, or only the URL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GivenPicture {
    Url(String),
    FileId(Shown),
    Other(Shown),
}

impl Given {
    /// Whether it is equivalent to no value.
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

    /// Length of a list; 1 for everything else.
    pub(crate) fn len(&self) -> usize {
        match self {
            Given::Pictures(pictures) => pictures.count,
            Given::Other(shown) => shown.len,
            _ => 1,
        }
    }
}

impl fmt::Display for Given {
    /// Writes the value as JSON, or the beginning of it.
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

/// The number of pictures in words.
pub(crate) fn pictures_of(count: usize) -> String {
    match count {
        0 => "no picture".into(),
        1 => "1 picture".into(),
        count => format!("{count} pictures"),
    }
}

/// Most bytes of the kept unknown names; an answer reports no more.
pub(super) const MAX_UNKNOWN_BYTES: usize = 1024;

/// The fields of a request that were not taken yet. `null` is the same as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    pub(super) values: Vec<(&'static str, Given)>,
    /// Unknown names, as many as there is room for.
    pub(super) unknown: Vec<String>,
    pub(super) unknown_bytes: usize,
    /// The values are text from a form: each field's kind parses its own. An empty text counts as absent if the kind
    /// does not hold text.
    pub(super) spelt: bool,
    /// Names that were given again; the first value counts.
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

    /// Records a repeated name, whose second value is not read.
    pub(crate) fn note_repeated(&mut self, name: &'static str) {
        if !self.repeated.contains(&name) {
            self.repeated.push(name);
        }
    }

    /// Records an unknown name.
    pub(crate) fn note_unknown(&mut self, name: &str) {
        let has_room =
            self.unknown_bytes + name.len() <= MAX_UNKNOWN_BYTES && self.unknown.len() < MAX_UNKNOWN_BYTES / 8;
        if has_room && !self.unknown.iter().any(|known| known == name) {
            self.unknown_bytes += name.len();
            self.unknown.push(name.to_owned());
        }
    }

    /// Takes a value without parsing it.
    pub(crate) fn any(&mut self, name: &str) -> Option<Given> {
        let at = self.values.iter().position(|(known, _)| *known == name)?;
        Some(self.values.swap_remove(at).1)
    }
}
