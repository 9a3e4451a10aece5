//! The words of the built-in model's small grammar.
//!
//! Prompts read "a \[small|large\] SUBJECT \[PLACE\] \[on a GROUND background\]". Other words are accepted, but the
//! model learnt nothing about them.

/// Names of the subjects that the model was trained to draw; `train/trained.txt` holds the same list.
pub const SUBJECTS: &[&str] = &[
    "dog",
    "cat",
    "fox",
    "panda",
    "frog",
    "penguin",
    "unicorn",
    "octopus",
    "ladybug",
    "sunflower",
    "cactus",
    "mushroom",
    "red apple",
    "watermelon",
    "strawberry",
    "slice of pizza",
    "hamburger",
    "doughnut",
    "cup of coffee",
    "football",
    "rocket",
    "house",
    "red heart",
    "smiling face",
];

/// Background colours.
pub const GROUNDS: &[&str] =
    &["white", "black", "grey", "blue", "sky blue", "green", "yellow", "orange", "red", "pink", "purple", "brown"];

/// Words for a size, put before the subject.
pub const SIZES: &[&str] = &["small", "large"];

/// Words for the subject's place; without one it is drawn in the middle.
pub const PLACES: &[&str] = &["on the left", "on the right", "at the top", "at the bottom"];

/// The size at which the model draws; `latentd.json` names the same.
pub const SIZE: &str = "128x128";

/// Prompts that the model draws well, for banners and help texts.
pub const EXAMPLE_PROMPTS: &[&str] = &[
    "a fox on a green background",
    "a slice of pizza on a red background",
    "a large panda on a pink background",
    "a cup of coffee on a brown background",
    "a unicorn on a purple background",
    "a house on a sky blue background",
];

/// 32 prompts to calibrate the step cache with. Together they cover all subjects, grounds, sizes and places.
pub fn calibration_prompts() -> Vec<String> {
    let prompt = |i: usize| {
        let (subject, ground) = (SUBJECTS[(7 * i + 3) % SUBJECTS.len()], GROUNDS[(5 * i + 1 + i / 12) % GROUNDS.len()]);
        let size = ["", "", "small ", "large "][i % 4];
        // Large subjects stay in the middle.
        let place = match i / 2 % 6 {
            at @ 2.. if size != "large " => format!(" {}", PLACES[at - 2]),
            _ => String::new(),
        };
        format!("{}{place} on {} background", with_article(&format!("{size}{subject}")), with_article(ground))
    };
    (0..32).map(prompt).collect()
}

fn with_article(words: &str) -> String {
    let is_open = words.starts_with(['a', 'e', 'i', 'o', 'u']) && !words.starts_with("uni");
    format!("{} {words}", if is_open { "an" } else { "a" })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_model_is_measured_by_other_pictures_than_it_is_judged_by() {
        let prompts: HashSet<_> = calibration_prompts().into_iter().collect();
        assert_eq!(prompts.len(), 32);
        let all: Vec<_> = prompts.iter().flat_map(|prompt| prompt.split(' ')).collect();
        assert!(SUBJECTS.iter().all(|subject| prompts.iter().any(|prompt| prompt.contains(subject))));
        assert!(["left", "right", "top", "bottom", "small", "large", "an"].iter().all(|word| all.contains(word)));
        let judged = include_str!("../../../tests/bench/cache_prompts.txt");
        assert_eq!(judged.lines().find(|prompt| prompts.contains(*prompt)), None);
    }

    /// The part of `train/data.py` between `NAME = {` and the closing brace.
    fn python_keys(name: &str) -> Vec<&'static str> {
        let source = include_str!("../train/data.py");
        let (_, rest) = source.split_once(&format!("\n{name} = {{")).unwrap();
        let (body, _) = rest.split_once("\n}").unwrap();
        body.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once('"')).map(|(key, _)| key).collect()
    }

    #[test]
    fn the_words_are_those_of_the_training_program() {
        let trained: Vec<&str> = include_str!("../train/trained.txt").lines().collect();
        assert_eq!(SUBJECTS, trained);
        assert_eq!(GROUNDS, python_keys("GROUNDS"));
        assert_eq!(SIZES, python_keys("SIZES").into_iter().filter(|key| !key.is_empty()).collect::<Vec<_>>());
        assert_eq!(PLACES, python_keys("PLACES").into_iter().filter(|key| !key.is_empty()).collect::<Vec<_>>());
    }

    #[test]
    fn the_checkpoint_says_what_is_known_and_at_which_size() {
        let facts = crate::file("latentd.json").unwrap();
        let facts: serde_json::Value = serde_json::from_slice(facts).unwrap();
        assert_eq!(facts["knows"], serde_json::json!(SUBJECTS));
        assert_eq!((&facts["size"], &facts["native_sizes"]), (&SIZE.into(), &serde_json::json!([SIZE])));
    }

    #[test]
    fn the_examples_use_known_words() {
        for prompt in EXAMPLE_PROMPTS {
            assert!(SUBJECTS.iter().any(|subject| prompt.contains(subject)), "{prompt}");
            assert!(GROUNDS.iter().any(|ground| prompt.ends_with(&format!(" {ground} background"))), "{prompt}");
        }
    }
}
