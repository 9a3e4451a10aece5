//! One picture's file. It comes from a stranger: what it claims is checked before it is believed, and before memory
//! is taken for it.

use std::io::Cursor;

use diffusion::{ImageSize, RgbImage};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::bounds::{MAX_DECODER_BYTES, MAX_PIXELS, MAX_SIDE};
use crate::colour::in_srgb;
use crate::place::{PictureError, Place};

/// Bytes that decoding takes: the most meanwhile, and what is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Meanwhile.
    pub peak: usize,
    /// After it.
    pub kept: usize,
}

impl Footprint {
    /// Of what is decoded after this.
    pub fn then(self, next: Footprint) -> Footprint {
        Footprint { peak: self.peak.max(self.kept + next.peak), kept: self.kept + next.kept }
    }
}

/// Whether a JPEG file goes on to its end: decoders paint the rest of one that breaks off grey. In the pixels' data
/// the end's mark cannot be, in what stands before them (a thumbnail) it can.
fn is_whole_jpeg(file: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, mark, high, low]) = file.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        match mark {
            // The first scan begins.
            0xda => return file[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            // Fill bytes may stand before a mark.
            0xff => at += 1,
            _ => at += 2 + length,
        }
    }
    false
}

/// A file whose head was read: of several pictures in it the first.
pub struct PictureFile<'f> {
    decoder: Box<dyn ImageDecoder + 'f>,
    /// Bytes that the decoder takes beside the pixels.
    own_bytes: usize,
    orientation: Orientation,
    place: &'f Place,
}

impl<'f> PictureFile<'f> {
    /// Reads the head of `file`.
    ///
    /// # Errors
    /// It is none of our kinds of pictures, or claims more than `pixels_left` pixels.
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
        // Broken metadata does not break the picture.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let (width, height) = decoder.dimensions();
        let own_bytes = decoder_bytes(format, width as usize * height as usize, file.len());
        Ok(PictureFile { decoder: Box::new(decoder), own_bytes, orientation, place })
    }

    /// As it will be seen.
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

    /// As its rows stand in the file.
    pub fn stored_size(&self) -> ImageSize {
        let (width, height) = self.decoder.dimensions();
        ImageSize { width: width as usize, height: height as usize }
    }

    /// Whether its pixels have an opacity.
    pub fn has_alpha(&self) -> bool {
        self.decoder.color_type().has_alpha()
    }

    /// What [`PictureFile::opaque`] takes, and 3 bytes a pixel after it.
    pub fn opaque_footprint(&self) -> Footprint {
        let is_turned = self.orientation != Orientation::NoTransforms;
        self.footprint(3, if self.has_alpha() || is_turned { 3 } else { 0 })
    }

    /// What [`PictureFile::alpha`] takes and what is made of it, and a byte a pixel after it.
    pub fn alpha_footprint(&self) -> Footprint {
        self.footprint(1, 1)
    }

    /// Where `kept` bytes a pixel are left: what the decoder writes, with its own, and with the same in 8 bits; or
    /// that with `made` of it, whichever is most.
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

    /// In sRGB, upright and opaque: what is transparent shows white.
    ///
    /// # Errors
    /// It is broken, or needs too much memory.
    pub fn opaque(mut self) -> Result<RgbImage, PictureError> {
        let icc_profile = self.decoder.icc_profile().unwrap_or(None);
        let picture = DynamicImage::from_decoder(self.decoder).map_err(|err| self.place.broken(err))?;
        // Turned last: that takes the least memory.
        let mut picture = on_white(in_srgb(picture, icc_profile.as_deref()));
        picture.apply_orientation(self.orientation);
        let size = ImageSize { width: picture.width() as usize, height: picture.height() as usize };
        Ok(RgbImage { size, pixels: picture.into_rgb8().into_raw() })
    }

    /// The opacity of each of its pixels, upright, rows from the top.
    ///
    /// # Errors
    /// As of [`PictureFile::opaque`].
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

/// RGB of 8 bits; what is transparent shows white.
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

/// Bytes that a decoder takes for so many pixels, beside them: for a JPEG its coefficients, where they come scan by
/// scan, and the file; for WebP a plane each of luma, colours and opacity, and for animations a canvas.
fn decoder_bytes(format: ImageFormat, pixels: usize, file: usize) -> usize {
    match format {
        ImageFormat::Jpeg => 8 * pixels + file,
        ImageFormat::WebP => 8 * pixels + file,
        ImageFormat::Gif => 4 * pixels,
        _ => 0,
    }
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
