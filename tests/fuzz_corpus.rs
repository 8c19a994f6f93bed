//! The corpus of the fuzz targets, run without a fuzzer: seeds, and whatever once made a parser fail.

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, dead_code, reason = "a crate of its own there")]
mod fuzz;

use std::path::Path;

#[test]
fn no_input_of_the_corpus_makes_a_parser_fail() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in fuzz::TARGETS {
        let inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{name} has no seeds");
        for input in inputs {
            let data = std::fs::read(&input).unwrap();
            println!("{}", input.display());
            run(&data);
            // And every cut of it, since truncation is what happens most.
            (0..data.len().min(600)).step_by(7).for_each(|cut| run(&data[..cut]));
        }
    }
    fuzz::clean();
}

#[test]
fn every_target_is_built() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    for (name, _) in fuzz::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = std::fs::read_to_string(format!("{}/fuzz/targets/{name}.rs", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(target.contains(&format!("run(\"{name}\"")), "{name}");
    }
}
