//! What came of it: one JSON object, and the same for people. Written again after each part, so that a run that is killed
//! leaves what it knew.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::check::Outcome;
use crate::targets;
use crate::text::{cut, plain, table};

/// What a part says of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ok,
    Failed,
    /// This machine does not allow it, or it was not wanted.
    Skipped,
    /// A part that did not run to its end, though nothing that it checked was wrong.
    Unfinished,
    Note,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Ok => "ok",
            Kind::Failed => "FAILED",
            Kind::Skipped => "skipped",
            Kind::Unfinished => "UNFINISHED",
            Kind::Note => "note",
        }
    }
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    part: String,
    name: String,
    detail: String,
}

pub(crate) struct Report {
    machine: Map<String, Value>,
    entries: Vec<Entry>,
    /// In the order in which they came.
    tables: Vec<(String, Vec<Value>)>,
    parts: Vec<Value>,
    /// Over a stand-in for the driver: figures are counted and not kept.
    trial: bool,
    trial_rows: usize,
    finished: bool,
    start: Instant,
}

impl Report {
    pub(crate) fn new(trial: bool) -> Report {
        Report {
            machine: Map::new(),
            entries: Vec::new(),
            tables: Vec::new(),
            parts: Vec::new(),
            trial,
            trial_rows: 0,
            finished: false,
            start: Instant::now(),
        }
    }

    /// Takes what a part said on a line; whether that was a check, a skip, or a figure.
    pub(crate) fn hear(&mut self, part: &str, line: &str) -> bool {
        let Some(said) = line.strip_prefix('@').and_then(|json| serde_json::from_str::<Value>(json).ok()) else {
            return false;
        };
        let kinds = [
            ("ok", Kind::Ok),
            ("failed", Kind::Failed),
            ("skipped", Kind::Skipped),
            ("unfinished", Kind::Unfinished),
            ("note", Kind::Note),
        ];
        for (key, kind) in kinds {
            if let Some(name) = said[key].as_str() {
                self.note(kind, part, name, said["detail"].as_str().unwrap_or(""));
                return kind != Kind::Note;
            }
        }
        if let Some(entries) = said["machine"].as_object() {
            self.machine.extend(entries.clone());
        }
        match (said["table"].as_str(), &said["row"]) {
            (Some(table), Value::Object(row)) => self.row(table, row),
            _ => return false,
        }
        true
    }

    /// Notes and says one thing.
    pub(crate) fn note(&mut self, kind: Kind, part: &str, name: &str, detail: &str) {
        println!("{:10} {part}: {}", kind.word(), told(name, &cut(detail, 300)));
        let (part, name, detail) = (part.into(), name.into(), detail.into());
        self.entries.push(Entry { kind, part, name, detail });
    }

    fn row(&mut self, table: &str, row: &Map<String, Value>) {
        if self.trial {
            self.trial_rows += 1;
            return;
        }
        let place = self.tables.iter().position(|(name, _)| name == table).unwrap_or_else(|| {
            self.tables.push((table.into(), Vec::new()));
            self.tables.len() - 1
        });
        let rows = &mut self.tables[place].1;
        let what = |row: &Map<String, Value>| row.values().next().cloned();
        let new = Value::Object(row.clone());
        match rows.iter_mut().find(|old| old.as_object().and_then(what) == what(row)) {
            Some(old) => *old = new,
            None => rows.push(new),
        }
    }

    pub(crate) fn part_ended(&mut self, part: &str, seconds: f64, how: &str) {
        self.parts.push(json!({ "part": part, "seconds": (seconds * 10.0).round() / 10.0, "how": how }));
    }

    /// All parts have had their turn.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.entries.iter().filter(|entry| entry.kind == kind).count()
    }

    pub(crate) fn has_failed(&self, part: &str) -> bool {
        self.entries.iter().any(|entry| entry.kind == Kind::Failed && entry.part == part)
    }

    /// 0, 1 or 4, as the help says.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.count(Kind::Failed), self.count(Kind::Unfinished)) {
            (0, 0) if self.finished => 0,
            (0, _) => 4,
            _ => 1,
        }
    }

    /// Both files. Each appears whole.
    pub(crate) fn write(&self, out: &Path) -> Outcome {
        let json = serde_json::to_string_pretty(&self.json())? + "\n";
        for (ending, text) in [("json", json), ("md", self.markdown(usize::MAX))] {
            let (path, temporary) = (with_ending(out, ending), with_ending(out, &format!("{ending}.new")));
            std::fs::write(&temporary, text)?;
            std::fs::rename(&temporary, &path)?;
        }
        Ok(())
    }

    pub(crate) fn json(&self) -> Value {
        let entry = |entry: &Entry| json!({ "part": entry.part, "name": entry.name, "detail": entry.detail });
        let entries = |kind| self.entries.iter().filter(|entry| entry.kind == kind).map(entry).collect::<Vec<_>>();
        let mut measured: Map<_, Value> = self.tables.iter().cloned().map(|(name, rows)| (name, rows.into())).collect();
        if !measured.is_empty() {
            measured.insert("targets".into(), targets::of(&self.tables).into());
        }
        json!({
            "strait": env!("CARGO_PKG_VERSION"),
            "unix_seconds": SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or(0),
            "verdict": self.verdict(),
            "finished": self.finished,
            "stand_in": self.trial,
            "machine": self.machine,
            "passed": entries(Kind::Ok),
            "failed": entries(Kind::Failed),
            "unfinished": entries(Kind::Unfinished),
            "skipped": entries(Kind::Skipped),
            "notes": entries(Kind::Note),
            "measurements": measured,
            "parts": self.parts,
        })
    }

    pub(crate) fn verdict(&self) -> String {
        let counts = [Kind::Ok, Kind::Failed, Kind::Unfinished, Kind::Skipped].map(|kind| self.count(kind));
        let [passed, failed, unfinished, skipped] = counts;
        let end = if self.finished { "" } else { "; the run is not at its end" };
        let seconds = self.start.elapsed().as_secs();
        format!("{passed} passed, {failed} failed, {unfinished} unfinished, {skipped} skipped, in {seconds} s{end}")
    }

    /// For people; of about so many bytes at most, since details are cut as they must be.
    pub(crate) fn markdown(&self, bytes_max: usize) -> String {
        let lengths = [usize::MAX, 400, 200, 120, 80, 50];
        let texts = lengths.iter().map(|&length| self.text(length));
        let mut last = String::new();
        for text in texts {
            last = text;
            if last.len() <= bytes_max {
                break;
            }
        }
        cut(&last, bytes_max)
    }

    fn text(&self, detail_max: usize) -> String {
        let gpu = self.machine.get("gpu").map(plain).unwrap_or("a machine that could not be asked".into());
        let mut text = format!("# strait {} on {gpu}\n\n{}.\n", env!("CARGO_PKG_VERSION"), self.verdict());
        if self.trial {
            text += "\nA TRIAL over strait's stand-in for the driver: it says nothing about a GPU, and figures are not kept ";
            let _ = writeln!(text, "({} were made).", self.trial_rows);
        }
        // What matters first, for a text that is cut.
        self.entries_of(&[Kind::Failed, Kind::Unfinished], detail_max, &mut text);
        if !self.tables.is_empty() {
            let _ = write!(text, "\n## targets\n\n{}", table(&targets::of(&self.tables)));
        }
        for (name, rows) in &self.tables {
            let _ = write!(text, "\n## {name}\n\n{}", table(rows));
        }
        self.entries_of(&[Kind::Ok, Kind::Skipped, Kind::Note], detail_max, &mut text);
        text += "\n## machine\n\n";
        for (key, value) in &self.machine {
            let _ = writeln!(text, "- {}: {}", key.replace('_', " "), cut(&plain(value), detail_max));
        }
        let took = |part: &Value| format!("{} {}", plain(&part["part"]), plain(&part["seconds"]));
        let _ = writeln!(text, "- seconds: {}", self.parts.iter().map(took).collect::<Vec<_>>().join(", "));
        text
    }

    fn entries_of(&self, kinds: &[Kind], detail_max: usize, text: &mut String) {
        for &kind in kinds {
            let mut rows = self.entries.iter().filter(|entry| entry.kind == kind).peekable();
            if rows.peek().is_some() {
                let _ = writeln!(text, "\n## {}\n", kind.word());
            }
            for Entry { part, name, detail, .. } in rows {
                let _ = writeln!(text, "- {part}: {}", told(name, &cut(detail, detail_max)));
            }
        }
    }
}

fn told(name: &str, detail: &str) -> String {
    if detail.is_empty() { name.into() } else { format!("{name}: {detail}") }
}

pub(crate) fn with_ending(out: &Path, ending: &str) -> PathBuf {
    out.with_file_name(format!("{}.{ending}", out.file_name().unwrap_or_default().display()))
}
