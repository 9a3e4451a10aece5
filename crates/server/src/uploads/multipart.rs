//! Forms (`multipart/form-data`), read part by part, with a bound on everything that the server keeps. The declared
//! type and file name of a part are not trusted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use multer::{Field, Multipart};

use super::body::Upload;
use super::sources;
use crate::api::error::ApiError;
use crate::api::request::given::{Fields, Given};
use crate::api::request::picture_bounds::{MAX_IMAGE_BYTES, MAX_INPUT_IMAGES, file_too_large};
use crate::api::request::vocabulary;

/// Most parts of a form.
const MAX_PARTS: usize = 128;
/// Most bytes of a text field: the longest prompt at four bytes a character, with some margin.
const MAX_TEXT_BYTES: usize = 256 << 10;
/// Most bytes between the data of two parts, besides those that arrived with the last piece.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// The contents of a form.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) fields: Fields,
    /// Files of the pictures to edit, if pictures are kept.
    pub(crate) images: Vec<Vec<u8>>,
    /// Number of pictures.
    pub(crate) num_images: usize,
    /// File of the mask, if pictures are kept.
    pub(crate) mask: Option<Vec<u8>>,
    pub(crate) has_mask: bool,
}

/// Reads a form to its end. Unless `keeps_pictures`, pictures are only counted.
///
/// # Errors
/// The form exceeds a bound, is malformed, breaks off or stalls.
pub(crate) async fn form(upload: &mut Upload, boundary: String, keeps_pictures: bool) -> Result<Form, ApiError> {
    let room = Arc::new(AtomicUsize::new(MAX_HEAD_BYTES));
    let mut parts = Multipart::new(Paced { upload, room: room.clone(), resting: false }, boundary);
    let mut form = Form { fields: Fields::spelt(), images: Vec::new(), num_images: 0, mask: None, has_mask: false };
    let mut num_parts = 0;
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        num_parts += 1;
        if num_parts > MAX_PARTS {
            return Err(ApiError::form(format!("it must have at most {MAX_PARTS} parts"), None));
        }
        room.store(usize::MAX, Ordering::Relaxed);
        form.add(part, num_parts, keeps_pictures).await?;
        room.store(MAX_HEAD_BYTES, Ordering::Relaxed);
    }
    drop(parts);
    // Bytes after the last boundary are ignored, but must be read: the connection's next request follows them.
    while let Some(piece) = upload.next().await {
        piece?;
    }
    if form.num_images > MAX_INPUT_IMAGES {
        return Err(sources::too_many("image", form.num_images));
    }
    Ok(form)
}

/// The kind of a part, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A picture to edit.
    Image,
    /// The mask of the first picture.
    Mask,
    /// A picture that no model accepts; only its presence is recorded.
    Markup,
    Text,
    Unknown,
}

impl Part {
    /// Names come with and without brackets, for one file or several. vllm-omni's clients use `url`.
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

impl Form {
    /// Adds part `number`.
    async fn add(&mut self, mut part: Field<'_>, number: usize, keeps_pictures: bool) -> Result<(), ApiError> {
        let Some(name) = part.name().map(str::to_owned) else {
            return Err(ApiError::form(format!("part {number} has no name"), None));
        };
        // For a file input without a file, a browser sends a part with an empty file name.
        let is_unchosen = part.file_name() == Some("");
        match Part::of(&name, part.file_name().is_some()) {
            Part::Image => {
                let keeps = keeps_pictures && self.num_images < MAX_INPUT_IMAGES;
                let file = picture(&mut part, "image", keeps).await?;
                if is_unchosen && file.is_empty() {
                    return Ok(());
                }
                self.num_images += 1;
                self.images.extend(file.kept);
            }
            Part::Mask => {
                let file = picture(&mut part, sources::MASK, keeps_pictures).await?;
                // Some clients send an empty text for no picture.
                if file.is_empty() && (is_unchosen || part.file_name().is_none()) {
                    return Ok(());
                }
                if std::mem::replace(&mut self.has_mask, true) {
                    return Err(sources::two_masks());
                }
                self.mask = file.kept;
            }
            Part::Markup => {
                let bytes = skip(&mut part).await?;
                if bytes > 0 {
                    self.fields.set("markup", Given::Text(format!("a file of {bytes} bytes")));
                }
            }
            Part::Text => self.add_text(name, part).await?,
            Part::Unknown => {
                skip(&mut part).await?;
                self.fields.note_unknown(&name);
            }
        }
        Ok(())
    }

    async fn add_text(&mut self, name: String, mut part: Field<'_>) -> Result<(), ApiError> {
        let known = vocabulary::known(&name).map(|(name, _)| name);
        if let Some(name) = known.filter(|name| self.fields.contains(name)) {
            skip(&mut part).await?;
            self.fields.note_repeated(name);
            return Ok(());
        }
        let refused = |what: &str| ApiError::form(format!("{name:?} must {what}"), Some(&name));
        let Some(bytes) = read(&mut part, MAX_TEXT_BYTES).await? else {
            return Err(refused(&format!("have at most {MAX_TEXT_BYTES} bytes")));
        };
        let text = String::from_utf8(bytes).map_err(|_| refused("be UTF-8 text"))?;
        match known {
            Some(name) => self.fields.set(name, Given::Text(text)),
            None => self.fields.note_unknown(&name),
        }
        Ok(())
    }
}

/// The file of a part.
struct File {
    /// The bytes, if they are kept.
    kept: Option<Vec<u8>>,
    len: usize,
}

impl File {
    fn is_empty(&self) -> bool {
        self.len == 0
    }
}

async fn picture(part: &mut Field<'_>, param: &'static str, keeps: bool) -> Result<File, ApiError> {
    if !keeps {
        return Ok(File { kept: None, len: skip(part).await? });
    }
    let bytes = read(part, MAX_IMAGE_BYTES).await?;
    let bytes = bytes.ok_or_else(|| ApiError::ImageTooLarge(file_too_large(param)))?;
    Ok(File { len: bytes.len(), kept: Some(bytes) })
}

/// Reads the data of a part, or `None` if it is longer than `limit`.
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

/// Skips a part; returns its length.
async fn skip(part: &mut Field<'_>) -> Result<usize, ApiError> {
    let mut bytes = 0;
    while let Some(piece) = part.chunk().await.map_err(broken)? {
        bytes += piece.len();
    }
    Ok(bytes)
}

/// The error of the upload, or of the form itself.
fn broken(err: multer::Error) -> ApiError {
    match err {
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<ApiError>() {
            Ok(err) => *err,
            Err(other) => ApiError::form(other.to_string(), None),
        },
        multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteStream => ApiError::form("it breaks off, or misses its last boundary", None),
        other => ApiError::form(other.to_string(), None),
    }
}

/// Passes the parser one piece at a time, because it reads as long as more is available. Also aborts a search for the
/// next part that goes on too long: for each piece the parser searches all bytes again.
struct Paced<'r> {
    upload: &'r mut Upload,
    /// Bytes that the parser may still search; `usize::MAX` inside a part.
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
                    return Poll::Ready(Some(Err(ApiError::form(message, None))));
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
