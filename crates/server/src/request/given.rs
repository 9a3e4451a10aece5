//! One value of a request, as it was given: what its field may mean is kept, of anything else only what an error
//! shows of it. Whatever a body holds, it is never built as a tree.

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::fields::{Fields, FieldsVisitor};
use super::sources::MAX_INPUT_IMAGES;

/// Most bytes of an object of settings.
const MAX_SETTINGS_BYTES: usize = 64 << 10;
/// Characters that an error shows of a value, and one more by which it knows that there are more.
const MAX_SHOWN_CHARS: usize = 81;

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

/// The beginning of a list's or an object's JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    text: String,
    /// How many values a list has; 1 for everything else.
    pub(crate) len: usize,
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
            Given::Other(shown) => f.write_str(&shown.text),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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

/// As much of a text as an error shows.
fn beginning(text: &str) -> &str {
    text.char_indices().nth(MAX_SHOWN_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// The beginning of a text as a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::to_string(beginning(text)).expect("a string is JSON. This is a bug.")
}

/// Reads a value for a field of this shape.
#[derive(Clone, Copy)]
pub(super) struct GivenSeed(pub(super) Shape);

impl<'de> DeserializeSeed<'de> for GivenSeed {
    type Value = Option<Given>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Given>, D::Error> {
        if self.0 != Shape::Settings {
            return deserializer.deserialize_any(self);
        }
        let raw: Box<RawValue> = serde::Deserialize::deserialize(deserializer)?;
        if raw.get().starts_with('{') && raw.get().len() <= MAX_SETTINGS_BYTES {
            return Ok(Some(Given::Settings(raw.into())));
        }
        let mut json = serde_json::Deserializer::from_str(raw.get());
        GivenSeed(Shape::Single).deserialize(&mut json).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for GivenSeed {
    type Value = Option<Given>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Given>, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Given>, E> {
        Ok(Some(Given::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Given>, E> {
        Ok(Some(Given::Number(value.into())))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Given>, E> {
        Ok(Some(Given::Number(value.into())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Given>, E> {
        Number::from_f64(value).map(|number| Some(Given::Number(number))).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<Given>, E> {
        let kept = if self.0 == Shape::Counted { beginning(text) } else { text };
        Ok(Some(Given::Text(kept.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Given>, A::Error> {
        if self.0 != Shape::Pictures {
            return shown_list(list).map(|shown| Some(Given::Other(shown)));
        }
        let mut pictures = Pictures::default();
        while pictures.items.len() < MAX_INPUT_IMAGES
            && let Some(picture) = list.next_element_seed(PictureSeed)?
        {
            pictures.items.push(picture);
        }
        pictures.count = pictures.items.len();
        if pictures.count == MAX_INPUT_IMAGES {
            while list.next_element::<IgnoredAny>()?.is_some() {
                pictures.count += 1;
            }
        }
        Ok(Some(Given::Pictures(pictures)))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Option<Given>, A::Error> {
        match self.0 {
            Shape::Fields { keeps_pictures } => {
                let fields = FieldsVisitor::nested(keeps_pictures).visit_map(object)?;
                Ok(Some(Given::Fields(Box::new(fields))))
            }
            Shape::Pictures | Shape::Picture => {
                let items = vec![PictureSeed.visit_map(object)?];
                Ok(Some(Given::Pictures(Pictures { items, count: 1 })))
            }
            Shape::Single | Shape::Settings | Shape::Counted => {
                shown_object(object).map(|shown| Some(Given::Other(shown)))
            }
        }
    }
}

/// Reads one of a list of pictures.
struct PictureSeed;

impl<'de> DeserializeSeed<'de> for PictureSeed {
    type Value = Picture;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Picture, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PictureSeed {
    type Value = Picture;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Picture, E> {
        Ok(Picture::Other(Shown { text: "null".into(), len: 1 }))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Picture, E> {
        Ok(Picture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Picture, E> {
        Ok(Picture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Picture, E> {
        Ok(Picture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Picture, E> {
        Ok(Picture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<Picture, E> {
        Ok(Picture::Url(url.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Picture, A::Error> {
        shown_list(list).map(Picture::Other)
    }

    /// Of other keys than its two nothing is kept but what an error shows.
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Picture, A::Error> {
        let mut shown = Beginning::default();
        shown.push("{");
        let (mut image_url, mut file_id) = (None, None);
        while let Some(key) = object.next_key_seed(KeySeed(&mut shown))? {
            let place = match key {
                PictureKey::ImageUrl => &mut image_url,
                PictureKey::FileId => &mut file_id,
                PictureKey::Other => {
                    object.next_value_seed(WriteSeed { to: &mut shown, before: ":" })?;
                    continue;
                }
            };
            *place = object.next_value_seed(GivenSeed(Shape::Single))?;
            shown.push(":");
            shown.push(&place.as_ref().map_or("null".into(), Given::to_string));
        }
        shown.push("}");
        Ok(match (image_url, file_id) {
            (Some(Given::Text(url)), None) => Picture::Url(url),
            (None, Some(file_id)) => Picture::FileId(Shown { text: file_id.to_string(), len: 1 }),
            _ => Picture::Other(Shown { text: shown.text, len: 1 }),
        })
    }
}

enum PictureKey {
    ImageUrl,
    FileId,
    Other,
}

/// Reads a key of a picture's object, and shows it.
struct KeySeed<'s>(&'s mut Beginning);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = PictureKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PictureKey, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = PictureKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<PictureKey, E> {
        self.0.next_key(key);
        Ok(match key {
            "image_url" => PictureKey::ImageUrl,
            "file_id" => PictureKey::FileId,
            _ => PictureKey::Other,
        })
    }
}

fn shown_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Shown, A::Error> {
    let mut shown = Beginning::default();
    let len = write_list(list, &mut shown)?;
    Ok(Shown { text: shown.text, len })
}

fn shown_object<'de, A: MapAccess<'de>>(object: A) -> Result<Shown, A::Error> {
    let mut shown = Beginning::default();
    write_object(object, &mut shown)?;
    Ok(Shown { text: shown.text, len: 1 })
}

/// Tells how many values there are.
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

/// The beginning of a text that is being written.
#[derive(Default)]
struct Beginning {
    text: String,
    chars: usize,
}

impl Beginning {
    fn is_full(&self) -> bool {
        self.chars >= MAX_SHOWN_CHARS
    }

    fn push(&mut self, more: &str) {
        for c in more.chars().take(MAX_SHOWN_CHARS.saturating_sub(self.chars)) {
            self.text.push(c);
            self.chars += 1;
        }
    }

    fn next_key(&mut self, key: &str) {
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

/// Shows a value behind `before`, for as long as there is room: it is skipped then. Each level of nesting writes a
/// character at least, so that it ends.
struct WriteSeed<'s> {
    to: &'s mut Beginning,
    before: &'static str,
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
