//! `strait bench`: its command line, its references, its JSON.
#![cfg(feature = "cli")]

mod command;
mod common;

use std::path::Path;
use std::process::Output;

use command::{json, run, strait, text};
use common::mount::memory_directory;
use serde_json::Value;
use strait::storage::Uring;

fn bench(arguments: &[&str]) -> Output {
    run(&[&["bench"], arguments].concat())
}

/// The keys that programs rely on; `null` where something was not measured.
const KEYS: [&str; 20] = [
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
    "cold",
    "rounds",
    "limit_how",
];

fn assert_keys(json: &Value) {
    for key in KEYS {
        assert!(json.get(key).is_some(), "no {key} in {json:#}");
    }
}

fn assert_empty(directory: &Path) {
    let left: Vec<_> = std::fs::read_dir(directory).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn bad_values_are_refused_with_advice_before_anything_starts() {
    for (arguments, wanted) in [
        (&["--block-bytes", "4KB"][..], "write KiB"),
        (&["--block-bytes", "1000"], "--block-bytes 4096"),
        (&["--record-bytes", "0"], "at least 1"),
        (&["--depth", "0"], "1..=4096"),
        (&["--device", "gpu"], "cuda:0"),
        (&["--ring", "aio"], "pread"),
        (&["--seconds", "0"], "0.05"),
        (&["--batch", "none"], "invalid"),
        (&["--size", "1MiB", "--record-bytes", "2MiB"], "--record-bytes"),
        (&["--size", "1MiB", "some-file"], "--size"),
        (&["--block-bytes", "1GiB", "--depth", "64"], "--depth"),
        (&["/", "--references-only"], "is a directory"),
    ] {
        let output = bench(arguments);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(wanted), "{arguments:?} does not say {wanted}: {message}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// A directory stands for its shards, whose files the references read.
#[test]
fn a_dataset_is_measured_by_its_directory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["a.bin", "b.bin"] {
        std::fs::write(dir.path().join(name), vec![7; 1 << 20]).unwrap();
    }
    let path = dir.path().to_str().unwrap();
    let output = bench(&[
        path,
        "--rounds",
        "1",
        "--no-fio",
        "--device",
        "host",
        "--record-bytes",
        "64KiB",
        "--verify",
        "--json",
    ]);
    let answer = json(&output);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(answer.to_string().contains("\"files\":2"), "{answer}");
}

#[test]
fn a_missing_file_is_an_error_for_people_and_for_programs() {
    let output = bench(&["/nowhere/shard.bin", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nowhere/shard.bin"));
    let error = &json(&output)["error"];
    assert!(error["what"].as_str().unwrap().contains("/nowhere/shard.bin"), "{error}");
    assert_eq!(error["exit_code"], 1);
}

#[test]
fn more_than_a_quarter_of_the_free_space_is_not_taken() {
    let output = bench(&["--size", "100000TiB"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("quarter") && message.contains("--dir"), "{message}");
}

#[test]
fn the_references_measure_a_sample_that_is_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let output = bench(&["--references-only", "--dir", place, "--size", "16MiB", "--rounds", "2", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json = json(&output);
    assert_keys(&json);
    assert!(json["limit_gb_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(json["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(json["rounds"][1]["limit"]["bytes"], 16 << 20);
    assert!(json["gb_per_s"].is_null() && json["share_of_limit"].is_null());
    if json["fio_gb_per_s"].is_null() {
        let reason = json["fio_reason"].as_str().unwrap();
        eprintln!("skipped: fio gives no number here: {reason}");
    } else {
        assert_eq!(json["rounds"][0]["fio"]["bytes"], 16 << 20);
        // None, where a run is shorter than the kernel counts.
        assert!(json["fio_cpu_seconds_per_gib"].as_f64().unwrap() >= 0.0);
    }
    assert_empty(dir.path());
}

#[test]
fn the_references_read_each_byte_of_odd_files_once() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [5000usize, 1, 100_000];
    let paths: Vec<String> = (0..sizes.len()).map(|i| format!("{}/shard-{i}", dir.path().display())).collect();
    for (path, bytes) in paths.iter().zip(sizes) {
        std::fs::write(path, vec![3u8; bytes]).unwrap();
    }
    for order in [&["--block-bytes", "8KiB"][..], &["--shuffle", "--record-bytes", "4KiB", "--depth", "3"]] {
        let mut arguments = vec!["--references-only", "--no-fio", "--json", "--rounds", "1"];
        arguments.extend(order);
        arguments.extend(paths.iter().map(String::as_str));
        let json = json(&bench(&arguments));
        assert_eq!(json["rounds"][0]["limit"]["bytes"], 105_001, "{json:#}");
        assert_eq!(json["fio_reason"], "turned off by --no-fio");
    }
}

#[test]
fn a_time_limit_ends_a_run_early() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let small = ["--shuffle", "--record-bytes", "4KiB", "--depth", "1", "--seconds", "0.05"];
    let fixed = ["--references-only", "--no-fio", "--rounds", "1", "--size", "128MiB", "--dir", place, "--json"];
    let json = json(&bench(&[&small[..], &fixed[..]].concat()));
    let (bytes, seconds) = (&json["rounds"][0]["limit"]["bytes"], &json["rounds"][0]["limit"]["seconds"]);
    assert!(bytes.as_u64().unwrap() > 0, "{json:#}");
    if bytes.as_u64().unwrap() == 128 << 20 {
        eprintln!("skipped: 128 MiB in 4 KiB reads took less than the time limit");
    } else {
        assert!(seconds.as_f64().unwrap() >= 0.05, "{json:#}");
    }
}

#[test]
fn an_interrupt_removes_the_sample() {
    let dir = tempfile::tempdir().unwrap();
    let child = strait()
        .args(["bench", "--references-only", "--rounds", "1000", "--no-fio", "--size", "4MiB", "--dir"])
        .arg(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let patience = std::time::Instant::now();
    let sample_is_there = || {
        let directory = std::fs::read_dir(dir.path()).unwrap().flatten().next();
        directory.is_some_and(|directory| directory.path().join("sample.bin").exists())
    };
    while !sample_is_there() {
        assert!(patience.elapsed().as_secs() < 120, "no sample appeared");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // SAFETY: the child is ours and has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    let status = child.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(130));
    assert_empty(dir.path());
}

#[test]
fn a_tiny_file_is_measured_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.bin");
    std::fs::write(&path, (0..4u32 << 20).map(|i| ((i * 7) >> 3) as u8).collect::<Vec<u8>>()).unwrap();
    let path = path.to_str().unwrap();
    for order in [&["--block-bytes", "1MiB"][..], &["--shuffle", "--depth", "16"]] {
        let fixed = ["--record-bytes", "64KiB", "--device", "host", "--rounds", "1", "--verify", "--json", path];
        let output = bench(&[order, &fixed[..]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let json = json(&output);
        assert_keys(&json);
        assert_eq!(json["bytes"], 4 << 20);
        assert_eq!(json["verified_bytes"], 4 << 20);
        assert_eq!(json["device"], "host");
        assert!(json["share_of_limit"].as_f64().unwrap() > 0.0);
        assert!(!json["path_reason"].as_str().unwrap().is_empty());
        assert!(json["pinned_bytes_max"].as_u64().unwrap() <= 256 << 20);
    }
}

/// Files whose size nobody chose for a benchmark. Mutants that this catches: records of 1 MiB whatever the files are, and
/// in place of the type that is given.
#[test]
fn files_of_any_size_are_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.bin"), vec![7u8; 3_000_000]).unwrap();
    let path = dir.path().to_str().unwrap();
    for said in [&[][..], &["--dtype", "u16"], &["--format", "records", "--record-bytes", "50000"]] {
        let fixed = ["--device", "host", "--rounds", "1", "--no-fio", "--verify", "--json", path];
        let output = bench(&[said, &fixed].concat());
        assert!(output.status.success(), "{said:?}: {}", text(&output.stderr));
        assert_eq!(json(&output)["verified_bytes"], 3_000_000, "{said:?}");
    }
}

/// Under a launcher strait reads its rank's share; the references are what the disk can do.
#[test]
fn a_rank_reads_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.bin");
    std::fs::write(&path, vec![7u8; 4 << 20]).unwrap();
    let fixed = ["--record-bytes", "64KiB", "--batch", "8", "--device", "host", "--rounds", "1", "--no-fio", "--json"];
    let run = |world: &str| {
        let mut command = strait();
        command.arg("bench").args(fixed).args(["--rank-from-env", path.to_str().unwrap()]);
        command.env("RANK", "1").env("WORLD_SIZE", world).output().unwrap()
    };
    let output = run("2");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(json(&output)["bytes"], 2 << 20);
    assert!(text(&run("1").stderr).contains("RANK=1 is not below WORLD_SIZE=1"));
}

#[test]
fn the_table_names_every_number() {
    let output = bench(&["--size", "16MiB", "--rounds", "1", "--device", "host"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for word in ["GB/s", "of limit", "of fio", "CPU-s/GiB", "first batch", "pinned", "resident", "path", "cold"] {
        assert!(shown.contains(word), "no {word} in:\n{shown}");
    }
}

#[test]
fn a_fallback_is_in_the_table_and_in_the_json() {
    let dir = match Uring::new(8, 4).map_err(|error| error.to_string()).and_then(|_| memory_directory()) {
        Ok(dir) => dir,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let path = dir.path().join("records.bin");
    std::fs::write(&path, vec![7u8; 4 << 20]).unwrap();
    let arguments = ["--record-bytes", "64KiB", "--device", "host", "--rounds", "1", path.to_str().unwrap()];
    let shown = text(&bench(&arguments).stdout);
    assert!(shown.contains("ring pread") && shown.contains("pread threads instead of io_uring"), "{shown}");
    let json = json(&bench(&[&arguments[..], &["--json"]].concat()));
    assert_eq!(json["ring"], "pread");
    let fallbacks = json["fallbacks"].as_array().unwrap();
    assert!(fallbacks[0].as_str().unwrap().contains("errno 95"), "{fallbacks:?}");
}
