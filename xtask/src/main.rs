//! Makes, installs and checks what cargo alone cannot.

mod c_tests;
mod header;
mod install;
mod misuse;
mod symbols;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
cargo xtask header [--check]                      writes ffi/include/strait.h, or compares it
cargo xtask symbols [--check]                     writes ffi/symbols.txt from the built library, or compares it
cargo xtask install --prefix DIR [--release]      builds and installs header, libraries and strait.pc
cargo xtask c-tests [--quick]                     builds and runs the C and C++ programs; quick: one compiler, no checkers";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["header"] => header::write(),
        ["header", "--check"] => header::check(),
        ["symbols"] => symbols::write(),
        ["symbols", "--check"] => symbols::check(),
        ["install", "--prefix", prefix] => install::install(Path::new(prefix), false).map(drop),
        ["install", "--prefix", prefix, "--release"] => install::install(Path::new(prefix), true).map(drop),
        ["c-tests"] => c_tests::all(false),
        ["c-tests", "--quick"] => c_tests::all(true),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// Runs a command, and says what failed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr)).into())
}

/// Builds the libraries; their directory.
fn build(release: bool) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--package", "strait-ffi"]).current_dir(root());
    if release {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(if release { "release" } else { "debug" }))
}

/// Compares what is kept in the repository with what it should be.
fn compare(path: &Path, should: &str, remedy: &str) -> Result {
    let is = std::fs::read_to_string(path)?;
    if is == should {
        return Ok(());
    }
    let different = is.lines().zip(should.lines()).enumerate().find(|(_, (is, should))| is != should);
    let (line, is, should) = match different {
        Some((line, (is, should))) => (line + 1, is, should),
        None => (is.lines().count().min(should.lines().count()) + 1, "one of the two ends here", ""),
    };
    Err(format!("{}:{line}: is    {is}\n{:>width$} should be {should}\n{remedy}", path.display(), "", width = 8).into())
}
