//! Every format, written by a small writer of our own and read back: the bytes of every field of every sample.

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "compressed")]
mod compressed;
mod read_back;
mod writers;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::{bytes_of, disk_directory};
use proptest::prelude::*;
use strait::dataset::{Format, IndexOutcome, Indexing, Options};
use strait::order::Shuffle;
use strait::{DType, Dataset, Device, Loader};
use writers::{Column, Sample, sample};

/// Samples as the dataset's own extents give them, by name of field.
fn by_extents(dataset: &Dataset) -> Vec<Sample> {
    let files: Vec<File> = dataset.shards().iter().map(|shard| File::open(&shard.path).unwrap()).collect();
    let field = |id, number: usize| {
        let bytes = dataset.extent(id, number).map(|extent| {
            let mut bytes = vec![0; extent.len as usize];
            files[extent.shard as usize].read_exact_at(&mut bytes, extent.offset).unwrap();
            bytes
        });
        let field = &dataset.fields()[number];
        assert!(
            bytes.as_ref().is_none_or(|b| field.fixed_bytes.is_none_or(|fixed| fixed == b.len() as u64)),
            "{field:?}"
        );
        (field.name.to_string(), bytes)
    };
    let samples = (0..dataset.len()).map(|id| (0..dataset.fields().len()).map(|number| field(id, number)).collect());
    let samples = samples.collect();
    dataset.check().unwrap();
    samples
}

/// The same through a loader.
fn by_loader(dataset: &Dataset) -> Vec<Sample> {
    let builder = Loader::builder(dataset.clone()).device(Device::host()).batch_size(5).block_bytes(64 << 10);
    let mut loader = builder.shuffle(Shuffle::Full).build().unwrap();
    let mut samples = BTreeMap::new();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        assert_eq!(batch.fields(), dataset.fields());
        for (i, &id) in batch.samples().iter().enumerate().take(batch.len() - batch.padded() as usize) {
            let field = |field: &strait::dataset::Field| {
                let bytes = batch.field(&field.name).unwrap().host_bytes(i).unwrap();
                (field.name.to_string(), bytes.map(<[u8]>::to_vec))
            };
            assert!(samples.insert(id, batch.fields().iter().map(field).collect()).is_none(), "{id} came twice");
        }
    }
    samples.into_values().collect()
}

/// In the order of names, without those that a sample lacks.
fn plain(samples: Vec<Sample>) -> Vec<Vec<(String, Vec<u8>)>> {
    let one = |sample: Sample| {
        let mut fields: Vec<_> = sample.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
        fields.sort();
        fields
    };
    samples.into_iter().map(one).collect()
}

#[track_caller]
fn check(dataset: &Dataset, format: &str, want: &[Sample]) {
    assert_eq!((dataset.format(), dataset.len()), (format, want.len() as u64));
    assert_eq!(plain(by_extents(dataset)), plain(want.to_vec()));
}

#[track_caller]
fn open(path: &PathBuf) -> Dataset {
    let dataset = Dataset::open(&[path]).unwrap();
    check_sidecars(&dataset, path, &Dataset::options());
    dataset
}

/// A dataset is the same from sidecars, whose checksums are those of the bytes.
#[track_caller]
fn check_sidecars(dataset: &Dataset, path: &PathBuf, options: &Options) {
    let apart = tempfile::tempdir().unwrap();
    let options = options.clone().index_dir(apart.path());
    let how = Indexing { checksums: true, ..Indexing::default() };
    let shards = options.index(&[path], &how, &|_| true).unwrap();
    assert!(shards.iter().all(|shard| matches!(shard.outcome, IndexOutcome::Written)), "{shards:?}");
    let same = options.open(&[path]).unwrap();
    assert_eq!(same.index_state().sidecars, same.shards().len() as u64);
    assert_eq!((same.len(), same.fields()), (dataset.len(), dataset.fields()));
    let bytes = by_extents(&same);
    for (id, sample) in (0..).zip(&bytes) {
        for (field, (name, bytes)) in sample.iter().enumerate() {
            assert_eq!(same.extent(id, field), dataset.extent(id, field), "{name} of {id}");
            assert_eq!(same.crc32c(id, field), bytes.as_ref().map(|bytes| crc32c::crc32c(bytes)), "{name} of {id}");
        }
    }
    let how = Indexing { check: true, ..Indexing::default() };
    let shards = options.index(&[path], &how, &|_| true).unwrap();
    assert!(shards.iter().all(|shard| matches!(shard.outcome, IndexOutcome::Right)), "{shards:?}");
}

/// Sizes around the blocks of disks.
const EDGES: [u64; 9] = [1, 2, 511, 512, 513, 4094, 4095, 4096, 4097];

/// Even sizes around them, for tokens.
const EVEN: [u64; 8] = [2, 510, 512, 514, 4094, 4096, 4098, 8192];

fn edges(edges: &[u64]) -> Vec<Vec<u8>> {
    (0..2).flat_map(|seed| edges.iter().map(move |&len| bytes_of(seed * 100 + len, 0, len))).collect()
}

fn one_field(name: &str, values: &[Vec<u8>]) -> Vec<Sample> {
    values.iter().map(|value| sample(&[(name, value)])).collect()
}

/// Both ways, the second through a loader with its rings and regions, which refuses to load nothing.
#[track_caller]
fn check_all(dataset: &Dataset, format: &str, want: &[Sample]) {
    check(dataset, format, want);
    if !want.is_empty() {
        assert_eq!(plain(by_loader(dataset)), plain(want.to_vec()));
    }
}

#[test]
fn every_format_holds_samples_around_the_edges_of_blocks() {
    let dir = disk_directory();
    for len in EDGES {
        let rows: Vec<Vec<u8>> = (0..7).map(|seed| bytes_of(seed, 0, len)).collect();
        let path = writers::npy(dir.path().join("rows.npy"), 1, "|u1", &len.to_string(), &rows);
        check_all(&open(&path), "npy", &one_field("array", &rows));
        let path =
            writers::safetensors(dir.path().join("rows.safetensors"), &[("x", "U8", vec![7, len], rows.concat())]);
        check_all(&open(&path), "safetensors", &one_field("x", &rows));
    }
    let records = edges(&EDGES);
    let path = writers::tfrecord(dir.path().join("a.tfrecord"), &records);
    check_all(&open(&path), "tfrecord", &one_field("record", &records));
    let examples =
        records.iter().map(|record| writers::example(&[("x".into(), 1, record.clone())])).collect::<Vec<_>>();
    let path = writers::tfrecord(dir.path().join("b.tfrecord"), &examples);
    check_all(&open(&path), "tfrecord", &one_field("x", &records));
    let tokens = edges(&EVEN);
    let path = writers::megatron(&dir.path().join("m"), 8, 2, &tokens, None);
    check_all(&open(&path), "megatron", &one_field("tokens", &tokens));
    let path = writers::ds(dir.path().join("d.ds"), 2, &tokens);
    check_all(&open(&path), "tokens", &one_field("tokens", &tokens));
    for (i, len) in EVEN.into_iter().enumerate() {
        let path = writers::llm_c(dir.path().join(format!("{i}.bin")), 2, &tokens[i]);
        check_all(&open(&path), "tokens", &one_field("tokens", &[bytes_of(len, 0, len)]));
    }
}

#[test]
fn numpy_and_safetensors_say_type_and_shape() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<u8>> = (0..5).map(|seed| bytes_of(seed, 0, 24)).collect();
    for version in 1..=3 {
        let dataset = open(&writers::npy(dir.path().join("v.npy"), version, "<f4", "2,3", &rows));
        let field = &dataset.fields()[0];
        assert_eq!(
            (field.dtype, field.shape.as_deref(), field.fixed_bytes),
            (Some(DType::F32), Some(&[2, 3][..]), Some(24))
        );
        check(&dataset, "npy", &one_field("array", &rows));
    }
    let labels: Vec<u8> = (0..10).collect();
    let tensors = [
        ("image", "BF16", vec![5, 4], bytes_of(1, 0, 40)),
        ("label", "I16", vec![5], labels),
        ("scale", "F32", vec![], vec![0; 4]),
    ];
    let dataset = open(&writers::safetensors(dir.path().join("x.safetensors"), &tensors));
    let shapes: Vec<_> =
        dataset.fields().iter().map(|f| (f.dtype.unwrap().name(), f.shape.clone().unwrap().to_vec())).collect();
    assert_eq!(shapes, [("bf16", vec![4]), ("i16", vec![])]);
    let row = |i: usize| sample(&[("image", &tensors[0].3[8 * i..][..8]), ("label", &tensors[1].3[2 * i..][..2])]);
    check(&dataset, "safetensors", &(0..5).map(row).collect::<Vec<_>>());
    let path = writers::safetensors(
        dir.path().join("y.safetensors"),
        &[("a", "U8", vec![2], vec![0; 2]), ("b", "U8", vec![3], vec![0; 3])],
    );
    let text = Dataset::open(&[path]).unwrap_err().to_string();
    assert!(text.contains("strait load") && text.contains("`b` has 3"), "{text}");
}

#[test]
fn token_files_are_told_by_header_or_option() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = bytes_of(3, 0, 1000);
    let raw = dir.path().join("train.bin");
    std::fs::write(&raw, &tokens).unwrap();
    let text = Dataset::open(&[&raw]).unwrap_err().to_string();
    assert!(text.contains("dtype"), "{text}");
    for (dtype, options) in [(DType::U16, Dataset::options()), (DType::U32, Dataset::options().format(Format::Tokens))]
    {
        let dataset = options.dtype(dtype).open(&[&raw]).unwrap();
        assert_eq!(dataset.fields()[0].dtype, Some(dtype));
        check(&dataset, "tokens", &one_field("tokens", std::slice::from_ref(&tokens)));
    }
    // OLMo's files have no header in spite of their name.
    let olmo = dir.path().join("part-0-00000.npy");
    std::fs::write(&olmo, &tokens).unwrap();
    let text = Dataset::options().format(Format::Npy).open(&[&olmo]).unwrap_err().to_string();
    assert!(text.contains("as tokens"), "{text}");
    let dataset = Dataset::options().format(Format::Tokens).dtype(DType::U32).open(&[&olmo]).unwrap();
    check(&dataset, "tokens", &one_field("tokens", &[tokens]));
    let documents = [vec![1; 6], vec![], vec![2; 10]];
    let ds = writers::ds(dir.path().join("x.ds"), 2, &documents);
    for named in [ds.clone(), ds.with_extension("ds.index"), ds.with_extension("ds.metadata")] {
        check(&open(&named), "tokens", &one_field("tokens", &documents));
    }
}

#[test]
fn megatron_opens_by_either_file_or_their_common_name() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("text.v2_document");
    let sequences = [bytes_of(1, 0, 12), vec![], bytes_of(2, 0, 400)];
    for (code, item_bytes, dtype) in [(8, 2, "u16"), (4, 4, "i32"), (1, 1, "u8"), (3, 2, "i16"), (2, 1, "i8")] {
        for modes in [None, Some(&[0, 1, 0][..])] {
            let idx = writers::megatron(&dir.path().join("x"), code, item_bytes, &sequences, modes);
            let idx_of = |extension: &str| PathBuf::from(format!("{}.{extension}", prefix.display()));
            std::fs::rename(&idx, idx_of("idx")).unwrap();
            std::fs::rename(idx.with_extension("bin"), idx_of("bin")).unwrap();
            for path in [idx_of("idx"), idx_of("bin"), prefix.clone(), dir.path().to_owned()] {
                let dataset = open(&path);
                assert_eq!(dataset.fields()[0].dtype.unwrap().name(), dtype, "{path:?}");
                check(&dataset, "megatron", &one_field("tokens", &sequences));
            }
        }
    }
}

const COLUMNS: [&[Column]; 4] = [
    &[("x", "bytes", None)],
    &[("id", "int", Some(8)), ("x", "jpeg", None), ("y", "ndarray:uint16:2,3", Some(12))],
    &[("a", "str", None), ("id", "uint16", Some(2)), ("z", "json", None)],
    &[("f", "float32", Some(4)), ("i", "int", Some(8))],
];

fn mds_samples(columns: &[Column], lens: &[u64]) -> Vec<Sample> {
    let value = |i: usize, len: u64, column: &Column| {
        let len = column.2.map_or(len + column.0.len() as u64 - 1, |bytes| bytes as u64);
        (column.0.to_string(), Some(bytes_of(i as u64, 0, len)))
    };
    let one = |(i, &len): (usize, &u64)| columns.iter().map(|column| value(i, len, column)).collect();
    lens.iter().enumerate().map(one).collect()
}

#[test]
fn mds_and_litdata_hold_samples_around_the_edges_of_blocks() {
    let lens: Vec<u64> = EDGES.into_iter().chain([0, 4096, 1]).collect();
    for columns in COLUMNS {
        let dir = disk_directory();
        let samples = mds_samples(columns, &lens);
        let directory = writers::mds(dir.path(), columns, &samples, 5);
        check_all(&open(&directory), "mds", &samples);
        check(&open(&directory.join("index.json")), "mds", &samples);
    }
    let dir = disk_directory();
    let items: Vec<Vec<Vec<u8>>> =
        lens.iter().map(|&len| vec![bytes_of(len, 0, len), bytes_of(9, 0, 8), vec![1; 4]]).collect();
    let path = writers::litdata(dir.path(), "PyTreeLoader", &["jpeg", "int", "no_header_numpy:5"], &[&items]);
    let want = |item: &Vec<Vec<u8>>| sample(&[("0", &item[0]), ("1", &item[1]), ("2", &item[2])]);
    let dataset = open(&path);
    check_all(&dataset, "litdata", &items.iter().map(want).collect::<Vec<_>>());
    let shapes: Vec<_> = dataset.fields().iter().map(|f| (f.dtype.map(DType::name), f.shape.as_deref())).collect();
    assert_eq!(shapes, [(None, None), (Some("i64"), Some(&[][..])), (Some("u16"), Some(&[2][..]))]);
    let tokens = edges(&EVEN);
    let items: Vec<Vec<Vec<u8>>> = tokens.iter().map(|tokens| vec![tokens.clone()]).collect();
    let path = writers::litdata(dir.path(), "TokensLoader", &["no_header_tensor:20"], &[&items]);
    check_all(&open(&path), "litdata", &one_field("tokens", &tokens));
}

#[test]
fn mds_columns_say_type_and_shape() {
    let dir = tempfile::tempdir().unwrap();
    let samples = mds_samples(COLUMNS[1], &[5, 5]);
    let dataset = open(&writers::mds(dir.path(), COLUMNS[1], &samples, 1));
    let fields: Vec<_> = dataset
        .fields()
        .iter()
        .map(|f| (&*f.name, f.dtype.map(DType::name), f.shape.as_deref(), f.fixed_bytes))
        .collect();
    let want = [
        ("id", Some("i64"), Some(&[][..]), Some(8)),
        ("x", None, None, Some(5)),
        ("y", Some("u16"), Some(&[2, 3][..]), Some(12)),
    ];
    assert_eq!(fields, want);
    assert_eq!(dataset.shards()[1].path.strip_prefix(dir.path()).unwrap().to_str(), Some("more/shard.00001.mds"));
}

/// Mutant that this catches: names joined to the directory as they are.
#[test]
fn an_index_names_files_beneath_its_directory_only() {
    let all = tempfile::tempdir().unwrap();
    let root = all.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let samples = mds_samples(COLUMNS[0], &[5]);
    let raw = writers::mds_shard(COLUMNS[0], &samples);
    std::fs::write(all.path().join("out.mds"), &raw).unwrap();
    std::os::unix::fs::symlink("../out.mds", root.join("link.mds")).unwrap();
    let absolute = all.path().join("out.mds").display().to_string();
    for name in ["../out.mds", "link.mds", &absolute, ""] {
        let entry = writers::mds_entry(COLUMNS[0], 1, name, &raw, None);
        std::fs::write(root.join("index.json"), format!("{{\"version\":2,\"shards\":[{entry}]}}")).unwrap();
        let error = Dataset::open(&[&root]).unwrap_err();
        assert!(
            matches!(error, strait::Error::Format { .. }) && error.path() == Some(&root.join("index.json")),
            "{error}"
        );
        let chunk = format!(
            "{{\"chunks\":[{{\"chunk_size\":1,\"filename\":\"{name}\"}}],\"config\":{{\"data_format\":[\"bytes\"]}}}}"
        );
        std::fs::write(root.join("index.json"), chunk).unwrap();
        assert!(Dataset::open(&[&root]).unwrap_err().to_string().contains("index.json"));
    }
}

/// All windows of an epoch, as their bytes; each of at most so many pieces.
fn windows(dataset: &Dataset, window_tokens: u64, pieces_max: usize) -> Vec<Vec<u8>> {
    let builder =
        Loader::builder(dataset.clone()).device(Device::host()).batch_size(3).windows(window_tokens, window_tokens);
    let mut windows = Vec::new();
    for batch in builder.build().unwrap().epoch(0) {
        let batch = batch.unwrap();
        for i in 0..batch.len() - batch.padded() as usize {
            let view = batch.window(i).unwrap();
            assert!(view.pieces.len() <= pieces_max, "{} pieces: {}", view.pieces.len(), dataset.format());
            let pieces = (0..view.pieces.len()).flat_map(|piece| view.bytes.host_bytes(piece).unwrap().unwrap());
            windows.push(pieces.copied().collect());
        }
    }
    windows
}

/// Mutant that this catches: each number of a NumPy file a document of its own.
#[test]
fn windows_go_over_the_tokens_of_every_format_that_has_some() {
    let dir = disk_directory();
    // Two shards of 16-bit tokens, whose documents are not as long as windows.
    let documents: Vec<Vec<u8>> = [6, 0, 1000, 2, 602, 4098].map(|len| bytes_of(len, 0, len)).into();
    let (one, two) = documents.split_at(3);
    let all = documents.concat();
    let want: Vec<Vec<u8>> = all.chunks_exact(2 * 50).map(<[u8]>::to_vec).collect();
    let both = |name: &str, write: &dyn Fn(PathBuf, &[Vec<u8>]) -> PathBuf| {
        [("a", one), ("b", two)].map(|(prefix, documents)| write(dir.path().join(format!("{prefix}{name}")), documents))
    };
    let raw = |path: PathBuf, documents: &[Vec<u8>]| {
        std::fs::write(&path, documents.concat()).unwrap();
        path
    };
    let rows = |path: PathBuf, documents: &[Vec<u8>]| {
        let tokens: Vec<Vec<u8>> = documents.concat().chunks(2).map(<[u8]>::to_vec).collect();
        writers::npy(path, 1, "<u2", "", &tokens)
    };
    let datasets = [
        Dataset::options().dtype(DType::U16).open(&both(".bin", &raw)),
        Dataset::open(&both(".ds", &|path, documents| writers::ds(path, 2, documents))),
        Dataset::open(&both("-l.bin", &|path, documents| writers::llm_c(path, 2, &documents.concat()))),
        Dataset::open(&both("-m", &|path, documents| writers::megatron(&path, 8, 2, documents, None))),
        Dataset::open(&both(".npy", &rows)),
    ];
    let datasets = datasets.map(Result::unwrap);
    // Where there are no documents, a shard is one, and a window crosses from one to the other at most.
    for (dataset, pieces) in datasets.iter().zip([2, 5, 2, 5, 2]) {
        assert_eq!(windows(dataset, 50, pieces), want, "{}", dataset.format());
    }
    // Joined with others, single numbers stay what they are.
    let joined = Dataset::concat(vec![datasets[4].clone()]).unwrap();
    assert_eq!(windows(&joined, 50, 2), want);
    let items: Vec<Vec<Vec<u8>>> = documents.iter().map(|tokens| vec![tokens.clone()]).collect();
    let litdata = open(&writers::litdata(dir.path(), "TokensLoader", &["no_header_tensor:20"], &[&items]));
    assert_eq!(windows(&litdata, 50, 5), want);
    let records =
        Loader::builder(Dataset::records(&both(".bin", &raw), 2).unwrap()).device(Device::host()).windows(5, 5);
    let Err(error) = records.build() else { panic!("records do not say what they are") };
    assert!(error.to_string().contains("the option `tokens`"), "{error}");
}

#[test]
fn a_megatron_index_that_leads_out_of_its_bin_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let idx = writers::megatron(&dir.path().join("x"), 8, 2, &[vec![1; 6], vec![2; 4]], None);
    let whole = std::fs::read(&idx).unwrap();
    for (at, bytes) in [
        (34, &6i32.to_le_bytes()[..]),
        (34, &(-1i32).to_le_bytes()),
        (42, &5i64.to_le_bytes()),
        (42, &i64::MAX.to_le_bytes()),
        (42, &(-1i64).to_le_bytes()),
    ] {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&idx, damaged).unwrap();
        let dataset = Dataset::open(&[&idx]).unwrap();
        let gone = (0..2).filter(|&id| dataset.extent(id, 0).is_none()).count();
        assert_eq!(gone, 1, "{at} {bytes:?}");
        assert_eq!(dataset.check().unwrap_err().path(), Some(idx.as_path()));
    }
}

#[test]
fn documents_of_megatron_end_after_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    let idx = writers::megatron(&dir.path().join("x"), 8, 2, &[vec![1; 6], vec![2; 4], vec![3; 2]], None);
    let mut bytes = std::fs::read(&idx).unwrap();
    let bounds = bytes.len() - 4 * 8;
    bytes[bounds + 8..bounds + 16].copy_from_slice(&3u64.to_le_bytes());
    std::fs::write(&idx, bytes).unwrap();
    let error = Dataset::open(&[&idx]).unwrap_err();
    assert!(error.to_string().contains("bound 2 of documents is 2"), "{error}");
}

/// Mutants that this catches: varints read as text, in a batch and through a sidecar.
#[test]
fn integers_of_an_example_are_what_was_written() {
    let (dir, indexes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let records: Vec<_> = (45..=60u8).map(|i| writers::example(&[("label".into(), 3, vec![i])])).collect();
    let several = writers::example(&[("label".into(), 3, vec![49, 50])]);
    let path = writers::tfrecord(dir.path().join("a.tfrecord"), &[records, vec![several]].concat());
    let options = Dataset::options().index_dir(indexes.path());
    for sidecars in [0, 1] {
        let dataset = options.open(&[&path]).unwrap();
        assert_eq!(dataset.index_state().sidecars, sidecars);
        assert!(dataset.fields()[0].varints);
        let builder = Loader::builder(dataset).device(Device::host()).batch_size(17).shuffle(Shuffle::Sequential);
        let mut loader = builder.build().unwrap();
        let batch = loader.epoch(0).next().unwrap().unwrap();
        let labels = batch.field("label").unwrap();
        for i in 0..16 {
            assert_eq!(labels.integer(i).unwrap(), Some(45 + i as i64));
        }
        assert!(labels.integer(16).unwrap_err().to_string().contains("dataset::varints"));
        options.index(&[&path], &Indexing::default(), &|_| true).unwrap();
    }
}

/// Mutants that this catches: each shard asked for itself what its records are; kinds compared within a shard only.
#[test]
fn shards_of_tfrecords_are_of_one_kind() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, record: Vec<u8>| writers::tfrecord(dir.path().join(name), &[record]);
    let ints = put("a.tfrecord", writers::example(&[("x".into(), 3, vec![1])]));
    let bytes = put("b.tfrecord", writers::example(&[("x".into(), 1, vec![1])]));
    let plain = put("c.tfrecord", b"plain text".to_vec());
    let nothing = writers::tfrecord(dir.path().join("d.tfrecord"), &[]);
    for (shards, what) in
        [([&ints, &bytes], "another kind"), ([&ints, &plain], "whole records"), ([&plain, &ints], "Examples")]
    {
        let error = Dataset::open(&shards).unwrap_err();
        assert_eq!(error.path(), Some(shards[1].as_path()));
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(Dataset::options().examples(false).open(&shards).unwrap().len(), 2);
    }
    assert_eq!(Dataset::open(&[&nothing, &ints]).unwrap().len(), 1);
}

/// A name, the number of its list, and its bytes.
fn features() -> impl Strategy<Value = Vec<(String, u8, Vec<u8>)>> {
    let name = prop::sample::select(vec!["a", "image", "f"]);
    let list = |(name, mut bytes): (&str, Vec<u8>)| {
        let floats = name == "f";
        bytes.truncate(if floats { bytes.len() / 4 * 4 } else { bytes.len() });
        (name.to_string(), 1 + u8::from(floats), bytes)
    };
    let features = prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..600), 0..4);
    features.prop_map(move |features| features.into_iter().map(list).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn examples_read_back(records in prop::collection::vec(features(), 1..12)) {
        prop_assume!(!records[0].is_empty());
        let dir = tempfile::tempdir().unwrap();
        let examples: Vec<_> = records.iter().map(|record| writers::example(record)).collect();
        let path = writers::tfrecord(dir.path().join("a.tfrecord"), &examples);
        let dataset = Dataset::options().verify(true).open(&[&path]).unwrap();
        // A list of no floats is no value.
        let field = |(name, list, bytes): &(String, u8, Vec<u8>)| (name.clone(), (*list == 1 || !bytes.is_empty()).then(|| bytes.clone()));
        let want: Vec<Sample> = records.iter().map(|record| record.iter().map(field).collect()).collect();
        check(&dataset, "tfrecord", &want);
        let whole = Dataset::options().examples(false).open(&[&path]).unwrap();
        check(&whole, "tfrecord", &one_field("record", &examples));
    }

    #[test]
    fn mds_reads_back(lens in prop::collection::vec(0..900u64, 0..12), columns in 0..COLUMNS.len(), first in 0..12usize) {
        let dir = tempfile::tempdir().unwrap();
        let samples = mds_samples(COLUMNS[columns], &lens);
        let dataset = open(&writers::mds(dir.path(), COLUMNS[columns], &samples, first));
        check(&dataset, "mds", &samples);
    }

    #[test]
    fn tokens_read_back(documents in prop::collection::vec(prop::collection::vec(any::<u16>(), 0..300), 1..12), wide in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let item = if wide { 4 } else { 2 };
        let bytes = |tokens: &Vec<u16>| tokens.iter().flat_map(|&t| u32::from(t).to_le_bytes()[..item].to_vec()).collect::<Vec<u8>>();
        let documents: Vec<Vec<u8>> = documents.iter().map(bytes).collect();
        let total = documents.concat();
        let want = one_field("tokens", &documents);
        // Without a token there is no telling how wide one is.
        let dtype = if wide { DType::U32 } else { DType::U16 };
        let ds = writers::ds(dir.path().join("x.ds"), item, &documents);
        check(&Dataset::options().dtype(dtype).open(&[&ds]).unwrap(), "tokens", &want);
        let code = if wide { 4 } else { 8 };
        check(&open(&writers::megatron(&dir.path().join("m"), code, item, &documents, None)), "megatron", &want);
        let llm_c = open(&writers::llm_c(dir.path().join("l.bin"), item, &total));
        check(&llm_c, "tokens", &if total.is_empty() { vec![] } else { one_field("tokens", &[total]) });
    }
}
