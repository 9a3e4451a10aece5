//! Files of every format, as pictures and as masks.

use std::io::Cursor;

use diffusion::{Mask, RgbImage};
use image::{ColorType, DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgba};

use super::*;

const RED: [u8; 3] = [200, 30, 30];
const BLUE: [u8; 3] = [30, 60, 200];
const WHITE: [u8; 3] = [255; 3];

fn read(file: &[u8]) -> Result<RgbImage, String> {
    let pictures = input_pictures(vec![file.to_vec()], None).map_err(|err| err.to_string())?;
    Ok(pictures.images[0].image.clone())
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
        ($name, include_bytes!(concat!("../testdata/", $name)).as_slice())
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
    let clear = png(DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(1, 1, LumaA([100_u8, 51]))));
    assert_eq!(image::load_from_memory(&clear).unwrap().color(), ColorType::La8);
    assert_eq!(read(&clear).unwrap().pixels, [224; 3], "100 * 51/255 + 255 * 204/255");
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
        (&whole[..whole.len() - 2], "be a whole picture. Given: a JPEG file that breaks off"),
    ] {
        let message = read(file).unwrap_err();
        assert!(message.starts_with(&format!("`image` must {expected}")), "{message}");
    }
}

/// A PNG that claims a size and has no pixels.
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
    let all = [png(DynamicImage::new_rgb8(10, 10)), claims(8000, 8000)].map(Ok);
    let expected = "`image` must have at most 64 megapixels in all. Given: 8000x8000 (picture 2)";
    assert_eq!(InputFiles::read(all.into_iter(), None, "image").err().unwrap().to_string(), expected);
}

/// A picture of `size` whose left half is transparent.
fn half_clear(width: u32, height: u32) -> DynamicImage {
    let alpha = |x| if x < width / 2 { 0 } else { 255 };
    DynamicImage::ImageRgba8(ImageBuffer::from_fn(width, height, |x, _| Rgba([9, 9, 9, alpha(x)])))
}

fn masked(picture: &[u8], mask: &[u8]) -> Result<Mask, String> {
    let pictures = input_pictures(vec![picture.to_vec()], Some(mask.to_vec())).map_err(|err| err.to_string())?;
    Ok(pictures.mask.unwrap())
}

#[test]
fn what_is_transparent_in_a_mask_is_edited() {
    let picture = png(DynamicImage::new_rgb8(4, 2));
    let mask = masked(&picture, &png(half_clear(4, 2))).unwrap();
    assert_eq!((mask.size.to_string(), mask.editable), ("4x2".into(), [255, 255, 0, 0].repeat(2)));
    let deep = DynamicImage::ImageRgba16(half_clear(4, 2).into_rgba16());
    assert_eq!(masked(&picture, &png(deep)).unwrap().editable, [255, 255, 0, 0].repeat(2), "of 16 bits");
    let grey = DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(4, 2, LumaA([0_u8, 100])));
    assert_eq!(masked(&picture, &png(grey)).unwrap().editable, [155; 8], "partly");
    let mut webp = Cursor::new(Vec::new());
    half_clear(4, 2).write_to(&mut webp, ImageFormat::WebP).unwrap();
    assert_eq!(masked(&picture, webp.get_ref()).unwrap().editable, [255, 255, 0, 0].repeat(2), "as WebP");
    // The palette's second colour, on the right, is the transparent one.
    let palette = testdata!("palette.png").1;
    let mask = masked(&png(DynamicImage::new_rgb8(32, 16)), palette).unwrap();
    assert_eq!(mask.editable[..32], [[0; 16], [255; 16]].concat());
}

#[test]
fn a_mask_lies_on_the_upright_picture() {
    let (_, turned) = testdata!("turned.jpg");
    assert_eq!(masked(turned, &png(half_clear(32, 16))).unwrap().size.to_string(), "32x16");
    let expected = "`mask` must be as large as the (first) picture, 32x16 (once that is turned upright: its file has \
        16x32). Given: 16x32";
    assert_eq!(masked(turned, &png(half_clear(16, 32))).unwrap_err(), expected);
    // Orientation 6, a quarter turn clockwise: the transparent left half moves to the top.
    let mut sideways = png(half_clear(16, 32));
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let chunk = [b"eXIf", exif.as_slice()].concat();
    let length = (exif.len() as u32).to_be_bytes();
    let chunk = [length.as_slice(), &chunk, &crc32(&chunk).to_be_bytes()].concat();
    // After the head, which ends at byte 33.
    sideways.splice(33..33, chunk);
    let mask = masked(turned, &sideways).unwrap();
    assert_eq!(
        (mask.size.to_string(), mask.editable[0], mask.editable[31], mask.editable[511]),
        ("32x16".into(), 255, 255, 0)
    );
}

#[test]
fn what_is_no_mask_is_told_why() {
    let picture = png(DynamicImage::new_rgb8(32, 16));
    let alpha = "`mask` must have an alpha channel, as PNG, WebP and GIF files can: what is transparent is edited. \
        Given: a picture without one";
    for (mask, expected) in [
        (&png(DynamicImage::new_rgb8(32, 16))[..], alpha),
        (&png(DynamicImage::new_luma8(32, 16)), alpha),
        (testdata!("cmyk.jpg").1, alpha),
        (&png(half_clear(16, 32)), "`mask` must be as large as the (first) picture, 32x16. Given: 16x32"),
        (
            &png(DynamicImage::ImageRgba8(ImageBuffer::from_pixel(32, 16, Rgba([0, 0, 0, 255])))),
            "`mask` must be transparent where the picture is to be edited. Given: an opaque picture",
        ),
        (b"a mask", "`mask` must be a PNG, JPEG, WebP or GIF file. Given: a file of unknown type"),
        (b"", "`mask` must be a PNG, JPEG, WebP or GIF file. Given: an empty file"),
        (&png(half_clear(32, 16))[..60], "`mask` must be a whole picture. Given: "),
        (&claims(20_000, 20_000), "`mask` must have sides of at most 16384 pixels. Given: 20000x20000"),
        (&claims(8000, 8000), "`mask` must have at most 64 megapixels in all. Given: 8000x8000"),
    ] {
        let message = masked(&picture, mask).unwrap_err();
        assert!(message.starts_with(expected), "{message}");
    }
}
