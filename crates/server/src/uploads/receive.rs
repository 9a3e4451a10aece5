//! A request, from the bytes that it comes as to what is meant by them.

use axum::extract::Request;
use axum::http::HeaderMap;
use diffusion::{ImageRequest, InputImageBounds, InvalidRequest, Limits, ModelCard};
use pictures::InputPictures;

use super::attachments::Attachments;
use super::body::{self, MediaType, Upload, linger};
use super::config::UploadConfig;
use super::held_memory::HeldMemory;
#[cfg(test)]
use super::held_memory::MemoryLedger;
use super::multipart::Form;

use super::remote::ImageFetcher;
use super::sources::Named;
use super::{json, multipart, sources};
use crate::api::bounds::BodyLimit;
#[cfg(test)]
use crate::api::bounds::Purpose;
use crate::api::config::ApiConfig;
use crate::api::error::ApiError;
use crate::api::request::{Endpoint, Fields, ImagesRequest, step_cache, validate};

impl ImagesRequest {
    /// Checks everything that can be told without the pictures that the request brings.
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

    /// What it comes to at the least, whatever pictures it will have.
    ///
    /// # Errors
    /// As of [`ImagesRequest::check`].
    pub(crate) fn least_requests(&self, card: &ModelCard, limits: &Limits) -> Result<Vec<ImageRequest>, ApiError> {
        let mut draft = self.draft.clone();
        if let Some(own) = &self.cache {
            draft.extensions.insert(own.clone());
        }
        Ok(draft.least(card, limits)?)
    }

    /// One request a picture, with the model's defaults filled in. It takes the draft, and what the request brings, and
    /// notes what of it has no effect. The pictures' memory is held until the last of the requests is answered: they
    /// may be run again until then.
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
        draft.extensions.insert(held);
        if let Some(own) = &self.cache {
            draft.extensions.insert(own.clone());
        }
        draft.without_effect(card).into_iter().for_each(|idle| self.note(idle));
        Ok(draft.build(card, limits, random_seed)?)
    }
}

/// A request that was read: what it asks for, and the pictures that it brings for that.
pub(crate) struct Received {
    pub(crate) asked: ImagesRequest,
    pub(crate) attachments: Attachments,
}

/// Reads a whole request, whose bytes are held in `memory`. What depends on the model is checked by
/// [`ImagesRequest::check`], but where it takes no pictures (`bounds` are its own, if it is loaded), none is kept either.
///
/// # Errors
/// The first thing that is wrong with it.
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

/// A request with its pictures, whatever model it is for.
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

/// The pictures and the mask of an edit, and the field that is told of the pictures.
fn named(
    fields: &mut Fields,
    images: Vec<Vec<u8>>,
    mask: Option<Vec<u8>>,
    param: &'static str,
    fetcher: Option<&ImageFetcher>,
) -> Result<(Vec<Named>, Option<Named>, &'static str), ApiError> {
    let mask = sources::mask(fields, mask, fetcher)?;
    let (named, param) = sources::sources(fields, images, param, fetcher).map_err(|err| match err {
        ApiError::Missing(_) if mask.is_some() => {
            InvalidRequest::new(sources::MASK, "come with the picture that it belongs to", "a mask alone").into()
        }
        err => err,
    })?;
    Ok((named, mask, param))
}

/// What a request for variations of a picture is told, as OpenAI tells it.
pub(crate) fn no_variations(request: Request) -> ApiError {
    linger(request);
    ApiError::NoVariations
}

/// The body, whatever its type, and the name of the field that holds its pictures.
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
