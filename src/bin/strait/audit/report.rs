//! What an audit has found, in words and as JSON.

use serde_json::{Value, json};
use strait::order::{Audit, Counts, Progress, Stretch};

use super::{Options, Request};
use crate::Answer;

pub(super) fn answer(options: &Options, request: &Request, audit: &Audit) -> Answer {
    let holds = audit.holds();
    let text = format!("{}\n{audit}\n{}", ran(options, request), datasets(request));
    Answer { text, json: json(options, request, audit), exit_code: if holds { 0 } else { 1 } }
}

/// What was run, in one line.
fn ran(options: &Options, request: &Request) -> String {
    let Request { order, policy, epochs, stretches } = request;
    let many = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let on =
        |stretch: &Stretch| format!("{} with batches of {}", many(stretch.world.into(), "rank"), stretch.batch_size);
    let mut line = format!(
        "{} of {}, shuffle {}, policy {}, on {}",
        many(*epochs, "epoch"),
        many(order.len(), "position"),
        order.shuffle(),
        policy.name(),
        on(&stretches[0])
    );
    if let (Some(stop), Some(second)) = (options.resume_at, stretches.get(1)) {
        line.push_str(&format!("; stopped after step {stop}, resumed on {}", on(second)));
    }
    if let Some(step) = options.cursor_at {
        line.push_str(&format!(" from a cursor saved after step {step}"));
    }
    line
}

/// How far each dataset of a mixture comes: a line each.
fn datasets(request: &Request) -> String {
    let shown = |(number, at, samples): (usize, Progress, u64)| {
        let passes = if at.epoch > 0 { format!("{} times, then ", at.epoch) } else { String::new() };
        let of = if request.over_epochs() { "all epochs together" } else { "each epoch" };
        format!("dataset {number}: {passes}{} of {samples} samples in {of}\n", at.consumed)
    };
    request.datasets().into_iter().map(shown).collect()
}

fn json(options: &Options, request: &Request, audit: &Audit) -> Value {
    let Request { order, policy, epochs, stretches } = request;
    let Audit { positions, once, missing, repeated, padded, promised, equal_steps } = audit;
    let Counts { dropped: promised_missing, padded: promised_padded, wrapped: promised_repeated } = promised;
    let resume = stretches.get(1).map(|second| {
        let (at, cursor) = (options.resume_at, options.cursor_at.or(options.resume_at));
        json!({ "at_step": at, "cursor_at_step": cursor, "world": second.world, "batch": second.batch_size })
    });
    let dataset = |(_, at, samples): (usize, Progress, u64)| json!({ "samples": samples, "passes": at.epoch, "drawn": at.consumed });
    json!({
        "holds": audit.holds(),
        "positions": positions,
        "once": once,
        "missing": missing,
        "repeated": repeated,
        "padded": padded,
        "promised": { "missing": promised_missing, "repeated": promised_repeated, "padded": promised_padded },
        "equal_steps": equal_steps,
        "samples": order.samples(),
        "positions_per_epoch": order.len(),
        "epochs": epochs,
        "seed": order.seed(),
        "shuffle": order.shuffle().to_string(),
        "policy": policy.name(),
        "datasets": request.datasets().into_iter().map(dataset).collect::<Vec<_>>(),
        "weights": order.as_mixture().map(|mixture| mixture.weights()),
        "world": stretches[0].world,
        "batch": stretches[0].batch_size,
        "resume": resume,
    })
}
