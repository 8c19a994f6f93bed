//! The numbers of all rounds, as a table and as one JSON object.

use serde_json::{Value, json};

use super::fio;
use super::measure::{Measure, median};
use super::request::Request;
use super::rounds::{Round, Rounds};
use super::summary::{Line, Strait, Summary, of_strait};
use crate::Answer;
use crate::{size, text};

pub(super) fn answer(request: &Request, all: &Rounds, verified_bytes: Option<u64>, sample: bool) -> Answer {
    let summary = Summary::new(&all.rounds);
    let strait = Strait::new(&all.rounds);
    Answer {
        text: text_of(request, all, &summary, strait.as_ref(), verified_bytes),
        json: json_of(request, all, &summary, strait.as_ref(), verified_bytes, sample),
        exit_code: 0,
    }
}

pub(crate) fn json_of(
    request: &Request,
    all: &Rounds,
    summary: &Summary,
    strait: Option<&Strait<'_>>,
    verified_bytes: Option<u64>,
    sample: bool,
) -> Value {
    let rate = |line: &Option<Line>| line.as_ref().map(|line| line.gb_per_s);
    let cpu = |line: &Option<Line>| line.as_ref().map(|line| line.cpu_seconds_per_gib);
    let result = strait.map(|s| &s.last.result);
    json!({
        "bytes": summary.strait.as_ref().map(|line| line.bytes as u64),
        "seconds": summary.strait.as_ref().map(|line| line.seconds),
        "gb_per_s": rate(&summary.strait),
        "limit_gb_per_s": rate(&summary.limit),
        "share_of_limit": median(summary.share_of_limit.iter().copied()),
        "cpu_seconds_per_gib": cpu(&summary.strait),
        "limit_cpu_seconds_per_gib": cpu(&summary.limit),
        "fio_gb_per_s": rate(&summary.fio),
        "share_of_fio": median(summary.share_of_fio.iter().copied()),
        "fio_cpu_seconds_per_gib": cpu(&summary.fio),
        "pinned_bytes_max": strait.map(|s| s.pinned_bytes_max),
        "rss_bytes_max": strait.map(|s| s.rss_bytes_max),
        "setup_seconds": strait.map(|s| s.setup_seconds),
        "first_batch_seconds": strait.map(|s| s.first_batch_seconds),
        "ring": result.map(|r| &r.ring),
        "device": result.map(|r| &r.device),
        "path": result.map(|r| &r.path),
        "path_reason": result.map(|r| &r.path_reason),
        "fallbacks": result.map(|r| &r.fallbacks),
        "cold": strait.map(Strait::cold),
        "cached_pages_before": strait.map(|s| s.cached_before.cached),
        "cached_pages_after": strait.and_then(|s| s.cached_after).map(|seen| seen.cached),
        "pages": strait.map(|s| s.cached_before.pages),
        "verified_bytes": verified_bytes,
        "limit_how": all.limit_how,
        "fio_reason": all.fio_reason,
        "fio_arguments": fio::arguments(request),
        "block_bytes": request.block_bytes,
        "reference_bytes": request.reference_bytes(),
        "depth": request.depth,
        "batch": request.batch,
        "record_bytes": request.record_bytes,
        "shuffle": request.shuffle,
        "files": request.paths.len(),
        "file_bytes": request.file_bytes,
        "sample": sample,
        "rounds": all.rounds.iter().map(round_json).collect::<Vec<_>>(),
    })
}

fn round_json(round: &Round) -> Value {
    let measure = |measure: Option<Measure>| {
        measure.map(|m| {
            json!({
                "bytes": m.bytes, "seconds": m.seconds, "gb_per_s": m.gb_per_s(),
                "cpu_seconds_per_gib": m.cpu_seconds_per_gib(),
            })
        })
    };
    json!({ "strait": measure(of_strait(round)), "limit": measure(round.limit), "fio": measure(round.fio) })
}

fn text_of(
    request: &Request,
    all: &Rounds,
    summary: &Summary,
    strait: Option<&Strait<'_>>,
    verified_bytes: Option<u64>,
) -> String {
    let order = if request.shuffle { "shuffle" } else { "in order" };
    let mut out = format!(
        "{} in {} file(s), {order}: samples of {}, blocks of {}, {} reads in flight, batches of {}\n\n",
        size::show(request.file_bytes),
        request.paths.len(),
        size::show(request.record_bytes),
        size::show(request.block_bytes),
        request.depth,
        request.batch,
    );
    out.push_str(&text::table(&rows(summary)));
    out.push('\n');
    for (name, fact) in facts(request, all, summary, strait, verified_bytes) {
        out.push_str(&text::wrapped(&format!("{name:<16}"), &fact));
    }
    out
}

pub(crate) fn rows(summary: &Summary) -> Vec<Vec<String>> {
    let share =
        |shares: &[f64]| median(shares.iter().copied()).map_or("-".into(), |share| format!("{:.1} %", share * 100.0));
    let none = || ["-".into(), "-".into()];
    let both = |line: &Option<Line>| {
        line.as_ref().map_or_else(none, |l| [format!("{:.3}", l.gb_per_s), format!("{:.4}", l.cpu_seconds_per_gib)])
    };
    let row = |name: &str, line: &Option<Line>, of_limit: String, of_fio: String| {
        let [rate, cpu] = both(line);
        vec![name.to_owned(), rate, of_limit, of_fio, cpu]
    };
    let mut rows = vec![["", "GB/s", "of limit", "of fio", "CPU-s/GiB"].map(String::from).to_vec()];
    if summary.strait.is_some() {
        rows.push(row("strait", &summary.strait, share(&summary.share_of_limit), share(&summary.share_of_fio)));
    }
    rows.push(row("limit", &summary.limit, String::new(), String::new()));
    rows.push(row("fio", &summary.fio, String::new(), String::new()));
    rows
}

pub(crate) type Fact = (&'static str, String);

fn facts(
    request: &Request,
    all: &Rounds,
    summary: &Summary,
    strait: Option<&Strait<'_>>,
    verified_bytes: Option<u64>,
) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let (Some(strait), Some(line)) = (strait, &summary.strait) {
        facts.extend(strait_facts(strait, line, &summary.share_of_limit));
    }
    if let Some(bytes) = verified_bytes {
        facts.push(("verified", format!("{} compared with the files, all equal", size::show(bytes))));
    }
    facts.extend(reference_facts(request, all));
    facts
}

/// How the references read.
pub(crate) fn reference_facts(request: &Request, all: &Rounds) -> [Fact; 2] {
    let reference = size::show(request.reference_bytes());
    let measured = all.rounds.iter().any(|round| round.limit.is_some());
    let limit = match measured {
        true => format!("{}; blocks of {reference}, {} in flight", all.limit_how, request.depth),
        false => all.limit_how.clone(),
    };
    let fio = match &all.fio_reason {
        Some(reason) => format!("no number: {reason}"),
        None => format!("fio {}", fio::arguments(request).join(" ")),
    };
    [("limit", limit), ("fio", fio)]
}

pub(crate) fn strait_facts(strait: &Strait<'_>, line: &Line, shares: &[f64]) -> Vec<Fact> {
    let result = &strait.last.result;
    let (before, after) = (strait.cached_before, strait.cached_after);
    let after = after.map_or("an unknown number".into(), |seen| seen.cached.to_string());
    let cold = if strait.cold() { "yes" } else { "no: a share of these bytes came from memory" };
    let spread = |shares: &[f64]| {
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let most = shares.iter().copied().fold(0.0, f64::max);
        format!("; share of limit from {:.1} % to {:.1} %", least * 100.0, most * 100.0)
    };
    let spread = if shares.len() > 1 { spread(shares) } else { String::new() };
    let short = if line.seconds < 0.2 { "; too short to mean much" } else { "" };
    let mut facts = vec![
        ("delivered", format!("{} in {:.3} s per run{spread}{short}", size::show(line.bytes as u64), line.seconds)),
        (
            "first batch",
            format!(
                "after {:.1} ms, {:.1} ms of them set-up",
                strait.first_batch_seconds * 1e3,
                strait.setup_seconds * 1e3
            ),
        ),
        (
            "memory",
            format!(
                "{} pinned, {} resident at most",
                size::show(strait.pinned_bytes_max),
                size::show(strait.rss_bytes_max)
            ),
        ),
        ("device", result.device.clone()),
        ("path", format!("{}, ring {}: {}", result.path, result.ring, result.path_reason)),
        ("cold", format!("{cold} ({} of {} pages cached before, {} after)", before.cached, before.pages, after)),
    ];
    facts.extend(result.fallbacks.iter().map(|fallback| ("fallback", fallback.clone())));
    facts
}
