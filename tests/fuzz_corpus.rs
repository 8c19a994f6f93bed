//! The corpus of the fuzz targets, run without a fuzzer: seeds, and whatever once made a parser fail.

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, dead_code, reason = "a crate of its own there")]
mod fuzz;

use std::path::Path;

use strait::dataset::Format;
use strait::sim::Rng;
use strait::{DType, Dataset};

/// `STRAIT_FUZZ_MUTANTS=100000` for many more of each input.
fn mutants() -> u64 {
    std::env::var("STRAIT_FUZZ_MUTANTS").map_or(40, |count| count.parse().unwrap())
}

/// A few bytes or numbers of an input changed, which a fuzzer's feedback would not be needed for.
fn mutant(data: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut random = |below: usize| (rng.next_u64() % below.max(1) as u64) as usize;
    let mut bytes = data.to_vec();
    for _ in 0..1 + random(4) {
        let at = random(bytes.len());
        let number =
            [0, 1, 0x7fff_ffff, u64::from(u32::MAX), u64::MAX, 1 << 63, at as u64, data.len() as u64][random(8)];
        let width = [1, 2, 4, 8][random(4)].min(bytes.len() - at);
        match random(4) {
            0 => bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random(8),
            2 => bytes.truncate(at),
            _ => bytes.splice(at..at, number.to_le_bytes()[..width].iter().copied()).for_each(drop),
        }
    }
    bytes
}

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
            for seed in 0..mutants() {
                // What made a parser panic lies in the test's output: the input, and this number.
                println!("mutant {seed}");
                run(&mutant(&data, seed));
            }
        }
    }
    fuzz::clean();
}

/// What a download leaves behind when it is interrupted, and what lies beside shards: each alone, and two by two.
#[test]
fn no_directory_makes_opening_fail() {
    let names = [
        "index.json",
        "shard.00000.mds",
        "shard.00001.mds.zstd",
        "chunk-0-0.bin",
        "x.ds",
        "x.ds.index",
        "x.bin",
        "x.idx",
        "x.npy",
        "x.tar",
        "x.safetensors",
        "x.tfrecord",
        "x.parquet",
        "meta.pkl",
        "README.md",
        "prepare.py",
        "raw",
    ];
    let bytes: [&[u8]; 4] = [b"", b"{\"shards\": []}", b"{\"chunks\": []}", &[0x80; 24]];
    let plain = Dataset::options();
    let mut options = vec![plain.clone(), plain.clone().record_bytes(4), plain.clone().dtype(DType::U16)];
    options.extend(Format::all().map(|format| plain.clone().format(format)));
    for (first, second) in (0..names.len()).flat_map(|first| (0..=first).map(move |second| (first, second))) {
        for bytes in bytes {
            let directory = tempfile::tempdir().unwrap();
            for name in [first, second] {
                std::fs::write(directory.path().join(names[name]), bytes).unwrap();
            }
            println!("{} and {} of {bytes:?}", names[first], names[second]);
            for options in &options {
                let _ = options.open(&[directory.path()]);
            }
        }
    }
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
