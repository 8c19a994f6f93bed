//! `strait doctor` as a person and as a program see it.
#![cfg(feature = "cli")]

mod command;

use command::{findings, json, strait, text};

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    for (arguments, wanted) in [
        (&["--help"][..], &["doctor", "bench", "Examples:", "Exit codes:", "130", "--json"][..]),
        (&["doctor", "--help"], &["Examples:", "strait doctor /data", "Exit codes:", "problem", "jq .verdict"]),
        (&["bench", "--help"], &["Examples:", "--record-bytes", "median", "Exit codes:", "fio", "--shuffle"]),
    ] {
        let output = strait().args(arguments).output().unwrap();
        assert!(output.status.success());
        let help = text(&output.stdout);
        for word in wanted {
            assert!(help.contains(word), "{arguments:?} does not say {word}:\n{help}");
        }
    }
}

#[test]
fn a_readable_directory_gives_every_section_and_a_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let output = strait().arg("doctor").arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for word in ["machine", "io_uring", "memory", "devices", "CUDA", "GPUDirect", "means:", "verdict:"] {
        assert!(shown.contains(word), "no {word} in:\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 120), "a line is too long:\n{shown}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the probe file was left behind");
}

#[test]
fn the_launcher_s_word_is_shown_and_so_is_a_contradiction() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = |variables: &[(&str, &str)]| {
        let mut command = strait();
        command.env_clear().envs(variables.iter().copied()).args(["doctor", "--json"]).arg(dir.path());
        json(&command.output().unwrap())
    };
    assert!(doctor(&[])["machine"]["launcher"].is_null());
    let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
    let one = doctor(&torchrun);
    assert_eq!(one["machine"]["launcher"].to_string(), r#"{"rank":5,"world":8,"local_rank":1}"#);
    assert!(findings(&one).contains("rank 5 of 8, local rank 1"));
    let two = findings(&doctor(&[&torchrun[..], &[("PMI_RANK", "5"), ("PMI_SIZE", "4")]].concat()));
    assert!(two.contains("PMI_RANK=5 is not below PMI_SIZE=4"), "{two}");
    let two = findings(&doctor(&[&torchrun[..], &[("PMI_RANK", "1"), ("PMI_SIZE", "4")]].concat()));
    assert!(two.contains("WORLD_SIZE=8 (torchrun) contradicts PMI_RANK=1 PMI_SIZE=4 (PMI)"), "{two}");
}

#[test]
fn json_has_the_keys_that_programs_rely_on() {
    let dir = tempfile::tempdir().unwrap();
    let json = json(&strait().args(["doctor", "--json"]).arg(dir.path()).output().unwrap());
    for pointer in [
        "/strait",
        "/machine/kernel",
        "/machine/cgroup_memory_max",
        "/machine/numa_nodes",
        "/io_uring/allowed",
        "/io_uring/errno",
        "/io_uring/flags",
        "/memory/memlock/cap_ipc_lock",
        "/memory/register/bytes",
        "/memory/huge_pages/transparent_works",
        "/devices/cuda/available",
        "/devices/gpus",
        "/devices/gds/p2pdma",
        "/devices/cufile/proc_modules",
        "/paths/0/path",
        "/paths/0/file_system",
        "/paths/0/o_direct",
        "/paths/0/dio_offset_align",
        "/paths/0/nowait",
        "/paths/0/engine",
        "/paths/0/disk",
        "/findings/0/mark",
        "/verdict/can_run",
        "/verdict/text",
    ] {
        assert!(json.pointer(pointer).is_some(), "no {pointer} in {json:#}");
    }
    assert_eq!(json["verdict"]["can_run"], true);
}

#[test]
fn a_named_file_is_only_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard.bin");
    std::fs::write(&path, vec![1u8; 300_000]).unwrap();
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let json = json(&strait().args(["doctor", "--json"]).arg(&path).output().unwrap());
    assert_eq!(json["paths"][0]["probe_file"], "existing");
    assert_eq!(json["paths"][0]["readable"], true);
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn what_cannot_be_read_is_a_problem_and_exit_code_1() {
    let output = strait().args(["doctor", "--json", "/nowhere/shard.tar", "/dev/null"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let json = json(&output);
    assert_eq!(json["verdict"]["can_run"], false);
    let all = findings(&json);
    assert!(all.contains("\"problem\"") && all.contains("No such file") && all.contains("neither a file"), "{all}");
}
