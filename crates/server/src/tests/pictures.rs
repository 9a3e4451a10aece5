//! Formats of input pictures: the server accepts them or reports what is wrong. The tests of `pictures` cover decoding.

use std::io::Cursor;

use diffusion::InputImageBounds;
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgba};

use super::edits::{app_with, error, takes};
use super::forms::{Form, edit, png};

fn file(picture: impl Into<DynamicImage>) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.into().write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

macro_rules! testdata {
    ($name:literal) => {
        include_bytes!(concat!("../../../pictures/testdata/", $name)).as_slice()
    };
}

fn form(files: &[&[u8]]) -> Form {
    let form = Form::default().text("prompt", "x").text("num_inference_steps", "1").text("size", "32x32");
    files.iter().fold(form, |form, file| form.file("image[]", "picture.png", file))
}

#[tokio::test]
async fn pictures_of_every_kind_are_taken() {
    let app = app_with(takes(4)).await;
    for (name, picture) in [
        ("16-bit grey", &file(DynamicImage::ImageLuma16(ImageBuffer::from_pixel(9, 9, Luma([0x4040_u16]))))[..]),
        ("16-bit RGBA", &file(DynamicImage::ImageRgba16(ImageBuffer::from_pixel(9, 9, Rgba([9, 9, 9, 0xffff_u16]))))),
        ("grey and alpha", &file(DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(9, 9, LumaA([9, 128]))))),
        ("a palette with transparency", testdata!("palette.png")),
        ("CMYK", testdata!("cmyk.jpg")),
        ("turned by EXIF", testdata!("turned.jpg")),
        ("an animated GIF", testdata!("animated.gif")),
        ("an animated WebP", testdata!("animated.webp")),
        ("1x1", &png(1, 1)),
    ] {
        let answer = edit(&app, form(&[picture])).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
    }
    let four = png(2, 2);
    assert_eq!(edit(&app, form(&[&four[..]; 4])).await.status, 200);
}

#[tokio::test]
async fn what_cannot_be_edited_is_told_with_bound_and_value() {
    let app = app_with(InputImageBounds { min_side: 4, max_ratio: 200.0, ..takes(4) }).await;
    let jpeg = testdata!("turned.jpg");
    for (files, expected) in [
        (&[][..], "400 missing_required_parameter image | Missing required parameter: `image`"),
        (&[&png(9, 9)[..]; 5], "400 invalid_value image | `image` must be at most 4 pictures for this model. Given: 5"),
        (&[&jpeg[..jpeg.len() / 3]], "400 invalid_image_file image | `image` must be a whole picture. Given: "),
        (
            &[b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"],
            "400 invalid_image_file image | `image` must be a PNG, JPEG, WebP \
            or GIF file. Given: image/heif",
        ),
        (
            &[b"a cat, in words"],
            "400 invalid_image_file image | `image` must be a PNG, JPEG, WebP or GIF file. Given: a \
            file of unknown type",
        ),
        (&[b""], "400 invalid_image_file image | `image` must be a PNG, JPEG, WebP or GIF file. Given: an empty file"),
        (
            &[&png(1, 1)],
            "400 invalid_value image | `image` must have sides of at least 4 pixels for this model. Given: \
            1x1 (picture 1)",
        ),
        (
            &[&png(9, 9), &png(4000, 10)],
            "400 invalid_value image | `image` must be at most 200 times as long as wide for \
            this model. Given: 4000x10 (picture 2)",
        ),
    ] {
        let answer = error(&edit(&app, form(files)).await);
        assert!(answer.starts_with(expected), "{answer}");
    }
}
