//! A file of measured diffs: one line per step, one column per branch.

use latentd::Error;

/// Parses the diffs as `[step][branch]`. White space or commas separate columns. Empty lines at the end are ignored.
///
/// # Errors
/// A value is not a diff; the message has its line.
pub(super) fn parse(text: &str) -> Result<Vec<Vec<f32>>, Error> {
    text.trim_end().lines().enumerate().map(|(i, line)| columns(line).map(|cell| diff(cell, i + 1)).collect()).collect()
}

/// The cells of a line. A missing value between commas is an empty cell.
fn columns(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').flat_map(move |part| {
        let missing = part.trim().is_empty() && line.contains(',');
        part.split_whitespace().chain(missing.then_some(""))
    })
}

/// Parses a diff. It is a ratio of means of magnitudes: never negative, but `inf` or `nan` if the last computed step's
/// residual is zero.
fn diff(cell: &str, line: usize) -> Result<f32, Error> {
    match cell.parse::<f32>() {
        Ok(diff) if diff.is_nan() || diff >= 0.0 => Ok(diff),
        _ => {
            Err(Error::Flag(format!("`--diffs`, line {line}: a diff must be a number of at least 0. Given: {cell:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_tabs_and_commas_part_columns() {
        let expected = vec![vec![0.0, 0.5], vec![0.25, 1e-3]];
        for text in ["0 0.5\n0.25 1e-3\n", "0,0.5\r\n.25, 0.001\r\n\r\n", "0\t0.5\n 0.25 , 1E-3"] {
            assert_eq!(parse(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(parse("").unwrap(), Vec::<Vec<f32>>::new());
        assert_eq!(parse("0.1\n\n0.2").unwrap(), [vec![0.1], vec![], vec![0.2]], "for the simulation to refuse");
        assert!(parse("nan").unwrap()[0][0].is_nan());
    }

    #[test]
    fn a_bad_value_is_named_with_its_line() {
        for (text, line, cell) in [
            ("0.1\n0.2x", 2, "0.2x"),
            ("-0.1", 1, "-0.1"),
            ("0,1\n0,1\n0,", 3, ""),
            ("1,,2", 1, ""),
            ("step diff", 1, "step"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            let expected = format!("`--diffs`, line {line}: a diff must be a number of at least 0. Given: {cell:?}");
            assert_eq!(message, expected);
        }
    }
}
