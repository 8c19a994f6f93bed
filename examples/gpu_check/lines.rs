//! What parts say to the program that started them: lines of `@` and a JSON object, among others that only the log keeps.
//!
//! ```text
//! @{"ok": "name", "detail": ".."}         a check that passed
//! @{"failed": "name", "detail": ".."}     one that did not
//! @{"skipped": "name", "detail": ".."}    what this machine does not allow, and why
//! @{"unfinished": "name", "detail": ".."} what should have been shown here, and was not
//! @{"note": "name", "detail": ".."}       what to know besides
//! @{"machine": {..}}                      entries for the description of the machine
//! @{"table": "name", "row": {..}}         figures; a later row of the same first entry takes an earlier one's place
//! ```

use serde_json::{Value, json};

use crate::check::Outcome;

fn say(line: &Value) {
    println!("@{line}");
}

/// Notes a check.
pub(crate) fn check(name: &str, outcome: Outcome<String>) {
    match outcome {
        Ok(detail) => say(&json!({ "ok": name, "detail": detail })),
        Err(error) => say(&json!({ "failed": name, "detail": error.to_string() })),
    }
}

pub(crate) fn skipped(name: &str, why: &str) {
    say(&json!({ "skipped": name, "detail": why }));
}

/// A check that could not have failed, or did not get to its end.
pub(crate) fn unproven(name: &str, why: &str) {
    say(&json!({ "unfinished": name, "detail": why }));
}

pub(crate) fn note(name: &str, detail: &str) {
    say(&json!({ "note": name, "detail": detail }));
}

pub(crate) fn machine(entries: Value) {
    say(&json!({ "machine": entries }));
}

pub(crate) fn row(table: &str, row: Value) {
    say(&json!({ "table": table, "row": row }));
}
