//! What the operator decides about what requests bring.

use super::remote::ImageFetcher;

/// The bounds of bodies and pictures, and whether pictures are fetched.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// Most bytes of a JSON body.
    pub body_limit: usize,
    /// Most bytes of the body of an edit, which brings pictures.
    pub upload_limit: usize,
    /// Most bytes of all bodies together that are being read, JSON and forms. One that finds no room is
    /// answered 429.
    pub upload_memory: usize,
    /// The most of these of one client: a key's, or an address's on a server without keys.
    pub client_upload_memory: usize,
    /// Most bytes of all decoded pictures together: of waiting edits, and of those that are decoded. One that finds no
    /// room is answered 429.
    pub picture_memory: usize,
    /// The most of these of one client.
    pub client_picture_memory: usize,
    /// What fetches pictures that edits name by URL; without it such URLs are refused.
    pub image_urls: Option<ImageFetcher>,
}

impl Default for UploadConfig {
    fn default() -> Self {
        UploadConfig {
            body_limit: 2 << 20,
            upload_limit: 64 << 20,
            upload_memory: 1 << 30,
            client_upload_memory: 256 << 20,
            picture_memory: 2 << 30,
            client_picture_memory: 1 << 30,
            image_urls: None,
        }
    }
}
