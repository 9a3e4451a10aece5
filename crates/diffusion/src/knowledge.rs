//! Models that know a few things only, each by one name, and what becomes of a prompt for them.

use std::borrow::Cow;
use std::ops::Range;

/// A prompt as a model that knows a few things only is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPrompt<'p> {
    /// In lower case, as its names are, and with the name of a thing in place of its plural or of the last word of it.
    pub text: Cow<'p, str>,
    /// What whoever asked should know of that, or of what the model knows, in a sentence.
    pub note: Option<String>,
}

/// What a model that knows these things is given for `prompt`: the same, where it knows everything (`knows` is empty).
pub fn known_prompt<'p>(prompt: &'p str, knows: &[String]) -> KnownPrompt<'p> {
    let Some((last, others)) = knows.split_last() else { return KnownPrompt { text: prompt.into(), note: None } };
    let text = prompt.to_lowercase();
    if knows.iter().any(|thing| find(&text, thing, |word, name| word == name).is_some()) {
        return KnownPrompt { text: text.into(), note: None };
    }
    if let Some((at, thing)) = renamed(&text, knows) {
        let note = format!("`{}` is drawn as `{thing}`, the name that the model knows", &text[at.clone()]);
        let text = format!("{}{thing}{}", &text[..at.start], &text[at.end..]);
        return KnownPrompt { text: text.into(), note: Some(note) };
    }
    let list = if others.is_empty() { last.clone() } else { format!("{} and {last}", others.join(", ")) };
    let note = format!("the prompt names nothing that the model was trained to draw, which is: {list}");
    KnownPrompt { text: text.into(), note: Some(note) }
}

/// Where `text` names a thing in the plural, or by the last word of one thing alone, and that thing.
fn renamed<'k>(text: &str, knows: &'k [String]) -> Option<(Range<usize>, &'k str)> {
    let in_plural = knows.iter().find_map(|thing| Some((find(text, thing, is_or_are)?, thing.as_str())));
    in_plural.or_else(|| {
        words(text).find_map(|at| {
            let mut called = knows.iter().filter(|thing| is_or_are(&text[at.clone()], last_word(thing)));
            match (called.next(), called.next()) {
                (Some(thing), None) => Some((at, thing.as_str())),
                _ => None,
            }
        })
    })
}

/// Where the words of `thing` stand in `text` side by side.
fn find(text: &str, thing: &str, is_same: fn(&str, &str) -> bool) -> Option<Range<usize>> {
    let (places, names): (Vec<_>, Vec<_>) = (words(text).collect(), words(thing).map(|at| &thing[at]).collect());
    let places = (!names.is_empty()).then(|| places.windows(names.len()))?;
    let mut found =
        places.filter(|places| places.iter().zip(&names).all(|(at, name)| is_same(&text[at.clone()], name)));
    found.next().map(|places| places[0].start..places[places.len() - 1].end)
}

/// Whether a word is a name or its plain plural.
fn is_or_are(word: &str, name: &str) -> bool {
    let Some(ending) = word.strip_prefix(name) else {
        return name.strip_suffix('y').is_some_and(|stem| word.strip_prefix(stem) == Some("ies"));
    };
    ["", "s", "es"].contains(&ending)
}

fn last_word(thing: &str) -> &str {
    words(thing).last().map_or("", |at| &thing[at])
}

fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let is_part = |c: char| c.is_alphanumeric();
    let starts = text.split(move |c| !is_part(c)).filter(|word| !word.is_empty());
    starts.map(move |word| {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        start..start + word.len()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prompt: &str) -> (String, Option<String>) {
        let knows =
            ["dog", "slice of pizza", "cactus", "red apple", "strawberry", "red heart", "cup of tea", "pot of tea"];
        let KnownPrompt { text, note } = known_prompt(prompt, &knows.map(String::from));
        (text.into_owned(), note)
    }

    #[test]
    fn a_thing_is_known_by_its_words_in_any_case() {
        for prompt in
            ["a dog", "A DOG, running", "dog", "a slice of pizza.", "no slice? A Slice of pizza", "dogs and a dog"]
        {
            assert_eq!(read(prompt), (prompt.to_lowercase(), None), "{prompt}");
        }
        for prompt in ["hotdog", "slice of bread", "a red house", "tea", "dogse", "ein Hund", "", "…"] {
            let (text, note) = read(prompt);
            assert_eq!(text, prompt.to_lowercase());
            assert!(note.unwrap().starts_with("the prompt names nothing"), "{prompt}");
        }
    }

    #[test]
    fn a_plural_and_a_last_word_are_drawn_by_the_name() {
        for (prompt, given, as_what) in [
            ("Two Dogs!", "two dog!", "`dogs` is drawn as `dog`"),
            ("pizza", "slice of pizza", "`pizza` is drawn as `slice of pizza`"),
            (
                "slices of pizza on a plate",
                "slice of pizza on a plate",
                "`slices of pizza` is drawn as `slice of pizza`",
            ),
            ("an apple", "an red apple", "`apple` is drawn as `red apple`"),
            ("cactuses", "cactus", "`cactuses` is drawn as `cactus`"),
            ("Strawberries", "strawberry", "`strawberries` is drawn as `strawberry`"),
            ("é apples é", "é red apple é", "`apples` is drawn as `red apple`"),
        ] {
            let note = Some(format!("{as_what}, the name that the model knows"));
            assert_eq!(read(prompt), (given.into(), note), "{prompt}");
        }
    }

    #[test]
    fn it_says_what_is_known() {
        let said =
            |knows: &[&str]| known_prompt("A castle", &knows.iter().map(ToString::to_string).collect::<Vec<_>>());
        let sentence = "the prompt names nothing that the model was trained to draw, which is: ";
        assert_eq!(said(&["dog", "cat", "fox"]).note, Some(format!("{sentence}dog, cat and fox")));
        assert_eq!(said(&["dog"]).note, Some(format!("{sentence}dog")));
        let KnownPrompt { text, note } = said(&[]);
        assert_eq!((&*text, note), ("A castle", None), "a model that knows everything");
    }
}
