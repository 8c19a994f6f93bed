//! `ffi/include/strait.h`: cbindgen's declarations, cut into sections that the source files introduce.

use std::fs;

use crate::{Result, compare, root};

/// The first words of the header.
const ABOUT: &str = "\
/*
 * strait: streams training shards and model weights from NVMe into GPU memory.
 *
 * Made of the sources of strait-ffi by `cargo xtask header`; do not edit.
 *
 * Conventions
 *
 * - Objects are handles: opaque, to be passed around and given back with the function that ends in _free. They are no
 *   addresses, and nothing follows them: a handle that was freed, is of another kind, or was made before a fork() is
 *   answered with STRAIT_STATUS_BAD_HANDLE. After a fork the child makes its own.
 * - A function that takes a pointer to const only reads the object.
 * - Functions return a strait_status, take inputs first and outputs last, and write outputs only on STRAIT_STATUS_OK. The
 *   outputs of one call are different variables. A pointer that must not be NULL and is: STRAIT_STATUS_NULL_ARGUMENT.
 * - The very last parameter is where an error goes that says more (see Errors); it may be NULL.
 * - Texts are NUL-terminated UTF-8, paths NUL-terminated bytes. Inputs need to last for the call only. Arrays come with
 *   their length, and may be NULL where that is 0.
 * - Every function may be called from any thread at any time. What that means for an object is said at its type. A
 *   handle that is freed during another thread's call ends with that call; texts and arrays that it gave out do not wait.
 * - Sizes are in bytes and times in the unit that the name ends in.
 */
";

pub(crate) fn write() -> Result {
    Ok(fs::write(root().join("ffi/include/strait.h"), text()?)?)
}

pub(crate) fn check() -> Result {
    compare(&root().join("ffi/include/strait.h"), &text()?, "run `cargo xtask header` and look at what has changed")
}

fn text() -> Result<String> {
    let ffi = root().join("ffi");
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml"))?;
    let bindings = cbindgen::Builder::new().with_crate(&ffi).with_config(config).generate()?;
    let mut made = Vec::new();
    bindings.write(&mut made);
    let mut header = ABOUT.to_owned() + &String::from_utf8(made)?;
    for (title, about, first) in sections()? {
        header = insert(&header, &banner(&title, &about), &first)?;
    }
    Ok(header)
}

/// Title, text and first function of each source file that has functions for C, in the order of lib.rs.
fn sections() -> Result<Vec<(String, Vec<String>, String)>> {
    let sources = root().join("ffi/src");
    let library = fs::read_to_string(sources.join("lib.rs"))?;
    let mut sections = Vec::new();
    for module in library.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')) {
        let source = fs::read_to_string(sources.join(module).with_extension("rs"))?;
        let first = source.lines().find_map(|line| {
            let name = line.split_once("extern \"C\" fn strait_")?.1;
            Some(format!("strait_{}", name.split('(').next()?))
        });
        let mut about = source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.trim().to_owned());
        // A file without a title of its own goes on with the section before it.
        let (Some(first), Some(title)) = (first, about.next()) else { continue };
        if title.ends_with('.') {
            continue;
        }
        sections.push((title, about.collect(), first));
    }
    Ok(sections)
}

fn banner(title: &str, about: &[String]) -> String {
    let lines: Vec<String> = about.iter().map(|line| format!(" * {line}").trim_end().to_owned()).collect();
    format!(
        "/* {} {title} {}\n{}\n */\n\n",
        "-".repeat(10),
        "-".repeat(82usize.saturating_sub(title.len())),
        lines.join("\n")
    )
}

/// Puts `banner` before the comment of the declaration of `function`.
fn insert(header: &str, banner: &str, function: &str) -> Result<String> {
    let call = format!("{function}(");
    let at = header.find(&call).ok_or_else(|| format!("{function} is not in the header"))?;
    let start = header[..at].rfind("\n/**").ok_or_else(|| format!("{function} is not documented"))? + 1;
    Ok(format!("{}{banner}{}", &header[..start], &header[start..]))
}
