//! Deserializing the fields of a JSON object. Each field's shape decides what is kept; of any other value only the
//! beginning is kept for an error. No body is ever built as a tree.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::given::{Fields, Given, GivenPicture, MAX_UNKNOWN_BYTES, Pictures, Shape};
use super::picture_bounds::MAX_INPUT_IMAGES;
use super::shown::{Beginning, Shown, WriteSeed, beginning, shown_list, shown_object};

/// Looks up a name: its field, and what is kept of the value.
pub(super) type Known = fn(&str) -> Option<(&'static str, Shape)>;

/// Most bytes of an object of settings.
const MAX_SETTINGS_BYTES: usize = 64 << 10;
/// Deserializes a value for a field of this shape.
#[derive(Clone, Copy)]
struct GivenSeed {
    shape: Shape,
    /// Lookup of the fields within it.
    known: Known,
}

impl GivenSeed {
    /// For a value that is neither a list nor an object.
    fn single() -> Self {
        GivenSeed { shape: Shape::Single, known: |_| None }
    }
}

impl<'de> DeserializeSeed<'de> for GivenSeed {
    type Value = Option<Given>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Given>, D::Error> {
        if self.shape != Shape::Settings {
            return deserializer.deserialize_any(self);
        }
        let raw: Box<RawValue> = serde::Deserialize::deserialize(deserializer)?;
        if raw.get().starts_with('{') && raw.get().len() <= MAX_SETTINGS_BYTES {
            return Ok(Some(Given::Settings(raw.into())));
        }
        let mut json = serde_json::Deserializer::from_str(raw.get());
        GivenSeed::single().deserialize(&mut json).map_err(D::Error::custom)
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
        let kept = if self.shape == Shape::Counted { beginning(text) } else { text };
        Ok(Some(Given::Text(kept.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Given>, A::Error> {
        if self.shape != Shape::Pictures {
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
        match self.shape {
            Shape::Fields { keeps_pictures } => {
                let fields = FieldsVisitor::nested(keeps_pictures, self.known).visit_map(object)?;
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

/// Deserializes one item of a list of pictures.
struct PictureSeed;

impl<'de> DeserializeSeed<'de> for PictureSeed {
    type Value = GivenPicture;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<GivenPicture, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PictureSeed {
    type Value = GivenPicture;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<GivenPicture, E> {
        Ok(GivenPicture::Other(Shown { text: "null".into(), len: 1 }))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<GivenPicture, E> {
        Ok(GivenPicture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<GivenPicture, E> {
        Ok(GivenPicture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<GivenPicture, E> {
        Ok(GivenPicture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<GivenPicture, E> {
        Ok(GivenPicture::Other(Shown { text: value.to_string(), len: 1 }))
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<GivenPicture, E> {
        Ok(GivenPicture::Url(url.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<GivenPicture, A::Error> {
        shown_list(list).map(GivenPicture::Other)
    }

    /// Other keys than the two are kept only for an error.
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<GivenPicture, A::Error> {
        let mut shown = Beginning::default();
        shown.push("{");
        let (mut image_url, mut file_id) = (None, None);
        while let Some(key) = object.next_key_seed(PictureKeySeed(&mut shown))? {
            let place = match key {
                PictureKey::ImageUrl => &mut image_url,
                PictureKey::FileId => &mut file_id,
                PictureKey::Other => {
                    object.next_value_seed(WriteSeed { to: &mut shown, before: ":" })?;
                    continue;
                }
            };
            *place = object.next_value_seed(GivenSeed::single())?;
            shown.push(":");
            shown.push(&place.as_ref().map_or("null".into(), Given::to_string));
        }
        shown.push("}");
        Ok(match (image_url, file_id) {
            (Some(Given::Text(url)), None) => GivenPicture::Url(url),
            (None, Some(file_id)) => GivenPicture::FileId(Shown { text: file_id.to_string(), len: 1 }),
            _ => GivenPicture::Other(Shown { text: shown.text, len: 1 }),
        })
    }
}

enum PictureKey {
    ImageUrl,
    FileId,
    Other,
}

/// Deserializes a key of a picture's object, and shows it.
struct PictureKeySeed<'s>(&'s mut Beginning);

impl<'de> DeserializeSeed<'de> for PictureKeySeed<'_> {
    type Value = PictureKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PictureKey, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for PictureKeySeed<'_> {
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

/// Deserializes an object's fields.
pub(super) struct FieldsVisitor {
    /// Whether pictures are kept; otherwise they are only counted.
    keeps_pictures: bool,
    /// Whether it is inside `extra_body`, where that name has no meaning.
    is_nested: bool,
    known: Known,
}

impl FieldsVisitor {
    pub(super) fn whole(keeps_pictures: bool, known: Known) -> Self {
        FieldsVisitor { keeps_pictures, is_nested: false, known }
    }

    fn nested(keeps_pictures: bool, known: Known) -> Self {
        FieldsVisitor { keeps_pictures, is_nested: true, known }
    }

    fn shape(&self, shape: Shape) -> Option<Shape> {
        match shape {
            Shape::Fields { .. } if self.is_nested => None,
            Shape::Fields { .. } => Some(Shape::Fields { keeps_pictures: self.keeps_pictures }),
            Shape::Picture | Shape::Pictures if !self.keeps_pictures => Some(Shape::Counted),
            shape => Some(shape),
        }
    }
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = object.next_key_seed(NameSeed(self.known))? {
            let name = match name {
                Name::Known(name, shape) => match self.shape(shape) {
                    Some(_) if fields.contains(name) => {
                        object.next_value::<IgnoredAny>()?;
                        fields.note_repeated(name);
                        continue;
                    }
                    Some(shape) => {
                        if let Some(given) = object.next_value_seed(GivenSeed { shape, known: self.known })? {
                            fields.set(name, given);
                        }
                        continue;
                    }
                    None => name.to_owned(),
                },
                Name::Unknown(name) => name,
            };
            if object.next_value::<Option<IgnoredAny>>()?.is_some() && !name.is_empty() {
                fields.note_unknown(&name);
            }
        }
        Ok(fields)
    }
}

enum Name {
    Known(&'static str, Shape),
    /// Empty if the name is too long to report.
    Unknown(String),
}

struct NameSeed(Known);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
        Ok(match (self.0)(name) {
            Some((name, shape)) => Name::Known(name, shape),
            None => Name::Unknown(if name.len() <= MAX_UNKNOWN_BYTES { name.to_owned() } else { String::new() }),
        })
    }
}

/// The fields of an object in a form's text, if it is one.
pub(super) fn nested(text: &str, known: Known) -> Option<Fields> {
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json.deserialize_map(FieldsVisitor::nested(true, known)).ok()?;
    json.end().is_ok().then_some(fields)
}
