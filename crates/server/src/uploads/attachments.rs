//! The pictures that a request brings or names, before any of them is fetched or decoded.

use ::pictures::InputPictures;
use diffusion::InputImageBounds;
use sha2::{Digest, Sha256};

use super::body::Upload;
use super::held_memory::{HeldMemory, MemoryLedger};
use super::pictures::{self, PictureMemory};
use super::remote::{self, ImageFetcher};
use super::sources::{self, Named, Source};
use crate::api::error::ApiError;

/// Pictures to edit, and the mask of the first.
pub(crate) struct Attachments {
    images: Vec<Named>,
    mask: Option<Named>,
    /// The field that holds the pictures.
    param: &'static str,
    /// Holds the memory of what was sent, and of what will be fetched.
    upload: Upload,
}

impl Attachments {
    pub(super) fn new(images: Vec<Named>, mask: Option<Named>, param: &'static str, upload: Upload) -> Self {
        Attachments { images, mask, param, upload }
    }

    /// Checks how many there are.
    ///
    /// # Errors
    /// Too few or too many for a model with these bounds; one that makes pictures from text only says so.
    pub(crate) fn check_count(&self, bounds: &InputImageBounds) -> Result<(), ApiError> {
        if bounds.max_images > 0 || self.images.is_empty() {
            return Ok(bounds.check_count(self.images.len())?);
        }
        Err(sources::takes_none(self.images.len(), self.mask.is_some()))
    }

    /// Adds what was sent to a digest, and of what is elsewhere its URL. It reads whole files: not for the event
    /// loop.
    pub(crate) fn digest(&self, digest: &mut Sha256) {
        for (kind, named) in self.images.iter().map(|named| (b'i', named)).chain(self.mask.iter().map(|m| (b'm', m))) {
            let (form, bytes) = match named {
                Named::Sent(Source::File(file)) => (b'f', file.as_slice()),
                Named::Sent(Source::DataUrl(url)) => (b'd', url.as_bytes()),
                Named::Elsewhere(url) => (b'u', url.as_str().as_bytes()),
            };
            // With its length, so that no two lists have the same bytes.
            digest.update([kind, form]);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
    }

    /// Whether one of them is to be fetched.
    pub(crate) fn are_elsewhere(&self) -> bool {
        self.images.iter().chain(&self.mask).any(|named| matches!(named, Named::Elsewhere(_)))
    }

    /// The same, once what came along is known to be pictures that a model with these bounds takes. `ledger` counts what
    /// decoding them takes.
    ///
    /// # Errors
    /// The first that is none, and why; or there is no room for it.
    pub(crate) async fn judged(self, bounds: InputImageBounds, ledger: &MemoryLedger) -> Result<Self, ApiError> {
        let Attachments { images, mask, param, upload } = self;
        let (images, mask) = pictures::judged(images, mask, param, bounds, ledger.none(upload.client())).await?;
        Ok(Attachments { images, mask, param, upload })
    }

    /// Fetches what is elsewhere, all at a time, and decodes all of them, with the memory that they hold from then on,
    /// which `ledger` counts.
    ///
    /// # Errors
    /// The first that is not to be had or no picture, and why; or there is no room for them.
    pub(crate) async fn decoded(
        self,
        fetcher: Option<&ImageFetcher>,
        ledger: &MemoryLedger,
    ) -> Result<(InputPictures, HeldMemory), ApiError> {
        let Attachments { images, mask, param, mut upload } = self;
        let images = remote::fetched(images, fetcher, &mut upload, param).await?;
        let mask = remote::fetched(mask.into_iter().collect(), fetcher, &mut upload, sources::MASK).await?.pop();
        let memory = PictureMemory { decoded: ledger.none(upload.client()), sent: upload.into_held() };
        pictures::decoded(images, mask, param, memory).await
    }
}
