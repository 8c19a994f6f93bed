//! Where a machine says what it has: `proc`, `run` and `sys`.

use std::path::Path;
use std::sync::OnceLock;

static PRETENDED: OnceLock<&Path> = OnceLock::new();

/// For tests: the directory that stands in for `/` from now on.
pub fn pretend(root: &'static Path) {
    let _ = PRETENDED.set(root);
}

/// The directory that these are in.
pub(crate) fn root() -> &'static Path {
    PRETENDED.get().copied().unwrap_or(Path::new("/"))
}
