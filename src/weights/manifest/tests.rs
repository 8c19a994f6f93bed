use proptest::prelude::*;

use super::*;

const A: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const B: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Result<Manifest> {
    Manifest::parse(Path::new("m"), text.as_bytes())
}

fn names(manifest: &Manifest) -> Vec<&str> {
    manifest.files().iter().map(|file| file.name.as_deref().unwrap_or("-")).collect()
}

#[test]
fn every_way_of_sha256sum_is_read() {
    let text = format!(
        "{A}  a b.safetensors\r\n{} *dir/b\n\n# a comment\nSHA256 (c (1) = x) = {A}\n\\{A}  new\\nline\\\\\n\
         \\SHA256 (cr\\r) = {B}\n{A}   space",
        B.to_uppercase()
    );
    let manifest = parse(&text).unwrap();
    assert_eq!(names(&manifest), ["a b.safetensors", "dir/b", "c (1) = x", "new\nline\\", "cr\r", " space"]);
    let digests: Vec<String> = manifest.files().iter().map(|file| file.digest.unwrap().hex()).collect();
    assert_eq!(digests, [A, B, A, A, B, A]);
}

#[test]
fn pointers_and_listings_are_read() {
    let pointer = format!("version https://git-lfs.github.com/spec/v1\next-0-x sha256:1\noid sha256:{A}\nsize 12\n");
    let manifest = parse(&pointer).unwrap();
    let file = manifest.file(Path::new("/anything")).unwrap();
    assert_eq!((file.bytes, file.digest.unwrap().hex().as_str()), (Some(12), A));

    let tree = format!(
        r#"[{{"type":"directory","oid":"1","size":0,"path":"d"}},
            {{"type":"file","oid":"2","size":7,"path":"config.json"}},
            {{"type":"file","oid":"3","size":9,"path":"d/m.safetensors",
              "lfs":{{"oid":"{A}","size":9,"pointerSize":134}}}}]"#
    );
    let model = format!(
        r#"{{"id":"x/y","siblings":[{{"rfilename":"README.md"}},
            {{"rfilename":"d/m.safetensors","size":9,"lfs":{{"sha256":"{A}","size":9,"pointerSize":134}}}}]}}"#
    );
    for text in [tree, model] {
        let manifest = parse(&text).unwrap();
        assert_eq!(names(&manifest), ["d/m.safetensors"]);
        assert_eq!((manifest.files()[0].bytes, manifest.files()[0].digest.unwrap().hex().as_str()), (Some(9), A));
    }
}

#[test]
fn what_is_no_manifest_is_refused_with_its_place() {
    let cases = [
        (String::new(), Some(0), "no digest"),
        (format!("{A}  a\n{A}"), Some(68), "line 2"),
        (format!("{A}  a\n{}  b", &A[1..]), Some(68), "line 2"),
        (format!("\\{A}  a\\x"), Some(0), "escape"),
        (format!("{A}  "), Some(0), "no name"),
        (format!("{A}  a\n{B}  a"), None, "named twice"),
        ("version https://git-lfs.github.com/spec/v1\noid md5:1\n".into(), Some(43), "line 2"),
        ("version https://git-lfs.github.com/spec/v1\nsize 1\n".into(), Some(0), "without `oid`"),
        ("{\"a\":\n x}".into(), Some(7), "line 2"),
        ("[]".into(), Some(0), "neither"),
        ("[{\"path\":\"a\",\"lfs\":{\"oid\":\"12\"}}]".into(), Some(0), "64"),
        ("{\"format\":\"strait-manifest\",\"version\":2,\"files\":[]}".into(), Some(0), "version 2"),
        (
            "{\"format\":\"strait-manifest\",\"version\":1,\"files\":[{\"digest\":\"crc32c:12\"}]}".into(),
            Some(0),
            "`crc32c:12`",
        ),
        (with_tensor(9, 1).replace("\"offset\"", "\"dtype\":\"f32\",\"offset\""), Some(0), "no dtype `f32`"),
        (with_tensor(9, 1).replace("\"offset\"", "\"shape\":[-1],\"offset\""), Some(0), "invalid value"),
        (with_tensor(u64::MAX, 1), None, "behind the end"),
        (with_tensor(9, 2), None, "behind the end"),
    ];
    for (text, offset, wanted) in cases {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.offset(), offset, "{text}: {error}");
        assert!(error.to_string().contains(wanted), "{text}: {error}");
    }
    assert!(parse(&with_tensor(8, 2)).is_ok());
}

/// Mutant that this catches: names compared as they come, each with the next.
#[test]
fn a_name_is_there_once_however_far_apart() {
    let digest = Digest::of(Algorithm::Crc32c, &[]);
    let tensor =
        |name: &&str| TensorDigest { name: name.to_string(), dtype: None, shape: None, offset: 0, bytes: 0, digest };
    let file = |name: &str, tensors: &[&str]| FileDigests {
        name: Some(name.into()),
        tensors: tensors.iter().map(tensor).collect(),
        ..FileDigests::default()
    };
    let twins = Manifest::new(vec![file("f", &["b", "a", "c", "b"])]).unwrap_err();
    assert!(twins.contains("tensor `b` is named twice"), "{twins}");
    let twins = Manifest::new(vec![file("g", &[]), file("f", &[]), file("g", &["a"])]).unwrap_err();
    assert!(twins.contains("g is named twice"), "{twins}");
}

fn with_tensor(offset: u64, bytes: u64) -> String {
    let tensor = format!(r#"{{"name":"t","offset":{offset},"bytes":{bytes},"digest":"crc32c:00000000"}}"#);
    format!(r#"{{"format":"strait-manifest","version":1,"files":[{{"bytes":10,"tensors":[{tensor}]}}]}}"#)
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let error = Manifest::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Open { errno: libc::EISDIR, .. }), "{error}");
    let pipe = directory.path().join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let (done, wait) = crossbeam::channel::bounded(1);
    std::thread::spawn(move || done.send(Manifest::open(pipe).unwrap_err().to_string()));
    let text = wait.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for a writer");
    assert!(text.contains("a pipe, socket or device"), "{text}");
}

#[test]
fn a_file_is_found_by_the_longest_name_that_its_path_ends_with() {
    let manifest = parse(&format!("{A}  m\n{B}  ./b/m\n{A}  /c/m\n{B}  /other/x")).unwrap();
    let found = |path: &str| manifest.file(Path::new(path)).and_then(|file| file.name.as_deref());
    assert_eq!(found("/a/m"), Some("m"));
    assert_eq!(found("/a/b/m"), Some("./b/m"));
    assert_eq!(found("/c/m"), Some("/c/m"));
    assert_eq!(found("/x"), None);
    assert_eq!(found("b/m"), Some("./b/m"));
    assert_eq!(found("/a/bm"), None);
}

fn file() -> impl Strategy<Value = FileDigests> {
    let digest = || {
        (0..3usize, any::<[u8; 32]>()).prop_map(|(number, sum)| {
            let algorithm = Algorithm::all().nth(number).unwrap();
            Digest::new(algorithm, &sum[..algorithm.bytes()]).unwrap()
        })
    };
    let stored = DType::all().filter(|dtype| *dtype != DType::C128).collect::<Vec<_>>();
    let dtype = proptest::option::of(proptest::sample::select(stored));
    let shape = proptest::option::of(proptest::collection::vec(any::<u64>(), 0..4));
    let tensor = ("\\PC*", dtype, shape, 0..1u64 << 40, 0..1u64 << 40, digest());
    let tensor = tensor.prop_map(|(name, dtype, shape, offset, bytes, digest)| TensorDigest {
        name,
        dtype,
        shape,
        offset,
        bytes,
        digest,
    });
    let parts = (any::<String>(), proptest::option::of(digest()), proptest::collection::vec(tensor, 0..4));
    parts.prop_map(|(name, digest, tensors)| FileDigests { name: Some(name), bytes: Some(1 << 41), digest, tensors })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(files in proptest::collection::vec(file(), 0..4)) {
        let Ok(manifest) = Manifest::new(files) else { return Ok(()) };
        prop_assert_eq!(&parse(&manifest.to_json()).unwrap(), &manifest, "{}", manifest.to_json());
    }

    #[test]
    fn any_bytes_are_a_manifest_or_an_error(
        start in prop_oneof![Just(""), Just("{"), Just("["), Just("version https://git-lfs"), Just("SHA256 ("), Just("\\")],
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let text = [start.as_bytes(), &rest].concat();
        if let Err(error) = Manifest::parse(Path::new("m"), &text) {
            prop_assert!(error.offset().unwrap() <= text.len() as u64, "{}", error);
        }
    }
}
