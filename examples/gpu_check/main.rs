//! Checks strait on this machine's GPU, and measures it there. It needs the NVIDIA driver and nothing else; what more there
//! is (PyTorch, CuPy, compute-sanitizer) it uses.
//!
//! ```text
//! cargo run --release --example gpu_check -- --dir /mnt/nvme
//!
//!  main --> runner --starts--> parts: processes of their own, each under a deadline
//!             |                  this program (--part NAME), programs and scripts of the pack
//!             `--> report <--lines-- what they say
//! ```
//!
//! `scripts/gpu-check` packs the program with all that it starts, for machines without Rust. The help says the exit codes.

mod check;
mod lines;
mod machine;
mod measure;
mod memory;
mod options;
mod parts;
mod process;
mod report;
mod runner;
mod surroundings;
mod targets;
mod text;
mod time;
mod within;

use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|option| option == "--version") {
        println!("strait {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let options = match Options::from_args(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let done = match &options.part {
        Some(part) => within::part(part, &options),
        None => runner::run(&options),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("gpu_check could not go on: {error}");
            ExitCode::from(if options.part.is_some() { 1 } else { 2 })
        }
    }
}
