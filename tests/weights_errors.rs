//! What a load does with files that are damaged, gone, or not what they say, and with consumers that leave.

mod checkpoints;
mod common;

use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use checkpoints::{Made, any_tensor, write};
use common::disk_directory;
use proptest::prelude::*;
use strait::device::SimDevice;
use strait::sim::{Clock, Rng};
use strait::storage::{Completion, Pread, RawRead, Registered, Ring};
use strait::weights::{Algorithm, Checkpoint, Digest, FileDigests, Hash, Manifest, Part, Per, TensorDigest};
use strait::{DType, Device, Error, PathChoice};

/// Two shards, their index, and what is in them.
fn sharded(directory: &std::path::Path) -> Vec<Vec<Made>> {
    let mut rng = Rng::new(1);
    let shard = |shard| -> Vec<Made> {
        (0..6).map(|i| Made::new(&mut rng, format!("{shard}.{i}"), DType::F32, &[3000])).collect()
    };
    let made: Vec<Vec<Made>> = (0..2).map(shard).collect();
    for (shard, own) in made.iter().enumerate() {
        write(directory, &format!("{shard}.safetensors"), own, 0);
    }
    index(directory, &[("0.", "0.safetensors"), ("1.", "1.safetensors")], &made);
    made
}

/// Writes an index that puts tensors with these prefixes into these files.
fn index(directory: &std::path::Path, files: &[(&str, &str)], made: &[Vec<Made>]) {
    let file = |name: &str| files.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, file)| *file);
    let entries = made.iter().flatten().filter_map(|made| Some(format!("\"{}\":\"{}\"", made.name, file(&made.name)?)));
    let map = entries.collect::<Vec<_>>().join(",");
    let text = format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{map}}}}}"#);
    std::fs::write(directory.join("model.safetensors.index.json"), text).unwrap();
}

fn refused(path: &std::path::Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

#[test]
fn an_index_agrees_with_its_files_or_is_refused() {
    let directory = disk_directory();
    let (path, made) = (directory.path(), sharded(directory.path()));
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!((checkpoint.tensors().len(), checkpoint.bytes()), (12, 12 * 12_000));
    assert_eq!(Checkpoint::open(path.join("model.safetensors.index.json")).unwrap().files().len(), 2);
    let both = [("0.", "0.safetensors"), ("1.", "1.safetensors")];
    for (files, want) in [
        (vec![("0.", "1.safetensors"), both[1]], "should be in `1.safetensors`"),
        (vec![both[0]], "holds"),
        (vec![both[0], ("1.0", "1.safetensors")], "is not in it"),
        (vec![both[0], ("1.", "2.safetensors")], "cannot open"),
        (vec![both[0], ("1.", "../1.safetensors")], "outside its directory"),
        (vec![both[0], ("1.", "/etc/passwd")], "outside its directory"),
        (vec![both[0], ("1.", "a/../../1.safetensors")], "outside its directory"),
        (vec![both[0], ("1.", "")], "no name of a file"),
    ] {
        index(path, &files, &made);
        if want != "holds" {
            let text = refused(path);
            assert!(text.contains(want), "{text}");
        }
    }
    for (text, want) in [
        ("", "EOF"),
        ("{}", "no `weight_map`"),
        (r#"{"weight_map":{"a":1}}"#, "invalid type"),
        (r#"{"weight_map":{"a":"x","a":"y"}}"#, "`a` is there twice"),
        (r#"{"weight_map":{},"weight_map":{}}"#, "twice"),
    ] {
        std::fs::write(path.join("model.safetensors.index.json"), text).unwrap();
        let text = refused(path);
        assert!(text.contains(want) && text.contains("index.json: at byte"), "{text}");
    }
}

#[test]
fn links_lead_nowhere_else_but_into_the_hubs_cache() {
    let directory = disk_directory();
    let mut rng = Rng::new(2);
    let snapshot = directory.path().join("models--x/snapshots/abc");
    let blobs = directory.path().join("models--x/blobs");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    let made = [any_tensor(&mut rng, "t".into(), 100)];
    write(&blobs, "0123", &made, 0);
    std::os::unix::fs::symlink("../../blobs/0123", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&snapshot).unwrap().tensors().len(), 1);
    let elsewhere = directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(blobs.join("0123"), elsewhere.join("model.safetensors")).unwrap();
    assert!(refused(&elsewhere).contains("leads out of its directory"));
    assert_eq!(Checkpoint::open(elsewhere.join("model.safetensors")).unwrap().tensors().len(), 1, "named by a person");
}

#[test]
fn pipes_and_devices_are_refused_at_once_and_by_name() {
    let directory = disk_directory();
    let (pipe, index) = (directory.path().join("m.safetensors"), directory.path().join("m.safetensors.index.json"));
    for path in [&pipe, &index] {
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a C string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    }
    let null = std::path::Path::new("/dev/null");
    let hash =
        |path: &std::path::Path| Hash::new().manifest(&[path], Algorithm::Crc32c, Per::File).unwrap_err().to_string();
    for (text, path) in [
        (refused(&pipe), &*pipe),
        (refused(directory.path()), &index),
        (refused(null), null),
        (refused(&index), &index),
        (hash(&pipe), &pipe),
        (hash(null), null),
    ] {
        assert!(text.contains(&format!("{}: a pipe, socket or device", path.display())), "{text}");
    }
}

#[test]
fn what_is_no_checkpoint() {
    let directory = disk_directory();
    let path = directory.path();
    // A directory has no byte 0.
    let text = format!("{}: a directory without *.safetensors; check the path", path.display());
    assert_eq!(refused(path), text);
    assert!(refused(&path.join("gone")).contains("cannot open"));
    let mut rng = Rng::new(3);
    let made = [any_tensor(&mut rng, "t".into(), 100)];
    write(path, "a.safetensors", &made, 0);
    write(path, "b.safetensors", &[any_tensor(&mut rng, "u".into(), 100)], 0);
    write(path, "c.safetensors", &made, 0);
    let text = refused(path);
    assert!(
        text.contains("c.safetensors") && text.contains("tensor `t` is in") && text.contains("a.safetensors"),
        "{text}"
    );
    let huge = path.join("huge");
    let file = std::fs::File::create(&huge).unwrap();
    file.write_at(&100_000_001u64.to_le_bytes(), 0).unwrap();
    file.set_len(200_000_000).unwrap();
    let text = refused(&huge);
    assert!(text.contains("100000001 bytes") && text.contains("allows 100000000"), "{text}");
    file.write_at(&100_000_000u64.to_le_bytes(), 0).unwrap();
    file.set_len(100_000_007).unwrap();
    assert!(refused(&huge).contains("truncated"), "{}", refused(&huge));
    file.set_len(5).unwrap();
    assert!(refused(&huge).contains("truncated: 5 of 8 bytes"), "{}", refused(&huge));
}

proptest! {
    /// Where bytes of a header are changed, we and the crate of the format see the same, or we say what it does not look at.
    #[test]
    fn headers_are_judged_as_the_crate_judges_them(
        seed in 0u64..50, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0usize..20,
    ) {
        let mut rng = Rng::new(seed);
        let made: Vec<Made> = (0..rng.below(4)).map(|i| any_tensor(&mut rng, format!("t{i}"), 60)).collect();
        let mut file = checkpoints::encode(&made, 3);
        let at = at.index(file.len());
        file[at] = if seed % 2 == 0 { byte } else { b"\"{}[]:,0 19\\"[byte as usize % 12] };
        file.truncate(file.len() - cut.saturating_sub(15));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        std::fs::write(&path, &file).unwrap();
        match (strait::safetensors::read(&path), safetensors::SafeTensors::deserialize(&file)) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(ours.tensors.len(), theirs.len());
                for tensor in &ours.tensors {
                    let view = theirs.tensor(&tensor.name).unwrap();
                    prop_assert_eq!(&file[tensor.begin as usize..tensor.end as usize], view.data());
                }
            }
            (Err(_), Err(_)) => {}
            (Ok(ours), Err(theirs)) => prop_assert!(false, "{theirs}, and we found {ours:?}"),
            (Err(ours), Ok(_)) => prop_assert!(ours.to_string().contains("twice"), "{ours}"),
        }
    }
}

#[test]
fn a_shard_that_goes_or_changes_is_named() {
    for (what, want) in [("gone", "cannot open"), ("shorter", "changed since"), ("longer", "changed since")] {
        let directory = disk_directory();
        sharded(directory.path());
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let victim = directory.path().join("1.safetensors");
        let file = std::fs::OpenOptions::new().write(true).open(&victim).unwrap();
        let bytes = checkpoint.files()[1].bytes;
        match what {
            "gone" => std::fs::remove_file(&victim).unwrap(),
            "shorter" => file.set_len(bytes - 1).unwrap(),
            _ => file.set_len(bytes + 1).unwrap(),
        }
        let (mut whole, mut failure) = (0, None);
        for tensor in checkpoint.load().device(Device::host()).start().unwrap() {
            match tensor {
                Ok(_) => whole += 1,
                Err(error) => failure = Some(error.to_string()),
            }
        }
        let failure = failure.expect("a failure");
        assert!(failure.contains(want) && failure.contains("1.safetensors") && whole <= 6, "{failure}");
    }
}

/// A ring over threads that does something to the file when it is given its n-th read, or loses that read.
struct Meddler {
    inner: Pread,
    reads: u64,
    nth: u64,
    meddle: Option<Box<dyn FnMut() + Send>>,
}

// SAFETY: every call goes to the inner ring, whose promise this is; a read that is lost is never reported, nor started.
unsafe impl Ring for Meddler {
    fn name(&self) -> &'static str {
        "meddler"
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    unsafe fn register_memory(&mut self, base: NonNull<u8>, bytes: usize) -> Registered {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.register_memory(base, bytes) }
    }

    unsafe fn submit(&mut self, read: RawRead) -> strait::Result<()> {
        self.reads += 1;
        if self.reads == self.nth {
            match &mut self.meddle {
                Some(meddle) => meddle(),
                None => return Ok(()),
            }
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> strait::Result<()> {
        self.inner.poll(want, timeout, out)
    }
}

/// Nothing is handed over that was not read: the file is cut while it is read.
#[test]
fn a_file_that_is_cut_under_way_names_the_tensor() {
    for path in [PathChoice::Auto, PathChoice::Staged] {
        let directory = disk_directory();
        let made = sharded(directory.path());
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let victim = directory.path().join("1.safetensors");
        let cut = checkpoint.tensor("1.3").unwrap().offset + 8;
        let meddle = Box::new(move || {
            std::fs::OpenOptions::new().write(true).open(&victim).unwrap().set_len(cut).unwrap();
        });
        let make = move |depth| {
            Ok(Box::new(Meddler { inner: Pread::new(depth)?, reads: 0, nth: 4, meddle: Some(meddle) }) as _)
        };
        let builder = checkpoint.load().device(Device::host()).path(path).block_bytes(4096).reads_in_flight(2);
        let mut failure = None;
        for tensor in builder.custom_ring(make).start().unwrap() {
            match tensor {
                Ok(tensor) => {
                    let made = made.iter().flatten().find(|made| made.name == tensor.name()).unwrap();
                    assert!(tensor.read_back().unwrap() == made.bytes, "{} was not read", made.name);
                }
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.expect("a failure");
        let Error::Tensor { tensor, cause } = &failure else { panic!("{failure}") };
        assert!(matches!(**cause, Error::Truncated { .. }) && failure.path().is_some(), "{failure}");
        assert!(["1.3", "1.4", "1.5"].contains(&&**tensor), "{failure}");
        assert_eq!(failure.code(), 17);
    }
}

#[test]
fn a_storage_that_does_not_answer_is_an_error_in_time() {
    let directory = disk_directory();
    sharded(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let make = |depth| Ok(Box::new(Meddler { inner: Pread::new(depth)?, reads: 0, nth: 3, meddle: None }) as _);
    let builder = checkpoint.load().device(Device::host()).block_bytes(4096).deadline(Duration::from_millis(300));
    let mut load = builder.custom_ring(make).start().unwrap();
    let failure = load.find_map(Result::err).expect("a failure");
    assert!(matches!(failure, Error::Timeout { .. }) && failure.to_string().contains(".safetensors"), "{failure}");
    drop(load); // leaks what the lost read may still write to, and returns
}

/// The consumer leaves after each number of tensors; what it has stays whole.
#[test]
fn leaving_in_the_middle_is_fine() {
    let directory = disk_directory();
    let made = sharded(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for take in 0..12 {
        let sim = Arc::new(SimDevice::new(take, Clock::real()));
        for device in [Device::host(), Device::new(sim.clone())] {
            let load = checkpoint.load().device(device).block_bytes(4096).start().unwrap();
            let kept: Vec<_> = load.take(take as usize).map(Result::unwrap).collect();
            for tensor in kept {
                let made = made.iter().flatten().find(|made| made.name == tensor.name()).unwrap();
                assert!(tensor.read_back().unwrap() == made.bytes);
            }
        }
        assert_eq!((sim.allocated_bytes(), sim.violations()), (0, Vec::new()));
    }
}

fn digests(checkpoint: &Checkpoint, algorithm: Algorithm, of_files: bool) -> Manifest {
    let file = |(shard, file): (usize, &strait::weights::CheckpointFile)| {
        let bytes = std::fs::read(&file.path).unwrap();
        let own = checkpoint.tensors().iter().filter(|info| info.shard as usize == shard);
        let tensors = own.map(|info| TensorDigest {
            name: info.name.to_string(),
            dtype: Some(info.dtype),
            shape: Some(info.shape.clone()),
            offset: info.offset,
            bytes: info.bytes,
            digest: Digest::of(algorithm, &bytes[info.offset as usize..][..info.bytes as usize]),
        });
        FileDigests {
            name: Some(file.path.file_name().unwrap().to_str().unwrap().into()),
            bytes: Some(file.bytes),
            digest: of_files.then(|| Digest::of(algorithm, &bytes)),
            tensors: if of_files { Vec::new() } else { tensors.collect() },
        }
    };
    Manifest::new(checkpoint.files().iter().enumerate().map(file).collect()).unwrap()
}

/// One bit of one tensor: all others may come, that one does not. Mutant that this catches: a digest that is not compared.
#[test]
fn damage_is_found_before_the_tensor_is_handed_over() {
    let directory = disk_directory();
    sharded(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let victim = checkpoint.tensor("1.2").unwrap().clone();
    for algorithm in Algorithm::all() {
        for of_files in [false, true] {
            let manifest = digests(&checkpoint, algorithm, of_files);
            for path in [PathChoice::Auto, PathChoice::Staged] {
                let load = || {
                    let builder = checkpoint.load().device(Device::host()).path(path).block_bytes(8192);
                    builder.verify(manifest.clone())
                };
                let whole = load().load_all().unwrap();
                assert_eq!(whole.len(), 12);
                let file =
                    std::fs::OpenOptions::new().write(true).read(true).open(directory.path().join("1.safetensors"));
                let (file, at) = (file.unwrap(), victim.offset + 7777);
                let mut byte = [0];
                file.read_at(&mut byte, at).unwrap();
                file.write_at(&[byte[0] ^ 4], at).unwrap();
                let (mut names, mut failure) = (Vec::new(), None);
                for tensor in load().start().unwrap() {
                    match tensor {
                        Ok(tensor) => names.push(tensor.name().to_string()),
                        Err(error) => failure = Some(error),
                    }
                }
                file.write_at(&byte, at).unwrap();
                let failure = failure.expect("damage goes unseen");
                let text = failure.to_string();
                assert!(matches!(failure, Error::Corrupt { .. }) && text.contains("1.safetensors"), "{text}");
                assert!(of_files || text.contains("`1.2`") && failure.offset() == Some(victim.offset), "{text}");
                let bad = |name: &String| name == "1.2" || of_files && name.starts_with("1.");
                assert!(!names.iter().any(bad), "{names:?}");
            }
        }
    }
}

/// A part whose own bytes are right waits for the check of the whole tensor. Mutant that this catches: a tensor that is
/// handed over with its last byte.
#[test]
fn a_part_waits_for_the_check_of_the_whole() {
    let directory = disk_directory();
    sharded(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let info = checkpoint.tensor("1.2").unwrap();
    let manifest = digests(&checkpoint, Algorithm::Xxh3_64, false);
    let load = || {
        let builder = checkpoint.load().device(Device::host()).names(["1.2"]).block_bytes(4096).reads_in_flight(1);
        builder.part(|info, _| Part::share(info, 0, 0, 30)).verify(manifest.clone())
    };
    let stats = load().load_all().unwrap().stats().clone();
    assert!((12_000..12_000 + 8192).contains(&stats.bytes_read), "{} of 12000", stats.bytes_read);
    let path = directory.path().join("1.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[(info.offset + info.bytes) as usize - 1] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let first = load().start().unwrap().next().unwrap();
    assert!(matches!(first, Err(Error::Corrupt { .. })), "{first:?}");
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let directory = disk_directory();
    sharded(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let load = |manifest| checkpoint.load().device(Device::host()).verify(manifest).load_all();
    let refused = |files| load(Manifest::new(files).unwrap()).unwrap_err().to_string();
    let good = digests(&checkpoint, Algorithm::Crc32c, false).files().to_vec();
    let text = refused(good[..1].to_vec());
    assert!(text.contains("no digest of `1.0`"), "{text}");
    let mut files = good.clone();
    files[1].tensors.retain(|tensor| tensor.name != "1.4");
    assert!(refused(files).contains("no digest of `1.4`"));
    let mut files = good.clone();
    files[0].bytes = None;
    files[0].tensors[2].offset += 1;
    assert!(refused(files).contains("by the file's header"));
    let mut files = good;
    files[0].bytes = files[0].bytes.map(|bytes| bytes + 1);
    assert!(refused(files).contains("the manifest says"));
}

/// A header that was changed after the digests were made: the bytes are the same, and mean something else. Manifests without
/// types and shapes let it pass. Mutants that this catches: the type not compared; the shape; either of tensors without bytes.
#[test]
fn what_the_header_says_of_a_tensor_is_compared_too() {
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    let mut rng = Rng::new(12);
    let entry = |name: &str, dtype, shape: &[u64]| Made::new(&mut rng.clone(), name, dtype, shape);
    let made = [entry("none", DType::F32, &[0, 4]), entry("w", DType::F32, &[6, 2]), entry("b", DType::F32, &[1])];
    rng.next_u64();
    std::fs::write(&path, checkpoints::encode(&made, 0)).unwrap();
    let known = Hash::new().manifest(std::slice::from_ref(&path), Algorithm::Sha256, Per::Tensor).unwrap();
    let mut older = known.files().to_vec();
    older[0].tensors.iter_mut().for_each(|tensor| (tensor.dtype, tensor.shape) = (None, None));
    let older = Manifest::new(older).unwrap();
    let load = |names: &[&str], manifest: &Manifest| {
        let builder = Checkpoint::open(&path).unwrap().load().device(Device::host());
        builder.names(names.iter().copied()).verify(manifest.clone()).load_all()
    };
    let all = ["none", "w", "b"];
    assert_eq!(load(&all, &known).unwrap().len(), 3);
    assert_eq!(Hash::new().check(&[(&path, &known.files()[0])]).unwrap().len(), 0);
    for (which, dtype, shape, want) in [
        (1, DType::I32, &[6, 2][..], "tensor `w` is i32 by the file's header, and f32 by the manifest"),
        (1, DType::F32, &[2, 6], "tensor `w` is [2, 6] by the file's header, and [6, 2] by the manifest"),
        (0, DType::I32, &[0, 4], "tensor `none` is i32"),
        (0, DType::F32, &[4, 0], "tensor `none` is [4, 0]"),
    ] {
        let mut other = made.clone();
        (other[which].dtype, other[which].shape) = (dtype, shape.to_vec());
        std::fs::write(&path, checkpoints::encode(&other, 0)).unwrap();
        let name: &str = &made[which].name;
        for names in [&all[..], &[name]] {
            let error = load(names, &known).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(want), "{error}");
        }
        assert_eq!(load(&["b"], &known).unwrap().len(), 1, "of a tensor that is not wanted nothing is compared");
        assert_eq!(load(&all, &older).unwrap().len(), 3, "nothing is known of it");
        let differing = Hash::new().check(&[(&path, &known.files()[0])]).unwrap();
        assert!(matches!(&differing[..], [one] if one.to_string().contains(want)), "{differing:?}");
        assert_eq!(Hash::new().check(&[(&path, &older.files()[0])]).unwrap().len(), 0);
    }
    let mut renamed = made.clone();
    renamed[1].name = "v".into();
    std::fs::write(&path, checkpoints::encode(&renamed, 0)).unwrap();
    let differing = Hash::new().check(&[(&path, &known.files()[0])]).unwrap();
    assert!(
        matches!(&differing[..], [one] if one.to_string().contains("`w` is not in the file's header")),
        "{differing:?}"
    );
}

/// A shard of which only tensors without bytes are wanted is not read; that it is another file now is found all the same.
/// Mutant that this catches: shards without reads that nobody looks at.
#[test]
fn a_shard_of_which_nothing_is_read_is_looked_at() {
    let directory = disk_directory();
    let mut rng = Rng::new(11);
    let made = [Made::new(&mut rng, "none", DType::F32, &[0, 4]), Made::new(&mut rng, "some", DType::F32, &[4])];
    let path = write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let load = || checkpoint.load().device(Device::host()).names(["none"]);
    assert_eq!(load().load_all().unwrap().get("none").unwrap().bytes(), 0);
    let file = FileDigests { name: None, bytes: Some(7), digest: None, tensors: Vec::new() };
    let error = load().verify(Manifest::new(vec![file]).unwrap()).load_all().unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("manifest says 7"), "{error}");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(9).unwrap();
    let error = load().load_all().unwrap_err();
    assert!(matches!(error, Error::Changed { .. }) && error.to_string().contains("now has 9"), "{error}");
}

#[test]
fn options_that_cannot_be_met() {
    let directory = disk_directory();
    sharded(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let load = || checkpoint.load().device(Device::host());
    let wrong = [
        load().block_bytes(5000),
        load().block_bytes(0),
        load().align_bytes(100),
        load().reads_in_flight(0),
        load().reads_in_flight(5000),
        load().open_files_max(0),
        load().deadline(Duration::ZERO),
        load().path(PathChoice::Staged).pinned_bytes_max(4096),
    ];
    for builder in wrong {
        let error = builder.load_all().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
}
