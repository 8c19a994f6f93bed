//! Who gets how much of the time.

/// What is kept for measurements of all the time that there is: checks take what they get if something is slow.
const FOR_MEASUREMENTS: f64 = 0.4;
/// What a measurement may take beyond the time that it was told.
const SLACK: f64 = 15.0;

/// Seconds that a check is told, and those after which it is killed: it has so many of its own, of those left, and those that
/// measurements wait for are none of them.
pub(crate) fn of_check(own: f64, left: f64, all: f64, measurements_wait: bool) -> (f64, f64) {
    let kept = if measurements_wait { FOR_MEASUREMENTS * all } else { 0.0 };
    let deadline = own.min(left - kept);
    (deadline * 0.8, deadline)
}

/// The same of a measurement, which takes the share that it is given of those left.
pub(crate) fn of_measurement(share: f64, left: f64) -> (f64, f64) {
    let told = left * share - SLACK;
    (told, told + SLACK)
}
