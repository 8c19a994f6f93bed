//! What an audit has found, in words and as JSON.

use serde_json::{Value, json};
use strait::order::{Audit, Counts, Stretch};

use super::{Options, Request};
use crate::Answer;

pub(super) fn answer(options: &Options, request: &Request, audit: &Audit) -> Answer {
    let holds = audit.holds();
    let text = format!("{}\n{audit}\n", ran(options, request));
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

fn json(options: &Options, request: &Request, audit: &Audit) -> Value {
    let Request { order, policy, epochs, stretches } = request;
    let Audit { positions, once, missing, repeated, padded, promised, equal_steps } = audit;
    let Counts { dropped: promised_missing, padded: promised_padded, wrapped: promised_repeated } = promised;
    let resume = stretches.get(1).map(|second| {
        let (at, cursor) = (options.resume_at, options.cursor_at.or(options.resume_at));
        json!({ "at_step": at, "cursor_at_step": cursor, "world": second.world, "batch": second.batch_size })
    });
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
        "weights": order.as_mixture().map(|mixture| mixture.weights()),
        "world": stretches[0].world,
        "batch": stretches[0].batch_size,
        "resume": resume,
    })
}
