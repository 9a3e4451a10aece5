//! The beginning of a value, as an error shows it: a list or an object is written until there is no more room, and
//! skipped from there on.

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Characters that an error shows of a value, and one more to detect that it is longer.
const MAX_SHOWN_CHARS: usize = 81;

/// The beginning of the JSON of a list or an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(super) text: String,
    /// Length of a list; 1 for everything else.
    pub(crate) len: usize,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As much of a text as an error shows.
pub(super) fn beginning(text: &str) -> &str {
    text.char_indices().nth(MAX_SHOWN_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// The beginning of a text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(beginning(text)).expect("a string is JSON. This is a bug.")
}

pub(super) fn shown_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Shown, A::Error> {
    let mut shown = Beginning::default();
    let len = write_list(list, &mut shown)?;
    Ok(Shown { text: shown.text, len })
}

pub(super) fn shown_object<'de, A: MapAccess<'de>>(object: A) -> Result<Shown, A::Error> {
    let mut shown = Beginning::default();
    write_object(object, &mut shown)?;
    Ok(Shown { text: shown.text, len: 1 })
}

/// Writes a list; returns its length.
fn write_list<'de, A: SeqAccess<'de>>(mut list: A, to: &mut Beginning) -> Result<usize, A::Error> {
    to.push("[");
    let mut len = 0;
    while list.next_element_seed(WriteSeed { to, before: if len == 0 { "" } else { "," } })?.is_some() {
        len += 1;
    }
    to.push("]");
    Ok(len)
}

fn write_object<'de, A: MapAccess<'de>>(mut object: A, to: &mut Beginning) -> Result<(), A::Error> {
    to.push("{");
    while object.next_key_seed(KeySeed(to))?.is_some() {
        object.next_value_seed(WriteSeed { to, before: ":" })?;
    }
    to.push("}");
    Ok(())
}

/// Writes a key.
struct KeySeed<'s>(&'s mut Beginning);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.0.next_key(key);
        Ok(())
    }
}

/// The beginning of a text that is being written.
#[derive(Default)]
pub(super) struct Beginning {
    pub(super) text: String,
    chars: usize,
}

impl Beginning {
    fn is_full(&self) -> bool {
        self.chars >= MAX_SHOWN_CHARS
    }

    pub(super) fn push(&mut self, more: &str) {
        for c in more.chars().take(MAX_SHOWN_CHARS.saturating_sub(self.chars)) {
            self.text.push(c);
            self.chars += 1;
        }
    }

    pub(super) fn next_key(&mut self, key: &str) {
        if !self.is_full() {
            if !self.text.ends_with('{') {
                self.push(",");
            }
            self.push(&quoted(key));
        }
    }
}

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

/// Writes a value after `before` while there is room, and skips it otherwise. Each level of nesting writes at least one
/// character, so the recursion ends.
pub(super) struct WriteSeed<'s> {
    pub(super) to: &'s mut Beginning,
    pub(super) before: &'static str,
}

impl<'de> DeserializeSeed<'de> for WriteSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.to.push(self.before);
        if self.to.is_full() {
            return serde::Deserialize::deserialize(deserializer).map(|IgnoredAny| ());
        }
        deserializer.deserialize_any(self)
    }
}

impl WriteSeed<'_> {
    fn write<E: Error>(self, value: impl fmt::Display) -> Result<(), E> {
        write!(self.to, "{value}").map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for WriteSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.write("null")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.write(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.write(quoted(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        write_list(list, self.to).map(|_| ())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        write_object(object, self.to)
    }
}
