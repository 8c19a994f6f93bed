//! Figures and details as people read them.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Objects as a table with a column for every key that one of them has; series of all rounds are for the JSON.
pub(crate) fn table(rows: &[Value]) -> String {
    let mut keys: Vec<&String> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !keys.contains(&key) && !key.starts_with("all_") {
            keys.push(key);
        }
    }
    let heads: Vec<String> = keys.iter().map(|key| key.replace('_', " ")).collect();
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(keys.len()));
    for row in rows {
        let cells: Vec<String> = keys.iter().map(|key| plain(&row[key.as_str()])).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace(['\n', '|'], " "),
        Value::Number(number) if number.is_f64() => significant(number.as_f64().unwrap_or(0.0)),
        Value::Null => "-".into(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Three digits that count.
fn significant(number: f64) -> String {
    let digits = match number.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    format!("{number:.digits$}")
}

/// A text on one line where `max` bounds it, and at most about so many bytes.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if max == usize::MAX || text.len() <= max {
        return text.into();
    }
    let end = (0..=max.saturating_sub(3)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}..", &text[..end])
}
