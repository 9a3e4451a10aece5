//! Prompts for models that can draw only a few named things.

use std::borrow::Cow;
use std::ops::Range;

/// Words that take the place of an article.
const DETERMINERS: [&str; 14] =
    ["a", "an", "the", "one", "two", "three", "four", "five", "some", "many", "my", "your", "his", "her"];

/// A prompt as given to a model that can draw only a few things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPrompt<'p> {
    /// Lower-case text. A plural, or the last word of a name, is replaced by the full name, and an article precedes it.
    /// The training captions of such models have this form.
    pub text: Cow<'p, str>,
    /// A sentence for the client about the replacement, or about what the model can draw.
    pub note: Option<String>,
}

/// The text that a model with these names gets for `prompt`. It is the prompt itself if `knows` is empty, for a model
/// that can draw anything.
pub fn known_prompt<'p>(prompt: &'p str, knows: &[String]) -> KnownPrompt<'p> {
    let Some((last, others)) = knows.split_last() else { return KnownPrompt { text: prompt.into(), note: None } };
    let text = prompt.to_lowercase();
    if let Some(at) = named(&text, knows) {
        return KnownPrompt { text: with_article(&text, at).into(), note: None };
    }
    if let Some((at, thing)) = renamed(&text, knows) {
        let note = format!("`{}` is drawn as `{thing}`, the name that the model knows", &text[at.clone()]);
        let text = format!("{}{thing}{}", &text[..at.start], &text[at.end..]);
        return KnownPrompt { text: with_article(&text, at.start).into(), note: Some(note) };
    }
    let list = if others.is_empty() { last.clone() } else { format!("{} and {last}", others.join(", ")) };
    let note = format!("the prompt names nothing that the model was trained to draw, which is: {list}");
    KnownPrompt { text: text.into(), note: Some(note) }
}

/// Start of the first exact name in `text`.
fn named(text: &str, knows: &[String]) -> Option<usize> {
    knows.iter().filter_map(|thing| find(text, thing, |word, name| word == name)).map(|at| at.start).min()
}

/// `text` with an article before the name that starts at `thing`. It replaces a determiner such as a number or
/// possessive, or goes in front of the whole text if at most one word precedes the name.
fn with_article(text: &str, thing: usize) -> String {
    let before: Vec<_> = words(&text[..thing]).collect();
    let rest = |at: usize| {
        let sounds_open = text[at..].starts_with(['a', 'e', 'i', 'o', 'u']) && !text[at..].starts_with("uni");
        let article = if sounds_open { "an" } else { "a" };
        format!("{}{article} {}", &text[..at], &text[at..])
    };
    match &before[..] {
        [.., last] if DETERMINERS.contains(&&text[last.clone()]) => {
            let head = &text[..last.start];
            head.to_owned() + &rest(thing)[thing..]
        }
        all if all.iter().any(|word| matches!(&text[word.clone()], "a" | "an")) => text.to_owned(),
        [] => rest(thing),
        [first] => rest(first.start),
        _ => text.to_owned(),
    }
}

/// Range of a plural, or of a last word that belongs to one name only, with that name.
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

/// Range of the words of `thing` as consecutive words of `text`.
fn find(text: &str, thing: &str, is_same: fn(&str, &str) -> bool) -> Option<Range<usize>> {
    let (places, names): (Vec<_>, Vec<_>) = (words(text).collect(), words(thing).map(|at| &thing[at]).collect());
    let places = (!names.is_empty()).then(|| places.windows(names.len()))?;
    let mut found =
        places.filter(|places| places.iter().zip(&names).all(|(at, name)| is_same(&text[at.clone()], name)));
    found.next().map(|places| places[0].start..places[places.len() - 1].end)
}

/// Whether a word is a name or its regular plural.
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
        for prompt in ["a dog", "A DOG, running", "a slice of pizza.", "no slice? A Slice of pizza", "dogs and a dog"] {
            assert_eq!(read(prompt), (prompt.to_lowercase(), None), "{prompt}");
        }
        for prompt in ["hotdog", "slice of bread", "a red house", "tea", "dogse", "ein Hund", "", "…"] {
            let (text, note) = read(prompt);
            assert_eq!(text, prompt.to_lowercase());
            assert!(note.unwrap().starts_with("the prompt names nothing"), "{prompt}");
        }
    }

    #[test]
    fn a_thing_is_given_its_article() {
        for (prompt, given) in [
            ("dog", "a dog"),
            ("Small dog on the left", "a small dog on the left"),
            (" \"dog\"", " \"a dog\""),
            ("the dog", "a dog"),
            ("an dog, and a cactus", "a dog, and a cactus"),
            ("a picture of my dog", "a picture of a dog"),
            ("orange dog", "an orange dog"),
            ("uniformed dog", "a uniformed dog"),
            ("a small dog", "a small dog"),
            ("oil painting, dog", "oil painting, dog"),
        ] {
            assert_eq!(read(prompt), (given.into(), None), "{prompt}");
        }
    }

    #[test]
    fn a_plural_and_a_last_word_are_drawn_by_the_name() {
        for (prompt, given, as_what) in [
            ("Two Dogs!", "a dog!", "`dogs` is drawn as `dog`"),
            ("pizza", "a slice of pizza", "`pizza` is drawn as `slice of pizza`"),
            (
                "slices of pizza on a plate",
                "a slice of pizza on a plate",
                "`slices of pizza` is drawn as `slice of pizza`",
            ),
            ("an apple", "a red apple", "`apple` is drawn as `red apple`"),
            ("cactuses", "a cactus", "`cactuses` is drawn as `cactus`"),
            ("Strawberries", "a strawberry", "`strawberries` is drawn as `strawberry`"),
            ("é apples é", "a é red apple é", "`apples` is drawn as `red apple`"),
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
