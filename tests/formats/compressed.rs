//! Compressed MDS shards: decompressed once, whole or not at all, and said so.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use strait::{Dataset, Device, Error, Loader};

use crate::common::names;
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
        let loader = Loader::builder(first.clone()).device(Device::host()).batch_size(2).build().unwrap();
        assert!(loader.stats().fallbacks.iter().any(|said| said.to_string().contains("processor")));
        let made = first.shards()[0].path.clone();
        assert_eq!(names(dir.path()), [made.file_name().unwrap().to_str().unwrap(), "index.json", &zip]);
        let inode = fs::metadata(&made).unwrap().ino();
        check(&Dataset::open(&[&path]).unwrap(), "mds", &samples);
        assert_eq!(fs::metadata(&made).unwrap().ino(), inode, "it is made once");
        // As StreamingDataset leaves it: the raw shard beside the compressed one, or alone.
        fs::write(dir.path().join("shard.00000.mds"), writers::mds_shard(COLUMNS[1], &samples)).unwrap();
        for keep_zip in [true, false] {
            if !keep_zip {
                fs::remove_file(dir.path().join(&zip)).unwrap();
            }
            let second = Dataset::open(&[&path]).unwrap();
            check(&second, "mds", &samples);
            assert!(second.fallbacks().is_empty());
        }
    }
}

/// An index of compressed shards: of each the raw name, the compressed one, and what is in it.
fn index_of(directory: &Path, shards: &[(&str, &str, &[Sample])]) {
    let entry = |&(raw_name, zip_name, samples): &(&str, &str, &[Sample])| {
        let raw = writers::mds_shard(COLUMNS[1], samples);
        let zip = squeeze("gz", &raw);
        fs::write(directory.join(zip_name), &zip).unwrap();
        writers::mds_entry(COLUMNS[1], samples.len(), raw_name, &raw, Some(("gz", zip_name, zip.len())))
    };
    let entries: Vec<String> = shards.iter().map(entry).collect();
    fs::write(directory.join("index.json"), format!("{{\"version\":2,\"shards\":[{}]}}", entries.join(","))).unwrap();
}

/// Mutants that this catches: the raw shard made under the last part of the name in the index, by a rename; what such a
/// name leads to taken for the raw shard.
#[test]
fn an_index_overwrites_no_file_and_reads_none_outside() {
    let samples = mds_samples(COLUMNS[1], &[5, 6]);
    let all = tempfile::tempdir().unwrap();
    let dir = all.path().join("dataset");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("train.py"), "precious").unwrap();
    fs::write(dir.join("train.mds"), "precious").unwrap();
    for raw in ["x/train.py", "train.py", "x/train.mds", "train.mds", "../train.mds"] {
        index_of(&dir, &[(raw, "a.gz", &samples)]);
        let opened = Dataset::open(&[&dir]);
        assert_eq!(opened.is_ok(), raw.ends_with(".mds") && !raw.starts_with(".."), "{raw}: {opened:?}");
        for name in ["train.py", "train.mds"] {
            assert_eq!(fs::read(dir.join(name)).unwrap(), b"precious", "{raw}");
        }
    }
    let secret = mds_samples(COLUMNS[1], &[6, 5]);
    fs::write(all.path().join("secret.mds"), writers::mds_shard(COLUMNS[1], &secret)).unwrap();
    symlink("../secret.mds", dir.join("link.mds")).unwrap();
    index_of(&dir, &[("nosuch/link.mds", "a.gz", &samples)]);
    let dataset = Dataset::open(&[&dir]).unwrap();
    check(&dataset, "mds", &samples);
    // Nor through a link under strait's own name.
    let made = dataset.shards()[0].path.clone();
    fs::remove_file(&made).unwrap();
    symlink("../secret.mds", &made).unwrap();
    let error = Dataset::open(&[&dir]).unwrap_err();
    assert!(error.to_string().contains("remove it"), "{error}");
    index_of(&dir, &[("link.mds", "a.gz", &samples)]);
    assert!(Dataset::open(&[&dir]).unwrap_err().to_string().contains("leads out"));
}

/// A mutant that this catches: raw shards told apart by the last part of their names only.
#[test]
fn shards_of_one_name_in_two_directories_stay_two() {
    let (first, second) = (mds_samples(COLUMNS[1], &[5, 600]), mds_samples(COLUMNS[1], &[600, 5]));
    let both: Vec<Sample> = first.iter().chain(&second).cloned().collect();
    for apart in [false, true] {
        let (dir, indexes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        index_of(dir.path(), &[("0/shard.00000.mds", "0.gz", &first), ("1/shard.00000.mds", "1.gz", &second)]);
        let options = if apart { Dataset::options().index_dir(indexes.path()) } else { Dataset::options() };
        check(&options.open(&[dir.path()]).unwrap(), "mds", &both);
    }
}

/// A mutant that this catches: a raw shard that is there and has the right size is never made anew.
#[test]
fn a_compressed_shard_that_changed_is_decompressed_anew() {
    let (old, new) = (mds_samples(COLUMNS[1], &[5, 600]), mds_samples(COLUMNS[1], &[600, 5]));
    for apart in [false, true] {
        let (dir, indexes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = if apart { Dataset::options().index_dir(indexes.path()) } else { Dataset::options() };
        let made = if apart { indexes.path() } else { dir.path() };
        let mut of_strait = 0;
        for samples in [&old, &new, &old] {
            index_of(dir.path(), &[("shard.00000.mds", "0.gz", samples)]);
            check(&options.open(&[dir.path()]).unwrap(), "mds", samples);
            let now = names(made).iter().filter(|name| name.starts_with('.')).count();
            assert!(of_strait == 0 || of_strait == now, "the one before is gone");
            of_strait = now;
        }
        // A raw shard that is older than the compressed one is what it was made of before.
        let raw = dir.path().join("shard.00000.mds");
        fs::write(&raw, writers::mds_shard(COLUMNS[1], &new)).unwrap();
        fs::File::options().write(true).open(&raw).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        check(&options.open(&[dir.path()]).unwrap(), "mds", &old);
    }
}

/// A mutant that this catches: only kinds of hashes compared that checkpoints have.
#[test]
fn every_kind_of_hash_is_compared() {
    let samples = mds_samples(COLUMNS[1], &[5, 6]);
    for (kind, digits) in [("sha1", 40), ("sha256", 64), ("md5", 32), ("xxh32", 8), ("xxh64", 16), ("xxh3_128", 32)] {
        let dir = tempfile::tempdir().unwrap();
        let hash = format!("\"crc99\":\"?\",\"{kind}\":\"{}\"", "a".repeat(digits));
        let path = dataset(dir.path(), "gz", &samples, &hash, |_| {});
        let error = Dataset::open(&[&path]).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(kind), "{error}");
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
