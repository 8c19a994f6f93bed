//! Sidecar indexes: what they say, when they are believed, and that damage to one never gives a wrong extent.

mod common;
mod dataset_tar;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dataset_tar::{Style, Tar, write};
use strait::dataset::{Extent, IndexOutcome, Indexing, Options, ShardIndex};
use strait::{Dataset, Device, Error, Loader};

/// A shard of `samples` with two fields each, but for every third, which lacks one.
fn tar(samples: usize, bytes: usize) -> Vec<u8> {
    let mut tar = Tar::default();
    for i in 0..samples {
        let data: Vec<u8> = (0..bytes + i % 13).map(|byte| (byte * 31 + i) as u8).collect();
        tar.member(Style::PaxMtime, &format!("{i:04}.jpg"), &data);
        if i % 3 > 0 {
            tar.member(Style::Ustar, &format!("{i:04}.cls"), i.to_string().as_bytes());
        }
    }
    tar.finished()
}

fn index_with(options: &Options, paths: &[impl AsRef<Path>], how: Indexing) -> Vec<ShardIndex> {
    options.index(paths, &how, &|_| true).unwrap()
}

fn index(paths: &[impl AsRef<Path>], checksums: bool) -> Vec<ShardIndex> {
    index_with(&Dataset::options(), paths, Indexing { checksums, ..Indexing::default() })
}

/// The one outcome of checking the one shard.
fn check(path: &Path) -> Result<(), Error> {
    let how = Indexing { check: true, ..Indexing::default() };
    match index_with(&Dataset::options(), &[path], how).remove(0).outcome {
        IndexOutcome::Right => Ok(()),
        IndexOutcome::Failed(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn written(shards: &[ShardIndex]) -> usize {
    shards.iter().filter(|shard| matches!(shard.outcome, IndexOutcome::Written)).count()
}

fn kept(shards: &[ShardIndex]) -> usize {
    shards.iter().filter(|shard| matches!(shard.outcome, IndexOutcome::Kept)).count()
}

type Extents = Vec<Option<Extent>>;

fn extents(dataset: &Dataset) -> Extents {
    let fields = 0..dataset.fields().len();
    (0..dataset.len()).flat_map(|sample| fields.clone().map(move |field| dataset.extent(sample, field))).collect()
}

/// What the extents' bytes must sum to, a bit at a time.
fn naive_crc(dataset: &Dataset, extent: Extent) -> u32 {
    let mut bytes = vec![0; extent.len as usize];
    let file = File::open(&dataset.shards()[extent.shard as usize].path).unwrap();
    file.read_exact_at(&mut bytes, extent.offset).unwrap();
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc: u32, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
}

fn sidecar(shard: &Path) -> PathBuf {
    PathBuf::from(format!("{}.strait", shard.display()))
}

/// Changes a file and puts its time back.
fn behind_its_back(path: &Path, change: impl FnOnce(&File)) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let times = FileTimes::new().set_modified(file.metadata().unwrap().modified().unwrap());
    change(&file);
    file.set_times(times).unwrap();
}

#[test]
fn a_dataset_is_the_same_from_sidecars_and_from_shards() {
    let dir = tempfile::tempdir().unwrap();
    let tars = [write(dir.path(), "a.tar", &tar(20, 300)), write(dir.path(), "b.tar", &tar(5, 70_000))];
    let before = Dataset::open(&tars).unwrap();
    assert_eq!(before.index_state().sidecars, 0);
    assert_eq!(before.crc32c(0, 0), None);
    for (checksums, expect) in [(false, (2, 0)), (true, (2, 0)), (false, (0, 2))] {
        let shards = index(&tars, checksums);
        assert_eq!((written(&shards), kept(&shards)), expect, "{checksums}: {shards:?}");
        assert_eq!(shards[0].sidecar.as_deref(), Some(&*sidecar(&tars[0])));
        let after = Dataset::open(&tars).unwrap();
        assert_eq!(after.index_state().sidecars, 2);
        assert_eq!((after.fields(), after.shards().len()), (before.fields(), 2));
        assert_eq!(extents(&after), extents(&before));
        assert_eq!(after.fingerprint(), before.fingerprint(), "a cursor knows nothing of sidecars");
        assert_eq!(after.largest_sample(), before.largest_sample());
        after.check().unwrap();
    }
    let dataset = Dataset::open(&tars).unwrap();
    assert_eq!(dataset.index_state().checksums, 2);
    let mut lacking = 0;
    for sample in 0..dataset.len() {
        for field in 0..2 {
            let extent = dataset.extent(sample, field);
            lacking += usize::from(extent.is_none());
            assert_eq!(dataset.crc32c(sample, field), extent.map(|extent| naive_crc(&dataset, extent)));
        }
    }
    assert_eq!(lacking, 7 + 2);
    let joined = Dataset::concat(vec![dataset.clone(), Dataset::records(&tars, 512).unwrap()]).unwrap();
    assert_eq!((joined.index_state().sidecars, joined.crc32c(3, 0)), (2, dataset.crc32c(3, 0)));
    for path in &tars {
        check(path).unwrap();
    }
}

#[test]
fn a_sidecar_is_believed_as_long_as_its_shard_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.bin", &[7; 4000]);
    let options = |bytes| Dataset::options().record_bytes(bytes);
    let unusable = |bytes: u64| {
        let dataset = options(bytes).open(&[&path]).unwrap();
        assert_eq!(dataset.len(), fs::metadata(&path).unwrap().len() / bytes, "whatever the sidecar says");
        let state = dataset.index_state().clone();
        assert_eq!((state.sidecars + state.unusable, state.why.is_some()), (1, state.unusable == 1));
        state.why
    };
    let make = |bytes| index_with(&options(bytes), &[&path], Indexing::default());
    assert_eq!(written(&make(4)), 1);
    assert_eq!(unusable(4), None);
    assert_eq!(options(4).open(&[dir.path()]).unwrap().shards().len(), 1, "a sidecar is no shard");
    assert!(unusable(8).unwrap().contains("other options"));
    fs::write(&path, [8; 4000]).unwrap();
    assert!(unusable(4).unwrap().contains("modified"), "the same size, another time");
    assert_eq!((written(&make(4)), written(&make(4))), (1, 0));
    File::options().append(true).open(&path).unwrap().set_len(4004).unwrap();
    assert!(unusable(4).unwrap().contains("4000 bytes and has 4004"));
    assert_eq!(written(&make(4)), 1);
    // Size and time are the same: opening cannot know, indexing looks at the content.
    behind_its_back(&path, |file| file.write_all_at(b"x", 2000).unwrap());
    assert_eq!(unusable(4), None);
    let how = Indexing { check: true, ..Indexing::default() };
    let found = index_with(&options(4), &[&path], how);
    assert!(matches!(&found[0].outcome, IndexOutcome::Failed(Error::Changed { .. })), "{found:?}");
    assert_eq!((written(&make(4)), written(&make(4))), (1, 0));
    // What is no index of strait's, or one of another format.
    fs::write(sidecar(&path), b"STRAITIYSTRAITIYSTRAITIYSTRAITIY").unwrap();
    assert!(unusable(4).unwrap().contains("does not begin"));
    assert_eq!(written(&make(4)), 1);
    fs::remove_file(sidecar(&path)).unwrap();
    fs::create_dir(sidecar(&path)).unwrap();
    assert!(unusable(4).is_some());
}

/// In memory (a whole sidecar of one page) and mapped.
#[test]
fn no_damaged_byte_gives_a_wrong_extent() {
    for (samples, mapped) in [(4, false), (180, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a.tar", &tar(samples, 40));
        let want = extents(&Dataset::open(&[&path]).unwrap());
        index(&[&path], true);
        let sidecar = sidecar(&path);
        let good = fs::read(&sidecar).unwrap();
        assert_eq!(good.len() > 4096, mapped);
        let head = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
        // Every byte of a small one; of a large one some.
        for at in (0..good.len()).filter(|at| !mapped || at % 97 == 0) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&sidecar, &bad).unwrap();
            let dataset = Dataset::open(&[&path]).unwrap();
            let got = extents(&dataset);
            let crcs: Vec<_> = (0..dataset.len()).map(|sample| dataset.crc32c(sample, 0)).collect();
            match at < head {
                true => assert_eq!((dataset.index_state().unusable, &got), (1, &want), "byte {at}"),
                false => {
                    let error = dataset.check().expect_err("looked up without a word").to_string();
                    assert!(error.contains("strait index") && error.contains(sidecar.to_str().unwrap()), "{error}");
                    assert!(got.iter().zip(&want).all(|(got, want)| got.is_none() || got == want), "byte {at}");
                    assert!(crcs.iter().all(Option::is_none), "byte {at}: the one block is damaged");
                }
            }
        }
        for len in (0..good.len()).filter(|len| !mapped || len % 977 == 0) {
            fs::write(&sidecar, &good[..len]).unwrap();
            let dataset = Dataset::open(&[&path]).unwrap();
            assert_eq!((dataset.index_state().unusable, extents(&dataset)), (1, want.clone()), "{len} bytes");
        }
        fs::write(&sidecar, [&good[..], b"x"].concat()).unwrap();
        assert_eq!(Dataset::open(&[&path]).unwrap().index_state().unusable, 1);
        assert_eq!((written(&index(&[&path], true)), fs::read(&sidecar).unwrap()), (1, good));
    }
}

/// What the head promises and the numbers do not hold, with every checksum put right.
#[test]
fn a_sidecar_that_lies_gives_extents_inside_the_shard_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.tar", &tar(9, 40));
    index(&[&path], true);
    let (sidecar, shard_bytes) = (sidecar(&path), fs::metadata(&path).unwrap().len());
    let good = fs::read(&sidecar).unwrap();
    let head = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
    let mut lies = 0;
    for at in (64..good.len() - 8).step_by(4).filter(|at| !(head - 8..head).contains(at)) {
        for lie in [0u32, 1, u32::MAX, u32::MAX - 1, 1 << 31, shard_bytes as u32] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&lie.to_le_bytes());
            let sum = crc32c::crc32c(&bad[head..]);
            bad[head - 8..head - 4].copy_from_slice(&sum.to_le_bytes());
            let sum = crc32c::crc32c(&bad[..head - 4]);
            bad[head - 4..head].copy_from_slice(&sum.to_le_bytes());
            fs::write(&sidecar, &bad).unwrap();
            let dataset = Dataset::open(&[&path]).unwrap();
            lies += dataset.index_state().sidecars;
            for sample in (0..dataset.len()).take(20) {
                for field in 0..dataset.fields().len() {
                    dataset.crc32c(sample, field);
                    let extent = dataset.extent(sample, field);
                    assert!(extent.is_none_or(|extent| extent.offset + extent.len <= shard_bytes), "{at}: {extent:?}");
                }
            }
        }
    }
    assert!(lies > 100, "{lies}: they are not even believed");
}

/// Mutant that this catches: made anew as asked for, without.
#[test]
fn an_index_that_had_checksums_has_them_when_it_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let shards = ["a.tar", "b.tar"].map(|name| write(dir.path(), name, &tar(9, 50)));
    index(&shards[..1], true);
    index(&shards[1..], false);
    shards.iter().for_each(|shard| fs::write(shard, tar(12, 60)).unwrap());
    assert_eq!(written(&index(&shards, false)), 2);
    let dataset = Dataset::open(&shards).unwrap();
    assert_eq!((dataset.index_state().sidecars, dataset.index_state().checksums), (2, 1));
    let extent = dataset.extent(0, 0).unwrap();
    assert_eq!(dataset.crc32c(0, 0), Some(naive_crc(&dataset, extent)));
    assert_eq!(dataset.crc32c(12, 0), None);
}

#[test]
fn what_was_stopped_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..20).map(|i| write(dir.path(), &format!("{i:02}.tar"), &tar(4, 10 * i))).collect();
    let how = Indexing { threads: 1, ..Indexing::default() };
    let stopped = Dataset::options().index(&paths, &how, &|progress| progress.done < 7).unwrap_err();
    assert!(matches!(stopped, Error::Stopped { .. }), "{stopped}");
    let names = || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names().len(), 20 + 7, "{:?}", names());
    let shards = index(&paths, false);
    assert_eq!((written(&shards), kept(&shards)), (13, 7));
    assert_eq!(names().len(), 40);
    assert_eq!(Dataset::open(&[dir.path()]).unwrap().shards().len(), 20, "sidecars are no shards");
}

#[test]
fn one_bad_shard_is_named_and_the_others_are_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "a.tar", &tar(3, 9));
    let cut = write(dir.path(), "b.tar", &tar(3, 9)[..1700]);
    let shards = index(&[&good, &cut, &good], false);
    assert!(matches!(&shards[1].outcome, IndexOutcome::Failed(error) if error.path() == Some(&*cut)), "{shards:?}");
    assert_eq!((shards[0].samples, shards[1].samples, sidecar(&cut).exists()), (3, 0, false));
}

#[test]
fn indexes_may_stand_in_a_directory_of_their_own() {
    let (one, two, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paths = [write(one.path(), "a.tar", &tar(3, 9)), write(two.path(), "a.tar", &tar(4, 9))];
    let options = Dataset::options().index_dir(apart.path().join("made"));
    let shards = index_with(&options, &paths, Indexing::default());
    assert_eq!(written(&shards), 2);
    assert!(!sidecar(&paths[0]).exists());
    assert!(shards.iter().all(|shard| shard.sidecar.as_ref().unwrap().starts_with(apart.path())));
    assert_eq!(options.open(&paths).unwrap().index_state().sidecars, 2);
    assert_eq!(Dataset::open(&paths).unwrap().index_state().sidecars, 0);
}

#[test]
fn a_changed_sample_is_named_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.tar", &tar(40, 9000));
    index(&[&path], true);
    let dataset = Dataset::open(&[&path]).unwrap();
    let extent = dataset.extent(23, 1).unwrap();
    behind_its_back(&path, |file| file.write_all_at(b"x", extent.offset + 1).unwrap());
    let error = check(&path).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Corrupt { .. }), "{text}");
    assert_eq!((error.path(), error.offset()), (Some(&*path), Some(extent.offset)));
    assert!(text.contains("field cls of sample 23") && text.contains("CRC32C"), "{text}");
}

/// The samples before the damage may come; the ones behind it must not be left out without a word.
#[test]
fn a_loader_says_that_an_index_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.tar", &tar(400, 30));
    index(&[&path], false);
    let sidecar = sidecar(&path);
    assert!(fs::metadata(&sidecar).unwrap().len() > 4096, "mapped");
    let epoch = || -> Result<u64, Error> {
        let builder = Loader::builder(Dataset::open(&[&path]).unwrap()).device(Device::host()).batch_size(8);
        let mut samples = 0;
        for batch in builder.build()?.epoch(0) {
            samples += batch?.samples().len() as u64;
        }
        Ok(samples)
    };
    assert_eq!(epoch().unwrap(), 400);
    let last = fs::metadata(&sidecar).unwrap().len() - 1;
    File::options().write(true).open(&sidecar).unwrap().write_all_at(b"\xa5", last).unwrap();
    let error = epoch().unwrap_err();
    assert!(error.path() == Some(&*sidecar) && error.to_string().contains("strait index"), "{error}");
}
