//! A machine on which cuFile would not answer, or take no file: it is not called there. A process of its own: what a machine has
//! is looked at once.

#[path = "stand_in/cufile.rs"]
mod cufile;

use std::path::Path;
use std::time::Duration;

use strait::storage::Cufile;

/// Mutant that this catches: an open that does not look at what is in its way.
#[test]
fn cufile_is_not_called_where_it_would_take_no_file() {
    let root = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/machine-without-udev"));
    cufile::make_machine(root, &["proc/modules", "proc/driver/nvidia-fs/version"]);
    strait::machine::pretend(root);
    let (storage, _alone) = cufile::take();
    for compat in [false, true] {
        let open = Cufile::new(4, compat, &cufile::no_device(), Duration::from_secs(20));
        let told = open.map(drop).unwrap_err().to_string();
        assert!(told.contains("/run/udev/data"), "{told}");
    }
    assert!(!storage.is_open());
    assert_eq!(storage.misuse(), "");
}
