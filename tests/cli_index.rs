//! `strait index` and `strait inspect` as a person and as a program see them.
#![cfg(feature = "cli")]

mod command;
mod dataset_tar;
#[path = "formats/writers.rs"]
#[allow(dead_code, reason = "shared")]
mod writers;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use command::{run, strait, text};
use dataset_tar::{Style, Tar, write};
use serde_json::Value;
use strait::Dataset;

/// The exit code and the one JSON object on standard output.
fn json(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = run(&[arguments, &["--json"]].concat());
    (output.status.code(), command::json(&output))
}

fn tar(samples: usize) -> Vec<u8> {
    let mut tar = Tar::default();
    for i in 0..samples {
        tar.member(Style::Ustar, &format!("{i:05}.jpg"), &vec![i as u8; 100 + i]);
        tar.member(Style::Ustar, &format!("{i:05}.cls"), i.to_string().as_bytes());
    }
    tar.finished()
}

fn sidecars(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let whole = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".strait") && !name.starts_with('.')
    };
    files.filter(whole).collect()
}

#[test]
fn help_teaches() {
    for (command, words) in [
        ("index", &["Examples:", "--checksums", "--check", "--index-dir", "--threads", "Exit codes:"][..]),
        ("inspect", &["Examples:", "--sample", "--field", "--raw", "--format", "--dtype", "Exit codes:"][..]),
    ] {
        let help = text(&run(&[command, "--help"]).stdout);
        for word in words {
            assert!(help.contains(word), "no {word} in:\n{help}");
        }
    }
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_leaves_nothing_else_behind() {
    let dir = tempfile::tempdir().unwrap();
    let shard = write(dir.path(), "00000.tar", &tar(50));
    const SHARDS: usize = 400;
    for i in 1..SHARDS {
        std::fs::hard_link(&shard, dir.path().join(format!("{i:05}.tar"))).unwrap();
    }
    let path = dir.path().to_str().unwrap();
    // `None`: it was done before it heard of the signal.
    let ended_by = |signal, more| {
        let mut command = strait();
        command.args(["index", path, "--threads", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while sidecars(dir.path()).len() < more && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        if child.try_wait().unwrap().is_none() {
            // SAFETY: the child has not been waited for since it was seen to run, so the number is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
        let status = child.wait().unwrap();
        (!status.success()).then(|| status.code())
    };
    // Asked to end, then killed: each time some more are done. On a busy machine this test may look too late: once more.
    for (signal, code, more) in [(libc::SIGTERM, Some(130), 5), (libc::SIGKILL, None, 10)] {
        let anew = || sidecars(dir.path()).iter().for_each(|sidecar| std::fs::remove_file(sidecar).unwrap());
        let ended = (0..6).find_map(|_| ended_by(signal, more).or_else(|| (anew(), None).1));
        assert_eq!(ended, Some(code), "signal {signal}");
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    let there = sidecars(dir.path()).len();
    assert!(there < SHARDS, "it was done before it was killed");
    // One may be between its first name and its last.
    assert!(files <= SHARDS + there + 1, "{files} files: more than shards and sidecars");
    let (code, answer) = json(&["index", path]);
    let (kept, written) = (answer["kept"].as_u64().unwrap() as usize, answer["written"].as_u64().unwrap() as usize);
    assert_eq!((code, kept + written), (Some(0), SHARDS));
    assert_eq!(kept, there, "each was whole");
    assert_eq!(answer["samples"], 50 * SHARDS);
    assert!(answer["samples_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(Dataset::open(&[dir.path()]).unwrap().index_state().sidecars, SHARDS as u64);
}

#[test]
fn shards_and_indexes_that_disagree_are_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [write(dir.path(), "a.tar", &tar(5)), write(dir.path(), "b.tar", &tar(6))];
    let path = dir.path().to_str().unwrap();
    let (code, answer) = json(&["index", path, "--check"]);
    assert_eq!((code, answer["failed"].as_array().unwrap().len()), (Some(1), 2), "there is none");
    assert_eq!(json(&["index", path, "--checksums"]).0, Some(0));
    let (code, answer) = json(&["index", path, "--check"]);
    assert_eq!((code, &answer["right"], &answer["samples"]), (Some(0), &2.into(), &11.into()));
    std::fs::write(&paths[1], tar(7)).unwrap();
    let output = run(&["index", path, "--check"]);
    let (out, code) = (text(&output.stdout), output.status.code());
    let out: Vec<_> = out.split_whitespace().collect(); // wherever lines are broken
    let out = out.join(" ");
    assert!(code == Some(1) && out.contains("b.tar") && out.contains("make it anew"), "{code:?} {out}");
    std::fs::write(&paths[1], &tar(7)[..900]).unwrap();
    let (code, answer) = json(&["index", path]);
    assert_eq!((code, &answer["kept"]), (Some(1), &1.into()));
    assert!(answer["failed"][0]["shard"].as_str().unwrap().ends_with("b.tar"), "{answer}");
    assert_eq!(answer["failed"][0]["code"], 3);
}

#[test]
fn inspection_says_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.tar", &tar(5));
    write(dir.path(), "b.tar", &tar(6));
    let path = dir.path().to_str().unwrap();
    let (code, answer) = json(&["inspect", path]);
    let bytes = (tar(5).len() + tar(6).len()) as u64;
    assert_eq!(code, Some(0));
    assert_eq!(
        [&answer["format"], &answer["shards"], &answer["samples"], &answer["bytes"]],
        [&Value::from("webdataset"), &2.into(), &11.into(), &bytes.into()]
    );
    let jpg = &answer["fields"][0];
    assert_eq!((&jpg["name"], &jpg["dtype"], &jpg["shape"]), (&"jpg".into(), &Value::Null, &Value::Null));
    assert_eq!((&jpg["smallest"], &jpg["largest"], &jpg["present"]), (&100.into(), &105.into(), &11.into()));
    assert_eq!((&answer["index"]["sidecars"], &jpg["aligned_512"]), (&0.into(), &11.into()));
    run(&["index", path, "--checksums"]);
    assert_eq!(json(&["inspect", path]).1["index"]["checksums"], 2);
    let shown = text(&run(&["inspect", path]).stdout);
    for word in ["webdataset", "jpg", "sidecars for 2 of 2 shards, with checksums", "multiples of 512", "####"] {
        assert!(shown.contains(word), "no {word} in:\n{shown}");
    }
    // A sample: scalar, hex, raw, and what does not exist.
    let (_, answer) = json(&["inspect", path, "--sample", "7"]);
    let fields = &answer["sample"]["fields"];
    assert_eq!((&fields[1]["field"], &fields[1]["value"], &fields[1]["hex"]), (&"cls".into(), &2.into(), &"32".into()));
    assert_eq!((&fields[0]["bytes"], &fields[0]["value"]), (&102.into(), &Value::Null));
    assert!(text(&run(&["inspect", path, "--sample", "7"]).stdout).contains("02 02 02"));
    let raw = run(&["inspect", path, "--sample", "7", "--field", "jpg", "--raw"]);
    assert_eq!((raw.status.code(), raw.stdout), (Some(0), vec![2; 102]));
    for wrong in [["--sample", "11"], ["--field", "png"]] {
        let output = run(&[&["inspect", path][..], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    }
}

/// A result that is lost is no success; a reader that has seen enough is. Mutant that this catches: errors of writing let go.
#[test]
fn results_that_cannot_be_written_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.tar", &tar(5));
    let path = dir.path().to_str().unwrap();
    for rest in [&[][..], &["--json"], &["--sample", "0", "--raw"]] {
        let run = |out: Stdio| {
            let mut command = strait();
            command.args(["inspect", path]).args(rest).stdout(out).stderr(Stdio::piped()).output().unwrap()
        };
        let full = run(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(1), "{rest:?}");
        assert!(text(&full.stderr).contains("cannot be written"), "{}", text(&full.stderr));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()).status.code(), Some(0), "{rest:?}");
    }
}

#[test]
fn options_are_named_as_they_are_written_here() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("train.bin"), [7; 1000]).unwrap();
    let output = run(&["inspect", dir.path().to_str().unwrap()]);
    let said = text(&output.stderr);
    assert!(
        said.contains("(--record-bytes)") && said.contains("(--dtype)") && !said.contains("record_bytes"),
        "{said}"
    );
}

#[test]
fn text_is_shown_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let sample = writers::sample(&[("story", "größer".as_bytes()), ("count", b"12"), ("image", b"abc")]);
    let columns = [("story", "str", None), ("count", "str_int", None), ("image", "jpeg", None)];
    writers::mds(dir.path(), &columns, &[sample], 1);
    let (_, answer) = json(&["inspect", dir.path().to_str().unwrap(), "--sample", "0"]);
    let value = |field: usize| &answer["sample"]["fields"][field]["value"];
    assert_eq!([value(0), value(1), value(2)], [&Value::from("größer"), &12.into(), &Value::Null], "{answer}");
}

#[test]
fn numbers_are_shown_as_their_type_says() {
    let dir = tempfile::tempdir().unwrap();
    let tokens: Vec<u8> = [1u16, 500, 65535, 7].iter().flat_map(|token| token.to_le_bytes()).collect();
    let path = write(dir.path(), "train.bin", &tokens);
    let path = path.to_str().unwrap();
    let (code, answer) = json(&["inspect", path, "--format", "tokens", "--dtype", "u16", "--sample", "0"]);
    assert_eq!((code, &answer["fields"][0]["dtype"]), (Some(0), &"u16".into()), "{answer}");
    assert_eq!(answer["sample"]["fields"][0]["value"], serde_json::json!([1, 500, 65535, 7]));
    assert_eq!(json(&["inspect", path]).0, Some(1), "nobody can tell");
    assert_eq!(run(&["inspect", path, "--format", "tar"]).status.code(), Some(2));
}

#[test]
fn a_dataset_that_cannot_be_written_has_its_index_in_the_cache_directory() {
    let dir = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    write(dir.path(), "a.tar", &tar(5));
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(&dir.path().join("a.tar"), 0o644);
    mode(dir.path(), 0o555);
    mode(cache.path(), 0o777);
    let path = dir.path().to_str().unwrap();
    // Root may write anywhere, so it becomes somebody else.
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let run = |arguments: &[&str]| {
        let mut command = strait();
        command.args(arguments).arg("--json").env("XDG_CACHE_HOME", cache.path());
        if root {
            command.uid(65534).gid(65534);
        }
        command.output()
    };
    let output = match run(&["index", path]) {
        Err(e) if root => return eprintln!("skipped: another user may not run the command here: {e}"),
        output => output.unwrap(),
    };
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &answer["written"]), (Some(0), &1.into()), "{answer}");
    assert!(sidecars(dir.path()).is_empty());
    assert_eq!(sidecars(&cache.path().join("strait")).len(), 1);
    let answer: Value = serde_json::from_slice(&run(&["inspect", path]).unwrap().stdout).unwrap();
    assert_eq!(answer["index"]["sidecars"], 1, "{answer}");
    let elsewhere = run(&["index", path, "--index-dir", path]).unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "not where it was told to be");
    mode(dir.path(), 0o755);
}

#[test]
fn shards_are_compared_with_the_hashes_of_a_list() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let path = write(&dir.path().join("d"), "a.bin", b"abc");
    let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let list = |line: String| {
        let path = write(dir.path(), "sums", format!("# made by hand\n{line}\n").as_bytes());
        path.to_str().unwrap().to_owned()
    };
    let path = path.to_str().unwrap();
    let run = |sums: &str| json(&["index", path, "--record-bytes", "1", "--sums", sums]);
    let (code, answer) = run(&list(format!("{good}  d/a.bin")));
    assert_eq!((code, &answer["written"]), (Some(0), &1.into()), "{answer}");
    let (code, answer) = run(&list(format!("{} *a.bin", good.replace("ba78", "ba79"))));
    assert_eq!((code, &answer["failed"][0]["code"]), (Some(1), &15.into()), "{answer}");
    let (code, answer) = run(&list(format!("{good}  b.bin")));
    assert!(code == Some(1) && answer.to_string().contains("is not in"), "{answer}");
    assert_eq!(run(&list("abc  a.bin".into())).0, Some(1), "no hash has 3 digits");
}
