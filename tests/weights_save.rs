//! Saved checkpoints: against the format's own library, in shards, over what was there, where space ends.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use common::mount::Mounts;
use common::{bytes_of, disk_directory, names};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use strait::device::RawMemory;
use strait::weights::{Algorithm, Checkpoint, Digest, Manifest, Per, Save, SaveTensor, save};
use strait::{DType, Device, Error, RingChoice};

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn tensor(name: &str, dtype: DType, shape: &[u64], seed: u64) -> Tensor {
    let bytes = bytes_of(seed, 0, dtype.array_bytes(shape).unwrap());
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

fn views(tensors: &[Tensor]) -> Vec<SaveTensor<'_>> {
    tensors.iter().map(|t| SaveTensor::new(&t.name, t.dtype, &t.shape, &t.bytes)).collect()
}

/// What the format's own library writes.
fn theirs(tensors: &[Tensor]) -> Vec<u8> {
    let dtype =
        |dtype: DType| -> Dtype { serde_json::from_str(&format!("\"{}\"", dtype.name().to_uppercase())).unwrap() };
    let view = |t: &'_ Tensor| {
        let shape = t.shape.iter().map(|&length| length as usize).collect();
        (t.name.clone(), dtype(t.dtype), shape, t.bytes.clone())
    };
    let parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors.iter().map(view).collect();
    let views = parts.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("a valid tensor"))
    });
    safetensors::serialize(views, None).unwrap()
}

fn assert_same(path: &Path, tensors: &[Tensor]) {
    let file = fs::read(path).unwrap();
    let theirs = theirs(tensors);
    let split = |file: &[u8]| {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&file[8..8 + length]).unwrap().trim_end().to_string();
        (header, file[8 + length..].to_vec(), 8 + length)
    };
    let ((ours, data, start), (header, their_data, _)) = (split(&file), split(&theirs));
    assert_eq!(ours, header, "the header is what the format's own writer writes");
    assert!(data == their_data, "the data is not the same");
    assert_eq!(start % 4096, 0);
    let read = SafeTensors::deserialize(&file).unwrap();
    for t in tensors {
        assert_eq!(read.tensor(&t.name).unwrap().data(), t.bytes);
    }
}

fn any_tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let types: Vec<DType> = DType::all().filter(|dtype| *dtype != DType::C128).collect();
    let shape = prop_oneof![
        4 => (1..200u64).prop_map(|n| vec![4 * n]),
        2 => (1..9u64, 1..9u64).prop_map(|(a, b)| vec![a, b, 4]),
        1 => Just(vec![4, 0]),
        1 => Just(vec![8, 1500]),
    ];
    let one = (proptest::sample::select(types), shape, any::<u64>(), "\\PC{0,12}");
    let one = one.prop_map(|(dtype, shape, seed, name)| tensor(&name, dtype, &shape, seed));
    proptest::collection::vec(one, 0..8).prop_map(|mut tensors| {
        for (number, tensor) in tensors.iter_mut().enumerate() {
            tensor.name.push_str(&number.to_string()); // each once
        }
        tensors
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn files_are_those_of_the_formats_own_writer(tensors in any_tensors(), blocks in 1..4usize, writes in 1..5usize) {
        let directory = disk_directory();
        let path = directory.path().join("model.safetensors");
        for ring in [RingChoice::Auto, RingChoice::Pread] {
            let save = Save::new(&Device::host()).block_bytes(4096 * blocks).writes_in_flight(writes).ring(ring);
            save.save(&path, &views(&tensors)).unwrap();
            assert_same(&path, &tensors);
        }
    }
}

#[test]
fn a_single_element_and_metadata() {
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    let scalar = tensor("scalar", DType::F64, &[], 1);
    let save = Save::new(&Device::host()).metadata("format", "pt").metadata("a \"quoted\" key", "ü\n");
    save.save(&path, &views(&[scalar])).unwrap();
    let file = fs::read(&path).unwrap();
    let (_, read) = SafeTensors::read_metadata(&file).unwrap();
    let wanted = HashMap::from([("format", "pt"), ("a \"quoted\" key", "ü\n")]);
    let found = read.metadata().clone().unwrap();
    assert_eq!(found.iter().map(|(key, value)| (&**key, &**value)).collect::<HashMap<_, _>>(), wanted);
    assert_eq!(SafeTensors::deserialize(&file).unwrap().tensor("scalar").unwrap().shape(), [0usize; 0]);
}

/// Device memory of the host device, freed at the end.
struct Memory(Device, Option<RawMemory>);

impl Memory {
    fn with(bytes: &[u8]) -> Memory {
        let device = Device::host();
        let memory = device.raw().allocate(bytes.len()).unwrap();
        // SAFETY: just allocated, of this length, nobody else's.
        unsafe { memory.host.unwrap().copy_from(std::ptr::NonNull::from(bytes).cast(), bytes.len()) };
        Memory(device, Some(memory))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `with`; saves that read it have returned.
        unsafe { self.0.raw().free(self.1.take().unwrap()) };
    }
}

#[test]
fn digests_are_those_of_what_lies_in_the_file() {
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    let big = tensor("big", DType::BF16, &[3, 1 << 20], 7);
    let memory = Memory::with(&big.bytes);
    let base = memory.1.as_ref().unwrap().base;
    let small = tensor("small", DType::U8, &[5], 8);
    // SAFETY: the memory outlives the save.
    let on_device = unsafe { SaveTensor::on_device("big", big.dtype, &big.shape, base) };
    for algorithm in Algorithm::all() {
        let save = Save::new(&memory.0).digests(algorithm, Per::Both).block_bytes(1 << 20);
        let saved = save.save(&path, &[views(std::slice::from_ref(&small)).remove(0), on_device.clone()]).unwrap();
        assert_same(&path, &[small.clone(), big.clone()]);
        let manifest = saved.manifest.unwrap();
        assert_eq!(Manifest::parse(Path::new("m"), manifest.to_json().as_bytes()).unwrap(), manifest);
        let file = manifest.file(&path).unwrap();
        assert_eq!(file.digest, Some(Digest::of(algorithm, &fs::read(&path).unwrap())));
        assert_eq!(file.tensor("big").unwrap().digest, Digest::of(algorithm, &big.bytes));
        assert_eq!(file.tensor("small").unwrap().digest, Digest::of(algorithm, &small.bytes));
        let whole =
            save.clone().digests(algorithm, Per::File).save(&path, &views(std::slice::from_ref(&small))).unwrap();
        assert!(whole.manifest.unwrap().files()[0].tensors.is_empty());
        let parts = save.digests(algorithm, Per::Tensor).save(&path, &views(std::slice::from_ref(&small))).unwrap();
        assert_eq!(parts.manifest.unwrap().files()[0].digest, None);
    }
}

#[test]
fn what_was_loaded_is_saved_again() {
    let directory = disk_directory();
    let (path, copy) = (directory.path().join("m.safetensors"), directory.path().join("copy.safetensors"));
    let tensors = [tensor("a", DType::F32, &[3, 70_001], 1), tensor("b", DType::I8, &[5], 2)];
    save(&path, &views(&tensors)).unwrap();
    let loaded = Checkpoint::open(&path).unwrap().load().device(Device::host()).load_all().unwrap();
    let views: Vec<SaveTensor<'_>> = loaded.iter().map(|t| SaveTensor::loaded(t).unwrap()).collect();
    save(&copy, &views).unwrap();
    assert_same(&copy, &tensors);
    assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap());
}

/// Every tensor of a sharded checkpoint, found through its index.
fn read_sharded(index: &Path) -> BTreeMap<String, Vec<u8>> {
    let index_json: serde_json::Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
    let map = index_json["weight_map"].as_object().unwrap();
    let read = |(name, file): (&String, &serde_json::Value)| {
        let file = fs::read(index.with_file_name(file.as_str().unwrap())).unwrap();
        (name.clone(), SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data().to_vec())
    };
    map.iter().map(read).collect()
}

fn wanted(tensors: &[Tensor]) -> BTreeMap<String, Vec<u8>> {
    tensors.iter().map(|t| (t.name.clone(), t.bytes.clone())).collect()
}

#[test]
fn shards_have_an_index_and_never_overwrite_those_of_the_one_before() {
    let directory = disk_directory();
    let path = directory.path().join("model.safetensors");
    let index = directory.path().join("model.safetensors.index.json");
    fs::write(directory.path().join("config.json"), "{}").unwrap();
    fs::write(directory.path().join("model-00009-of-00009.safetensors"), "another's").unwrap();
    let set = |seed: u64, count: u64| -> Vec<Tensor> {
        (0..count).map(|n| tensor(&format!("t{n}"), DType::F32, &[1000 + n], seed + n)).collect()
    };
    let shard = |mark: &str, n: usize, of: usize| format!("model{mark}-{n:05}-of-{of:05}.safetensors");
    let other = ["config.json".to_string(), "model-00009-of-00009.safetensors".into()];
    let sharded = Save::new(&Device::host()).shard_bytes_max(10_000);
    for (round, (mark, count)) in [("", 6), ("-b", 6), ("", 5), ("-b", 6), ("", 9)].into_iter().enumerate() {
        let tensors = set(100 * round as u64, count);
        let saved = sharded.save(&path, &views(&tensors)).unwrap();
        assert_eq!(saved.index.as_deref(), Some(&*index));
        let files = (count as usize).div_ceil(2);
        let mut expected: Vec<String> = (1..=files).map(|n| shard(mark, n, files)).collect();
        let written: Vec<PathBuf> = expected.iter().map(|name| directory.path().join(name)).collect();
        assert_eq!(saved.files, written);
        expected.extend(other.clone());
        expected.push("model.safetensors.index.json".into());
        expected.sort();
        assert_eq!(names(directory.path()), expected, "round {round}");
        assert_eq!(read_sharded(&index), wanted(&tensors));
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        let total: u64 = tensors.iter().map(|t| t.bytes.len() as u64).sum();
        assert_eq!(json["metadata"]["total_size"], total);
    }
    // So small that it needs no shards: index and shards go. And the other way.
    let few = set(7, 2);
    let saved = sharded.save(&path, &views(&few)).unwrap();
    assert_eq!((saved.index, &saved.files[..]), (None, &[path.clone()][..]));
    assert_same(&path, &few);
    assert_eq!(names(directory.path()), [&other[..], &["model.safetensors".into()]].concat());
    sharded.save(&path, &views(&set(1, 4))).unwrap();
    assert!(!path.exists() && index.exists());
    // Without a limit the index goes, for the directory to be the new checkpoint; the shards are nobody's business.
    fs::remove_file(directory.path().join(&other[1])).unwrap();
    save(&path, &views(&few)).unwrap();
    assert!(path.exists() && !index.exists() && directory.path().join(shard("", 2, 2)).exists());
    assert_eq!(Checkpoint::open(directory.path()).unwrap().tensors().len(), 2);
}

#[test]
fn a_save_that_fails_at_its_last_step_leaves_nothing() {
    let directory = disk_directory();
    let path = directory.path().join("model.safetensors");
    let tensors: Vec<Tensor> = (0..4).map(|n| tensor(&format!("t{n}"), DType::U8, &[6000], n)).collect();
    let index = directory.path().join("model.safetensors.index.json");
    fs::create_dir(&index).unwrap();
    for save in [Save::new(&Device::host()), Save::new(&Device::host()).shard_bytes_max(12_000)] {
        let error = save.save(&path, &views(&tensors)).unwrap_err();
        assert!(matches!(error, Error::Open { .. }) && error.to_string().contains("index.json"), "{error}");
        assert_eq!(names(directory.path()), ["model.safetensors.index.json"]);
    }
    fs::remove_dir(&index).unwrap();
    // A directory that comes to stand in a shard's way while the tensors are written: the first is there by then.
    let blocked = |n: usize| directory.path().join(format!("model{}-00002-of-00002.safetensors", ["", "-b", "-c"][n]));
    (0..3).for_each(|n| fs::create_dir(blocked(n)).unwrap());
    let before = names(directory.path());
    Save::new(&Device::host()).shard_bytes_max(12_000).save(&path, &views(&tensors)).unwrap_err();
    assert_eq!(names(directory.path()), before);
}

#[test]
fn permissions_are_those_of_what_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let directory = disk_directory();
    let path = directory.path().join("model.safetensors");
    let tensors: Vec<Tensor> = (0..4).map(|n| tensor(&format!("t{n}"), DType::U8, &[6000], n)).collect();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    save(&path, &views(&tensors)).unwrap();
    for wanted in [0o600, 0o640, 0o444] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
        save(&path, &views(&tensors)).unwrap();
        assert_eq!(mode(&path), wanted);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for _ in 0..2 {
        let saved = Save::new(&Device::host()).shard_bytes_max(12_000).save(&path, &views(&tensors)).unwrap();
        assert!(saved.files.iter().chain(&saved.index).all(|file| mode(file) == 0o600));
    }
}

#[test]
fn what_cannot_be_saved_is_said_before_anything_is_written() {
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    let refused = |tensors: &[SaveTensor<'_>], wanted: &str| {
        let error = save(&path, tensors).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(wanted), "{error}");
        assert_eq!(names(directory.path()), [""; 0]);
    };
    refused(&[SaveTensor::new("a", DType::F32, &[2], &[0; 7])], "takes 8 bytes, and 7 were given");
    refused(&[SaveTensor::new("a", DType::C128, &[1], &[0; 16])], "no type for c128");
    refused(&[SaveTensor::new("a", DType::F4, &[3], &[0; 2])], "no whole number of bytes");
    refused(&[SaveTensor::new("a", DType::U8, &[u64::MAX, 8], &[])], "no whole number of bytes");
    refused(&[SaveTensor::new("__metadata__", DType::U8, &[1], &[0])], "keeps this name");
    let one = SaveTensor::new("a", DType::U8, &[1], &[0]);
    refused(&[one.clone(), one.clone()], "two are called `a`");
    let error = Save::new(&Device::host()).shard_bytes_max(1).save(directory.path().join("m.bin"), &[]).unwrap_err();
    assert!(error.to_string().contains(".safetensors"), "{error}");
    for path in [directory.path().join("no/such/m.safetensors"), directory.path().to_owned()] {
        let error = save(&path, std::slice::from_ref(&one)).unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
    }
    save(&path, &[]).unwrap();
    assert_same(&path, &[]);
}

#[test]
fn a_link_is_replaced_and_what_it_points_to_is_not() {
    let directory = disk_directory();
    let (path, blob) = (directory.path().join("m.safetensors"), directory.path().join("blob"));
    fs::write(&blob, "shared with others").unwrap();
    std::os::unix::fs::symlink(&blob, &path).unwrap();
    let tensors = [tensor("t", DType::U8, &[9], 1)];
    save(&path, &views(&tensors)).unwrap();
    assert_same(&path, &tensors);
    assert_eq!(fs::read(&blob).unwrap(), b"shared with others");
}

#[test]
fn leftovers_of_killed_saves_go_and_those_of_living_ones_stay() {
    let directory = disk_directory();
    let dead = directory.path().join(".strait-save-1-0.tmp");
    let alive = directory.path().join(".strait-save-2-0.tmp");
    fs::write(&dead, "half").unwrap();
    fs::write(&alive, "half").unwrap();
    let file = fs::File::open(&alive).unwrap();
    file.lock().unwrap();
    save(directory.path().join("m.safetensors"), &[]).unwrap();
    assert_eq!(names(directory.path()), [".strait-save-2-0.tmp", "m.safetensors"]);
}

#[test]
fn a_file_system_without_direct_writes_gets_the_same_file_and_says_so() {
    let Ok(directory) = common::mount::memory_directory() else { return eprintln!("SKIPPED: no tmpfs at /dev/shm") };
    let path = directory.path().join("m.safetensors");
    let tensors = [tensor("t", DType::F16, &[70_001], 1), tensor("u", DType::U8, &[3], 2)];
    let saved = Save::new(&Device::host()).block_bytes(8192).save(&path, &views(&tensors)).unwrap();
    assert_same(&path, &tensors);
    assert_eq!(saved.ring, "pread", "io_uring would hand each write to a kernel worker");
}

#[test]
fn a_full_disk_says_how_much_is_missing_and_leaves_the_old_file() {
    let mut mounts = match Mounts::new() {
        Ok(mounts) => mounts,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    for make in [&["mkfs.ext4", "-q", "-m", "0"][..], &["mkfs.xfs", "-q"]] {
        let mib = if make[0] == "mkfs.xfs" { 320 } else { 16 };
        let place = match mounts.image(make, "defaults", 4096, mib) {
            Ok((place, _)) => place,
            Err(why) => {
                eprintln!("SKIPPED for {}: {why}", make[0]);
                continue;
            }
        };
        let path = place.join("m.safetensors");
        let old = [tensor("t", DType::F16, &[70_001], 1)];
        let saved = save(&path, &views(&old)).unwrap();
        assert!(saved.direct, "{make:?}");
        assert_same(&path, &old);
        let bytes = vec![1u8; (mib as usize) << 20];
        let error = save(&path, &[SaveTensor::new("big", DType::U8, &[bytes.len() as u64], &bytes)]).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.errno(), Some(libc::ENOSPC), "{text}");
        assert!(text.contains("bytes too few") && text.contains("free some space"), "{text}");
        assert_same(&path, &old);
        assert!(names(&place).iter().all(|name| name == "lost+found" || name == "m.safetensors"));
    }
}

#[test]
fn more_shards_than_files_may_be_open_are_refused_before_anything_is_written() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives both calls. The other tests here open far fewer files.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_cur.min(1024);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    let directory = disk_directory();
    let tensors: Vec<Tensor> = (0..1020).map(|n| tensor(&format!("t{n}"), DType::U8, &[8], n)).collect();
    let save = Save::new(&Device::host()).shard_bytes_max(8);
    let error = save.save(directory.path().join("m.safetensors"), &views(&tensors)).unwrap_err().to_string();
    assert!(error.contains("makes 1020 shards") && error.contains("ulimit -n"), "{error}");
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn an_index_that_is_a_pipe_is_refused_and_not_waited_for() {
    let _within = common::process::Within::seconds(300);
    let directory = disk_directory();
    let path = directory.path().join("model.safetensors.index.json");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("a pipe, socket or device"), "{error}");
    // Nor by a save, which looks for the shards before, and puts its own index in its place.
    let tensors: Vec<Tensor> = (0..4).map(|n| tensor(&format!("t{n}"), DType::U8, &[6000], n)).collect();
    let save = Save::new(&Device::host()).shard_bytes_max(12_000);
    save.save(directory.path().join("model.safetensors"), &views(&tensors)).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensors().len(), 4);
}
