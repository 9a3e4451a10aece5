//! Sources of the pictures to edit: files of a form, `data:` URLs and remote URLs. Nothing is fetched or decoded here.

use diffusion::InvalidRequest;
use url::Url;

use super::remote::ImageFetcher;
use crate::api::error::ApiError;
use crate::api::request::given::{Fields, Given, GivenPicture, Pictures, pictures_of};
use crate::api::request::kinds::{self, Field};
use crate::api::request::picture_bounds::{MAX_INPUT_IMAGES, MAX_URL_CHARS};
use crate::api::request::vocabulary;

/// An uploaded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SentPicture {
    /// Bytes of a file.
    File(Vec<u8>),
    /// A URL that begins with `data:`.
    DataUrl(String),
}

/// A picture of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedPicture {
    /// Uploaded with the request.
    Sent(SentPicture),
    /// To be fetched; its URL has been checked.
    Elsewhere(Url),
}

/// Collects the pictures of an edit: the files of its form, then those in its fields. Also returns the field for
/// errors: `param` for files, and otherwise the first field that names a picture.
///
/// # Errors
/// There is no picture, there are too many, or one is neither a file nor an accepted URL.
pub(crate) fn sources(
    fields: &mut Fields,
    files: Vec<Vec<u8>>,
    param: &'static str,
    fetcher: Option<&ImageFetcher>,
) -> Result<(Vec<NamedPicture>, &'static str), ApiError> {
    let mut first = (!files.is_empty()).then_some(param);
    let mut sources = files.into_iter().map(|file| of_file(file, param, fetcher)).collect::<Result<Vec<_>, _>>()?;
    for field in FIELDS {
        let pictures = match fields.take(&field)? {
            None => continue,
            Some(Given::Pictures(pictures)) => pictures,
            Some(Given::Text(url)) => Pictures { items: vec![GivenPicture::Url(url)], count: 1 },
            Some(other) => return Err(ApiError::WrongType(InvalidRequest::new(field.name, LIST, other))),
        };
        if sources.len() + pictures.count > MAX_INPUT_IMAGES {
            return Err(too_many(field.name, sources.len() + pictures.count));
        }
        for picture in pictures.items {
            sources.push(of_url(url_of(picture, field.name, LIST)?, field.name, fetcher)?);
            first.get_or_insert(field.name);
        }
    }
    match first {
        Some(first) => Ok((sources, first)),
        None => Err(ApiError::Missing(param)),
    }
}

/// The number of pictures in the fields, and whether they name a mask.
pub(crate) fn brought(fields: &mut Fields) -> (usize, bool) {
    let pictures = FIELDS.iter().filter_map(|field| fields.any(field.name)).map(|given| given.len()).sum();
    (pictures, fields.any(MASK).is_some_and(|mask| !mask.is_empty()))
}

/// Fields that name pictures.
const FIELDS: [Field<kinds::PictureNames>; 3] = [vocabulary::IMAGE, vocabulary::IMAGES, vocabulary::URL];

/// The mask of an edit: the file of its form, or the value of its field.
///
/// # Errors
/// There are two masks, or it is neither a file nor an accepted URL.
pub(crate) fn mask(
    fields: &mut Fields,
    file: Option<Vec<u8>>,
    fetcher: Option<&ImageFetcher>,
) -> Result<Option<NamedPicture>, ApiError> {
    let given = fields.take(&vocabulary::MASK)?.filter(|given| given.as_text() != Some(""));
    let given = match (file, given) {
        (None, None) => return Ok(None),
        (Some(file), None) => return of_file(file, MASK, fetcher).map(Some),
        (None, Some(given)) => given,
        (Some(_), Some(_)) => return Err(two_masks()),
    };
    let wrong = |given: Given| ApiError::WrongType(InvalidRequest::new(MASK, ONE, given));
    let picture = match given {
        Given::Text(url) => GivenPicture::Url(url),
        Given::Pictures(Pictures { mut items, .. }) if items.len() == 1 => items.remove(0),
        other => return Err(wrong(other)),
    };
    of_url(url_of(picture, MASK, ONE)?, MASK, fetcher).map(Some)
}

/// Name of the mask's field.
pub(crate) const MASK: &str = "mask";
/// Expected values of the picture and mask fields.
const LIST: &str = "be a list of {\"image_url\": URL}";
const ONE: &str = "be {\"image_url\": URL}";

/// Some clients send a URL in place of a file.
fn of_file(file: Vec<u8>, param: &'static str, fetcher: Option<&ImageFetcher>) -> Result<NamedPicture, ApiError> {
    let begins = |scheme: &[u8]| file.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    if !(begins(b"data:") || begins(b"http:") || begins(b"https:")) {
        return Ok(NamedPicture::Sent(SentPicture::File(file)));
    }
    match String::from_utf8(file) {
        Ok(url) => of_url(url, param, fetcher),
        Err(err) => Ok(NamedPicture::Sent(SentPicture::File(err.into_bytes()))),
    }
}

fn url_of(picture: GivenPicture, param: &'static str, form: &'static str) -> Result<String, ApiError> {
    match picture {
        GivenPicture::Url(url) => Ok(url),
        GivenPicture::FileId(file_id) => {
            let bound = "have an image_url in place of a file_id: this server keeps no files";
            Err(ApiError::Unsupported(InvalidRequest::new(param, bound, file_id)))
        }
        GivenPicture::Other(shown) => Err(ApiError::WrongType(InvalidRequest::new(param, form, shown))),
    }
}

/// Without a fetcher remote pictures are refused: fetching gives clients access to whatever this server can reach.
fn of_url(url: String, param: &'static str, fetcher: Option<&ImageFetcher>) -> Result<NamedPicture, ApiError> {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("data") if url.len() > MAX_URL_CHARS => {
            let bound = format!("have URLs of at most {MAX_URL_CHARS} characters");
            let given = format!("{} characters", url.len());
            Err(ApiError::ImageTooLarge(InvalidRequest::new(param, bound, given)))
        }
        Some("data") => Ok(NamedPicture::Sent(SentPicture::DataUrl(url))),
        Some("http" | "https") => match fetcher {
            Some(fetcher) => {
                let checked = fetcher.check(url.trim());
                checked.map(NamedPicture::Elsewhere).map_err(|bound| InvalidRequest::new(param, bound, url).into())
            }
            None => {
                let bound = "be sent whole, as a file or a data: URL: this server fetches no pictures (its operator \
                    can allow it with --allow-image-urls)";
                Err(ApiError::Unsupported(InvalidRequest::new(param, bound, url)))
            }
        },
        _ => {
            let bound = "be a URL such as data:image/png;base64,iVBORw0…";
            Err(InvalidRequest::new(param, bound, format!("{url:?}")).into())
        }
    }
}

pub(crate) fn too_many(param: &'static str, count: usize) -> ApiError {
    let bound = format!("be at most {MAX_INPUT_IMAGES} pictures");
    InvalidRequest::new(param, bound, pictures_of(count)).into()
}

pub(crate) fn two_masks() -> ApiError {
    InvalidRequest::new(MASK, "be given once", "more than one").into()
}

/// The error for pictures sent to a model that makes pictures from text only.
pub(crate) fn takes_none(images: usize, has_mask: bool) -> ApiError {
    let bound = "be absent: the model makes pictures from text only, by POST /v1/images/generations";
    let (field, given) = if has_mask { (MASK, "a mask".into()) } else { ("image", pictures_of(images)) };
    ApiError::Unsupported(InvalidRequest::new(field, bound, given))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::remote::{ImageUrlSchemes, ImageUrls};
    use super::*;
    use crate::api::request::json;

    fn read(value: Value, files: &[&[u8]]) -> Result<Vec<NamedPicture>, String> {
        read_with(None, value, files)
    }

    fn read_with(fetcher: Option<&ImageFetcher>, value: Value, files: &[&[u8]]) -> Result<Vec<NamedPicture>, String> {
        let files = files.iter().map(|file| file.to_vec()).collect();
        let sources = sources(&mut json::of_value(value), files, "images", fetcher);
        sources.map(|(named, _)| named).map_err(|err| err.to_string())
    }

    fn url(text: &str) -> NamedPicture {
        NamedPicture::Sent(SentPicture::DataUrl(text.into()))
    }

    #[test]
    fn pictures_are_files_or_data_urls() {
        let (one, two) = ("data:image/png;base64,AA", "DATA:,x");
        assert_eq!(read(json!({"images": [{"image_url": one}, two]}), &[]), Ok(vec![url(one), url(two)]));
        assert_eq!(read(json!({"image": {"image_url": one, "file_id": null}}), &[]), Ok(vec![url(one)]));
        let files: [&[u8]; 2] = [b"\x89PNG", b"data:image/png;base64,AA"];
        assert_eq!(
            read(json!({"url": two}), &files),
            Ok(vec![NamedPicture::Sent(SentPicture::File(files[0].into())), url(one), url(two)])
        );
    }

    #[test]
    fn what_is_no_picture_is_named() {
        for (value, expected) in [
            (json!({}), "Missing required parameter: `images`"),
            (json!({"images": []}), "Missing required parameter: `images`"),
            (json!({"images": [{"file_id": "file-1"}]}), "`images` must have an image_url in place of a file_id"),
            (
                json!({"images": [{"image_url": 1}]}),
                "`images` must be a list of {\"image_url\": URL}. Given: {\"image_url\":1}",
            ),
            (json!({"images": [{}]}), "`images` must be a list of"),
            (json!({"images": [[]]}), "`images` must be a list of"),
            (json!({"images": 5}), "`images` must be a list of"),
            (json!({"images": ["https://example.com/cat.png"]}), "`images` must be sent whole"),
            (json!({"images": ["HTTP://127.0.0.1/"]}), "`images` must be sent whole"),
            (json!({"images": ["file:///etc/passwd"]}), "`images` must be a URL such as data:"),
            (json!({"images": ["iVBORw0KGgo"]}), "`images` must be a URL such as data:"),
            (json!({"images": vec!["data:,"; 17]}), "`images` must be at most 16 pictures. Given: 17 pictures"),
            (
                json!({"images": vec!["data:,"; 16], "image": "data:,"}),
                "`images` must be at most 16 pictures. Given: 17 pictures",
            ),
            // The error names the field that was given.
            (json!({"image": 5}), "`image` must be a list of"),
            (json!({"image": ["ftp://x"]}), "`image` must be a URL such as data:"),
            (json!({"url": {}}), "`url` must be a list of {\"image_url\": URL}. Given: {}"),
            (json!({"images": [format!("data:,{}", "x".repeat(MAX_URL_CHARS))]}), "`images` must have URLs of at most"),
        ] {
            let message = read(value, &[]).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(read(json!({}), &[b"https://example.com"]).unwrap_err().starts_with("`images` must be sent whole"));
    }

    #[test]
    fn a_mask_is_one_file_or_one_url() {
        let read = |value, file: Option<&[u8]>| {
            mask(&mut json::of_value(value), file.map(<[u8]>::to_vec), None).map_err(|err| err.to_string())
        };
        let one = "data:image/png;base64,AA";
        for (value, file, expected) in [
            (json!({}), None, None),
            (json!({"mask": ""}), None, None),
            (json!({"mask": {"image_url": one}}), None, Some(url(one))),
            (json!({"mask": one}), None, Some(url(one))),
            (json!({}), Some(one.as_bytes()), Some(url(one))),
            (json!({}), Some(b"\x89PNG".as_slice()), Some(NamedPicture::Sent(SentPicture::File(b"\x89PNG".into())))),
        ] {
            assert_eq!(read(value, file), Ok(expected));
        }
        for (value, file, expected) in [
            (json!({"mask": one}), Some(one.as_bytes()), "`mask` must be given once. Given: more than one"),
            (json!({"mask": [one]}), None, "`mask` must be {\"image_url\": URL}. Given: [\"data:"),
            (json!({"mask": {"file_id": "file-1"}}), None, "`mask` must have an image_url in place of a file_id"),
            (json!({"mask": "https://example.com/m.png"}), None, "`mask` must be sent whole"),
            (json!({"mask": 3}), None, "`mask` must be {\"image_url\": URL}. Given: 3"),
        ] {
            let message = read(value, file).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_server_that_fetches_pictures_takes_their_urls() {
        let allowed = ImageUrls { schemes: ImageUrlSchemes::Https, hosts: Vec::new() };
        let fetcher = ImageFetcher::new(allowed).unwrap();
        let read = |value, files: &[&[u8]]| read_with(Some(&fetcher), value, files);
        let cat = NamedPicture::Elsewhere("https://example.com/cat.png".parse().unwrap());
        assert_eq!(read(json!({"images": [{"image_url": "HTTPS://Example.com/cat.png"}]}), &[]), Ok(vec![cat.clone()]));
        assert_eq!(read(json!({}), &[b"https://example.com/cat.png\r\n"]), Ok(vec![cat]));
        for (url, expected) in [
            ("http://example.com/cat.png", "`images` must begin with https://. Given: http://example.com/cat.png"),
            ("https://127.0.0.1/cat.png", "`images` must be of a public address. Given: https://127.0.0.1/cat.png"),
            ("https://", "`images` must be a URL: empty host. Given: https://"),
        ] {
            assert_eq!(read(json!({"images": [url]}), &[]), Err(expected.to_owned()));
        }
    }
}
