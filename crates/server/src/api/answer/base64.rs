//! Base64 files in JSON.
//!
//! Pictures are megabytes. An answer that is written whole ([`Pieces`]) never holds their base64: it is encoded piece
//! by piece while the client reads.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use base64_simd::STANDARD;
use http_body::{Body, Frame, SizeHint};
use serde::ser::{Error, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Placeholder for a file in JSON whose files are kept apart. No other value is written like this, and inside a string
/// the quotes would be escaped.
const MARK: &str = r#"{"":""}"#;

/// Bytes of a file encoded at a time: few enough to stay in the CPU cache on their way to the socket. It is a multiple
/// of 3, so the pieces' base64 joins without padding.
const PIECE: usize = 48 << 10;

thread_local! {
    /// Files of the JSON that this thread is writing, if they are kept apart.
    static APART: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
}

/// A file as base64 in JSON. It is encoded while it is written, and copied unchanged: base64 contains nothing to
/// escape, and scanning for it takes longer than encoding.
#[derive(Debug)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_apart = APART.with_borrow_mut(|files| files.as_mut().map(|files| files.push(self.0.clone())).is_some());
        let text = if is_apart { MARK.to_owned() } else { quoted(&self.0) };
        RawValue::from_string(text).map_err(S::Error::custom)?.serialize(serializer)
    }
}

fn quoted(file: &[u8]) -> String {
    let mut text = String::with_capacity(base64_len(file.len()) + 2);
    text.push('"');
    STANDARD.encode_append(file, &mut text);
    text.push('"');
    text
}

fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

impl ToSchema for Base64 {
    fn name() -> Cow<'static, str> {
        "Base64".into()
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        let text = Object::builder().schema_type(Type::String).content_encoding("base64");
        text.description(Some("The file in base64.")).into()
    }
}

/// A JSON body: the written text, and the files in between.
#[derive(Debug)]
pub(crate) struct Pieces {
    pieces: VecDeque<Piece>,
    /// Total bytes as sent.
    len: usize,
}

#[derive(Debug)]
enum Piece {
    Text(Bytes),
    File(Bytes),
}

impl Pieces {
    /// Writes `value` as JSON with its files apart.
    ///
    /// # Errors
    /// The value has a map whose keys are not strings.
    pub(crate) fn of(value: &impl Serialize) -> Result<Pieces, serde_json::Error> {
        APART.set(Some(Vec::new()));
        let text = serde_json::to_string(value);
        let files = APART.take().unwrap_or_default();
        let mut pieces = Pieces { pieces: VecDeque::new(), len: 0 };
        let mut files = files.into_iter();
        for (text_idx, text) in text?.split(MARK).enumerate() {
            let file = if text_idx > 0 { files.next() } else { None };
            let (begin, end) = (if text_idx > 0 { "\"" } else { "" }, if files.len() > 0 { "\"" } else { "" });
            file.into_iter().for_each(|file| pieces.push(Piece::File(file)));
            pieces.push(Piece::Text(format!("{begin}{text}{end}").into()));
        }
        Ok(pieces)
    }

    fn push(&mut self, piece: Piece) {
        self.len += match &piece {
            Piece::Text(text) => text.len(),
            Piece::File(file) => base64_len(file.len()),
        };
        self.pieces.push_back(piece);
    }

    fn next(&mut self) -> Option<Bytes> {
        let next = match self.pieces.front_mut()? {
            Piece::Text(text) => mem::take(text),
            Piece::File(file) => STANDARD.encode_to_string(file.split_to(PIECE.min(file.len()))).into(),
        };
        if let Some(Piece::Text(left) | Piece::File(left)) = self.pieces.front()
            && left.is_empty()
        {
            self.pieces.pop_front();
        }
        self.len -= next.len();
        Some(next)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len as u64)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    fn file(length: usize) -> Bytes {
        (0..length).map(|i| (i * 37) as u8).collect()
    }

    /// The bytes sent for a value, and the number of pieces.
    fn sent(value: &impl Serialize) -> (String, usize) {
        let mut pieces = Pieces::of(value).unwrap();
        let len = pieces.len;
        let all: Vec<Bytes> = std::iter::from_fn(|| pieces.next()).collect();
        assert!(pieces.is_end_stream() && pieces.len == 0);
        let text = String::from_utf8(all.concat()).unwrap();
        assert_eq!(text.len(), len, "the announced length");
        (text, all.len())
    }

    #[test]
    fn a_file_is_the_text_that_it_was_before() {
        for length in (0..200).chain([PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2]) {
            let expected = serde_json::to_string(&STANDARD.encode(file(length))).unwrap();
            assert_eq!(serde_json::to_string(&Base64(file(length))).unwrap(), expected);
            assert_eq!(sent(&Base64(file(length))).0, expected);
        }
    }

    #[test]
    fn an_answer_is_the_same_in_pieces() {
        #[derive(serde::Serialize)]
        struct Answer {
            files: Vec<Option<Base64>>,
            prompt: &'static str,
        }
        for lengths in [vec![], vec![0], vec![5, 2 * PIECE], vec![1, 0, 3]] {
            let files: Vec<_> = lengths.iter().map(|&length| Some(Base64(file(length)))).chain([None]).collect();
            let answer = Answer { files, prompt: MARK };
            let (text, _) = sent(&answer);
            assert_eq!(text, serde_json::to_string(&answer).unwrap());
            let expected: Vec<_> = lengths.iter().map(|&length| json!(STANDARD.encode(file(length)))).collect();
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read["files"].as_array().unwrap()[..lengths.len()], expected);
            assert_eq!(read["prompt"], MARK);
        }
    }

    #[test]
    fn a_long_file_is_sent_piece_by_piece() {
        assert_eq!(sent(&Base64(file(3 * PIECE + 1))).1, 2 + 4);
        assert_eq!(sent(&json!({"no": "file"})).1, 1);
    }
}
