//! An open of cuFile that never returns. A process of its own: it is not tried again there.

mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;

use std::time::{Duration, Instant};

use strait::storage::Cufile;

#[test]
fn an_open_that_hangs_is_left_behind_and_not_tried_again() {
    let (storage, _alone) = cufile::take();
    storage.set("open_hangs", 1);
    let open = |deadline| Cufile::new(4, true, &cufile::no_device(), deadline).map(drop).unwrap_err().to_string();
    let start = Instant::now();
    let first = open(Duration::from_millis(200));
    assert!(first.contains("did not return in time"), "{first}");
    let again = open(Duration::from_secs(600));
    assert_eq!(first, again);
    assert!(start.elapsed() < Duration::from_secs(60));
}
