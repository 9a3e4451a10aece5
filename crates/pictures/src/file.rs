//! One picture file from an untrusted source: its claims are checked before memory is allocated for it.

use std::io::Cursor;

use diffusion::{ImageSize, RgbImage};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::bounds::{MAX_DECODER_BYTES, MAX_PIXELS, MAX_SIDE};
use crate::colour::in_srgb;
use crate::place::{PictureError, Place};

/// Memory that decoding takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Peak during decoding.
    pub peak: usize,
    /// Bytes that remain after it.
    pub kept: usize,
}

impl Footprint {
    /// The footprint of decoding `next` after this one.
    pub fn then(self, next: Footprint) -> Footprint {
        Footprint { peak: self.peak.max(self.kept + next.peak), kept: self.kept + next.kept }
    }
}

/// Whether a JPEG file is complete: decoders fill the rest of a truncated file with grey. The end marker cannot occur
/// in the pixel data, but it can in a thumbnail before it.
fn is_whole_jpeg(file: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, mark, high, low]) = file.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        match mark {
            // The first scan begins.
            0xda => return file[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            // Fill bytes may precede a marker.
            0xff => at += 1,
            _ => at += 2 + length,
        }
    }
    false
}

/// A file whose head was read. If it has several pictures, the first counts.
pub struct PictureFile<'f> {
    decoder: Box<dyn ImageDecoder + 'f>,
    /// Bytes that the decoder allocates besides the pixels.
    own_bytes: usize,
    orientation: Orientation,
    place: &'f Place,
}

impl<'f> PictureFile<'f> {
    /// Reads the head of `file`.
    ///
    /// # Errors
    /// It is not an accepted format, or claims more than `pixels_left` pixels.
    pub fn open(file: &'f [u8], pixels_left: usize, place: &'f Place) -> Result<Self, PictureError> {
        let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif];
        let format = image::guess_format(file).ok().filter(|format| known.contains(format));
        let format = format.ok_or_else(|| place.invalid("be a PNG, JPEG, WebP or GIF file", name_of(file)))?;
        if format == ImageFormat::Jpeg && !is_whole_jpeg(file) {
            return Err(place.invalid("be a whole picture", "a JPEG file that breaks off"));
        }
        let mut reader = ImageReader::with_format(Cursor::new(file), format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_DECODER_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(|err| place.broken(err))?;
        check_size(decoder.dimensions(), pixels_left, place)?;
        // Broken metadata does not make the picture invalid.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let (width, height) = decoder.dimensions();
        let own_bytes = decoder_bytes(format, width as usize * height as usize, file.len());
        Ok(PictureFile { decoder: Box::new(decoder), own_bytes, orientation, place })
    }

    /// Size after the EXIF orientation is applied.
    pub fn upright_size(&self) -> ImageSize {
        let stored = self.stored_size();
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => ImageSize { width: stored.height, height: stored.width },
            _ => stored,
        }
    }

    /// Size of the stored rows.
    pub fn stored_size(&self) -> ImageSize {
        let (width, height) = self.decoder.dimensions();
        ImageSize { width: width as usize, height: height as usize }
    }

    /// Whether it has an alpha channel.
    pub fn has_alpha(&self) -> bool {
        self.decoder.color_type().has_alpha()
    }

    /// Memory for [`PictureFile::opaque`]; 3 bytes a pixel remain.
    pub fn opaque_footprint(&self) -> Footprint {
        let is_turned = self.orientation != Orientation::NoTransforms;
        self.footprint(3, if self.has_alpha() || is_turned { 3 } else { 0 })
    }

    /// Memory for [`PictureFile::alpha`]; one byte a pixel remains.
    pub fn alpha_footprint(&self) -> Footprint {
        self.footprint(1, 1)
    }

    /// The footprint if `kept` bytes a pixel remain. The peak is the largest of three stages: the decoder's output with
    /// its own memory, that output with its 8-bit copy, and the 8-bit copy with `made` bytes a pixel.
    fn footprint(&self, kept: usize, made: usize) -> Footprint {
        let pixels = self.stored_size().pixels();
        let stored = self.decoder.color_type();
        let eight_bits = if stored.has_alpha() { 4 } else { 3 };
        let is_converted = !matches!(stored, ColorType::Rgb8 | ColorType::Rgba8);
        let converted = if is_converted { eight_bits } else { 0 };
        let written = pixels * usize::from(stored.bytes_per_pixel());
        let peak = (written + self.own_bytes).max(written + pixels * converted).max(pixels * (eight_bits + made));
        Footprint { peak, kept: pixels * kept }
    }

    /// Decodes the picture in sRGB, upright and opaque: transparent pixels become white.
    ///
    /// # Errors
    /// The file is broken, or needs too much memory.
    pub fn opaque(mut self) -> Result<RgbImage, PictureError> {
        let icc_profile = self.decoder.icc_profile().unwrap_or(None);
        let picture = DynamicImage::from_decoder(self.decoder).map_err(|err| self.place.broken(err))?;
        // Rotated last, which takes the least memory.
        let mut picture = on_white(in_srgb(picture, icc_profile.as_deref()));
        picture.apply_orientation(self.orientation);
        let size = ImageSize { width: picture.width() as usize, height: picture.height() as usize };
        Ok(RgbImage { size, pixels: picture.into_rgb8().into_raw() })
    }

    /// Decodes the alpha of each pixel, upright, rows from the top.
    ///
    /// # Errors
    /// Same as [`PictureFile::opaque`].
    pub fn alpha(self) -> Result<Vec<u8>, PictureError> {
        let mut picture = DynamicImage::from_decoder(self.decoder).map_err(|err| self.place.broken(err))?;
        picture.apply_orientation(self.orientation);
        Ok(picture.into_rgba8().pixels().map(|pixel| pixel.0[3]).collect())
    }
}

fn check_size((width, height): (u32, u32), pixels_left: usize, place: &Place) -> Result<(), PictureError> {
    let too_large = |bound: String| Err(place.too_large(bound, format!("{width}x{height}")));
    if width == 0 || height == 0 {
        return Err(place.invalid("have pixels", format!("{width}x{height}")));
    }
    if width.max(height) > MAX_SIDE {
        return too_large(format!("have sides of at most {MAX_SIDE} pixels"));
    }
    if width as usize * height as usize > pixels_left {
        let together = if pixels_left < MAX_PIXELS { " in all" } else { "" };
        return too_large(format!("have at most {} megapixels{together}", MAX_PIXELS / 1_000_000));
    }
    Ok(())
}

/// Converts to 8-bit RGB on white.
fn on_white(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8().into();
    }
    let rgba = picture.into_rgba8();
    let mut rgb = image::RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [colours @ .., alpha] = from.0;
        let alpha = u32::from(alpha);
        to.0 = colours.map(|colour| ((u32::from(colour) * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    rgb.into()
}

/// Bytes that a decoder allocates besides the pixels. JPEG: the coefficients of a progressive file, and the file
/// itself. WebP: a plane each of luma, chroma and alpha, and a canvas for animations.
fn decoder_bytes(format: ImageFormat, pixels: usize, file: usize) -> usize {
    match format {
        ImageFormat::Jpeg => 8 * pixels + file,
        ImageFormat::WebP => 8 * pixels + file,
        ImageFormat::Gif => 4 * pixels,
        _ => 0,
    }
}

/// The type of a file that is not an accepted format, for errors.
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
