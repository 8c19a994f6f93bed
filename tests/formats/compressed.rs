//! Compressed MDS shards: decompressed once, whole or not at all, and said so.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use strait::{Dataset, Device, Error, Loader};

use crate::writers::{self, Sample};
use crate::{COLUMNS, check, mds_samples};

fn squeeze(compression: &str, raw: &[u8]) -> Vec<u8> {
    match compression {
        "zstd" => ruzstd::encoding::compress_to_vec(raw, ruzstd::encoding::CompressionLevel::Fastest),
        "gz" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(raw).unwrap();
            out.finish().unwrap()
        }
        "bz2" => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            out.write_all(raw).unwrap();
            out.finish().unwrap()
        }
        "snappy" => snap::raw::Encoder::new().compress_vec(raw).unwrap(),
        // `brotli.compress(b"")` of nothing is one byte; what it makes of more is in the tests with Python.
        other => panic!("{other}"),
    }
}

/// A directory with one compressed shard; `hash` is the SHA-256 that the index gives, if any.
fn dataset(
    directory: &Path,
    compression: &str,
    samples: &[Sample],
    hash: &str,
    damage: impl Fn(&mut Vec<u8>),
) -> PathBuf {
    let raw = writers::mds_shard(COLUMNS[1], samples);
    let mut zip = squeeze(compression, &raw);
    damage(&mut zip);
    let name = format!("shard.00000.mds.{compression}");
    fs::write(directory.join(&name), &zip).unwrap();
    let entry =
        writers::mds_entry(COLUMNS[1], samples.len(), "shard.00000.mds", &raw, Some((compression, &name, zip.len())));
    let entry = entry.replacen("\"hashes\":{}", &format!("\"hashes\":{{{hash}}}"), 1);
    fs::write(directory.join("index.json"), format!("{{\"version\":2,\"shards\":[{entry}]}}")).unwrap();
    directory.to_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn compressed_shards_are_decompressed_once_and_it_is_said() {
    let samples = mds_samples(COLUMNS[1], &[0, 511, 70_000, 4097]);
    for compression in ["zstd", "gz", "bz2", "snappy"] {
        let (dir, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dataset(dir.path(), compression, &samples, "", |_| {});
        let elsewhere = Dataset::options().index_dir(apart.path()).open(&[&path]).unwrap();
        check(&elsewhere, "mds", &samples);
        let zip = format!("shard.00000.mds.{compression}");
        assert_eq!(names(dir.path()), ["index.json", &zip], "only the directory of indexes is written to");
        assert_eq!(names(apart.path()).len(), 1);
        let first = Dataset::open(&[&path]).unwrap();
        check(&first, "mds", &samples);
        assert!(first.fallbacks()[0].to_string().contains(compression), "{:?}", first.fallbacks());
        let loader = Loader::builder(first).device(Device::host()).batch_size(2).build().unwrap();
        assert!(loader.stats().fallbacks.iter().any(|said| said.to_string().contains("processor")));
        assert_eq!(names(dir.path()), ["index.json", "shard.00000.mds", &zip]);
        // From now on it is a raw dataset.
        fs::remove_file(dir.path().join(&zip)).unwrap();
        let second = Dataset::open(&[&path]).unwrap();
        check(&second, "mds", &samples);
        assert!(second.fallbacks().is_empty());
    }
}

/// Mutants that this catches: a size not compared; a hash not compared.
#[test]
fn a_damaged_compressed_shard_leaves_nothing_behind() {
    let samples = mds_samples(COLUMNS[1], &[0, 511, 70_000, 4097]);
    let wrong = format!("\"sha256\":\"{}\"", "ab".repeat(32));
    let cut = |zip: &mut Vec<u8>| zip.truncate(zip.len() / 2);
    let flip = |zip: &mut Vec<u8>| *zip.last_mut().unwrap() ^= 0xff;
    let other = |zip: &mut Vec<u8>| *zip = squeeze("gz", b"too short");
    let more = |zip: &mut Vec<u8>| *zip = squeeze("gz", &vec![0; 10 << 20]);
    type Case<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Vec<u8>));
    let cases: [Case; 8] = [
        ("gz", "", &cut),
        ("zstd", "", &cut),
        ("bz2", "", &cut),
        ("snappy", "", &cut),
        ("gz", "", &flip),
        ("gz", "", &other),
        ("gz", "", &more),
        ("gz", &wrong, &|_| {}),
    ];
    for (compression, hash, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dataset(dir.path(), compression, &samples, hash, damage);
        let error = Dataset::open(&[&path]).unwrap_err();
        assert_eq!(matches!(error, Error::Corrupt { .. }), !hash.is_empty(), "{error}");
        assert!(error.path().unwrap().ends_with(format!("shard.00000.mds.{compression}")), "{error}");
        assert_eq!(names(dir.path()), ["index.json".into(), format!("shard.00000.mds.{compression}")], "{error}");
    }
}
