//! Parsing of JSON files that users write by hand.

use serde::de::DeserializeOwned;

/// Serde's names of Rust types, and the words that an author of JSON knows.
const IN_WORDS: [(&str, &str); 4] = [
    ("expected usize", "expected a whole number of at least 0"),
    ("expected f64", "expected a number"),
    ("expected a sequence", "expected a list"),
    ("invalid type: map", "invalid type: an object"),
];

/// Parses a JSON text.
///
/// # Errors
/// The path of the wrong value, and what is wrong with it.
pub fn json_by_path<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|err| {
        let why = err.inner().to_string();
        let why = IN_WORDS.iter().fold(why, |why, (from, to)| why.replace(from, to));
        match err.path().to_string().as_str() {
            // The text breaks off, or is no object at all.
            "." | "?" => why,
            path => format!("`{path}`: {why}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use cache::Calibration;

    use super::*;

    #[test]
    fn a_broken_plan_is_told_by_the_place_and_in_words() {
        let told = |text: &str| json_by_path::<Calibration>(text).unwrap_err();
        assert_eq!(told("3"), "invalid type: integer `3`, expected an object at line 1 column 1");
        let plan = r#"{"class": "Some", "plans": [{"computed": [0, "1"]}]}"#;
        let expected = "`plans[0].computed[1]`: invalid type: string \"1\", expected a whole number of at least 0 \
                        at line 1 column 48";
        assert_eq!(told(plan), expected);
        assert_eq!(
            json_by_path::<Vec<f64>>("{}").unwrap_err(),
            "invalid type: an object, expected a list at line 1 column 0"
        );
        assert!(told("{").starts_with("EOF") && told("{\"class\"").contains("EOF"));
    }
}
