//! What an examination finds, and how it is shown.

use std::io::IsTerminal;

use serde_json::{Value, json};

use crate::text::wrapped;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// As fast as it can be.
    Ok,
    /// It works; something costs speed or is worth knowing.
    Note,
    /// It does not work.
    Problem,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Note => "note",
            Mark::Problem => "problem",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Mark::Ok => "\x1b[32m",
            Mark::Note => "\x1b[33m",
            Mark::Problem => "\x1b[31m",
        }
    }
}

/// One fact: what was found, what it means for a loader, how to change it.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    pub(super) found: String,
    pub(super) means: String,
    pub(super) change: String,
}

impl Finding {
    pub(super) fn ok(found: impl Into<String>, means: impl Into<String>) -> Finding {
        Finding { mark: Mark::Ok, found: found.into(), means: means.into(), change: String::new() }
    }

    pub(super) fn note(found: impl Into<String>, means: impl Into<String>, change: impl Into<String>) -> Finding {
        Finding { mark: Mark::Note, found: found.into(), means: means.into(), change: change.into() }
    }

    pub(super) fn problem(found: impl Into<String>, means: impl Into<String>, change: impl Into<String>) -> Finding {
        Finding { mark: Mark::Problem, found: found.into(), means: means.into(), change: change.into() }
    }

    fn text(&self, colours: bool) -> String {
        let name = self.mark.name();
        let mut out = wrapped(&format!("  {name:<9}"), &self.found);
        if colours {
            out = out.replacen(name, &format!("{}{name}\x1b[0m", self.mark.colour()), 1);
        }
        for (label, text) in [("means", &self.means), ("change", &self.change)] {
            if !text.is_empty() {
                out.push_str(&wrapped(&format!("           {label}: "), text));
            }
        }
        out
    }

    fn json(&self, section: &str) -> Value {
        json!({
            "section": section, "mark": self.mark.name(),
            "found": self.found, "means": self.means, "change": self.change,
        })
    }
}

/// Findings that belong together, and the raw facts behind them for programs.
pub(super) struct Section {
    /// The key in the JSON object.
    pub(super) key: &'static str,
    pub(super) title: String,
    pub(super) findings: Vec<Finding>,
    pub(super) facts: Value,
}

pub(super) fn text(sections: &[Section], verdict: &[String]) -> String {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    for section in sections {
        out.push_str(&section.title);
        out.push('\n');
        for finding in &section.findings {
            out.push_str(&finding.text(colours));
        }
        out.push('\n');
    }
    for line in verdict {
        out.push_str(&wrapped("verdict: ", line));
    }
    out
}

/// One object: facts by section (`paths` is a list), every finding, the verdict.
pub(super) fn json(sections: &[Section], verdict: Value) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("strait".into(), env!("CARGO_PKG_VERSION").into());
    object.insert("paths".into(), json!([]));
    for section in sections {
        match object.get_mut(section.key) {
            Some(Value::Array(list)) => list.push(section.facts.clone()),
            _ => drop(object.insert(section.key.into(), section.facts.clone())),
        }
    }
    let findings = sections.iter().flat_map(|s| s.findings.iter().map(|finding| finding.json(&s.title)));
    object.insert("findings".into(), findings.collect());
    object.insert("verdict".into(), verdict);
    object.into()
}
