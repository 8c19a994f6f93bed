//! What came of it: one JSON object, and the same for people.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::check::Outcome;
use crate::check::race::Tally;

pub(crate) struct Report {
    machine: Value,
    checks: Vec<Value>,
    not_checked: Vec<String>,
    control: Value,
    measurements: Value,
    not_measured: Option<String>,
    passed: bool,
}

impl Report {
    pub(crate) fn new(machine: Value) -> Report {
        let null = Value::Null;
        Report {
            machine,
            checks: vec![],
            not_checked: vec![],
            control: null.clone(),
            measurements: null,
            not_measured: None,
            passed: true,
        }
    }

    /// Notes a check, and says it.
    pub(crate) fn check(&mut self, name: &str, outcome: Outcome<String>) {
        let (passed, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, error.to_string()),
        };
        println!("{} {name}: {detail}", if passed { "ok    " } else { "FAILED" });
        self.passed &= passed;
        self.checks.push(json!({ "name": name, "passed": passed, "detail": detail }));
    }

    /// The race without fences. That it goes wrong shows that the check can tell; on a quick machine it may not.
    pub(crate) fn control(&mut self, tally: Outcome<Tally>) {
        self.control = match tally {
            Ok(Tally { samples, wrong, .. }) => json!({ "samples": samples, "wrong": wrong }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        println!("       the same without fences, on purpose: {}", self.control);
    }

    /// Says what this machine does not allow.
    pub(crate) fn not_checked(&mut self, why: &str) {
        println!("-      not checked: {why}");
        self.not_checked.push(why.into());
    }

    pub(crate) fn measured(&mut self, measurements: Value) {
        self.measurements = measurements;
    }

    pub(crate) fn not_measured(&mut self, why: &str) {
        println!("       not measured: {why}");
        self.not_measured = Some(why.into());
    }

    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    pub(crate) fn write(&self, out: &Path) -> Outcome {
        let path = |ending| out.with_file_name(format!("{}.{ending}", out.file_name().unwrap_or_default().display()));
        std::fs::write(path("json"), serde_json::to_string_pretty(&self.json())? + "\n")?;
        std::fs::write(path("md"), self.markdown())?;
        Ok(())
    }

    fn json(&self) -> Value {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        json!({
            "strait": env!("CARGO_PKG_VERSION"),
            "unix_seconds": since.map(|since| since.as_secs()).unwrap_or(0),
            "passed": self.passed,
            "machine": self.machine,
            "checks": self.checks,
            "not_checked": self.not_checked,
            "race_without_fences": self.control,
            "measurements": self.measurements,
            "not_measured": self.not_measured,
        })
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("# strait {} on {}\n\n", env!("CARGO_PKG_VERSION"), plain(&self.machine["gpu"]));
        for (key, value) in self.machine.as_object().into_iter().flatten() {
            let _ = writeln!(text, "- {}: {}", key.replace('_', " "), plain(value));
        }
        text += "\n## Checks\n\n| check | result | detail |\n|---|---|---|\n";
        for check in &self.checks {
            let result = if check["passed"] == true { "passed" } else { "**FAILED**" };
            let _ = writeln!(text, "| {} | {result} | {} |", plain(&check["name"]), plain(&check["detail"]));
        }
        for why in &self.not_checked {
            let _ = writeln!(text, "\nNot checked: {why}");
        }
        let _ = writeln!(text, "\nThe race without fences, to see that it can be lost: {}", self.control);
        text += "\n## Measurements\n\n";
        if let Some(why) = &self.not_measured {
            return text + "None: " + why + ".\n";
        }
        for (name, rows) in self.measurements.as_object().into_iter().flatten() {
            let _ = writeln!(text, "{}\n", name.replace('_', " "));
            text += &table(rows);
        }
        text
    }
}

/// A list of objects of the same keys as a table; anything else as it is.
fn table(rows: &Value) -> String {
    let Some(keys) = rows[0].as_object().map(|row| row.keys().cloned().collect::<Vec<_>>()) else {
        return format!("{}\n\n", plain(rows));
    };
    let heads: Vec<String> = keys.iter().map(|key| key.replace('_', " ")).collect();
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(keys.len()));
    for row in rows.as_array().into_iter().flatten() {
        let cells: Vec<String> = keys.iter().map(|key| plain(&row[key])).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text + "\n"
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or(0.0)),
        Value::Null => "-".into(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
