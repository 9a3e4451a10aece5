//! The pictures that a request uploads or names, before any is fetched or decoded.

use ::pictures::InputPictures;
use diffusion::InputImageBounds;
use sha2::{Digest, Sha256};

use super::body::Upload;
use super::held_memory::{HeldMemory, MemoryLedger};
use super::pictures::{self, PictureMemory};
use super::remote::{self, ImageFetcher};
use super::sources::{self, NamedPicture, SentPicture};
use crate::api::error::ApiError;

/// Pictures to edit, and the mask of the first one.
pub(crate) struct Attachments {
    images: Vec<NamedPicture>,
    mask: Option<NamedPicture>,
    /// Field of the pictures, for errors.
    param: &'static str,
    /// Holds the memory of the uploaded and fetched files.
    upload: Upload,
}

impl Attachments {
    pub(super) fn new(
        images: Vec<NamedPicture>,
        mask: Option<NamedPicture>,
        param: &'static str,
        upload: Upload,
    ) -> Self {
        Attachments { images, mask, param, upload }
    }

    /// Checks the number of pictures.
    ///
    /// # Errors
    /// Too few or too many for a model with these bounds. The error says so if the model makes pictures from text only.
    pub(crate) fn check_count(&self, bounds: &InputImageBounds) -> Result<(), ApiError> {
        if bounds.max_images > 0 || self.images.is_empty() {
            return Ok(bounds.check_count(self.images.len())?);
        }
        Err(sources::takes_none(self.images.len(), self.mask.is_some()))
    }

    /// Adds uploaded files and the URLs of remote pictures to a digest. It reads whole files, so it must not run on the
    /// event loop.
    pub(crate) fn digest(&self, digest: &mut Sha256) {
        for (kind, named) in self.images.iter().map(|named| (b'i', named)).chain(self.mask.iter().map(|m| (b'm', m))) {
            let (form, bytes) = match named {
                NamedPicture::Sent(SentPicture::File(file)) => (b'f', file.as_slice()),
                NamedPicture::Sent(SentPicture::DataUrl(url)) => (b'd', url.as_bytes()),
                NamedPicture::Elsewhere(url) => (b'u', url.as_str().as_bytes()),
            };
            // The length is included so that no two lists have the same bytes.
            digest.update([kind, form]);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
    }

    /// Whether a picture or the mask must be fetched.
    pub(crate) fn are_elsewhere(&self) -> bool {
        self.images.iter().chain(&self.mask).any(|named| matches!(named, NamedPicture::Elsewhere(_)))
    }

    /// Checks that the uploaded files are pictures that a model with these bounds accepts. `ledger` counts the memory
    /// for decoding.
    ///
    /// # Errors
    /// The first invalid picture and why, or there is no memory for it.
    pub(crate) async fn judged(self, bounds: InputImageBounds, ledger: &MemoryLedger) -> Result<Self, ApiError> {
        let Attachments { images, mask, param, upload } = self;
        let (images, mask) = pictures::judged(images, mask, param, bounds, ledger.none(upload.client())).await?;
        Ok(Attachments { images, mask, param, upload })
    }

    /// Fetches all remote pictures concurrently, and decodes everything. Returns the pictures with the memory they
    /// hold, which `ledger` counts.
    ///
    /// # Errors
    /// The first picture that cannot be fetched or decoded and why, or there is no memory for them.
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
