//! `ffi/symbols.txt`: what the shared library gives out, no more and no less.

use std::fs;
use std::process::Command;

use crate::{Result, build, compare, root, run};

pub(crate) fn write() -> Result {
    Ok(fs::write(root().join("ffi/symbols.txt"), names()?)?)
}

pub(crate) fn check() -> Result {
    compare(&root().join("ffi/symbols.txt"), &names()?, "from 1.0 on symbols are only added; run `cargo xtask symbols`")
}

/// What `nm` shows, which the header must declare too.
fn names() -> Result<String> {
    let library = build(false)?.join("libstrait_ffi.so");
    let listed = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library))?;
    let mut names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    names.sort_unstable();
    let header = fs::read_to_string(root().join("ffi/include/strait.h"))?;
    if let Some(name) = names.iter().find(|name| !header.contains(&format!("{name}("))) {
        return Err(format!("the library gives out {name}, which strait.h does not declare").into());
    }
    Ok(names.join("\n") + "\n")
}
