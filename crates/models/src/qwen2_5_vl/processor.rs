//! Converts pictures to the patches that the vision tower takes.
//!
//! Port of `Qwen2VLImageProcessor`:
//! <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_vl/image_processing_qwen2_vl.py>

use std::ops::RangeInclusive;

use candle_core::{Device, Tensor};
use diffusion::{ImageSize, RgbImage};
use kernels::check_interrupt;
use serde::Deserialize;

use super::config::{FRAMES, MERGE_SIZES, PATCH_SIZES};
use super::grid::Grid;
use crate::Result;
use crate::bounds::ConfigFile;
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::resize::{Filter, resize};

/// Largest ratio of the longer side to the shorter one. Transformers refuses pictures beyond it; here they are
/// stretched to it.
const MAX_RATIO: f64 = 200.0;

/// Allowed pixel counts of a resized picture, beyond what any model was trained for.
const AREAS: RangeInclusive<usize> = 1..=1 << 25;

/// The settings of `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Frames per patch; a picture is repeated this often.
    pub temporal_patch_size: usize,
    /// Side of a block, in patches.
    pub merge_size: usize,
    /// Fewest pixels of a resized picture.
    pub min_pixels: usize,
    /// Most pixels of a resized picture.
    pub max_pixels: usize,
    /// Factor applied to each byte.
    pub rescale_factor: f64,
    /// Mean that is then subtracted from red, green and blue.
    pub image_mean: [f64; 3],
    /// Standard deviation by which red, green and blue are divided at last.
    pub image_std: [f64; 3],
}

/// The section in which transformers 5 may put the image settings.
#[derive(Deserialize)]
struct File {
    image_processor: Option<Fields>,
}

#[derive(Deserialize)]
struct Fields {
    patch_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    merge_size: Option<usize>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    size: Option<Size>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

/// Bounds in pixels of the whole picture, despite the names.
#[derive(Deserialize)]
struct Size {
    #[serde(alias = "min_pixels")]
    shortest_edge: Option<usize>,
    #[serde(alias = "max_pixels")]
    longest_edge: Option<usize>,
}

impl ImageProcessor {
    /// Reads `<component>/preprocessor_config.json`, or `processor_config.json` where transformers 5 may put the
    /// settings. Missing values have transformers' defaults.
    ///
    /// # Errors
    /// Neither file exists, or a value is out of bounds.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let [file, newer] = ["preprocessor_config", "processor_config"].map(|name| format!("{component}/{name}.json"));
        let name = if !checkpoint.has(&file) && checkpoint.has(&newer) { newer } else { file };
        let File { image_processor } = checkpoint.json(&name)?;
        let fields = match image_processor {
            Some(fields) => fields,
            None => checkpoint.json(&name)?,
        };
        let file = ConfigFile(&name);
        let whole = |key, value: Option<usize>, default, range| file.within(key, value.unwrap_or(default), range);
        let size = fields.size.unwrap_or(Size { shortest_edge: None, longest_edge: None });
        let image_mean = fields.image_mean.unwrap_or([0.48145466, 0.4578275, 0.40821073]);
        let image_std = fields.image_std.unwrap_or([0.26862954, 0.26130258, 0.27577711]);
        for number in image_mean {
            file.within("image_mean", number, -1e3..=1e3)?;
        }
        for number in image_std {
            file.within("image_std", number, 1e-3..=1e3)?;
        }
        let min_pixels = whole("min_pixels", fields.min_pixels.or(size.shortest_edge), 56 * 56, AREAS)?;
        let max_pixels = fields.max_pixels.or(size.longest_edge);
        Ok(ImageProcessor {
            patch_size: whole("patch_size", fields.patch_size, 14, PATCH_SIZES)?,
            temporal_patch_size: whole("temporal_patch_size", fields.temporal_patch_size, 2, FRAMES)?,
            merge_size: whole("merge_size", fields.merge_size, 2, MERGE_SIZES)?,
            min_pixels,
            max_pixels: whole("max_pixels", max_pixels, 28 * 28 * 1280, min_pixels..=*AREAS.end())?,
            rescale_factor: file.within("rescale_factor", fields.rescale_factor.unwrap_or(1.0 / 255.0), 1e-6..=1e3)?,
            image_mean,
            image_std,
        })
    }

    /// Returns the size to which a picture of `size` is resized: whole blocks, about the same aspect ratio, and a pixel
    /// count within the bounds. Port of `smart_resize`.
    pub fn smart_resize(&self, size: ImageSize) -> ImageSize {
        let factor = (self.patch_size * self.merge_size) as f64;
        let longest = size.width.max(size.height) as f64;
        let [width, height] = [size.width, size.height].map(|side| (side as f64).max(longest / MAX_RATIO));
        let sides = [width, height];
        // Rounds half to even, like Python.
        let blocks = sides.map(|side| (side / factor).round_ties_even());
        let area = blocks[0] * factor * blocks[1] * factor;
        let blocks = if area > self.max_pixels as f64 {
            let beta = (width * height / self.max_pixels as f64).sqrt();
            sides.map(|side| (side / beta / factor).floor())
        } else if area < self.min_pixels as f64 {
            let beta = (self.min_pixels as f64 / (width * height)).sqrt();
            sides.map(|side| (side * beta / factor).ceil())
        } else {
            blocks
        };
        let [width, height] = blocks.map(|blocks| (blocks.max(1.0) * factor) as usize);
        ImageSize { width, height }
    }

    /// Returns the patches of `picture` in block order, `[rows * columns, 1176]` in f32 in host memory, and their rows
    /// and columns.
    ///
    /// # Errors
    /// The work was interrupted, or the patches do not fit in memory.
    pub fn pixel_values(&self, picture: &RgbImage) -> Result<(Tensor, Grid)> {
        let resized = resize(picture, self.smart_resize(picture.size), Filter::Bicubic);
        check_interrupt()?;
        let grid = (resized.size.height / self.patch_size, resized.size.width / self.patch_size);
        let values = self.patchify(&resized, grid);
        let patch_len = 3 * self.temporal_patch_size * self.patch_size * self.patch_size;
        Ok((Tensor::from_vec(values, (grid.0 * grid.1, patch_len), &Device::Cpu)?, grid))
    }

    /// Orders the numbers by block, patch, colour, frame, row and column.
    fn patchify(&self, image: &RgbImage, (rows, columns): Grid) -> Vec<f32> {
        let (side, merge) = (self.patch_size, self.merge_size);
        let normalised = self.normalised();
        let mut values = Vec::with_capacity(image.pixels.len() * self.temporal_patch_size);
        let row_len = image.size.width * 3;
        for block in 0..rows / merge * (columns / merge) {
            let (block_row, block_column) = (block / (columns / merge), block % (columns / merge));
            for patch in 0..merge * merge {
                let (row, column) = (block_row * merge + patch / merge, block_column * merge + patch % merge);
                let first = row * side * row_len + column * side * 3;
                for (colour, of_byte) in normalised.iter().enumerate() {
                    for _ in 0..self.temporal_patch_size {
                        let lines = (0..side).map(|y| &image.pixels[first + y * row_len..][..side * 3]);
                        let bytes = lines.flat_map(|line| line.iter().skip(colour).step_by(3));
                        values.extend(bytes.map(|&byte| of_byte[usize::from(byte)]));
                    }
                }
            }
        }
        values
    }

    /// Returns the normalised value of each byte of red, green and blue.
    fn normalised(&self) -> [[f32; 256]; 3] {
        [0, 1, 2].map(|colour| {
            let (mean, std) = (self.image_mean[colour] as f32, self.image_std[colour] as f32);
            std::array::from_fn(|byte| ((byte as f64 * self.rescale_factor) as f32 - mean) / std)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &'static str, json: &'static str) -> Result<ImageProcessor, LoadError> {
        ImageProcessor::load(&Checkpoint::Embedded(vec![(name, json.as_bytes())]), "processor")
    }

    fn processor() -> ImageProcessor {
        load("processor/preprocessor_config.json", r#"{"min_pixels": 3136, "max_pixels": 12845056}"#).unwrap()
    }

    #[test]
    fn every_layout_of_the_file_is_understood() {
        for (name, json) in [
            (
                "processor/preprocessor_config.json",
                r#"{"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "image_processor_type": "x"}"#,
            ),
            ("processor/preprocessor_config.json", r#"{"image_processor": {"max_pixels": 12845056}}"#),
            (
                "processor/processor_config.json",
                r#"{"image_processor": {"size": {"longest_edge": 12845056, "shortest_edge": 3136}, "merge_size": 2},
                    "processor_class": "Qwen2VLProcessor"}"#,
            ),
        ] {
            assert_eq!(load(name, json).unwrap(), processor(), "{json}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let message = load("processor/tokenizer.json", "{}").unwrap_err().to_string();
        assert!(message.starts_with("`processor/preprocessor_config.json` is missing"), "{message}");
        let message = load("processor/preprocessor_config.json", r#"{"merge_size": 0}"#).unwrap_err().to_string();
        assert!(message.contains("`merge_size` must be between 1 and 16. Given: 0"), "{message}");
        let least = r#"{"min_pixels": 5000, "max_pixels": 4000}"#;
        let message = load("processor/preprocessor_config.json", least).unwrap_err().to_string();
        assert!(message.contains("`max_pixels` must be between 5000 and 33554432. Given: 4000"), "{message}");
        let message = load("processor/preprocessor_config.json", r#"{"image_std": [1, 0, 1]}"#).unwrap_err();
        assert!(message.to_string().contains("`image_std` must be between 0.001 and 1000. Given: 0"), "{message}");
    }

    /// `smart_resize(height, width, 28, 3136, 12845056)` of transformers 5.24, plus sizes that it refuses.
    #[test]
    fn sizes_are_whole_blocks_of_the_picture_s_shape() {
        for (width, height, expected) in [
            (128, 96, "140x84"),
            (1024, 1024, "1036x1036"),
            (384, 384, "392x392"),
            (42, 70, "56x56"),
            (98, 126, "112x112"),
            (1, 1, "56x56"),
            (30, 20, "84x56"),
            (8000, 4000, "5068x2520"),
            (16_384, 100, "16380x112"),
            (4000, 10, "4004x28"),
            (1, 16_384, "84x16380"),
        ] {
            let given = processor().smart_resize(ImageSize { width, height });
            assert_eq!(given.to_string(), expected, "{width}x{height}");
        }
    }

    #[test]
    fn any_picture_becomes_whole_blocks() {
        for (width, height) in [(1, 1), (1, 3000), (4000, 10), (29, 31), (57, 200)] {
            let picture = RgbImage { size: ImageSize { width, height }, pixels: vec![77; width * height * 3] };
            let (values, (rows, columns)) = processor().pixel_values(&picture).unwrap();
            assert!(rows > 0 && columns > 0 && rows % 2 == 0 && columns % 2 == 0);
            assert_eq!(values.dims(), [rows * columns, 1176]);
        }
    }

    #[test]
    fn patches_are_ordered_by_blocks_colours_and_frames() {
        let small = ImageProcessor {
            patch_size: 1,
            min_pixels: 1,
            rescale_factor: 1.0,
            image_mean: [0.0, 0.0, 100.0],
            image_std: [1.0, 2.0, 1.0],
            ..processor()
        };
        // 2 rows of 4 pixels: red is the column, green twice the row, blue is 9.
        let pixels = (0..2).flat_map(|y| (0..4).flat_map(move |x| [x, 2 * y, 9])).collect();
        let picture = RgbImage { size: ImageSize { width: 4, height: 2 }, pixels };
        let (values, grid) = small.pixel_values(&picture).unwrap();
        let patch = |x: f32, y: f32| vec![x, x, y, y, -91.0, -91.0];
        let expected: Vec<_> = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0), (2, 1), (3, 1)]
            .map(|(x, y)| patch(x as f32, y as f32))
            .into();
        assert_eq!((values.to_vec2::<f32>().unwrap(), grid), (expected, (2, 4)));
    }
}
