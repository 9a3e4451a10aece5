//! The text encoder of the tiny Qwen-Image-Edit checkpoint, and its recorded inputs.

use candle_core::{DType, Device, Tensor};
use models::EditPositions;
use models::qwen_image::{EditPromptEncoder, EditStyle};
use models::{Checkpoint, Precision};

use crate::compare::{Golden, goldens};

/// The recorded runs: two pictures with 3D and with 1D positions, one picture, and v1.
pub fn cases() -> Vec<Golden> {
    let cases = Golden::all(goldens().join("models/goldens"), "qwen-image-edit-plus.");
    assert_eq!(cases.len(), 4);
    cases
}

pub fn checkpoint() -> Checkpoint {
    Checkpoint::Dir(goldens().join("models/qwen-image-edit-plus"))
}

/// Loads the text encoder of the recorded pipeline in f32.
pub fn encoder(golden: &Golden) -> EditPromptEncoder {
    encoder_in(golden, Precision::new(DType::F32, Device::Cpu))
}

pub fn encoder_in(golden: &Golden, precision: Precision) -> EditPromptEncoder {
    let style = if golden.case.ends_with("edit_v1") { EditStyle::V1 } else { EditStyle::Plus };
    let positions = if golden.case.ends_with("pos1d") { EditPositions::Sequential1d } else { EditPositions::MRope3d };
    let weights = checkpoint().weights("text_encoder", precision).unwrap();
    EditPromptEncoder::load(&checkpoint(), &weights.scope("", &|_, _| ()), style, positions).unwrap()
}

/// Returns the patch rows and columns of each picture.
pub fn grids(golden: &Golden) -> Vec<(usize, usize)> {
    let grids = golden.tensor("proc#0.image_grid_thw").to_vec2::<i64>().unwrap();
    grids.iter().map(|grid| (grid[1] as usize, grid[2] as usize)).collect()
}

/// Returns field, text and call number of both prompts.
pub fn prompts(golden: &Golden) -> [(&'static str, String, usize); 2] {
    let negative = golden.run.kw.negative_prompt.as_ref().unwrap();
    [("prompt", golden.run.kw.prompt.get(0), 0), ("negative_prompt", negative.get(0), 1)]
}

/// Splits `tokens`, the rows of all pictures, by picture.
pub fn by_picture(tokens: &Tensor, grids: &[(usize, usize)]) -> Vec<Tensor> {
    let lengths = grids.iter().map(|(rows, columns)| rows * columns / 4);
    let starts = lengths.clone().scan(0, |end, length| Some(std::mem::replace(end, *end + length)));
    starts.zip(lengths).map(|(start, length)| tokens.narrow(0, start, length).unwrap()).collect()
}
