//! `strait hash`: manifests written, read again, and compared with; those of others too.
#![cfg(feature = "cli")]

mod command;
mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use command::{json, strait, text};
use common::{bytes_of, disk_directory};
use strait::DType;
use strait::weights::{Algorithm, Digest, Manifest, SaveTensor, save};

fn hash(directory: &Path, arguments: &[&str]) -> Output {
    strait().arg("hash").args(arguments).current_dir(directory).output().unwrap()
}

/// Two shards in a directory, one of them larger than a block, and a file that is no checkpoint.
fn checkpoint() -> tempfile::TempDir {
    let directory = disk_directory();
    for (name, lengths) in [("a.safetensors", [5_000_001, 3]), ("b.safetensors", [0, 70_000])] {
        let bytes = lengths.map(|length| bytes_of(length, 0, length));
        let names = lengths.map(|length| format!("{name}.{length}"));
        let tensors =
            [0, 1].map(|i| SaveTensor::new(&names[i], DType::U8, std::slice::from_ref(&lengths[i]), &bytes[i]));
        save(directory.path().join(name), &tensors).unwrap();
    }
    fs::write(directory.path().join("notes.txt"), b"abc").unwrap();
    directory
}

#[test]
fn digests_are_those_of_the_files_and_their_tensors() {
    let directory = checkpoint();
    for name in ["crc32c", "xxh3-64", "sha256"] {
        let algorithm = Algorithm::from_name(name).unwrap();
        let arguments = ["a.safetensors", "b.safetensors", "--algorithm", name, "--per", "both", "--threads", "3"];
        let output = hash(directory.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let manifest = Manifest::parse(Path::new("m"), &output.stdout).unwrap();
        assert_eq!(manifest.files().len(), 2);
        for file in manifest.files() {
            let bytes = fs::read(directory.path().join(file.name.as_ref().unwrap())).unwrap();
            assert_eq!((file.bytes, file.digest), (Some(bytes.len() as u64), Some(Digest::of(algorithm, &bytes))));
            let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(file.tensors.len(), 2);
            for tensor in &file.tensors {
                assert_eq!(tensor.digest, Digest::of(algorithm, read.tensor(&tensor.name).unwrap().data()));
            }
        }
    }
    let output = hash(directory.path(), &["notes.txt", "--algorithm", "sha256", "--json"]);
    let found = json(&output)["files"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(found, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn what_was_written_is_compared_and_damage_is_named() {
    let directory = checkpoint();
    let place = directory.path();
    fs::create_dir(place.join("kept")).unwrap();
    for (output, per) in [("manifest.json", "tensor"), ("kept/manifest.json", "both")] {
        let written = hash(place, &[".", "--per", per, "--output", output, "--json"]);
        assert_eq!(json(&written)["tensors"], 4, "{}", text(&written.stderr));
        let good = hash(place, &["--check", output]);
        assert!(good.status.success() && text(&good.stdout).contains("all as they should be"), "{good:?}");
    }
    let names = |output| Manifest::open(place.join(output)).unwrap().files()[0].name.clone().unwrap();
    assert_eq!(names("manifest.json"), "a.safetensors");
    assert!(Path::new(&names("kept/manifest.json")).is_absolute());

    let path = place.join("a.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4; // of the larger tensor, which comes first by name
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let bad = hash(place, &["--check", "manifest.json", "--json"]);
    assert_eq!(bad.status.code(), Some(1));
    let failed = json(&bad)["failed"].clone();
    assert_eq!(failed.as_array().unwrap().len(), 1, "{failed:#}");
    assert!(failed[0]["problem"].as_str().unwrap().contains("tensor `a.safetensors."), "{failed:#}");
    let bad = hash(place, &["--check", "kept/manifest.json"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stdout).contains("the file:") && text(&bad.stdout).contains("2 digest(s) differ"));

    fs::write(&path, &bytes[..last]).unwrap();
    let short = hash(place, &["--check", "manifest.json"]);
    assert_eq!(short.status.code(), Some(1));
    assert!(text(&short.stdout).contains("and had"), "{}", text(&short.stdout));
    fs::remove_file(&path).unwrap();
    let gone = hash(place, &["--check", "manifest.json"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("a.safetensors"), "{}", text(&gone.stderr));
    assert!(hash(place, &["--check", "manifest.json", "--ignore-missing"]).status.success());
}

#[test]
fn manifests_of_others_are_compared_with() {
    let directory = checkpoint();
    let place = directory.path();
    let (bytes, sum) =
        (fs::read(place.join("a.safetensors")).unwrap(), |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes));
    let digest = sum(&bytes).hex();
    fs::write(place.join("SHA256SUMS"), format!("{digest}  a.safetensors\n{} *notes.txt\n", sum(b"abc").hex()))
        .unwrap();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {}\n", bytes.len());
    fs::write(place.join("pointer"), pointer).unwrap();
    let listing = serde_json::json!([
        { "type": "file", "path": "a.safetensors", "size": bytes.len(), "lfs": { "oid": digest, "size": bytes.len() } },
        { "type": "file", "path": "onnx/model.onnx", "size": 5, "lfs": { "oid": digest, "size": 5 } },
    ]);
    fs::write(place.join("tree.json"), listing.to_string()).unwrap();
    for arguments in [
        &["--check", "SHA256SUMS"][..],
        &["--check", "pointer", "a.safetensors"],
        &["--check", "tree.json", "--ignore-missing"],
        &["--check", "tree.json", "a.safetensors"],
    ] {
        let output = hash(place, arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    for (arguments, wanted) in [
        (&["--check", "pointer"][..], "FILE"),
        (&["--check", "pointer", "b.safetensors"], "and had"),
        (&["--check", "SHA256SUMS", "b.safetensors"], "not in the manifest"),
        (&["--check", "a.safetensors"], "line 1"),
        (&["--check", "tree.json"], "onnx"),
        (&["notes.txt", "--per", "tensor"], "notes.txt"),
        (&["kept"], "kept"),
        (&[], "PATH"),
        (&["notes.txt", "--check", "SHA256SUMS", "--algorithm", "sha256"], "--algorithm"),
        (&["a.safetensors", "a.safetensors"], "twice"),
    ] {
        let output = hash(place, arguments);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!output.status.success() && said.contains(wanted), "{arguments:?} does not say {wanted}: {said}");
    }
}
