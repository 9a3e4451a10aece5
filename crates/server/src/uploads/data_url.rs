//! Decoding of base64 `data:` URLs.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, DecodeSliceError, Engine};

/// Accepts full, partial or no padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// For pieces before the last, which have no padding.
const INNER_BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Characters decoded at a time: whole groups of four.
const PIECE: usize = 4 << 10;

/// The rule that an invalid URL breaks, and the value given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) bound: &'static str,
    pub(super) given: String,
}

/// Decodes `url` in its own memory, because it may be long.
///
/// # Errors
/// It is not a base64 `data:` URL.
pub(super) fn decoded(url: String) -> Result<Vec<u8>, Invalid> {
    let text = url.find(',').filter(|&comma| url[..comma].to_ascii_lowercase().ends_with(";base64"));
    let Some(comma) = text else {
        return Err(Invalid { bound: "be a URL such as data:image/png;base64,iVBORw0…", given: url });
    };
    let mut bytes = url.into_bytes();
    bytes.drain(..=comma);
    bytes.retain(|byte| !byte.is_ascii_whitespace());
    decode_in_place(&mut bytes).map_err(|err| Invalid { bound: "be a URL of valid base64", given: err.to_string() })?;
    Ok(bytes)
}

fn decode_in_place(text: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut piece = [0; PIECE];
    let (mut read, mut written) = (0, 0);
    while read < text.len() {
        let end = text.len().min(read + PIECE);
        let engine = if end == text.len() { BASE64 } else { INNER_BASE64 };
        let count = engine.decode_slice(&text[read..end], &mut piece).map_err(|err| moved(err, read))?;
        text[written..written + count].copy_from_slice(&piece[..count]);
        (read, written) = (end, written + count);
    }
    text.truncate(written);
    Ok(())
}

/// Moves the position of an error from its piece to the whole text.
fn moved(err: DecodeSliceError, by: usize) -> DecodeError {
    match err {
        DecodeSliceError::DecodeError(DecodeError::InvalidByte(at, byte)) => DecodeError::InvalidByte(by + at, byte),
        DecodeSliceError::DecodeError(err) => err,
        DecodeSliceError::OutputSliceTooSmall => unreachable!("it is as long as the text. This is a bug."),
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;

    use super::*;

    #[test]
    fn a_long_one_is_what_it_was() {
        for len in [0, 1, 2, 3, PIECE / 4 * 3 - 1, PIECE / 4 * 3, PIECE / 4 * 3 + 1, 100_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let text = general_purpose::STANDARD.encode(&bytes);
            let url = format!("data:image/png;base64,{text}");
            let memory = url.capacity();
            let read = decoded(url).unwrap();
            assert!(read == bytes && read.capacity() == memory, "{len}");
            let wrapped: String =
                text.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"]).flatten().map(|&b| b as char).collect();
            assert!(decoded(format!("data:;BASE64,{wrapped}")).unwrap() == bytes, "{len}, in lines");
        }
    }

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        let text = "A".repeat(2 * PIECE);
        for (broken, given) in [
            (format!("{text}?AAA"), format!("Invalid symbol 63, offset {}.", 2 * PIECE)),
            (format!("{text}A"), "Invalid input length: 1".into()),
            (format!("AA=={text}"), "Invalid symbol 61, offset 2.".into()),
        ] {
            let err = decoded(format!("data:;base64,{broken}")).unwrap_err();
            assert_eq!((err.bound, err.given), ("be a URL of valid base64", given));
        }
    }
}
