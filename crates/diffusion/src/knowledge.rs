//! Models that know a few things only, and prompts that name none of them.

/// A sentence on what a model knows, if it knows a few things only and `prompt` names none of them.
pub fn unknown_prompt(prompt: &str, knows: &[String]) -> Option<String> {
    if knows.is_empty() || knows.iter().any(|thing| names(prompt, thing)) {
        return None;
    }
    let (last, others) = knows.split_last()?;
    let list = if others.is_empty() { last.clone() } else { format!("{} and {last}", others.join(", ")) };
    Some(format!("the prompt names nothing that the model was trained to draw, which is: {list}"))
}

/// Whether the words of `thing` stand in `prompt` side by side. Not in the plural: a model that knows few things does
/// not know their plurals.
fn names(prompt: &str, thing: &str) -> bool {
    let [prompt, thing] = [prompt, thing].map(words);
    !thing.is_empty() && prompt.windows(thing.len()).any(|window| window == thing)
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_known(prompt: &str) -> bool {
        let knows = ["dog", "slice of pizza", "cactus"].map(String::from);
        unknown_prompt(prompt, &knows).is_none()
    }

    #[test]
    fn a_thing_is_known_by_its_words() {
        for prompt in ["a dog", "A DOG, running", "dog", "a slice of pizza.", "no slice? a slice of pizza"] {
            assert!(is_known(prompt), "{prompt}");
        }
        for prompt in ["two dogs", "hotdog", "pizza", "slice of bread", "pizza of slice", "ein Hund", "", "…"] {
            assert!(!is_known(prompt), "{prompt}");
        }
    }

    #[test]
    fn it_says_what_is_known() {
        let said =
            |knows: &[&str]| unknown_prompt("a castle", &knows.iter().map(ToString::to_string).collect::<Vec<_>>());
        let sentence = "the prompt names nothing that the model was trained to draw, which is: ";
        assert_eq!(said(&["dog", "cat", "fox"]), Some(format!("{sentence}dog, cat and fox")));
        assert_eq!(said(&["dog"]), Some(format!("{sentence}dog")));
        assert_eq!(said(&[]), None, "a model that knows everything");
    }
}
