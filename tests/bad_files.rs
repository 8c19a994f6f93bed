//! Files that are not, or no longer, what was indexed: an error that names the file and the byte, and nothing else.

mod common;
mod dataset_tar;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::mount::{Mounts, memory_directory};
use common::process::{self, Within, alone, become_user};
use common::{bytes_of, disk_directory, write_shard};
use dataset_tar::{Style, Tar};
use strait::memory::Arena;
use strait::order::{Policy, Rank};
use strait::{Builder, Dataset, Device, Error, Loader, PathChoice, RingChoice};

const RINGS: [RingChoice; 2] = [RingChoice::Auto, RingChoice::Pread];
const PATHS: [PathChoice; 2] = [PathChoice::Auto, PathChoice::Staged];
const RECORD: u64 = 10_000;
/// Records of each shard; a batch never spans two shards.
const RECORDS: u64 = 24;
const BATCH: u64 = 4;

/// Three shards.
struct Bed {
    directory: PathBuf,
    paths: Vec<PathBuf>,
}

impl Bed {
    fn new(directory: &Path) -> Bed {
        let paths = (1..=3).map(|seed| write_shard(directory, seed, RECORD * RECORDS)).collect();
        Bed { directory: directory.into(), paths }
    }

    /// A loader that reads as little ahead as it can.
    fn builder(&self) -> Builder {
        let dataset = Dataset::records(&self.paths, RECORD).unwrap();
        let builder = Loader::builder(dataset).device(Device::host()).batch_size(BATCH as usize);
        builder.prefetch(1).hold(1).block_bytes(16 << 10).deadline(Duration::from_secs(10))
    }

    /// Puts the second shard right again.
    fn mend(&self) {
        let _ = fs::remove_dir(&self.paths[1]);
        let _ = fs::remove_file(&self.paths[1]);
        write_shard(&self.directory, 2, RECORD * RECORDS);
    }
}

/// Reads an epoch, compares every byte, calls `during` after each batch; the samples delivered, and what ended it.
fn read(loader: &mut Loader, epoch: u64, mut during: impl FnMut(u64)) -> (u64, Option<Error>) {
    let mut next = 0;
    for batch in loader.epoch(epoch) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return (next, Some(error)),
        };
        let view = batch.field("record").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            let want = bytes_of(1 + sample / RECORDS, sample % RECORDS * RECORD, RECORD);
            assert!(sample == next && view.host_bytes(i).unwrap().unwrap() == want, "sample {sample}");
            next += 1;
        }
        drop(batch);
        during(next);
    }
    (next, None)
}

/// The error is about this file, and says so.
fn names(error: &Error, path: &Path) {
    assert_eq!(error.path(), Some(path), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    if let Some(offset) = error.offset() {
        assert!(error.to_string().contains(&format!("at byte {offset}")), "{error}");
    }
}

fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

type Damage = (&'static str, fn(&Path), fn(&Error) -> bool);

const DAMAGES: [Damage; 7] = [
    ("deleted", |p| fs::remove_file(p).unwrap(), |e| matches!(e, Error::Open { errno: libc::ENOENT, .. })),
    ("cut by a byte", |p| set_len(p, RECORD * RECORDS - 1), |e| changed(e, RECORD * RECORDS - 1)),
    ("emptied", |p| set_len(p, 0), |e| changed(e, 0)),
    ("grown by a byte", |p| set_len(p, RECORD * RECORDS + 1), |e| changed(e, RECORD * RECORDS + 1)),
    (
        "replaced by a directory",
        |p| fs::remove_file(p).and_then(|()| fs::create_dir(p)).unwrap(),
        |e| matches!(e, Error::Open { errno: libc::EISDIR, .. }),
    ),
    (
        "replaced by a pipe",
        |p| {
            fs::remove_file(p).unwrap();
            fifo(p);
        },
        |e| matches!(e, Error::Changed { .. }),
    ),
    (
        "replaced by a link to itself",
        |p| {
            fs::remove_file(p).unwrap();
            std::os::unix::fs::symlink(p, p).unwrap();
        },
        |e| matches!(e, Error::Open { errno: libc::ELOOP, .. }),
    ),
];

fn set_len(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

fn changed(error: &Error, now: u64) -> bool {
    let (before, now) = (format!("had {} bytes", RECORD * RECORDS), format!("now has {now}"));
    matches!(error, Error::Changed { what, .. } if what.contains(&before) && what.contains(&now))
}

#[test]
fn a_shard_changed_after_indexing_ends_the_epoch_before_its_first_sample() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    let bed = Bed::new(directory.path());
    for (what, damage, expected) in DAMAGES {
        for ring in RINGS {
            for path in PATHS {
                let mut loader = bed.builder().ring(ring).path(path).build().unwrap();
                damage(&bed.paths[1]);
                let (delivered, error) = read(&mut loader, 0, |_| {});
                let error = error.unwrap_or_else(|| panic!("{what}: no error"));
                assert!(expected(&error), "{what}: {error:?}");
                names(&error, &bed.paths[1]);
                assert_eq!(delivered, RECORDS, "{what}: {ring:?} {path:?}");
                bed.mend();
                let (delivered, error) = read(&mut loader, 1, |_| {});
                assert!(error.is_none() && delivered == 3 * RECORDS, "{what}, mended: {delivered} {error:?}");
            }
        }
    }
}

/// The file stays open meanwhile: its size was right when it was looked at.
#[test]
fn a_shard_that_shrinks_while_it_is_read_is_truncated() {
    let _within = Within::seconds(300);
    let disk = disk_directory();
    let memory = memory_directory().map_err(|why| eprintln!("SKIPPED: {why}")).ok();
    for directory in [Some(&disk), memory.as_ref()].into_iter().flatten() {
        let bed = Bed::new(directory.path());
        // In the middle of a sample: in a sector, on a sector's border, on a page's, on a sample's.
        for bytes in [12 * RECORD + 1, 12 * RECORD + 5000, 120_320, 122_880, 13 * RECORD] {
            for ring in RINGS {
                for path in PATHS {
                    let mut loader = bed.builder().ring(ring).path(path).build().unwrap();
                    let cut = |delivered| {
                        if delivered == RECORDS + BATCH {
                            set_len(&bed.paths[1], bytes);
                        }
                    };
                    let (delivered, error) = read(&mut loader, 0, cut);
                    let error = error.expect("a sample is missing");
                    names(&error, &bed.paths[1]);
                    let Error::Truncated { offset, want, got, .. } = error else { panic!("{error:?}") };
                    assert!(offset + want > bytes, "nothing is missing there: {error}");
                    assert_eq!(got, bytes.saturating_sub(offset), "{error}");
                    // Whole batches only, and at least every one whose last page the file still has; one more may have been
                    // read ahead of the cut.
                    let whole = |batches: &u64| (batches * BATCH * RECORD).next_multiple_of(4096) <= bytes;
                    let batches = (0..RECORDS / BATCH).rev().find(whole).unwrap();
                    let least = RECORDS + batches * BATCH;
                    assert!(
                        delivered >= least && (delivered - RECORDS).is_multiple_of(BATCH),
                        "{delivered} of {least}: {error}"
                    );
                    assert!((delivered - RECORDS) * RECORD <= offset + got + BATCH * RECORD, "{delivered}: {error}");
                    let whole = bytes_of(2, 0, RECORD * RECORDS);
                    OpenOptions::new().write(true).open(&bed.paths[1]).unwrap().write_all_at(&whole, 0).unwrap();
                    let (delivered, error) = read(&mut loader, 1, |_| {});
                    assert!(error.is_none() && delivered == 3 * RECORDS, "mended: {delivered} {error:?}");
                }
            }
        }
    }
}

#[test]
fn a_shard_deleted_while_it_is_read_is_read_to_its_end() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    let bed = Bed::new(directory.path());
    for ring in RINGS {
        let mut loader = bed.builder().ring(ring).build().unwrap();
        let delete = |delivered| {
            if delivered == RECORDS + BATCH {
                fs::remove_file(&bed.paths[1]).unwrap();
            }
        };
        let (delivered, error) = read(&mut loader, 0, delete);
        assert!(error.is_none() && delivered == 3 * RECORDS, "{delivered} {error:?}");
        bed.mend();
    }
}

#[test]
fn a_shard_that_may_not_be_read_any_more() {
    let _within = Within::seconds(300);
    alone("a_shard_that_may_not_be_read_any_more", |directory| {
        std::env::set_current_dir(directory).unwrap(); // the directories above may be closed to others
        let bed = Bed::new(Path::new("."));
        if process::is_root() {
            const USER: u32 = 61_001;
            let owned = bed.paths.iter().map(PathBuf::as_path).chain([Path::new(".")]);
            owned.for_each(|path| std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap());
            become_user(USER);
        }
        let mode = |mode| fs::set_permissions(&bed.paths[1], fs::Permissions::from_mode(mode)).unwrap();
        for ring in RINGS {
            let mut loader = bed.builder().ring(ring).build().unwrap();
            mode(0o000);
            let (delivered, error) = read(&mut loader, 0, |_| {});
            let error = error.expect("no error");
            assert!(matches!(error, Error::Open { errno: libc::EACCES, .. }), "{error:?}");
            assert!(error.to_string().contains("permissions"), "{error}");
            names(&error, &bed.paths[1]);
            assert_eq!(delivered, RECORDS);
            let refused = Dataset::records(&bed.paths, RECORD).unwrap_err();
            assert!(matches!(refused, Error::Open { errno: libc::EACCES, .. }), "{refused:?}");
            mode(0o600);
            let (delivered, error) = read(&mut loader, 1, |_| {});
            assert!(error.is_none() && delivered == 3 * RECORDS, "mended: {delivered} {error:?}");
        }
    });
}

#[test]
fn a_tar_damaged_after_indexing() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    let mut tar = Tar::default();
    let image = |sample: u64| bytes_of(sample, 0, 5000 + sample);
    for sample in 0..40 {
        tar.member(Style::PaxMtime, &format!("{sample:04}.jpg"), &image(sample));
    }
    let bytes = tar.finished();
    let path = dataset_tar::write(directory.path(), "a.tar", &bytes);
    let epoch = |loader: &mut Loader| -> (u64, Option<Error>) {
        let mut next = 0;
        for batch in loader.epoch(0) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return (next, Some(error)),
            };
            let view = batch.field("jpg").unwrap();
            for (i, &sample) in batch.samples().iter().enumerate() {
                assert!(sample == next && view.host_bytes(i).unwrap().unwrap() == image(sample), "sample {sample}");
                next += 1;
            }
        }
        (next, None)
    };
    for ring in RINGS {
        let dataset = Dataset::webdataset(&[&path]).unwrap();
        let build =
            || Loader::builder(dataset.clone()).device(Device::host()).batch_size(8).ring(ring).build().unwrap();
        // Cut in the middle, and appended to: not the file that was indexed.
        for now in [bytes[..bytes.len() / 2].to_vec(), [&bytes[..], &[0; 512]].concat()] {
            let mut loader = build();
            fs::write(&path, &now).unwrap();
            let (delivered, error) = epoch(&mut loader);
            let error = error.expect("no error");
            assert!(
                matches!(&error, Error::Changed { what, .. } if what.contains(&now.len().to_string())),
                "{error:?}"
            );
            names(&error, &path);
            assert_eq!(delivered, 0);
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(epoch(&mut loader), (40, None)));
        }
        // Headers wiped: the index knows where the samples are, and they are as they were.
        let mut wiped = bytes.clone();
        for sample in 0..40 {
            let extent = dataset.extent(sample, 0).unwrap();
            wiped[extent.offset as usize - 512..extent.offset as usize].fill(0xFF);
        }
        let mut loader = build();
        fs::write(&path, &wiped).unwrap();
        assert!(matches!(epoch(&mut loader), (40, None)));
        let refused = Dataset::webdataset(&[&path]).unwrap_err();
        assert!(matches!(refused, Error::Format { .. }), "{refused:?}");
        names(&refused, &path);
        fs::write(&path, &bytes).unwrap();
    }
}

/// The first page of the file that its device cannot read.
fn first_bad_page(path: &Path) -> Option<u64> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let arena = Arena::map(4096).unwrap();
    // SAFETY: the arena holds 4096 bytes, and nothing else uses them.
    let page = unsafe { std::slice::from_raw_parts_mut(arena.base().as_ptr(), 4096) };
    (0..RECORD * RECORDS).step_by(4096).find(|&at| file.read_at(page, at).is_err())
}

/// The device loses its end, as a disk loses sectors: the image under a mounted file system is cut.
#[test]
fn an_io_error_names_the_read_and_what_came_before_is_exact() {
    let _within = Within::seconds(300);
    let make = ["mkfs.ext4", "-q", "-O", "^has_journal"];
    let mut mounts = match Mounts::new() {
        Ok(mounts) => mounts,
        Err(why) => return eprintln!("SKIPPED: I/O errors: {why}"),
    };
    let (directory, image) = match mounts.image(&make, "rw", 512, 16) {
        Ok(made) => made,
        Err(why) => return eprintln!("SKIPPED: I/O errors: {why}"),
    };
    let bed = Bed::new(&directory);
    mounts.remount(&directory, "ro").unwrap();
    let whole = fs::read(&image).unwrap();
    // The file system lays shards in an order of its own: the cut goes through the one that lies last.
    // Of a shard that lies in pieces none is shorter than a block.
    let place = |seed: u64| {
        let needle = bytes_of(seed, (12 * RECORD).next_multiple_of(4096), 1024);
        whole.chunks_exact(1024).position(|block| block == needle).map(|block| 1024 * block)
    };
    let last = (1..=3).map(|seed| place(seed).expect("the shard is in the image")).max().unwrap();
    let cut = last as u64 / 4096 * 4096;
    for ring in RINGS {
        for path in PATHS {
            let mut loader = bed.builder().ring(ring).path(path).build().unwrap();
            let (delivered, error) = read(&mut loader, 0, |_| {});
            assert!(error.is_none() && delivered == 3 * RECORDS, "whole: {delivered} {error:?}");
            set_len(&image, cut);
            let bad = (0..3).find_map(|shard| Some((shard, first_bad_page(&bed.paths[shard])?)));
            let (shard, bad) = bad.expect("a shard has lost its end");
            let (delivered, error) = read(&mut loader, 1, |_| {});
            let error = error.expect("no error");
            names(&error, &bed.paths[shard]);
            let Error::Io { offset, bytes, errno, .. } = error else { panic!("{error:?}") };
            assert!(errno == libc::EIO && error.to_string().contains("dmesg"), "{error}");
            assert!(offset + bytes > bad, "{error}, but the first bad page is at {bad}");
            let before = shard as u64 * RECORDS + bad / RECORD / BATCH * BATCH;
            assert_eq!(delivered, before, "{error}, first bad page at {bad}");
            let file = OpenOptions::new().write(true).open(&image).unwrap();
            file.write_all_at(&whole[cut as usize..], cut).unwrap();
            let (delivered, error) = read(&mut loader, 2, |_| {});
            assert!(error.is_none() && delivered == 3 * RECORDS, "mended: {delivered} {error:?}");
        }
    }
}

#[test]
fn what_is_no_dataset_is_refused_by_name() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    let error = Dataset::records(&[directory.path()], 512).unwrap_err();
    assert!(matches!(error, Error::Open { errno: libc::EISDIR, .. }), "{error:?}");
    names(&error, directory.path());

    let path = write_shard(directory.path(), 1, 1000);
    let error = Dataset::records(&[&path], 300).unwrap_err();
    assert!(matches!(error, Error::Format { offset: Some(900), .. }), "{error:?}");
    names(&error, &path);

    let pipe = directory.path().join("pipe");
    fifo(&pipe);
    let error = Dataset::records(&[&pipe], 300).unwrap_err();
    names(&error, &pipe);

    let empty = directory.path().join("empty");
    File::create(&empty).unwrap();
    let error = Loader::builder(Dataset::records(&[&empty], 512).unwrap()).build().map(drop).unwrap_err();
    assert!(matches!(error, Error::Config { option: "dataset", .. }), "{error:?}");
    assert!(error.to_string().contains("no sample in its 1 files"), "{error}");
}

type Set = fn(Builder) -> Builder;
type Setting = (&'static str, Set, &'static str);

/// What cannot be met: the option, and a value that would do, are in the error.
const SETTINGS: [Setting; 18] = [
    ("batch_size", |b| b.batch_size(0), "at least 1"),
    ("hold", |b| b.hold(0), "at least 1"),
    ("reads_in_flight", |b| b.reads_in_flight(0), "at least 1"),
    ("reads_in_flight", |b| b.reads_in_flight(5000), "4096"),
    ("open_files_max", |b| b.open_files_max(0), "at least 1"),
    ("prefetch", |b| b.prefetch(0), "at least 1"),
    ("align_bytes", |b| b.align_bytes(0), "from 4096"),
    ("align_bytes", |b| b.align_bytes(512), "from 4096"),
    ("align_bytes", |b| b.align_bytes(5000), "power of two"),
    ("block_bytes", |b| b.block_bytes(0), "multiple of 4096"),
    ("block_bytes", |b| b.block_bytes(6000), "multiple of 4096"),
    ("block_bytes", |b| b.block_bytes(2 << 30), "1 GiB"),
    ("pinned_bytes_max", |b| b.prefetch(4).pinned_bytes_max(100_000), "raise pinned_bytes_max"),
    ("pinned_bytes_max", |b| b.path(PathChoice::Staged).pinned_bytes_max(4 << 20), "two slabs"),
    (
        "region_bytes_max",
        |b| b.path(PathChoice::Staged).prefetch(4).region_bytes_max(100_000),
        "raise region_bytes_max",
    ),
    ("policy", |b| b.rank(Rank::new(0, 2).unwrap()).policy(Policy::Short), "use drop, pad or wrap"),
    ("policy", |b| b.batch_size(1000).policy(Policy::Drop), "lower batch_size"),
    ("deadline", |b| b.deadline(Duration::ZERO), "at least"),
];

#[test]
fn an_option_that_cannot_be_met_is_named_with_a_value_that_can() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    let bed = Bed::new(directory.path());
    for (option, set, remedy) in SETTINGS {
        let builder = Loader::builder(Dataset::records(&bed.paths, RECORD).unwrap()).device(Device::host());
        let Err(error) = set(builder.batch_size(4)).build() else { panic!("{option}: accepted ({remedy})") };
        assert!(matches!(error, Error::Config { option: o, .. } if o == option), "{option}: {error:?}");
        assert!(error.to_string().starts_with(option) && error.to_string().contains(remedy), "{error}");
    }
    let dataset = Dataset::records(&bed.paths, RECORD).unwrap();
    let built = Loader::builder(dataset).device(Device::host()).batch_size(8).region_bytes(8192).build();
    let error = built.map(drop).unwrap_err();
    assert!(matches!(error, Error::BatchTooLarge { pool_bytes: 8192, .. }), "{error:?}");
    assert!(error.to_string().contains("lower batch_size or raise region_bytes"), "{error}");
}

/// Values at the end of their type give a loader or an error, neither a panic nor all of the machine's memory.
#[test]
fn the_largest_value_of_every_option_is_met_or_refused() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    let bed = Bed::new(directory.path());
    let settings: [(&str, Set); 14] = [
        ("batch_size", |b| b.batch_size(usize::MAX)),
        ("batch_size 2^50", |b| b.batch_size(1 << 50)),
        ("prefetch", |b| b.prefetch(usize::MAX)),
        ("hold", |b| b.hold(usize::MAX)),
        ("hold 2^40", |b| b.hold(1 << 40)),
        ("block_bytes", |b| b.block_bytes(u64::MAX)),
        ("gap_bytes", |b| b.gap_bytes(u64::MAX)),
        ("align_bytes", |b| b.align_bytes(1 << 63)),
        ("reads_in_flight", |b| b.reads_in_flight(usize::MAX)),
        ("bytes_in_flight", |b| b.bytes_in_flight(u64::MAX)),
        ("pinned_bytes_max", |b| b.pinned_bytes_max(u64::MAX)),
        ("region_bytes", |b| b.region_bytes(u64::MAX)),
        ("open_files_max", |b| b.open_files_max(usize::MAX)),
        ("deadline", |b| b.deadline(Duration::MAX)),
    ];
    for (option, set) in settings {
        for path in PATHS {
            match set(bed.builder().path(path)).build() {
                Ok(mut loader) => {
                    let (delivered, error) = read(&mut loader, 0, |_| {});
                    assert!(error.is_none() && delivered == 3 * RECORDS, "{option}: {delivered} {error:?}");
                }
                Err(error) => assert!(matches!(error, Error::Config { .. } | Error::BatchTooLarge { .. }), "{error:?}"),
            }
        }
    }
}
