//! Decoding the pictures that a request brings. They come from strangers: what a file claims is
//! checked before it is believed, and before memory is taken for it.

use std::io::Cursor;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use diffusion::{ImageSize, InvalidRequest, RgbImage};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use tokio::sync::Semaphore;

use super::InputImage;
use super::colour::in_srgb;
use super::sources::{self, MAX_IMAGE_BYTES, Source};
use crate::error::ApiError;

/// Most pixels of a request's pictures together.
const MAX_PIXELS: usize = 64_000_000;
/// The longest side of a picture.
const MAX_SIDE: u32 = 16_384;
/// Most bytes that a decoder may take for itself. The pixels are bounded by the two above.
const MAX_DECODER_BYTES: u64 = 512 << 20;
/// Most requests whose pictures are decoded at a time: one of 64 megapixels takes up to 0.8 GB while
/// it is.
static DECODERS: Semaphore = Semaphore::const_new(2);

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The pictures of `sources`, decoded on a blocking thread. A field is told of as `param`.
///
/// # Errors
/// The first that is no picture, or too large a one.
pub(crate) async fn decoded(sources: Vec<Source>, param: &'static str) -> Result<Vec<InputImage>, ApiError> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let permit = DECODERS.acquire().await.expect("it is never closed. This is a bug.");
    // The client may leave meanwhile, and the work goes on: so does its permit.
    let decoding = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        decode_all(sources, param)
    });
    decoding.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "decoding a picture panicked");
        Err(Place { param, idx: 0, count: 1 }.invalid("be a whole picture", "one that cannot be decoded"))
    })
}

fn decode_all(sources: Vec<Source>, param: &'static str) -> Result<Vec<InputImage>, ApiError> {
    let count = sources.len();
    let mut pixels_left = MAX_PIXELS;
    let pictures = sources.into_iter().enumerate().map(|(idx, source)| {
        let place = Place { param, idx, count };
        let picture = match source {
            Source::File(file) => decode(&file, pixels_left, &place)?,
            Source::DataUrl(url) => decode(&data(&url, &place)?, pixels_left, &place)?,
        };
        pixels_left -= picture.size.pixels();
        Ok(picture)
    });
    pictures.collect()
}

/// The `idx`th of so many pictures of a field.
struct Place {
    param: &'static str,
    idx: usize,
    count: usize,
}

impl Place {
    fn error(&self, bound: impl Into<String>, given: impl ToString) -> InvalidRequest {
        let given = given.to_string();
        let given = if self.count > 1 { format!("{given} (picture {})", self.idx + 1) } else { given };
        InvalidRequest::new(self.param, bound, given)
    }

    fn invalid(&self, bound: &str, given: impl ToString) -> ApiError {
        ApiError::InvalidImage(self.error(bound, given))
    }
}

/// The bytes behind a `data:` URL.
fn data(url: &str, place: &Place) -> Result<Vec<u8>, ApiError> {
    let broken = || place.invalid("be a URL such as data:image/png;base64,iVBORw0…", url);
    let (head, text) = url.split_once(',').ok_or_else(broken)?;
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Err(broken());
    }
    let is_wrapped = text.bytes().any(|byte| byte.is_ascii_whitespace());
    let text = if is_wrapped { text.split_ascii_whitespace().collect() } else { text.to_owned() };
    let bytes = BASE64.decode(text).map_err(|err| place.invalid("be a URL of valid base64", err))?;
    if bytes.len() > MAX_IMAGE_BYTES { Err(sources::file_too_large(place.param)) } else { Ok(bytes) }
}

/// The picture of a file, in sRGB, upright and opaque: the first one, where there are several.
fn decode(file: &[u8], pixels_left: usize, place: &Place) -> Result<RgbImage, ApiError> {
    let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif];
    let format = image::guess_format(file).ok().filter(|format| known.contains(format));
    let format = format.ok_or_else(|| place.invalid("be a PNG, JPEG, WebP or GIF file", name_of(file)))?;
    let broken = |err| match err {
        ImageError::Limits(_) => {
            let bound = format!("be decoded in at most {MAX_DECODER_BYTES} bytes of memory");
            ApiError::ImageTooLarge(place.error(bound, "a picture that needs more"))
        }
        err => place.invalid("be a whole picture", err),
    };
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    check_size(decoder.dimensions(), pixels_left, place)?;
    // Broken metadata does not break the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let icc_profile = decoder.icc_profile().unwrap_or(None);
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let mut picture = in_srgb(picture, icc_profile.as_deref());
    picture.apply_orientation(orientation);
    Ok(opaque(picture))
}

fn check_size((width, height): (u32, u32), pixels_left: usize, place: &Place) -> Result<(), ApiError> {
    let too_large = |bound: String| Err(ApiError::ImageTooLarge(place.error(bound, format!("{width}x{height}"))));
    if width == 0 || height == 0 {
        return Err(place.invalid("have pixels", format!("{width}x{height}")));
    }
    if width.max(height) > MAX_SIDE {
        return too_large(format!("have sides of at most {MAX_SIDE} pixels"));
    }
    if width as usize * height as usize > pixels_left {
        let together = if place.count > 1 { " in all" } else { "" };
        return too_large(format!("have at most {} megapixels{together}", MAX_PIXELS / 1_000_000));
    }
    Ok(())
}

/// RGB of 8 bits; what is transparent shows white.
fn opaque(picture: DynamicImage) -> RgbImage {
    let size = ImageSize { width: picture.width() as usize, height: picture.height() as usize };
    if !picture.color().has_alpha() {
        return RgbImage { size, pixels: picture.into_rgb8().into_raw() };
    }
    let rgba = picture.into_rgba8();
    let mut pixels = Vec::with_capacity(size.pixels() * 3);
    for pixel in rgba.pixels() {
        let [colours @ .., alpha] = pixel.0;
        let alpha = u32::from(alpha);
        pixels.extend(colours.map(|colour| ((u32::from(colour) * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
    }
    RgbImage { size, pixels }
}

/// What a file is that is none of ours.
fn name_of(file: &[u8]) -> String {
    if file.is_empty() {
        return "an empty file".into();
    }
    let head = String::from_utf8_lossy(&file[..file.len().min(512)]).to_ascii_lowercase();
    if head.contains("<svg") {
        return "image/svg+xml".into();
    }
    infer::get(file).map_or("a file of unknown type".into(), |kind| kind.mime_type().into())
}

#[cfg(test)]
mod tests {
    use image::{ColorType, ImageBuffer, Luma, Rgba};

    use super::*;

    const RED: [u8; 3] = [200, 30, 30];
    const BLUE: [u8; 3] = [30, 60, 200];
    const WHITE: [u8; 3] = [255; 3];

    fn read(file: &[u8]) -> Result<InputImage, String> {
        let pictures = decode_all(vec![Source::File(file.to_vec())], "image").map_err(|err| err.to_string())?;
        Ok(pictures.into_iter().next().unwrap())
    }

    fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }

    #[track_caller]
    fn assert_halves(name: &str, file: &[u8], left: [u8; 3], right: [u8; 3], tolerance: u8) {
        let picture = read(file).unwrap();
        assert_eq!(picture.size.to_string(), "32x16", "{name}");
        for (x, expected) in [(0, left), (12, left), (20, right), (31, right)] {
            for y in [0, 15] {
                let pixel = &picture.pixels[(y * 32 + x) * 3..][..3];
                let near = pixel.iter().zip(expected).all(|(ours, theirs)| ours.abs_diff(theirs) <= tolerance);
                assert!(near, "{name} at {x},{y}: {pixel:?} is not {expected:?}");
            }
        }
    }

    macro_rules! testdata {
        ($name:literal) => {
            ($name, include_bytes!(concat!("testdata/", $name)).as_slice())
        };
    }

    #[test]
    fn a_picture_stored_on_its_side_is_turned_upright() {
        for ((name, file), tolerance) in
            [(testdata!("turned.jpg"), 4), (testdata!("turned.webp"), 0), (testdata!("turned.png"), 0)]
        {
            assert_halves(name, file, RED, BLUE, tolerance);
        }
    }

    #[test]
    fn of_several_pictures_the_first_is_taken() {
        for ((name, file), tolerance) in [
            (testdata!("animated.gif"), 0),
            (testdata!("animated.webp"), 0),
            (testdata!("animated.png"), 0),
            (testdata!("two.mpo"), 6),
        ] {
            assert_halves(name, file, RED, BLUE, tolerance);
        }
    }

    #[test]
    fn ink_becomes_light() {
        let (name, file) = testdata!("cmyk.jpg");
        assert_halves(name, file, RED, BLUE, 4);
    }

    #[test]
    fn what_is_transparent_shows_white() {
        let (name, file) = testdata!("palette.png");
        assert_halves(name, file, RED, WHITE, 0);
        let half = png(ImageBuffer::from_pixel(2, 1, Rgba([200_u8, 0, 100, 128])));
        assert_eq!(read(&half).unwrap().pixels, [227, 127, 177].repeat(2), "c a + 255 (1 - a), rounded");
    }

    #[test]
    fn sixteen_bits_become_eight_and_grey_becomes_rgb() {
        let deep = png(DynamicImage::ImageRgba16(ImageBuffer::from_pixel(1, 1, Rgba([0xffff_u16, 0x8080, 0, 0xffff]))));
        assert_eq!(image::load_from_memory(&deep).unwrap().color(), ColorType::Rgba16);
        assert_eq!(read(&deep).unwrap().pixels, [255, 128, 0]);
        let grey = png(DynamicImage::ImageLuma16(ImageBuffer::from_pixel(1, 1, Luma([0x4040_u16]))));
        assert_eq!(read(&grey).unwrap().pixels, [64; 3]);
    }

    #[test]
    fn other_files_are_named() {
        let heic = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic";
        let whole = testdata!("turned.jpg").1;
        for (file, expected) in [
            (testdata!("shown.avif").1, "be a PNG, JPEG, WebP or GIF file. Given: image/avif"),
            (testdata!("shown.tiff").1, "be a PNG, JPEG, WebP or GIF file. Given: image/tiff"),
            (heic, "be a PNG, JPEG, WebP or GIF file. Given: image/heif"),
            (b"8BPS\x00\x01", "be a PNG, JPEG, WebP or GIF file. Given: image/vnd.adobe.photoshop"),
            (b"<?xml version='1.0'?><SVG xmlns=''/>", "be a PNG, JPEG, WebP or GIF file. Given: image/svg+xml"),
            (b"%PDF-1.7", "be a PNG, JPEG, WebP or GIF file. Given: application/pdf"),
            (b"a cat", "be a PNG, JPEG, WebP or GIF file. Given: a file of unknown type"),
            (b"", "be a PNG, JPEG, WebP or GIF file. Given: an empty file"),
            (&png(DynamicImage::new_rgb8(9, 9))[..40], "be a whole picture. Given: "),
            (&whole[..whole.len() / 3], "be a whole picture. Given: "),
        ] {
            let message = read(file).unwrap_err();
            assert!(message.starts_with(&format!("`image` must {expected}")), "{message}");
        }
    }

    /// A PNG that claims a size, and has no pixels.
    fn claims(width: u32, height: u32) -> Vec<u8> {
        let mut file = png(DynamicImage::new_rgb8(1, 1));
        file[16..24].copy_from_slice(&[width.to_be_bytes(), height.to_be_bytes()].concat());
        let crc = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
        file
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let byte =
            |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0xedb8_8320));
        !bytes.iter().fold(!0, byte)
    }

    #[test]
    fn a_size_is_refused_before_memory_is_taken_for_it() {
        let sides = "`image` must have sides of at most 16384 pixels. Given: ";
        let pixels = "`image` must have at most 64 megapixels. Given: ";
        for (width, height, expected) in
            [(20_000, 20_000, sides), (1, 16_385, sides), (16_384, 3907, pixels), (8001, 8000, pixels)]
        {
            assert_eq!(read(&claims(width, height)).unwrap_err(), format!("{expected}{width}x{height}"));
        }
        let expected = "`image` must be decoded in at most 536870912 bytes of memory. Given: a picture that needs more";
        assert_eq!(read(&claims(u32::MAX >> 1, 1)).unwrap_err(), expected, "one row is more");
        assert!(read(&claims(8000, 8000)).unwrap_err().contains("be a whole picture"), "64 megapixels are taken");
        let all = vec![Source::File(png(DynamicImage::new_rgb8(10, 10))), Source::File(claims(8000, 8000))];
        let expected = "`image` must have at most 64 megapixels in all. Given: 8000x8000 (picture 2)";
        assert_eq!(decode_all(all, "image").unwrap_err().to_string(), expected);
    }

    #[test]
    fn data_urls_are_read_as_clients_write_them() {
        let file = png(DynamicImage::ImageRgb8(ImageBuffer::from_pixel(1, 1, image::Rgb(BLUE))));
        let text = base64::engine::general_purpose::STANDARD.encode(&file);
        let read = |url: String| decode_all(vec![Source::DataUrl(url)], "images").map_err(|err| err.to_string());
        let wrapped: String =
            text.as_bytes().chunks(20).map(|line| format!("{}\r\n", str::from_utf8(line).unwrap())).collect();
        for url in [
            format!("data:image/png;base64,{text}"),
            format!("DATA:;BASE64,{}", text.trim_end_matches('=')),
            format!("data:image/jpeg;name=x.jpg;base64,{wrapped}"),
        ] {
            assert_eq!(read(url.clone()).unwrap()[0].pixels, BLUE, "{url}");
        }
        for bad in ["data:image/png;base64", "data:image/png,abc", "data:image/png;base64,?"] {
            assert!(read(bad.into()).unwrap_err().starts_with("`images` must be a URL"), "{bad}");
        }
    }
}
