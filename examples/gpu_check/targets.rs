//! What strait is to reach, beside what was measured. A target that nothing was measured for says so.

use serde_json::{Value, json};

/// The tables' names, which the parts say.
const OURS: &str = "strait, end to end";
const OTHERS: &str = "strait and others: ";

/// `what` begins so; the figure; its bound.
struct Target {
    name: &'static str,
    rows: &'static [&'static str],
    figure: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

const TARGETS: [Target; 5] = [
    Target {
        name: "disk to GPU, share of the lesser of plain reads and bus",
        rows: &["disk, in order, 1024", "disk, shuffled"],
        figure: "share_of_min_reads_bus",
        bound: Bound::AtLeast(0.95),
    },
    Target {
        name: "tmpfs to GPU, share of the bus",
        rows: &["tmpfs, in order"],
        figure: "share_of_bus",
        bound: Bound::AtLeast(0.85),
    },
    Target { name: "pinned MiB", rows: &["disk", "tmpfs"], figure: "pinned_MiB", bound: Bound::AtMost(256.0) },
    Target {
        name: "cores from disk",
        rows: &["disk, in order, 1024", "disk, shuffled"],
        figure: "cores",
        bound: Bound::Below(1.0),
    },
    Target {
        name: "ms from a built loader to its first batch",
        rows: &["disk, in order, 1024", "disk, shuffled", "tmpfs"],
        figure: "first_batch_ms",
        bound: Bound::Below(100.0),
    },
];

/// A row for each target, and for each other loader that was measured.
pub(crate) fn of(tables: &[(String, Vec<Value>)]) -> Vec<Value> {
    let ours = tables.iter().filter(|(name, _)| name == OURS).flat_map(|(_, rows)| rows);
    let ours: Vec<&Value> = ours.collect();
    let mut found: Vec<Value> = TARGETS.iter().map(|target| target.row(&ours)).collect();
    let others = tables.iter().filter(|(name, _)| name.starts_with(OTHERS));
    let before = found.len();
    for (table, row) in others.flat_map(|(table, rows)| rows.iter().map(move |row| (table, row))) {
        let (Some(what), Some(ratio)) = (row["what"].as_str(), row["strait_over_it"].as_f64()) else { continue };
        if !what.starts_with("strait") {
            let name = format!("{}, times as fast as {what}", table.trim_start_matches(OTHERS));
            found.push(judged(&name, Some(ratio), "> 1", ratio > 1.0));
        }
    }
    if found.len() == before {
        found.push(judged("times as fast as others", None, "> 1", false));
    }
    found
}

impl Target {
    /// The worst of its rows counts.
    fn row(&self, ours: &[&Value]) -> Value {
        let is_meant = |row: &&&Value| {
            row["what"].as_str().is_some_and(|what| self.rows.iter().any(|rows| what.starts_with(rows)))
        };
        let figures = ours.iter().filter(is_meant).filter_map(|row| row[self.figure].as_f64());
        let (worst, bound, text) = match self.bound {
            Bound::AtLeast(bound) => (figures.reduce(f64::min), bound, ">="),
            Bound::AtMost(bound) => (figures.reduce(f64::max), bound, "<="),
            Bound::Below(bound) => (figures.reduce(f64::max), bound, "<"),
        };
        let met = worst.is_some_and(|worst| match self.bound {
            Bound::AtLeast(bound) => worst >= bound,
            Bound::AtMost(bound) => worst <= bound,
            Bound::Below(bound) => worst < bound,
        });
        judged(self.name, worst, &format!("{text} {bound}"), met)
    }
}

fn judged(name: &str, worst: Option<f64>, target: &str, met: bool) -> Value {
    let verdict = match (worst, met) {
        (None, _) => "not measured",
        (_, true) => "met",
        (_, false) => "MISSED",
    };
    json!({ "what": name, "target": target, "measured": worst, "verdict": verdict })
}
