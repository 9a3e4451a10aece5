//! Bodies of edits, as clients send them.

use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use base64::Engine;
use futures_util::stream;
use image::{ImageBuffer, ImageFormat, Rgb, Rgba};

use super::{Answer, send};

/// Boundary of every form here.
pub(crate) const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxk";

/// A form in wire format.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(pub(crate) Vec<u8>);

impl Form {
    /// Adds a part with these header lines, unchanged.
    pub(crate) fn part(mut self, head: &str, data: &[u8]) -> Self {
        self.0.extend(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
        self.0.extend(data);
        self.0.extend(b"\r\n");
        self
    }

    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        self.part(&format!("Content-Disposition: form-data; name=\"{name}\""), text.as_bytes())
    }

    pub(crate) fn file(self, name: &str, file_name: &str, data: &[u8]) -> Self {
        let disposition = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"");
        self.part(&format!("{disposition}\r\nContent-Type: application/octet-stream"), data)
    }

    /// Ends the form and returns the body.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.0
    }

    pub(crate) fn request(self) -> Request<Body> {
        post(self.end())
    }
}

/// An edit with this form as its body.
pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    Request::post("/v1/images/edits").header("content-type", content_type).body(body.into()).unwrap()
}

/// An edit with this JSON as its body.
pub(crate) fn post_json(body: impl ToString) -> Request<Body> {
    let request = Request::post("/v1/images/edits").header("content-type", "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

/// The bytes in pieces of this size.
pub(crate) fn in_pieces(bytes: &[u8], size: usize) -> Body {
    let pieces: Vec<_> = bytes.chunks(size).map(Bytes::copy_from_slice).map(Ok::<_, Infallible>).collect();
    Body::from_stream(stream::iter(pieces))
}

pub(crate) async fn edit(app: &Router, form: Form) -> Answer {
    send(app, form.request()).await
}

/// A PNG of one colour.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    ImageBuffer::from_pixel(width, height, Rgb([10_u8, 200, 30])).write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// A PNG whose left half is transparent, so that it is edited.
pub(crate) fn mask(width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let alpha = |x| if x < width.div_ceil(2) { 0 } else { 255 };
    let pixels = ImageBuffer::from_fn(width, height, |x, _| Rgba([0_u8, 0, 0, alpha(x)]));
    pixels.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// A picture as JSON contains it.
pub(crate) fn data_url(file: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(file))
}
