//! Machines that forbid or ration: the loader works all the same, and says what it did without.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::mount::{Kind, memory_directory};
use common::process::{Within, alone, become_user, is_root, limit, refuse};
use common::{bytes_of, write_shard};
use strait::order::Shuffle;
use strait::storage::Uring;
use strait::{Builder, Dataset, Device, Error, Fallback, Loader, PathChoice, RingChoice, Stats};

const RECORD: u64 = 3000;
const RECORDS: u64 = 40;
const PATHS: [PathChoice; 2] = [PathChoice::Auto, PathChoice::Staged];

/// Shards 1, 2, .. of 40 records each.
fn write(directory: &Path, shards: u64) -> Vec<PathBuf> {
    (1..=shards).map(|seed| write_shard(directory, seed, RECORD * RECORDS)).collect()
}

fn builder(paths: &[PathBuf]) -> Builder {
    let dataset = Dataset::records(paths, RECORD).unwrap();
    Loader::builder(dataset).device(Device::host()).batch_size(32).shuffle(Shuffle::Full).block_bytes(64 << 10)
}

/// Reads an epoch and compares every byte.
fn check(loader: &mut Loader, shards: u64) -> Stats {
    let mut seen = BTreeSet::new();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        let view = batch.field("record").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            let want = bytes_of(1 + sample / RECORDS, sample % RECORDS * RECORD, RECORD);
            assert!(seen.insert(sample) && view.host_bytes(i).unwrap().unwrap() == want, "sample {sample}");
        }
    }
    assert_eq!(seen.len() as u64, shards * RECORDS);
    loader.stats()
}

/// The fallback that begins like this, which there is once.
fn fallback<'a>(stats: &'a Stats, instead: &str) -> &'a Fallback {
    let found: Vec<&Fallback> = stats.fallbacks.iter().filter(|f| f.instead.starts_with(instead)).collect();
    let [fallback] = found[..] else { panic!("{instead}: {:?}", stats.fallbacks) };
    fallback
}

fn has_uring() -> bool {
    Uring::new(8, 4).map_err(|error| eprintln!("SKIPPED: {error}")).is_ok()
}

fn without_io_uring(directory: &Path, errno: i32, remedies: [&str; 2]) {
    refuse(libc::SYS_io_uring_setup, errno);
    let paths = write(directory, 2);
    for path in PATHS {
        let mut loader = builder(&paths).path(path).build().unwrap();
        let stats = check(&mut loader, 2);
        assert_eq!(stats.ring, "pread");
        let fallback = fallback(&stats, "pread threads instead of io_uring");
        assert_eq!(fallback.errno, Some(errno), "{fallback}");
        assert!(remedies.iter().all(|remedy| fallback.to_string().contains(remedy)), "{fallback}");
    }
    let error = builder(&paths).ring(RingChoice::Uring).build().map(drop).unwrap_err();
    assert!(matches!(error, Error::Ring { ring: "uring", errno: e, .. } if e == errno), "{error:?}");
    assert!(remedies.iter().all(|remedy| error.to_string().contains(remedy)), "{error}");
}

#[test]
fn io_uring_forbidden() {
    let _within = Within::seconds(300);
    alone("io_uring_forbidden", |directory| without_io_uring(directory, libc::EPERM, ["io_uring_disabled", "seccomp"]));
}

#[test]
fn io_uring_absent() {
    let _within = Within::seconds(300);
    alone("io_uring_absent", |directory| without_io_uring(directory, libc::ENOSYS, ["kernel", "container runtime"]));
}

#[test]
fn registering_forbidden() {
    let _within = Within::seconds(300);
    alone("registering_forbidden", |directory| {
        if !has_uring() {
            return;
        }
        refuse(libc::SYS_io_uring_register, libc::EPERM);
        let paths = write(directory, 2);
        for path in PATHS {
            let mut loader = builder(&paths).path(path).ring(RingChoice::Uring).build().unwrap();
            let stats = check(&mut loader, 2);
            assert_eq!(stats.ring, "uring");
            for instead in ["memory pinned at each read", "files looked up at each read"] {
                let fallback = fallback(&stats, instead);
                assert_eq!(fallback.errno, Some(libc::EPERM), "{fallback}");
                assert!(fallback.remedy.contains("seccomp"), "{fallback}");
            }
        }
    });
}

/// Without registering there is no descriptor that tells of the end of a read, and no wait for two rings at once.
#[test]
fn registering_forbidden_and_two_file_systems() {
    let _within = Within::seconds(300);
    alone("registering_forbidden_and_two_file_systems", |directory| {
        let memory = match memory_directory() {
            Ok(memory) if Kind::of(directory) == Kind::Direct => memory,
            other => return eprintln!("SKIPPED: no disk with direct reads, or no tmpfs: {other:?}"),
        };
        if !has_uring() {
            return;
        }
        refuse(libc::SYS_io_uring_register, libc::EPERM);
        const SHARDS: u64 = 24;
        let place = |seed| if seed % 2 == 0 { directory } else { memory.path() };
        let paths: Vec<PathBuf> = (1..=SHARDS).map(|seed| write_shard(place(seed), seed, RECORD * RECORDS)).collect();
        let one_by_one = |ring| {
            let builder = builder(&paths).batch_size(1).reads_in_flight(1).prefetch(1).ring(ring);
            let mut loader = builder.build().unwrap();
            let start = Instant::now();
            let stats = check(&mut loader, SHARDS);
            (start.elapsed(), stats)
        };
        let mut tries = Vec::new();
        // Waits of 20 ms would be up to 10 s, each time.
        while tries.last().is_none_or(|&(alone, both)| both >= 3 * alone + Duration::from_secs(2)) {
            assert!(tries.len() < 3, "threads alone, and both: {tries:?}");
            let (alone, _) = one_by_one(RingChoice::Pread);
            let (both, stats) = one_by_one(RingChoice::Auto);
            assert_eq!(fallback(&stats, "pread threads").errno, Some(libc::EOPNOTSUPP));
            tries.push((alone, both));
        }
    });
}

/// Old sandboxes know no statx(2), and thus no alignment of direct reads.
#[test]
fn statx_absent() {
    let _within = Within::seconds(300);
    alone("statx_absent", |directory| {
        refuse(libc::SYS_statx, libc::ENOSYS);
        let paths = write(directory, 2);
        check(&mut builder(&paths).build().unwrap(), 2);
    });
}

/// Becomes a user with so much lockable memory, in a directory that this user may read whatever lies above it.
fn as_user(directory: &Path, user: u32, memlock_bytes: u64, body: impl FnOnce(Vec<PathBuf>)) {
    if !is_root() {
        return eprintln!("SKIPPED: only root can become another user");
    }
    if !has_uring() {
        return;
    }
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory, open).unwrap();
    std::env::set_current_dir(directory).unwrap();
    let paths = write(Path::new("."), 2);
    paths.iter().for_each(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap());
    limit(libc::RLIMIT_MEMLOCK, memlock_bytes);
    become_user(user);
    body(paths);
}

#[test]
fn little_lockable_memory() {
    let _within = Within::seconds(300);
    alone("little_lockable_memory", |directory| {
        if Kind::of(directory) != Kind::Direct {
            return eprintln!("SKIPPED: no disk with direct reads, and so no ring to do without");
        }
        as_user(directory, 61_002, 64 << 10, |paths| {
            for path in PATHS {
                let mut loader = builder(&paths).path(path).build().unwrap();
                let stats = check(&mut loader, 2);
                // Whether the ring itself still fits depends on the kernel.
                let instead = match stats.ring {
                    "uring" => "memory pinned at each read instead of registered",
                    _ => "pread threads instead of io_uring",
                };
                let fallback = fallback(&stats, instead);
                assert_eq!(fallback.errno, Some(libc::ENOMEM), "{fallback}");
                assert!(fallback.remedy.contains("ulimit -l"), "{fallback}");
            }
        });
    });
}

#[test]
fn no_lockable_memory() {
    let _within = Within::seconds(300);
    alone("no_lockable_memory", |directory| {
        as_user(directory, 61_003, 0, |paths| {
            for path in PATHS {
                let stats = check(&mut builder(&paths).path(path).build().unwrap(), 2);
                let fallback = stats.fallbacks.iter().find(|f| f.errno == Some(libc::ENOMEM));
                assert!(fallback.is_some_and(|f| f.remedy.contains("ulimit -l")), "{:?}", stats.fallbacks);
            }
        });
    });
}

/// Allows this process `more` open files than it has now.
fn allow_files(more: u64) {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let mut used: BTreeSet<u64> = entries.map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // SAFETY: takes no pointer. The directory's own descriptor is closed by now.
    used.retain(|&fd| unsafe { libc::fcntl(fd as i32, libc::F_GETFD) } != -1);
    let free: Vec<u64> = (0..).filter(|fd| !used.contains(fd)).take(more as usize + 1).collect();
    limit(libc::RLIMIT_NOFILE, *free.last().unwrap());
}

#[test]
fn more_shards_than_files_may_be_open() {
    let _within = Within::seconds(300);
    alone("more_shards_than_files_may_be_open", |directory| {
        const SHARDS: u64 = 30;
        let paths = write(directory, SHARDS);
        for ring in [RingChoice::Auto, RingChoice::Pread] {
            let mut loader = builder(&paths).open_files_max(5).ring(ring).build().unwrap();
            check(&mut loader, SHARDS); // whatever is opened once is open by now
            assert_eq!(loader.stats().open_files_max, 5);
        }
        let mut loader = builder(&paths).open_files_max(5).build().unwrap();
        // Where a file system takes no ring, threads begin with the first file, and one that is opened anew is open twice.
        allow_files(5 + if Kind::of(directory) == Kind::Direct { 0 } else { 2 });
        assert_eq!(check(&mut loader, SHARDS).open_files_max, 5);
    });
}

#[test]
fn fewer_files_than_the_loader_may_open() {
    let _within = Within::seconds(300);
    alone("fewer_files_than_the_loader_may_open", |directory| {
        const SHARDS: u64 = 30;
        let paths = write(directory, SHARDS);
        let mut loader = builder(&paths).build().unwrap();
        allow_files(5);
        let error = loader.epoch(0).find_map(Result::err).expect("30 files of 5");
        assert!(matches!(error, Error::Open { errno: libc::EMFILE, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("ulimit -n") && text.contains("open_files_max"), "{text}");
    });
}

/// The table of files in the ring is larger than this process may open: reads go by descriptor.
#[test]
fn a_table_of_files_beyond_the_limit() {
    let _within = Within::seconds(300);
    alone("a_table_of_files_beyond_the_limit", |directory| {
        if !has_uring() {
            return;
        }
        const SHARDS: u64 = 70;
        let paths = write(directory, SHARDS);
        limit(libc::RLIMIT_NOFILE, 64);
        let mut loader = builder(&paths).open_files_max(65).ring(RingChoice::Uring).build().unwrap();
        let error = loader.epoch(0).find_map(Result::err).expect("65 files of 64");
        assert_eq!(error.errno(), Some(libc::EMFILE), "{error}");
        let stats = loader.stats();
        let fallback = fallback(&stats, "files looked up at each read");
        assert!(fallback.errno == Some(libc::EMFILE) && fallback.remedy.contains("ulimit -n"), "{fallback}");
        drop(loader);
        let mut loader = builder(&paths).open_files_max(20).ring(RingChoice::Uring).build().unwrap();
        let stats = check(&mut loader, SHARDS);
        assert_eq!(stats.open_files_max, 20);
        assert!(stats.fallbacks.iter().all(|f| !f.instead.starts_with("files")), "{:?}", stats.fallbacks);
    });
}
