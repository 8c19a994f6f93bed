//! Running the command, and reading what it says.
#![allow(dead_code, reason = "each test file is a crate, and uses a part")]

use std::process::{Command, Output};

use serde_json::Value;

pub(crate) fn strait() -> Command {
    Command::new(env!("CARGO_BIN_EXE_strait"))
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    strait().args(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one JSON object on standard output.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}\nstdout: {}\nstderr: {}", text(&output.stdout), text(&output.stderr)))
}

/// All findings of `strait doctor` in one string, for searching.
pub(crate) fn findings(json: &Value) -> String {
    json["findings"].to_string()
}
