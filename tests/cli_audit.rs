//! `strait audit` as a person and as a program see it.
#![cfg(feature = "cli")]

mod command;

use std::process::Output;

use command::{run, text};
use serde_json::Value;

fn audit(arguments: &[&str]) -> Output {
    run(&[&["audit"], arguments].concat())
}

/// The exit code, and `positions once missing repeated padded` of the one JSON object on standard output.
fn counts(arguments: &[&str]) -> (Option<i32>, [u64; 5]) {
    let output = audit(&[arguments, &["--json"]].concat());
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}\nstdout: {}\nstderr: {}", text(&output.stdout), text(&output.stderr)));
    let keys = ["positions", "once", "missing", "repeated", "padded"];
    (output.status.code(), keys.map(|key| json[key].as_u64().unwrap_or_else(|| panic!("no {key} in {json}"))))
}

#[test]
fn help_teaches() {
    let help = text(&audit(&["--help"]).stdout);
    for word in ["Examples:", "--resume-world", "--cursor-at", "--weights", "Exit codes:", "missing", "drop, pad, wrap"]
    {
        assert!(help.contains(word), "no {word} in:\n{help}");
    }
}

#[test]
fn counts_are_what_one_counts_by_hand() {
    let run = ["--samples", "103", "--epochs", "2", "--world", "4", "--batch", "5", "--policy"];
    let with = |policy| counts(&[&run[..], &[policy]].concat());
    assert_eq!(with("drop"), (Some(0), [200, 200, 6, 0, 0]));
    assert_eq!(with("pad"), (Some(0), [240, 206, 0, 0, 34]));
    assert_eq!(with("wrap"), (Some(0), [240, 206, 0, 34, 0]));
    assert_eq!(counts(&["--samples", "103", "--batch", "5"]), (Some(0), [103, 103, 0, 0, 0]));
    let resume = ["--resume-at", "2", "--resume-world", "3", "--resume-batch", "4"];

    let one = ["--samples", "103", "--world", "4", "--batch", "5"];
    assert_eq!(counts(&[&one[..], &resume].concat()), (Some(0), [100, 100, 3, 0, 0]));
    let mixture = ["--samples", "10,1000", "--weights", "1,1", "--epochs", "3", "--batch", "7"];
    assert_eq!(counts(&mixture), (Some(0), [60, 60, 0, 0, 0]));
}

/// A mixture's positions are not its samples: how far each dataset comes is said beside them.
#[test]
fn mixtures_say_how_far_each_dataset_comes() {
    let run = ["--samples", "10,1000", "--weights", "1,1", "--epochs", "3", "--batch", "7"];
    let shown = text(&audit(&run).stdout);
    for line in ["dataset 0: 10 of 10 samples in each epoch\n", "dataset 1: 10 of 1000 samples in each epoch\n"] {
        assert!(shown.contains(line), "{shown}");
    }
    let repeat = [&run[..], &["--positions", "70"]].concat();
    let shown = text(&audit(&repeat).stdout);
    let line = "dataset 0: 10 times, then 5 of 10 samples in all epochs together\n";
    assert!(
        shown.contains(line) && shown.contains("dataset 1: 105 of 1000 samples in all epochs together\n"),
        "{shown}"
    );
    let json: Value = serde_json::from_slice(&audit(&[&repeat[..], &["--json"]].concat()).stdout).unwrap();
    assert_eq!(json["datasets"][0], serde_json::json!({ "samples": 10, "passes": 10, "drawn": 5 }));
    assert!(text(&audit(&["--samples", "1"]).stdout).contains("\n1 position: 1 once"));
}

/// A resume on another world, under every policy: what it promises is worked out here by hand. 1003 samples: 10 steps of
/// 4 x 10 leave 603, which are 33 steps of 3 x 6 and 9 more; so is the second epoch, 55 steps and 13 more.
#[test]
fn every_policy_holds_over_a_resume() {
    let run = ["--samples", "1003", "--world", "4", "--batch", "10", "--epochs", "2"];
    let resume = ["--resume-at", "10", "--resume-world", "3", "--resume-batch", "6"];
    for shuffle in ["sequential", "full", "block:16x4"] {
        let with = |policy| counts(&[&run[..], &resume, &["--shuffle", shuffle, "--policy", policy]].concat());
        assert_eq!(with("drop"), (Some(0), [1984, 1984, 22, 0, 0]));
        assert_eq!(with("pad"), (Some(0), [2020, 2006, 0, 0, 14]));
        assert_eq!(with("wrap"), (Some(0), [2020, 2006, 0, 14, 0]));
    }
    let single = ["--samples", "1003", "--batch", "10", "--resume-at", "7", "--resume-batch", "6"];
    assert_eq!(counts(&single), (Some(0), [1003, 1003, 0, 0, 0]));
    let mixture = ["--samples", "500,80", "--weights", "5,2", "--positions", "1003", "--policy", "wrap"];
    assert_eq!(counts(&[&mixture[..], &run[2..], &resume].concat()), (Some(0), [2020, 2006, 0, 14, 0]));
}

/// A run that goes on from a cursor of another step is what a crash leaves, and what the audit has to find.
#[test]
fn coverage_that_is_not_as_promised_is_exit_code_1() {
    let run = ["--samples", "1000", "--world", "4", "--batch", "10", "--policy", "pad", "--resume-at", "10"];
    assert_eq!(counts(&run), (Some(0), [1000, 1000, 0, 0, 0]));
    assert_eq!(counts(&[&run[..], &["--cursor-at", "8"]].concat()), (Some(1), [1080, 1000, 0, 80, 0]));
    assert_eq!(counts(&[&run[..], &["--cursor-at", "12"]].concat()), (Some(1), [920, 920, 80, 0, 0]));
    let back = ["--samples", "100", "--batch", "30", "--policy", "drop", "--epochs", "2", "--resume-at", "4"];
    let back = [&back[..], &["--cursor-at", "2", "--resume-batch", "10"]].concat();
    assert_eq!(counts(&back), (Some(1), [260, 200, 0, 60, 0]));
    let output = audit(&[&run[..], &["--cursor-at", "8"]].concat());
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown.contains("1080 positions: 1000 once, 0 missing, 80 repeated") && shown.contains("NOT as"), "{shown}");
}

#[test]
fn a_dataset_is_opened_and_none_of_its_bytes_are_needed() {
    let directory = tempfile::tempdir().unwrap();
    for shard in 0..3 {
        std::fs::File::create(directory.path().join(format!("{shard}.bin"))).unwrap().set_len(100 << 20).unwrap();
    }
    let path = directory.path().to_str().unwrap();
    let run = [path, "--record-bytes", "1MiB", "--world", "7", "--epochs", "2"];
    assert_eq!(counts(&[&run[..], &["--batch", "4"]].concat()), (Some(0), [560, 560, 40, 0, 0]));
    let output = audit(&[&run[..], &["--batch", "4", "--policy", "pad"]].concat());
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    assert!(shown.contains("600 once, 0 missing, 0 repeated, 16 padded; as the policy promises"), "{shown}");
    assert!(shown.contains("2 epochs of 300 positions, shuffle full, policy pad, on 7 ranks"), "{shown}");
    // Blocks of bytes are so many of this dataset's samples.
    let shown = text(&audit(&[&run[..], &["--batch", "4", "--shuffle", "block:8MiBx2"]].concat()).stdout);
    assert!(shown.contains("shuffle block:8x2") && shown.contains("560 once"), "{shown}");
}

#[test]
fn what_makes_no_sense_is_exit_code_2_and_what_cannot_be_opened_1() {
    for (arguments, said) in [
        (&["--samples", "100", "--world", "0"][..], "--world"),
        (&["--samples", "100", "--policy", "keep"], "none of drop, pad, wrap, short"),
        (&["--samples", "100", "--shuffle", "block:0x1"], "none of sequential, full"),
        (&["--samples", "100", "--shuffle", "block:1MiBx4"], "blocks of bytes without a dataset"),
        (&["--samples", "100", "--shuffle", "block:1MiBx0"], "no number of blocks"),
        (&["--samples", "100", "--shuffle", "block:0KiBx2"], "at least 1 byte"),
        (&["--samples", "100", "--resume-world", "2"], "--resume-at"),
        (&["--samples", "100", "--resume-at", "2"], "behind the end of the run"),
        (&["--samples", "100", "--world", "2"], "drop leaves nothing"),
        (&["--samples", "100", "--world", "2", "--policy", "short"], "short needs world 1"),
        (&["--samples", "0"], "--samples"),
        (&["--samples", "10", "--batch", "1000000000000", "--policy", "pad"], "give at most 16777216"),
        (&["--samples", "100,100"], "only a mixture"),
        (&["--samples", "100,100", "--weights", "1"], "1 weights for 2 datasets"),
        (&["--samples", "9007199254740992"], "an audit takes at most"),
        (&["--samples", "100", "shard.tar"], "cannot be used with"),
        (&[], "DATASET"),
    ] {
        let output = audit(arguments);
        let (shown, code) = (text(&output.stderr), output.status.code());
        assert!(code == Some(2) && shown.contains(said), "{arguments:?}: {code:?} {shown}");
    }
    let output = audit(&["/nowhere/shard.tar", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("/nowhere/shard.tar"), "{}", text(&output.stdout));
}
