//! The drain of both queues: completions are counted to zero.

use std::time::Duration;

use crate::error::{Error, Result};

/// Waits are so short that the time of a stopped process can be told from that of one that waits.
const SLICE: Duration = Duration::from_millis(100);

/// Waits until nothing is in flight; false if that did not happen in `timeout`, or if a ring broke.
pub(super) fn drain<Q>(
    queue: &mut Q,
    timeout: Duration,
    in_flight: fn(&Q) -> usize,
    now: fn(&Q) -> Duration,
    wait: fn(&mut Q, Duration) -> Result<()>,
) -> bool {
    let end = now(queue) + timeout;
    while in_flight(queue) > 0 {
        let left = end.saturating_sub(now(queue));
        match wait(queue, left.min(SLICE)) {
            Ok(()) | Err(Error::Timeout { .. }) if !left.is_zero() => {}
            _ => return false,
        }
    }
    true
}
