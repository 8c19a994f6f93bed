//! What files say, in errors: those are for people, and a file may say anything at any length.

use std::borrow::Cow;

/// Errors show so many characters of a text from a file,
const SHOWN_CHARS_MAX: usize = 1000;
/// and so many dimensions of a shape.
const SHOWN_DIMENSIONS_MAX: usize = 16;

/// The message of an error without the place, which is said in bytes.
pub(crate) fn bare(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    short(text.strip_suffix(&place).unwrap_or(&text)).into_owned()
}

/// The beginning of what a file says, which may be as long as the file: errors are for people.
pub(crate) fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()).into(),
        None => text.into(),
    }
}

/// A shape as `[2, 3]`, or the beginning of it.
pub(crate) fn short_shape(shape: &[u64]) -> String {
    match shape.get(..SHOWN_DIMENSIONS_MAX) {
        Some(first) if shape.len() > first.len() => format!("{first:?}... ({} dimensions)", shape.len()),
        _ => format!("{shape:?}"),
    }
}

/// Where an error is, in bytes from the start of the header.
pub(crate) fn position(header: &[u8], error: &serde_json::Error) -> usize {
    let newlines = header.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let line = std::iter::once(0).chain(newlines).nth(error.line().saturating_sub(1)).unwrap_or(0);
    (line + error.column().saturating_sub(1)).min(header.len())
}
