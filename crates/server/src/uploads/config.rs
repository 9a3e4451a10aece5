//! The operator's settings for uploads.

use super::remote::ImageFetcher;

/// Bounds of bodies and pictures, and the fetcher of remote pictures.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// Most bytes of a JSON body.
    pub body_limit: usize,
    /// Most bytes of an edit's body, which contains pictures.
    pub upload_limit: usize,
    /// Most bytes of all bodies that are being read, JSON and forms together. A body that does not fit is answered 429.
    pub upload_memory: usize,
    /// Most of these bytes for one client: a key, or an address on a server without keys.
    pub client_upload_memory: usize,
    /// Most bytes of all decoded pictures together: those of waiting edits, and those that are being decoded. A picture
    /// that does not fit is answered 429.
    pub picture_memory: usize,
    /// Most of these bytes for one client.
    pub client_picture_memory: usize,
    /// Fetches pictures that edits name by URL. Without it such URLs are refused.
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
