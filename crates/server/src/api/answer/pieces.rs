//! JSON bodies with files, in pieces: the text, and the files in between.
//!
//! Pictures are megabytes. Their base64 is never held whole: it is encoded piece by piece while the client reads. A
//! value with files marks their places ([`Framed`]); serde writes everything else.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use base64_simd::STANDARD;
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;

use super::base64::{Base64, encoded_len};

/// Bytes of a file encoded at a time: few enough to stay in the CPU cache on their way to the socket. It is a multiple
/// of 3, so the pieces' base64 joins without padding.
const PIECE: usize = 48 << 10;

/// A value that writes the same JSON as serde, with its files apart from the text.
pub(crate) trait Framed {
    /// Writes the whole value.
    fn frame(&self, json: &mut Frames);
}

impl Framed for Base64 {
    fn frame(&self, json: &mut Frames) {
        json.file(&self.0);
    }
}

/// Writes `null` for `None`.
impl<T: Framed> Framed for Option<T> {
    fn frame(&self, json: &mut Frames) {
        match self {
            Some(value) => value.frame(json),
            None => json.value(&()),
        }
    }
}

/// JSON that is being written for [`Pieces`].
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pieces: Pieces,
    /// Text after the last file.
    text: Vec<u8>,
}

impl Frames {
    fn value(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.text, value).expect("keys are strings. This is a bug.");
    }

    fn file(&mut self, file: &Bytes) {
        self.text.push(b'"');
        self.pieces.push(Piece::Text(mem::take(&mut self.text).into()));
        self.pieces.push(Piece::File(file.clone()));
        self.text.push(b'"');
    }

    /// Writes an object with the fields that `write` adds.
    pub(crate) fn object(&mut self, write: impl FnOnce(&mut Fields<'_>)) {
        self.text.push(b'{');
        write(&mut Fields { json: self, is_first: true });
        self.text.push(b'}');
    }
}

/// The fields of an object.
pub(crate) struct Fields<'a> {
    json: &'a mut Frames,
    is_first: bool,
}

impl Fields<'_> {
    /// Writes a field without files.
    pub(crate) fn plain(&mut self, name: &str, value: &impl Serialize) {
        self.key(name).value(value);
    }

    /// Writes a field with files.
    pub(crate) fn framed(&mut self, name: &str, value: &impl Framed) {
        value.frame(self.key(name));
    }

    /// Writes a list of values with files.
    pub(crate) fn list(&mut self, name: &str, values: &[impl Framed]) {
        let json = self.key(name);
        json.text.push(b'[');
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                json.text.push(b',');
            }
            value.frame(json);
        }
        json.text.push(b']');
    }

    fn key(&mut self, name: &str) -> &mut Frames {
        if !mem::take(&mut self.is_first) {
            self.json.text.push(b',');
        }
        self.json.value(&name);
        self.json.text.push(b':');
        self.json
    }
}

/// A JSON body: the written text, and the files in between.
#[derive(Debug, Default)]
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
    pub(crate) fn of(value: &impl Framed) -> Pieces {
        let mut json = Frames::default();
        value.frame(&mut json);
        let Frames { mut pieces, text } = json;
        pieces.push(Piece::Text(text.into()));
        pieces
    }

    fn push(&mut self, piece: Piece) {
        self.len += match &piece {
            Piece::Text(text) => text.len(),
            Piece::File(file) => encoded_len(file.len()),
        };
        self.pieces.push_back(piece);
    }

    /// The whole text.
    #[cfg(test)]
    pub(crate) fn text(mut self) -> String {
        let all: Vec<Bytes> = std::iter::from_fn(|| self.next()).collect();
        String::from_utf8(all.concat()).expect("it is JSON")
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
    use super::*;

    fn file(length: usize) -> Base64 {
        Base64((0..length).map(|i| (i * 37) as u8).collect())
    }

    /// The bytes sent for a value, and the number of pieces.
    fn sent(value: &impl Framed) -> (String, usize) {
        let mut pieces = Pieces::of(value);
        let len = pieces.len;
        let all: Vec<Bytes> = std::iter::from_fn(|| pieces.next()).collect();
        assert!(pieces.is_end_stream() && pieces.len == 0);
        let text = String::from_utf8(all.concat()).unwrap();
        assert_eq!(text.len(), len, "the announced length");
        (text, all.len())
    }

    #[derive(Serialize)]
    struct Answer {
        files: Vec<Base64>,
        prompt: &'static str,
        last: Base64,
    }

    impl Framed for Answer {
        fn frame(&self, json: &mut Frames) {
            json.object(|fields| {
                fields.list("files", &self.files);
                fields.plain("prompt", &self.prompt);
                fields.framed("last", &self.last);
            });
        }
    }

    #[test]
    fn an_answer_is_what_serde_writes_of_it() {
        for lengths in [vec![], vec![0], vec![5, 2 * PIECE], vec![1, 0, 3], vec![PIECE - 1, PIECE, PIECE + 1]] {
            let files = lengths.iter().map(|&length| file(length)).collect();
            let answer = Answer { files, prompt: "a \"quoted\" word", last: file(3 * PIECE + 2) };
            assert_eq!(sent(&answer).0, serde_json::to_string(&answer).unwrap());
        }
    }

    #[test]
    fn a_long_file_is_sent_piece_by_piece() {
        assert_eq!(sent(&file(3 * PIECE + 1)).1, 2 + 4);
    }
}
