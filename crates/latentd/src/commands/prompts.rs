//! Files of prompts, one a line.

use std::path::Path;

use latentd::Error;

/// The prompts of a file. Empty lines do not count.
///
/// # Errors
/// It cannot be read, or holds none.
pub(super) fn read_prompts(path: &Path) -> Result<Vec<String>, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: name.clone(), source })?;
    prompts(&text, &name)
}

fn prompts(text: &str, file: &str) -> Result<Vec<String>, Error> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let prompts: Vec<_> = lines.map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(Error::Flag(format!("`--prompts`: `{file}` holds no prompt")));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_prompt() {
        assert_eq!(prompts("a fox\r\n\n  a cat \n", "p.txt").unwrap(), ["a fox", "a cat"]);
        assert_eq!(prompts(" \n", "p.txt").unwrap_err().to_string(), "`--prompts`: `p.txt` holds no prompt");
    }
}
