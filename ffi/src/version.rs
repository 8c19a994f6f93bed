//! Version
//!
//! From 1.0 on functions are only added. Before, a minor version may change them; the library's file name says which.

use std::ffi::c_char;

use crate::handle::count;

/// The version of this header: what a program is compiled for. `strait_version` tells what it runs with.
pub const STRAIT_VERSION_MAJOR: u32 = 0;

/// See `STRAIT_VERSION_MAJOR`.
pub const STRAIT_VERSION_MINOR: u32 = 1;

/// See `STRAIT_VERSION_MAJOR`.
pub const STRAIT_VERSION_PATCH: u32 = 0;

/// The version of the library: `"0.1.0"`. It lives for ever. Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn strait_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// How many handles of all kinds are live in this process, to see in tests that all were given back. Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn strait_handles_live() -> usize {
    count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cbindgen wants numbers.
    #[test]
    fn the_headers_version_is_the_packages() {
        let own = format!("{STRAIT_VERSION_MAJOR}.{STRAIT_VERSION_MINOR}.{STRAIT_VERSION_PATCH}");
        assert_eq!(own, env!("CARGO_PKG_VERSION"));
    }
}
