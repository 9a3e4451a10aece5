//! The inputs of a measurement: prompts from a file, one per line; pictures to edit; and the default prompts.

use std::path::{Path, PathBuf};

use diffusion::{InvalidRequest, ModelCard};
use omni::{InputPictures, ModelSource, OmniInput, open_pictures};

use crate::error::{Error, with_flags};

/// The flags of a measurement's inputs.
#[derive(clap::Args)]
pub struct SampleFlags {
    /// A file of prompts, one per line, like those that the model will get; by default prompts that come with the
    /// program
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// A picture to edit, for a model that edits. With several, the prompts take them in turn
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
}

/// The purpose of the pictures. A model is calibrated and compared on different prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The pictures are for fitting plans.
    Calibration,
    /// The pictures are for comparing plans and settings.
    Comparison,
}

/// Contents of the flags' files, read before a model is loaded.
#[derive(Debug)]
pub struct Samples {
    prompts: Option<Vec<String>>,
    pictures: Vec<InputPictures>,
}

impl SampleFlags {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, has no prompt or is not a picture.
    pub fn read(&self) -> Result<Samples, Error> {
        let picture = |path: &PathBuf| open_pictures(&[path], None).map_err(with_flags);
        Ok(Samples {
            prompts: self.prompts.as_deref().map(read_prompts).transpose()?,
            pictures: self.image.iter().map(picture).collect::<Result<_, _>>()?,
        })
    }
}

impl Samples {
    /// The inputs for the model with this card, which was loaded from `source`.
    ///
    /// # Errors
    /// The model needs pictures and there are none, or it accepts none.
    pub fn of_model(self, source: &ModelSource, card: &ModelCard, purpose: Purpose) -> Result<Vec<OmniInput>, Error> {
        let images = card.input_images;
        if self.pictures.is_empty() && images.min_images > 0 {
            let bound = "be given: the model makes pictures from pictures";
            return Err(InvalidRequest::new("--image", bound, "none").into());
        }
        images.check_count(self.pictures.len().min(1)).map_err(with_flags)?;
        let edits = !self.pictures.is_empty();
        let prompts = self.prompts.unwrap_or_else(|| known(*source == ModelSource::Builtin, edits, purpose));
        let input = |(i, prompt): (usize, String)| {
            let pictures =
                if edits { self.pictures[i % self.pictures.len()].clone() } else { InputPictures::default() };
            OmniInput { prompt, pictures }
        };
        Ok(prompts.into_iter().enumerate().map(input).collect())
    }
}

/// The prompts that come with the program.
fn known(builtin: bool, edits: bool, purpose: Purpose) -> Vec<String> {
    let text = match (edits, purpose) {
        (false, Purpose::Calibration) if builtin => return demo::calibration_prompts(),
        (false, Purpose::Comparison) if builtin => {
            return demo::EXAMPLE_PROMPTS.iter().map(ToString::to_string).collect();
        }
        (false, Purpose::Calibration) => include_str!("prompts/calibration.txt"),
        (false, Purpose::Comparison) => include_str!("prompts/comparison.txt"),
        (true, Purpose::Calibration) => include_str!("prompts/edit_calibration.txt"),
        (true, Purpose::Comparison) => include_str!("prompts/edit_comparison.txt"),
    };
    lines(text)
}

/// Reads the prompts of a file. Empty lines are ignored.
fn read_prompts(path: &Path) -> Result<Vec<String>, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: name.clone(), source })?;
    prompts(&text, &name)
}

fn prompts(text: &str, file: &str) -> Result<Vec<String>, Error> {
    let prompts = lines(text);
    if prompts.is_empty() {
        return Err(Error::Flag(format!("`--prompts`: `{file}` holds no prompt")));
    }
    Ok(prompts)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use diffusion::{ImageSize, InputImageBounds, RgbImage};

    use super::*;

    #[test]
    fn a_line_is_a_prompt() {
        assert_eq!(prompts("a fox\r\n\n  a cat \n", "p.txt").unwrap(), ["a fox", "a cat"]);
        assert_eq!(prompts(" \n", "p.txt").unwrap_err().to_string(), "`--prompts`: `p.txt` holds no prompt");
    }

    #[test]
    fn no_model_is_judged_by_what_it_was_measured_by() {
        for (builtin, edits, counts) in [(true, false, [32, 6]), (false, false, [64, 12]), (false, true, [24, 6])] {
            let sets = [Purpose::Calibration, Purpose::Comparison].map(|purpose| known(builtin, edits, purpose));
            assert_eq!([sets[0].len(), sets[1].len()], counts);
            assert!(sets.iter().flatten().all(|prompt| prompt.len() < 240));
            let different: HashSet<_> = sets.iter().flatten().collect();
            // The built-in model draws few things, so one of its example prompts is also a calibration prompt.
            assert!(different.len() + usize::from(builtin) >= counts[0] + counts[1], "{builtin} {edits}");
        }
    }

    fn card(min_images: usize, max_images: usize) -> ModelCard {
        let mut card = omni::Omni::builder().build().unwrap().card().clone();
        card.input_images = InputImageBounds { min_images, max_images, min_side: 1, max_ratio: 10.0 };
        card
    }

    fn picture(width: usize) -> InputPictures {
        let image = RgbImage { size: ImageSize { width, height: 2 }, pixels: vec![9; 6 * width] };
        InputPictures { images: [diffusion::InputImage::new(image)].into(), mask: None }
    }

    #[test]
    fn prompts_take_the_pictures_in_turn() {
        let source = ModelSource::parse(Some("some/model"), None);
        let samples = Samples { prompts: None, pictures: vec![picture(2), picture(3)] };
        let inputs = samples.of_model(&source, &card(1, 3), Purpose::Comparison).unwrap();
        let widths: Vec<_> = inputs.iter().map(|input| input.pictures.images[0].image.size.width).collect();
        assert_eq!((widths, inputs[0].prompt.as_str()), (vec![2, 3, 2, 3, 2, 3], "make it a foggy morning"));
        let samples = Samples { prompts: Some(vec!["a".into()]), pictures: Vec::new() };
        let inputs = samples.of_model(&source, &card(0, 3), Purpose::Comparison).unwrap();
        assert_eq!((inputs.len(), inputs[0].pictures.images.len()), (1, 0));
    }

    #[test]
    fn a_model_that_edits_needs_pictures_and_one_that_does_not_takes_none() {
        let told = |min, max, pictures| {
            let samples = Samples { prompts: None, pictures };
            samples.of_model(&ModelSource::Builtin, &card(min, max), Purpose::Calibration).unwrap_err().to_string()
        };
        let needs = "`--image` must be given: the model makes pictures from pictures. Given: none";
        assert_eq!(told(1, 3, Vec::new()), needs);
        let refused = told(0, 0, vec![picture(2)]);
        assert!(refused.starts_with("`--image` must be absent: the model makes pictures from text only"), "{refused}");
    }
}
