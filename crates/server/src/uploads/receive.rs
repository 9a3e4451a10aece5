//! Reading a request, from its bytes to valid values.

use axum::extract::Request;
use axum::http::HeaderMap;
use diffusion::{Held, ImageRequest, InputImageBounds, InvalidRequest, Limits, ModelCard, RequestDraft};
use pictures::InputPictures;

use super::attachments::Attachments;
use super::body::{self, MediaType, Upload, linger};
use super::config::UploadConfig;
use super::held_memory::HeldMemory;
#[cfg(test)]
use super::held_memory::MemoryLedger;
use super::multipart::Form;

use super::remote::ImageFetcher;
use super::sources::NamedPicture;
use super::{json, multipart, sources};
use crate::api::bounds::BodyLimit;
#[cfg(test)]
use crate::api::bounds::Purpose;
use crate::api::config::ApiConfig;
use crate::api::error::ApiError;
use crate::api::request::{Endpoint, Fields, ImagesRequest, step_cache, validate};

impl ImagesRequest {
    /// Checks everything that does not depend on the contents of the pictures.
    ///
    /// # Errors
    /// The first field that the model or the server's limits refuse.
    pub(crate) fn check(&self, attachments: &Attachments, card: &ModelCard, limits: &Limits) -> Result<(), ApiError> {
        if let Some(own) = &self.cache {
            step_cache::check_blocks(own, &card.num_blocks)?;
        }
        attachments.check_count(&card.input_images)?;
        Ok(self.draft.check(card, limits)?)
    }

    /// The requests at their least cost, whatever the pictures turn out to be.
    ///
    /// # Errors
    /// Same as [`ImagesRequest::check`].
    pub(crate) fn least_requests(&self, card: &ModelCard, limits: &Limits) -> Result<Vec<ImageRequest>, ApiError> {
        let draft = RequestDraft { cache: self.cache.clone(), ..self.draft.clone() };
        Ok(draft.least(card, limits)?)
    }

    /// Returns one request for each picture, with the model's defaults filled in. It consumes the draft and the decoded
    /// pictures, and notes fields without effect. The pictures' memory is held until the last request is answered,
    /// because a request may be retried until then.
    ///
    /// # Errors
    /// The first field that the model or the server's limits refuse.
    pub(crate) fn image_requests(
        &mut self,
        (pictures, held): (InputPictures, HeldMemory),
        card: &ModelCard,
        limits: &Limits,
        random_seed: impl FnMut() -> u32,
    ) -> Result<Vec<ImageRequest>, ApiError> {
        let mut draft = std::mem::take(&mut self.draft);
        (draft.input_images, draft.mask) = (pictures.images, pictures.mask);
        (draft.cache, draft.held) = (self.cache.clone(), Held::new(held));
        draft.without_effect(card).into_iter().for_each(|idle| self.note(idle));
        Ok(draft.build(card, limits, random_seed)?)
    }
}

/// A request that was read, and its pictures.
pub(crate) struct Received {
    pub(crate) asked: ImagesRequest,
    pub(crate) attachments: Attachments,
}

/// Reads a whole request, whose bytes `memory` holds. [`ImagesRequest::check`] checks what depends on the model, except
/// that no picture is kept if the model takes none (`bounds` are those of the loaded model).
///
/// # Errors
/// The first error found.
pub(crate) async fn receive(
    endpoint: Endpoint,
    request: Request,
    api: &ApiConfig,
    config: &UploadConfig,
    memory: HeldMemory,
    bounds: Option<&InputImageBounds>,
) -> Result<Received, ApiError> {
    let headers = request.headers().clone();
    let limit = match endpoint {
        Endpoint::Edit => BodyLimit { bytes: config.upload_limit, flag: "--upload-limit" },
        Endpoint::Generation => BodyLimit { bytes: config.body_limit, flag: "--body-limit" },
    };
    let takes_pictures = bounds.is_none_or(|bounds| bounds.max_images > 0);
    let keeps_pictures = endpoint == Endpoint::Edit && takes_pictures;
    let mut upload = Upload::new(request, limit, memory);
    let (form, param) = match received(endpoint, &headers, &mut upload, keeps_pictures).await {
        Ok(received) => received,
        Err(err) => {
            upload.linger();
            return Err(err);
        }
    };
    let Form { mut fields, images, num_images, mask, has_mask } = form;
    fields.merge_extra_body()?;
    if endpoint == Endpoint::Edit && !takes_pictures {
        let (named, names_mask) = sources::brought(&mut fields);
        validate::images_request(endpoint, &headers, fields, api)?;
        return Err(sources::takes_none(num_images + named, has_mask || names_mask));
    }
    let fetcher = config.image_urls.as_ref();
    let (named, mask, param) = match endpoint {
        Endpoint::Edit => named(&mut fields, images, mask, param, fetcher)?,
        Endpoint::Generation => (Vec::new(), None, param),
    };
    let asked = validate::images_request(endpoint, &headers, fields, api)?;
    Ok(Received { asked, attachments: Attachments::new(named, mask, param, upload) })
}

/// Reads a request with its pictures, for any model.
#[cfg(test)]
pub(crate) async fn read(
    endpoint: Endpoint,
    request: Request,
    api: &ApiConfig,
    config: &UploadConfig,
    memory: &MemoryLedger,
    bounds: Option<&InputImageBounds>,
) -> Result<ImagesRequest, ApiError> {
    let received =
        receive(endpoint, request, api, config, memory.none(crate::uploads::Client::Unknown), bounds).await?;
    let Received { mut asked, attachments } = received;
    let room = MemoryLedger::of(Purpose::Pictures, usize::MAX);
    let (pictures, _) = attachments.decoded(config.image_urls.as_ref(), &room).await?;
    (asked.draft.input_images, asked.draft.mask) = (pictures.images, pictures.mask);
    Ok(asked)
}

/// The pictures and the mask of an edit, and the field of the pictures for errors.
fn named(
    fields: &mut Fields,
    images: Vec<Vec<u8>>,
    mask: Option<Vec<u8>>,
    param: &'static str,
    fetcher: Option<&ImageFetcher>,
) -> Result<(Vec<NamedPicture>, Option<NamedPicture>, &'static str), ApiError> {
    let mask = sources::mask(fields, mask, fetcher)?;
    let (named, param) = sources::sources(fields, images, param, fetcher).map_err(|err| match err {
        ApiError::Missing(_) if mask.is_some() => {
            InvalidRequest::new(sources::MASK, "come with the picture that it belongs to", "a mask alone").into()
        }
        err => err,
    })?;
    Ok((named, mask, param))
}

/// The error for a request for variations; it is OpenAI's.
pub(crate) fn no_variations(request: Request) -> ApiError {
    linger(request);
    ApiError::NoVariations
}

/// Reads the body of any type. Also returns the name of the field with the pictures.
async fn received(
    endpoint: Endpoint,
    headers: &HeaderMap,
    upload: &mut Upload,
    keeps_pictures: bool,
) -> Result<(Form, &'static str), ApiError> {
    let expected = if endpoint == Endpoint::Edit { body::JSON_OR_FORM } else { body::JSON };
    let media_type = MediaType::of(headers, expected)?;
    body::check_encoding(headers)?;
    match media_type {
        MediaType::Json => {
            let fields = json::fields(upload, keeps_pictures).await?;
            Ok((Form { fields, images: Vec::new(), num_images: 0, mask: None, has_mask: false }, "images"))
        }
        MediaType::Form { boundary } => Ok((multipart::form(upload, boundary, keeps_pictures).await?, "image")),
    }
}
