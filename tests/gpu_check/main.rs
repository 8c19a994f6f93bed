//! The check of GPUs goes on whatever its parts do, and its report tells it. `tests/gpu_check/run` packs it, and tries
//! over the stand-in for the driver what needs neither cuFile nor compute-sanitizer.
#![cfg(feature = "cuda")]

#[allow(dead_code, unused_imports, reason = "the program uses the rest")]
#[path = "../../examples/gpu_check/check/mod.rs"]
mod check;
#[path = "../../examples/gpu_check/memory.rs"]
mod memory;
#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../../examples/gpu_check/process.rs"]
mod process;
#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../../examples/gpu_check/report.rs"]
mod report;
#[path = "../../examples/gpu_check/targets.rs"]
mod targets;
#[path = "../../examples/gpu_check/text.rs"]
mod text;
#[path = "../../examples/gpu_check/time.rs"]
mod time;

use std::process::Command;
use std::time::{Duration, Instant};

use process::End;
use report::{Kind, Report};

/// A shell's program under a deadline; how it ended, and what it said.
fn shell(script: &str, deadline: Duration) -> (End, Vec<String>) {
    let (mut command, mut lines) = (Command::new("sh"), Vec::new());
    command.args(["-c", script]);
    let end = process::run(command, deadline, |line| lines.push(line.to_owned()));
    (end, lines)
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_part_that_ends_is_heard_to_its_last_line() {
    let (end, lines) = shell("echo one; echo two >&2; printf 'no end of line'; exit 7", LONG);
    assert_eq!(end, End::Exited(7));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(shell("kill -SEGV $$", LONG).0, End::Signal(11));
    let missing = process::run(Command::new("/no/such/program"), LONG, |_| ());
    assert!(matches!(&missing, End::NotStarted(why) if why.contains("/no/such/program")), "{missing:?}");
}

#[test]
fn a_part_that_hangs_is_killed_with_all_that_it_started() {
    // What it leaves behind has its pipe, and ignores what can be ignored.
    let script = "trap '' TERM HUP INT; sleep 987 & echo $!; while :; do sleep 1; done";
    let start = Instant::now();
    let (end, lines) = shell(script, Duration::from_millis(500));
    assert_eq!(end, End::Deadline);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    is_gone(&lines[0]);
}

#[test]
fn what_a_part_leaves_running_is_not_waited_for() {
    let start = Instant::now();
    let (end, lines) = shell("sleep 986 & echo $!", LONG);
    assert_eq!(end, End::Exited(0));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    is_gone(&lines[0]);
}

/// Within a while; a process that has ended may still have an entry.
fn is_gone(process: &str) {
    let status = format!("/proc/{process}/stat");
    let end = Instant::now() + Duration::from_secs(10);
    while let Ok(stat) = std::fs::read_to_string(&status)
        && !stat.contains(") Z ")
    {
        assert!(Instant::now() < end, "it runs on: {stat}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn heard(lines: &[&str]) -> Report {
    let mut report = Report::new(false);
    for line in lines {
        report.hear("part", line);
    }
    report
}

#[test]
fn the_exit_code_tells() {
    let code = |lines: &[&str], kind: Option<Kind>, finished: bool| {
        let mut report = heard(lines);
        if let Some(kind) = kind {
            report.note(kind, "part", "name", "detail");
        }
        if finished {
            report.finish();
        }
        report.exit_code()
    };
    let ok = r#"@{"ok": "a", "detail": "b"}"#;
    assert_eq!(code(&[ok, r#"@{"unfinished": "a", "detail": "it could not have failed"}"#], None, true), 4);
    assert_eq!(code(&[ok], None, true), 0);
    assert_eq!(code(&[ok, r#"@{"skipped": "a", "detail": "no such thing here"}"#], None, true), 0);
    assert_eq!(code(&[ok, r#"@{"failed": "a", "detail": "b"}"#, ok], None, true), 1);
    assert_eq!(code(&[ok], Some(Kind::Unfinished), true), 4);
    // A run that was stopped has not passed.
    assert_eq!(code(&[ok], None, false), 4);
    assert_eq!(code(&[r#"@{"failed": "a"}"#], Some(Kind::Unfinished), false), 1);
}

#[test]
fn only_what_parts_say_counts() {
    let mut report = Report::new(false);
    for line in [
        "",
        "@",
        "@{",
        "@[]",
        "ok",
        "@{\"detail\": 3}",
        "{\"ok\": \"a\"}",
        "@{\"note\": \"a\"}",
        "@{\"machine\": {\"gpu\": \"G\"}}",
    ] {
        assert!(!report.hear("part", line), "{line}");
    }
    for line in [r#"@{"ok": "a"}"#, r#"@{"table": "t", "row": {"what": "x", "n": 1}}"#, r#"@{"skipped": "s"}"#] {
        assert!(report.hear("part", line), "{line}");
    }
    let json = report.json();
    assert_eq!((json["passed"].as_array().unwrap().len(), json["notes"].as_array().unwrap().len()), (1, 1));
    assert_eq!(json["machine"]["gpu"], "G");
}

#[test]
fn a_later_row_takes_an_earlier_ones_place() {
    let report = heard(&[
        r#"@{"table": "t", "row": {"what": "x", "n": 1}}"#,
        r#"@{"table": "t", "row": {"what": "y", "n": 2}}"#,
        r#"@{"table": "t", "row": {"what": "x", "n": 0.123456, "m": null, "all_n": [1, 2]}}"#,
    ]);
    let rows = report.json()["measurements"]["t"].clone();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["n"]), (2, &serde_json::json!(0.123456)));
    let text = report.markdown(usize::MAX);
    assert!(text.contains("| what | n | m |\n|---|---|---|\n| x | 0.123 | - |\n| y | 2 | - |"), "{text}");
}

#[test]
fn every_target_is_met_or_missed_or_was_not_measured() {
    let verdicts = |lines: &[&str]| -> Vec<(String, String)> {
        let json = heard(lines).json();
        let rows = json["measurements"]["targets"].as_array().cloned().unwrap_or_default();
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
        rows.iter().map(|row| (text(row, "what"), text(row, "verdict"))).collect()
    };
    let row =
        |what: &str, rest: &str| format!(r#"@{{"table": "strait, end to end", "row": {{"what": "{what}", {rest}}}}}"#);
    assert_eq!(verdicts(&[]), []);
    let bus = r#"@{"table": "host to device", "row": {"piece_KiB": 64}}"#;
    assert!(verdicts(&[bus]).iter().all(|(_, verdict)| verdict == "not measured"));

    let good = r#""share_of_min_reads_bus": 0.97, "cores": 0.4, "pinned_MiB": 256, "first_batch_ms": 12.0"#;
    let disk = row("disk, in order, 1024 KiB x 16", good);
    let tmpfs = row("tmpfs, in order, 1024 KiB x 16", r#""share_of_bus": 0.84, "cores": 1.0, "pinned_MiB": 64"#);
    let host = row("disk, in order, to the host, 1024 KiB x 16", r#""share_of_min_reads_bus": 0.1"#);
    let peers = [
        r#"@{"table": "strait and others: reads", "row": {"what": "strait, disk", "strait_over_it": 1.0}}"#,
        r#"@{"table": "strait and others: reads", "row": {"what": "kvikio, disk", "strait_over_it": 1.01}}"#,
        r#"@{"table": "strait and others: weights", "row": {"what": "kvikio, disk", "strait_over_it": 0.99}}"#,
    ];
    let found = verdicts(&[&[disk.as_str(), &tmpfs, &host], &peers[..]].concat());
    let found: Vec<&str> = found.iter().map(|(_, verdict)| verdict.as_str()).collect();
    assert_eq!(found, ["met", "MISSED", "met", "met", "met", "met", "MISSED"]);
    // The worst counts.
    let slow = row("disk, shuffled, 128 KiB x 128", &good.replace("0.97", "0.949"));
    assert_eq!(verdicts(&[&disk, &slow])[0].1, "MISSED");
}

#[test]
fn figures_of_a_stand_in_are_not_reported() {
    let mut report = Report::new(true);
    report.hear("part", r#"@{"table": "t", "row": {"what": "x", "GB_per_s": 123.25}}"#);
    let (json, text) = (report.json().to_string(), report.markdown(usize::MAX));
    assert!(!json.contains("123.25") && !text.contains("123"), "{text}");
    assert!(text.contains("TRIAL") && report.json()["stand_in"] == true);
}

#[test]
fn the_end_of_the_output_tells_everything_that_matters() {
    let mut report = Report::new(false);
    let long = "läng ".repeat(400);
    for number in 0..60 {
        report.note(Kind::Ok, "part", &format!("check {number}"), &long);
    }
    report.note(Kind::Failed, "part", "the one that failed", &long);
    report.note(Kind::Unfinished, "part", "the one that hung", &long);
    report.hear("part", r#"@{"table": "figures", "row": {"what": "x", "n": 77}}"#);
    let text = report.markdown(10_000);
    assert!(text.len() <= 10_000, "{}", text.len());
    for part in ["1 failed", "the one that failed", "the one that hung", "check 59", "| x | 77 |"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(report.markdown(usize::MAX).contains(&long));
}

#[test]
fn a_report_is_whole_at_any_time() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("name.with.dots");
    let mut report = heard(&[r#"@{"ok": "a"}"#]);
    report.write(&out).unwrap();
    let read = |ending| std::fs::read_to_string(report::with_ending(&out, ending)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("json")).unwrap()["finished"], false);
    assert!(read("md").contains("not at its end"));
    report.finish();
    report.write(&out).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("json")).unwrap()["finished"], true);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "temporary files are gone");
}

/// Mutants that this catches: the first mount that comes; one that cannot be written to; the system's own.
#[test]
fn memory_is_looked_for_where_it_may_be_written_to() {
    let mounts = "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0\n\
                  /dev/vda / ext4 rw 0 0\n\
                  tmpfs /mnt/ram tmpfs rw,nosuid 0 0\n\
                  udev /dev tmpfs rw 0 0\n\
                  tmpfs /run tmpfs ro,nosuid 0 0\n\
                  shm /dev/shm tmpfs rw,nosuid,size=65536k 0 0\n\
                  tmpfs /tmp tmpfs nosuid,rw 0 0\n";
    let found: Vec<_> = memory::mounted(mounts).iter().map(|place| place.display().to_string()).collect();
    assert_eq!(found, ["/dev/shm", "/tmp", "/mnt/ram"]);
    assert!(!memory::has_room(std::path::Path::new("/no/such/place")));
    assert_eq!(memory::found("tmpfs /no/such/place tmpfs rw 0 0\n"), None, "without a look at its room");
}

/// Mutants that this catches: a mount that others see; one that stays.
#[test]
fn where_no_memory_is_mounted_it_is_for_us_alone() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_owned();
    // The thread leaves the namespace of the others for good.
    let mount = move || match memory::Own::mount(&place) {
        Err(error) => eprintln!("SKIPPED: nothing may be mounted here: {error}"),
        Ok(own) => {
            assert!(memory::has_room(own.path()));
            std::fs::write(own.path().join("file"), "bytes").unwrap();
            let (end, lines) = shell(&format!("cat {}/file", own.path().display()), LONG);
            assert_eq!((end, &*lines), (End::Exited(0), &["bytes".to_string()][..]), "what we start sees it");
            let (seen, of_us) = (own.path().join("file"), own.path().to_owned());
            let parents = format!("/proc/{}/root{}", std::process::id(), seen.display());
            assert!(!std::path::Path::new(&parents).exists(), "the rest of the process sees it");
            drop(own);
            assert!(!of_us.exists());
        }
    };
    std::thread::spawn(mount).join().unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Mutants that this catches: checks that use up all the time; measurements that get more than there is.
#[test]
fn slow_checks_leave_measurements_their_time() {
    let (all, mut left) = (480.0, 472.0);
    for own in [40.0, 60.0, 90.0, 60.0, 100.0, 60.0, 60.0, 60.0, 60.0, 40.0, 50.0, 60.0] {
        let (told, deadline) = time::of_check(own, left, all, true);
        assert!(told <= deadline && deadline <= own);
        left -= deadline.max(0.0);
    }
    assert!(left >= 0.4 * all, "{left} s for measurements");
    assert_eq!(time::of_check(60.0, 100.0, all, false), (48.0, 60.0));
    let (told, deadline) = time::of_measurement(1.0, left);
    assert!(told < deadline && deadline <= left);
}
