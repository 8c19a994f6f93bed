//! `strait load`: its command line, its selection, its checks, its JSON.
#![cfg(feature = "cli")]

mod command;
mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use command::{json, run, strait, text};
use common::{bytes_of, disk_directory};
use strait::weights::{Save, SaveTensor};
use strait::{DType, Device};

fn load(path: &Path, arguments: &[&str]) -> Output {
    run(&[&["load", path.to_str().unwrap()], arguments].concat())
}

/// Three shards with an index: six layers of two tensors.
fn checkpoint() -> tempfile::TempDir {
    let directory = disk_directory();
    let names: Vec<String> = (0..6).flat_map(|n| [format!("layers.{n}.w"), format!("layers.{n}.b")]).collect();
    let bytes: Vec<Vec<u8>> = (0..12).map(|n| bytes_of(n, 0, if n % 2 == 0 { 1 << 20 } else { 64 })).collect();
    let tensors: Vec<SaveTensor<'_>> = (0..12)
        .map(|n| match n % 2 {
            0 => SaveTensor::new(&names[n], DType::F16, &[512, 1024], &bytes[n]),
            _ => SaveTensor::new(&names[n], DType::F16, &[32], &bytes[n]),
        })
        .collect();
    let save = Save::new(&Device::host()).shard_bytes_max(3 << 20);
    save.save(directory.path().join("model.safetensors"), &tensors).unwrap();
    directory
}

const TENSOR_BYTES: u64 = 6 * ((1 << 20) + 64);
const HOST: [&str; 3] = ["--device", "host", "--json"];

/// The keys of `bench --json`, and those of a load.
const KEYS: [&str; 26] = [
    "bytes",
    "seconds",
    "gb_per_s",
    "limit_gb_per_s",
    "share_of_limit",
    "cpu_seconds_per_gib",
    "limit_cpu_seconds_per_gib",
    "fio_gb_per_s",
    "share_of_fio",
    "fio_cpu_seconds_per_gib",
    "pinned_bytes_max",
    "rss_bytes_max",
    "first_batch_seconds",
    "ring",
    "device",
    "path",
    "path_reason",
    "fallbacks",
    "cold",
    "rounds",
    "limit_how",
    "tensors",
    "first_tensor_seconds",
    "last_tensor_seconds",
    "verified_bytes",
    "shards",
];

#[test]
fn a_checkpoint_is_loaded_and_measured() {
    let directory = checkpoint();
    let output = load(directory.path(), &[&["--rounds", "2", "--block-bytes", "256KiB"][..], &HOST].concat());
    let json = json(&output);
    for key in KEYS {
        assert!(json.get(key).is_some(), "no {key} in {json:#}");
    }
    assert_eq!((json["tensors"].as_u64(), json["bytes"].as_u64()), (Some(12), Some(TENSOR_BYTES)));
    assert_eq!(json["rounds"].as_array().unwrap().len(), 2);
    assert!(json["share_of_limit"].as_f64().unwrap() > 0.0 && json["cpu_seconds_per_gib"].as_f64().unwrap() > 0.0);
    let (first, last) = (&json["first_tensor_seconds"], &json["last_tensor_seconds"]);
    assert!(0.0 < first.as_f64().unwrap() && first.as_f64() <= last.as_f64(), "{json:#}");
    let shards = json["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    assert!(shards.iter().all(|shard| shard["tensors"] == 4), "{shards:#?}");
    assert_eq!(shards.iter().map(|shard| shard["bytes"].as_u64().unwrap()).sum::<u64>(), TENSOR_BYTES);
    assert!(json["verified_bytes"].is_null());
    assert_eq!((&json["device"], json["path_reason"].as_str().unwrap().is_empty()), (&"host".into(), false));

    let index = directory.path().join("model.safetensors.index.json");
    let shown = text(&load(&index, &["--device", "host", "--no-fio"]).stdout);
    for word in
        ["GB/s", "of limit", "CPU-s/GiB", "first tensor", "pinned", "resident", "path", "cold", "00002-of-00003"]
    {
        assert!(shown.contains(word), "no {word} in:\n{shown}");
    }
}

#[test]
fn what_was_chosen_is_loaded_and_nothing_else() {
    let directory = checkpoint();
    let small = 64;
    let large = 1 << 20;
    for (arguments, tensors, bytes) in [
        (&["--tensor", "layers.1.w"][..], 1, large),
        (&["--match", "layers.?.b"], 6, 6 * small),
        (&["--match", "layers.0.*", "--tensor", "layers.5.b"], 3, large + 2 * small),
        (&["--part", "0:1/4"], 12, TENSOR_BYTES / 4),
        (&["--match", "*.w", "--part", "1:0/3"], 6, 6 * 512 * 341 * 2),
        (&["--part", "1:3/4"], 12, 6 * (large / 4 + small)),
    ] {
        let output = load(directory.path(), &[arguments, &HOST, &["--no-references"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let json = json(&output);
        assert_eq!((json["tensors"].as_u64(), json["bytes"].as_u64()), (Some(tensors), Some(bytes)), "{arguments:?}");
        assert!(json["share_of_limit"].is_null() && json["gb_per_s"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_damaged_tensor_is_an_error_that_names_it() {
    let directory = checkpoint();
    let manifest = directory.path().join("manifest.json");
    let (place, manifest) = (directory.path().to_str().unwrap(), manifest.to_str().unwrap());
    assert!(run(&["hash", place, "--per", "tensor", "--output", manifest]).status.success());
    let arguments = [&["--verify", manifest, "--no-references"][..], &HOST].concat();
    let good = load(directory.path(), &arguments);
    assert_eq!(json(&good)["verified_bytes"], TENSOR_BYTES, "{}", text(&good.stderr));
    let shard = directory.path().join("model-00002-of-00003.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1_500_000] ^= 0x10;
    fs::write(&shard, bytes).unwrap();
    let bad = load(directory.path(), &arguments);
    assert_eq!(bad.status.code(), Some(1));
    let error = json(&bad)["error"]["what"].as_str().unwrap().to_owned();
    assert!(error.contains("model-00002") && error.contains("layers."), "{error}");
}

#[test]
fn what_cannot_be_loaded_is_said() {
    let directory = checkpoint();
    let other = directory.path().join("notes.txt");
    fs::write(&other, "no checkpoint at all").unwrap();
    let empty = directory.path().join("empty.safetensors");
    strait::weights::save(&empty, &[]).unwrap();
    for (path, arguments, code, wanted) in [
        (Path::new("/nowhere/model.safetensors"), &[][..], 1, "/nowhere/model.safetensors"),
        (&other, &[], 1, "notes.txt"),
        (&empty, &[], 1, "nothing to load"),
        (directory.path(), &["--tensor", "layers.9.w"], 1, "layers.9.w"),
        (directory.path(), &["--match", "x*"], 1, "x*"),
        (directory.path(), &["--part", "0:4/4"], 2, "from 0 to 3"),
        (directory.path(), &["--part", "half"], 2, "0:3/8"),
        (directory.path(), &["--block-bytes", "1000"], 2, "--block-bytes 4096"),
        (directory.path(), &["--device", "gpu"], 2, "cuda:0"),
        (directory.path(), &["--verify", "/nowhere/manifest.json"], 1, "/nowhere/manifest.json"),
    ] {
        let output = load(path, &[arguments, &["--no-references"]].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{path:?} {arguments:?}: {message}");
        assert!(message.contains(wanted), "{path:?} {arguments:?} does not say {wanted}: {message}");
    }
    assert_eq!(run(&["load"]).status.code(), Some(2));
}

/// A signal is heard while no tensor comes: a file with a digest is read to its end before any is handed over, and this
/// one has no end in sight. Mutant that this catches: a loop that waits for the next tensor.
#[test]
fn a_signal_ends_a_load_between_two_tensors() {
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    let huge: u64 = 4 << 40;
    let entry = |name: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#, to - from)
    };
    let header = format!("{{{},{}}}", entry("small", 0, 4096), entry("huge", 4096, huge));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    if file.set_len(bytes.len() as u64 + huge).is_err() {
        return eprintln!("skipped: this file system has no file of 4 TiB");
    }
    let sums = directory.path().join("SHA256SUMS");
    fs::write(&sums, format!("{}  m.safetensors\n", "0".repeat(64))).unwrap();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut child = strait()
            .args(["load", path.to_str().unwrap(), "--tensor", "small", "--verify", sums.to_str().unwrap()])
            .args(["--device", "host", "--no-references", "--block-bytes", "64KiB"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let patience = std::time::Instant::now();
        // The engine runs: its thread is there.
        let threads = format!("/proc/{}/task", child.id());
        let reads = || {
            let threads = fs::read_dir(&threads).into_iter().flatten().flatten();
            threads
                .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok())
                .any(|name| name.starts_with("strait-engine"))
        };
        while !reads() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(patience.elapsed().as_secs() < 120, "no load began");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // SAFETY: the child is ours and has not been waited for, so its id is still its own.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        let patience = std::time::Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if patience.elapsed().as_secs() >= 120 {
                child.kill().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(130), "of signal {signal}");
    }
}
