//! What each fuzz target does with its bytes: no input may make a parser panic, run away, or point out of a shard.
//!
//! Files are written into memory (`/dev/shm`) and opened as users open them, so that nothing has to be exported for
//! fuzzing. Formats of two files take both from one input: a `u16` (little-endian) says how long the first is.
//! `tests/fuzz_corpus.rs` runs the same over `fuzz/corpus` without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use strait::dataset::{Format, Options};
use strait::{DType, Dataset};

/// A target's name, and what it does.
type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 13] = [
    ("npy", npy),
    ("tokens", tokens),
    ("ds", ds),
    ("megatron", megatron),
    ("mds", mds),
    ("mds_shard", mds_shard),
    ("litdata", litdata),
    ("tfrecord", tfrecord),
    ("safetensors", safetensors),
    ("tar", tar),
    ("sidecar", sidecar),
    ("cursor", cursor),
    ("manifest", manifest),
];

/// Samples of a dataset that are looked at.
const LOOK_AT: u64 = 512;

fn options(format: Format) -> Options {
    Dataset::options().format(format)
}

/// A directory of this process, emptied.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        base.join(format!("strait-fuzz-{}", std::process::id()))
    });
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).expect("a directory to write to");
    directory
}

/// Removes what was written.
pub fn clean() {
    let _ = fs::remove_dir_all(directory());
}

fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory().join(name);
    fs::write(&path, bytes).expect("room for a small file");
    path
}

/// The same without emptying the directory.
fn put_beside(path: &Path, name: &str, bytes: &[u8]) {
    fs::write(path.with_file_name(name), bytes).expect("room for a small file");
}

fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return (data, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()))
}

/// Opens it and looks at what it says; every extent must lie inside its shard.
fn open(options: &Options, path: &Path) {
    let Ok(dataset) = options.open(&[path]) else { return };
    let _ = (dataset.fingerprint(), dataset.fields().len());
    let last = dataset.len().saturating_sub(LOOK_AT / 2);
    let samples = (0..dataset.len().min(LOOK_AT)).chain(last.max(LOOK_AT)..dataset.len());
    for (sample, field) in samples.flat_map(|sample| (0..dataset.fields().len()).map(move |field| (sample, field))) {
        if let Some(extent) = dataset.extent(sample, field) {
            let bytes = dataset.shards()[extent.shard as usize].bytes;
            assert!(extent.offset.checked_add(extent.len).is_some_and(|end| end <= bytes), "{extent:?} of {bytes}");
        }
    }
    let _ = dataset.check();
}

fn npy(data: &[u8]) {
    open(&options(Format::Npy), &put("x.npy", data));
}

fn tokens(data: &[u8]) {
    let path = put("x.bin", data);
    open(&options(Format::Tokens), &path);
    open(&options(Format::Tokens).dtype(DType::U16), &path);
}

fn ds(data: &[u8]) {
    let (index, tokens) = split(data);
    let path = put("x.ds", tokens);
    put_beside(&path, "x.ds.index", index);
    open(&Dataset::options(), &path);
}

fn megatron(data: &[u8]) {
    let (index, tokens) = split(data);
    let path = put("x.idx", index);
    put_beside(&path, "x.bin", tokens);
    open(&Dataset::options(), &path);
}

fn mds(data: &[u8]) {
    let (index, shard) = split(data);
    let path = put("index.json", index);
    put_beside(&path, "shard.00000.mds", shard);
    put_beside(&path, "shard.00000.mds.zstd", shard);
    open(&options(Format::Mds), &path);
}

/// The shard alone, under an index that fits its size.
fn mds_shard(data: &[u8]) {
    let samples = data.first_chunk::<4>().map_or(0, |n| u32::from_le_bytes(*n));
    let bytes = data.len();
    let index = format!(
        "{{\"version\":2,\"shards\":[{{\"column_names\":[\"a\",\"b\",\"c\"],\"column_encodings\":[\"int\",\"str\",\"bytes\"],\
         \"column_sizes\":[8,null,null],\"compression\":null,\"format\":\"mds\",\"version\":2,\"samples\":{samples},\
         \"raw_data\":{{\"basename\":\"s.mds\",\"bytes\":{bytes},\"hashes\":{{}}}},\"zip_data\":null}}]}}"
    );
    let path = put("index.json", index.as_bytes());
    put_beside(&path, "s.mds", data);
    open(&options(Format::Mds), &path);
}

fn litdata(data: &[u8]) {
    let (index, items) = split(data);
    let path = put("index.json", index);
    put_beside(&path, "chunk-0-0.bin", items);
    open(&options(Format::LitData), &path);
}

fn tfrecord(data: &[u8]) {
    let path = put("x.tfrecord", data);
    open(&options(Format::TfRecord), &path);
    open(&options(Format::TfRecord).examples(true).verify(true), &path);
}

fn safetensors(data: &[u8]) {
    open(&options(Format::Safetensors), &put("x.safetensors", data));
}

fn tar(data: &[u8]) {
    open(&options(Format::WebDataset), &put("x.tar", data));
}

/// A sidecar beside a shard that is always the same, and as old.
fn sidecar(data: &[u8]) {
    let path = put("x.tar", include_bytes!("../corpus/tar/ustar"));
    let shard = fs::File::options().write(true).open(&path).expect("it was just written");
    shard.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).expect("it is ours");
    put_beside(&path, "x.tar.strait", data);
    open(&options(Format::WebDataset), &path);
}

fn cursor(data: &[u8]) {
    if let Ok(cursor) = strait::order::Cursor::parse(data) {
        let text = cursor.to_json();
        assert_eq!(strait::order::Cursor::parse(text.as_bytes()).ok().as_ref(), Some(&cursor), "{text}");
    }
}

fn manifest(data: &[u8]) {
    let _ = strait::weights::Manifest::parse(Path::new("manifest"), data);
}

/// Runs the target of that name.
pub fn run(target: &str, data: &[u8]) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target in the list");
    run(data);
}
