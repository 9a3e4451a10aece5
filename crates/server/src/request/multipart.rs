//! A form (`multipart/form-data`), part by part, with a bound on everything that it makes the server
//! keep. What a part says of its type and its file's name is not believed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use multer::{Field, Multipart};
use serde_json::{Map, Value};

use super::body::Upload;
use super::fields::Fields;
use super::sources::{self, MAX_IMAGE_BYTES, MAX_INPUT_IMAGES};
use crate::error::ApiError;

/// Most parts of a form.
const MAX_PARTS: usize = 128;
/// Most bytes of a field of text: the longest prompt, at four bytes a character, and some more.
const MAX_TEXT_BYTES: usize = 256 << 10;
/// Most bytes from one part's data to the next one's, but for what came along with its last piece.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// What a form holds.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) fields: Fields,
    /// The files of the pictures to edit.
    pub(crate) images: Vec<Vec<u8>>,
    /// The file of the mask.
    pub(crate) mask: Option<Vec<u8>>,
    /// Names of parts that have no meaning here.
    pub(crate) ignored: Vec<String>,
}

/// Reads a form to its end.
///
/// # Errors
/// It breaks a bound, is no form, breaks off or stops coming.
pub(crate) async fn form(upload: &mut Upload, boundary: String) -> Result<Form, ApiError> {
    let room = Arc::new(AtomicUsize::new(MAX_HEAD_BYTES));
    let mut parts = Multipart::new(Paced { upload, room: room.clone(), resting: false }, boundary);
    let mut collected = Collected::default();
    let mut num_parts = 0;
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        num_parts += 1;
        if num_parts > MAX_PARTS {
            return Err(ApiError::InvalidForm(format!("it must have at most {MAX_PARTS} parts")));
        }
        room.store(usize::MAX, Ordering::Relaxed);
        collected.add(part).await?;
        room.store(MAX_HEAD_BYTES, Ordering::Relaxed);
    }
    drop(parts);
    // What follows the last boundary means nothing, but the connection's next request comes after it.
    while let Some(piece) = upload.next().await {
        piece?;
    }
    let Collected { texts, repeated, images, mask, ignored } = collected;
    Ok(Form { fields: Fields::spelt(texts, repeated), images, mask, ignored })
}

#[derive(Default)]
struct Collected {
    texts: Map<String, Value>,
    /// Names of texts that came again. Which of them mean something is not known here.
    repeated: Vec<String>,
    images: Vec<Vec<u8>>,
    mask: Option<Vec<u8>>,
    ignored: Vec<String>,
}

/// What a part is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A picture to edit.
    Image,
    /// Where the first of them may be changed.
    Mask,
    /// A picture that no model takes: it is remembered that there is one.
    Markup,
    Text,
    Unknown,
}

impl Part {
    /// Names come with and without brackets, for one file as for many; vllm-omni's clients say `url`.
    fn of(name: &str, is_file: bool) -> Self {
        let (base, index) = name.split_once('[').map_or((name, None), |(base, rest)| (base, Some(rest)));
        let is_list = index.is_none_or(|rest| rest.trim_end_matches(']').bytes().all(|byte| byte.is_ascii_digit()));
        match base {
            "image" | "images" | "url" if is_list => Part::Image,
            "mask" if is_list => Part::Mask,
            "markup" => Part::Markup,
            _ if is_file || index.is_some() => Part::Unknown,
            _ => Part::Text,
        }
    }
}

impl Collected {
    async fn add(&mut self, mut part: Field<'_>) -> Result<(), ApiError> {
        let Some(name) = part.name().map(str::to_owned) else {
            return Err(ApiError::InvalidForm("a part has no name".into()));
        };
        // A browser sends a part without a name for the file that nobody chose.
        let is_unchosen = part.file_name() == Some("");
        match Part::of(&name, part.file_name().is_some()) {
            Part::Image => {
                let bytes = picture(&mut part, "image").await?;
                if !(is_unchosen && bytes.is_empty()) {
                    self.images.push(bytes);
                }
                if self.images.len() > MAX_INPUT_IMAGES {
                    return Err(sources::too_many("image"));
                }
            }
            Part::Mask => {
                let bytes = picture(&mut part, sources::MASK).await?;
                // Clients send an empty text for none, too.
                let is_absent = bytes.is_empty() && (is_unchosen || part.file_name().is_none());
                if !is_absent && self.mask.replace(bytes).is_some() {
                    return Err(sources::two_masks());
                }
            }
            Part::Markup => {
                let bytes = skip(&mut part).await?;
                if bytes > 0 {
                    self.texts.insert("markup".into(), format!("a file of {bytes} bytes").into());
                }
            }
            Part::Text if self.texts.contains_key(&name) => {
                skip(&mut part).await?;
                self.repeated.push(name);
            }
            Part::Text => {
                let Some(bytes) = read(&mut part, MAX_TEXT_BYTES).await? else {
                    return Err(ApiError::InvalidForm(format!("{name:?} must have at most {MAX_TEXT_BYTES} bytes")));
                };
                let text = String::from_utf8(bytes);
                let text = text.map_err(|_| ApiError::InvalidForm(format!("{name:?} must be UTF-8 text")))?;
                self.texts.insert(name, text.into());
            }
            Part::Unknown => {
                skip(&mut part).await?;
                if !self.ignored.contains(&name) {
                    self.ignored.push(name);
                }
            }
        }
        Ok(())
    }
}

/// The file of a part.
async fn picture(part: &mut Field<'_>, param: &'static str) -> Result<Vec<u8>, ApiError> {
    let bytes = read(part, MAX_IMAGE_BYTES).await?;
    bytes.ok_or_else(|| ApiError::ImageTooLarge(sources::file_too_large(param)))
}

/// The data of a part, unless it is longer than `limit`.
async fn read(part: &mut Field<'_>, limit: usize) -> Result<Option<Vec<u8>>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(piece) = part.chunk().await.map_err(broken)? {
        if bytes.len() + piece.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

/// Reads over a part; tells how long it is.
async fn skip(part: &mut Field<'_>) -> Result<usize, ApiError> {
    let mut bytes = 0;
    while let Some(piece) = part.chunk().await.map_err(broken)? {
        bytes += piece.len();
    }
    Ok(bytes)
}

/// The upload's own failure, or what is wrong with the form.
fn broken(err: multer::Error) -> ApiError {
    match err {
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<ApiError>() {
            Ok(err) => *err,
            Err(other) => ApiError::InvalidForm(other.to_string()),
        },
        multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteStream => ApiError::InvalidForm("it breaks off, or misses its last boundary".into()),
        other => ApiError::InvalidForm(other.to_string()),
    }
}

/// Gives the parser one piece at a time, for it reads as long as there is more, and ends a search
/// for the next part that goes on too long: each piece makes it look through all of them again.
struct Paced<'r> {
    upload: &'r mut Upload,
    /// How many bytes may still be looked through; `usize::MAX` inside a part.
    room: Arc<AtomicUsize>,
    resting: bool,
}

impl Stream for Paced<'_> {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.resting = !self.resting;
        if !self.resting {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = self.upload.poll_next_unpin(cx);
        match &piece {
            Poll::Pending => self.resting = false,
            Poll::Ready(Some(Ok(piece))) => {
                let room = self.room.load(Ordering::Relaxed);
                if room == 0 {
                    let message = format!("a part must begin within {MAX_HEAD_BYTES} bytes");
                    return Poll::Ready(Some(Err(ApiError::InvalidForm(message))));
                }
                if room != usize::MAX {
                    self.room.store(room.saturating_sub(piece.len()), Ordering::Relaxed);
                }
            }
            Poll::Ready(_) => {}
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_told_by_its_name() {
        for (name, is_file, expected) in [
            ("image", true, Part::Image),
            ("image", false, Part::Image),
            ("image[]", true, Part::Image),
            ("image[3]", true, Part::Image),
            ("images[]", true, Part::Image),
            ("url[]", false, Part::Image),
            ("image[a]", true, Part::Unknown),
            ("mask", true, Part::Mask),
            ("mask", false, Part::Mask),
            ("mask[]", true, Part::Mask),
            ("markup", true, Part::Markup),
            ("prompt", false, Part::Text),
            ("prompt", true, Part::Unknown),
            ("image_size", false, Part::Text),
            ("loras[][path]", false, Part::Unknown),
            ("meta[k]", false, Part::Unknown),
            ("", false, Part::Text),
        ] {
            assert_eq!(Part::of(name, is_file), expected, "{name}");
        }
    }
}
