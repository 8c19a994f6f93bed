//! One place that shards are read from: file system, O_DIRECT, and which engine reads from it best.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::disk;
use super::ring::RingAnswer;
use super::{Finding, Section};
use crate::linux::cache::residency;
use crate::linux::file::{DirectAlign, direct_align, file_system, open_direct, read_at};
use crate::linux::pages::Pages;
use crate::linux::{errno, errno_name};

/// Large enough that file systems which answer small NOWAIT reads from a tree node have to show their true behaviour.
const BLOCK: usize = 64 << 10;
const PROBE_FILE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Ring,
    Pread,
    /// Not even pread works.
    None,
}

impl Engine {
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Engine::Ring => Some("uring"),
            Engine::Pread => Some("pread"),
            Engine::None => None,
        }
    }
}

/// How a loader will read here.
pub(super) struct PathAnswer {
    pub(super) path: PathBuf,
    pub(super) engine: Engine,
    pub(super) direct: bool,
    pub(super) reason: String,
}

/// The file that is read: the named one, one made for the purpose, or one that happens to be there.
enum Probe {
    Made(NamedTempFile),
    Found(PathBuf),
}

impl Probe {
    fn path(&self) -> &Path {
        match self {
            Probe::Made(file) => file.path(),
            Probe::Found(path) => path,
        }
    }
}

pub(super) fn examine(path: &Path, ring: &RingAnswer) -> (Section, PathAnswer) {
    let (findings, facts, engine, direct, reason) =
        match probe_file(path).and_then(|probe| Ok((readable(&probe)?, probe))) {
            Ok((device, probe)) => examine_file(path, &probe, device, ring),
            Err(error) => {
                let means = "a loader cannot read here, by any means";
                let finding = Finding::problem(format!("cannot read a file here: {error}"), means, change_for(&error));
                (vec![finding], json!({}), Engine::None, false, error.to_string())
            }
        };
    let mut all = json!({ "path": path, "readable": engine != Engine::None, "engine": engine.name() });
    if let (Value::Object(all), Value::Object(facts)) = (&mut all, facts) {
        all.extend(facts);
    }
    let section = Section { key: "paths", title: format!("path {}", path.display()), findings, facts: all };
    (section, PathAnswer { path: path.to_owned(), engine, direct, reason })
}

fn change_for(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "check the path",
        Some(libc::EACCES | libc::EPERM) => "check the permissions of the path and of the directories above it",
        Some(libc::EIO | libc::ENODATA) => "the storage reports a media error: see dmesg",
        _ => "name a regular file that this user may read",
    }
}

fn probe_file(path: &Path) -> io::Result<Probe> {
    let meta = std::fs::metadata(path)?;
    if meta.is_file() {
        return Ok(Probe::Found(path.to_owned()));
    }
    if !meta.is_dir() {
        return Err(io::Error::other("neither a file nor a directory"));
    }
    make(path).map(Probe::Made).or_else(|refused| {
        // Datasets are often mounted read-only: any readable file tells as much.
        let usable =
            |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) && File::open(path).is_ok();
        let mut entries = std::fs::read_dir(path)?.flatten().map(|entry| entry.path());
        entries.find(usable).map(Probe::Found).ok_or_else(|| {
            let text = format!("no file to read in the directory, and none can be made there ({refused})");
            io::Error::new(refused.kind(), text)
        })
    })
}

fn make(directory: &Path) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".strait-doctor-").tempfile_in(directory)?;
    file.write_all(&[0xa5; PROBE_FILE_BYTES])?;
    // A dirty page would make a NOWAIT read wait, and tell about the page instead of the disk.
    file.as_file().sync_all()?;
    crate::linux::cache::evict(file.path())?;
    Ok(file)
}

/// The least a loader needs: to open and read one byte. Gives the id of the device that holds the file.
fn readable(probe: &Probe) -> io::Result<u64> {
    let file = File::open(probe.path())?;
    std::os::unix::fs::FileExt::read_at(&file, &mut [0u8], 0)?;
    Ok(file.metadata()?.dev())
}

type Examined = (Vec<Finding>, Value, Engine, bool, String);

fn examine_file(path: &Path, probe: &Probe, device: u64, ring: &RingAnswer) -> Examined {
    let fs = file_system(path).map_or_else(|_| "unknown".into(), |fs| fs.name);
    let direct = Direct::examine(probe.path(), &fs);
    let nowait = nowait(probe.path());
    let (engine, reason) = choose(ring, &direct, &nowait);
    let (disk_findings, disk_facts) = disk::examine(device);
    let mut findings = vec![direct.finding(&fs), nowait_finding(&nowait)];
    findings.extend(disk_findings);
    let facts = json!({
        "file_system": fs,
        "o_direct": direct.works(),
        "o_direct_errno": direct.refused,
        "dio_mem_align": direct.align.map(|a| a.memory),
        "dio_offset_align": direct.align.map(|a| a.offset),
        "nowait": match &nowait { Ok(()) => "full".into(), Err(e) => errno_name(errno(e)) },
        "disk": disk_facts,
        "probe_file": if matches!(probe, Probe::Made(_)) { "temporary" } else { "existing" },
    });
    (findings, facts, engine, direct.works(), reason)
}

/// What became of a read with O_DIRECT.
struct Direct {
    align: Option<DirectAlign>,
    refused: Option<i32>,
    /// Pages appeared in the page cache, or the file has no other home.
    cached: bool,
}

impl Direct {
    fn examine(path: &Path, fs: &str) -> Direct {
        let pages = || residency(path).map_or(0, |seen| seen.cached);
        let before = pages();
        let tried = open_direct(path).and_then(|file| {
            let align = direct_align(&file).unwrap_or(None);
            read_at(&file, &mut Pages::new(BLOCK), 0, 0).map(|_| align)
        });
        let cached = pages() > before || matches!(fs, "tmpfs" | "ramfs");
        match tried {
            Ok(align) => Direct { align, refused: None, cached },
            Err(error) => Direct { align: None, refused: Some(errno(&error)), cached: true },
        }
    }

    fn works(&self) -> bool {
        let denied = self.align.is_some_and(|align| align.offset == 0);
        self.refused.is_none() && !self.cached && !denied
    }

    fn finding(&self, fs: &str) -> Finding {
        let cached = "reads go through the page cache: 15 to 90 times the CPU per GiB, and the cache fills up";
        let move_it = "keep shards on ext4 or xfs on a local disk (in a container: on a volume, not in its root)";
        if let Some(refused) = self.refused {
            return Finding::note(format!("{fs}; O_DIRECT is refused: {}", errno_name(refused)), cached, move_it);
        }
        let align = match self.align {
            Some(align) => format!("statx DIOALIGN: memory {}, offset {}", align.memory, align.offset),
            None => "statx tells no DIOALIGN".into(),
        };
        if !self.works() {
            let found = format!("{fs}; O_DIRECT is accepted and ignored ({align})");
            return Finding::note(found, cached, move_it);
        }
        Finding::ok(format!("{fs}; O_DIRECT works ({align})"), "the disk writes into memory that strait chose, no copy")
    }
}

/// Whether a block can be asked for without waiting. If not, io_uring hands every read to a kernel thread.
fn nowait(path: &Path) -> io::Result<()> {
    let file = open_direct(path).or_else(|_| File::open(path))?;
    let bytes = file.metadata()?.len();
    let mut block = Pages::new(BLOCK);
    let ask = |block: &mut Pages, offset: u64| {
        let want = (BLOCK as u64).min(bytes - offset);
        let got = read_at(&file, block, offset, libc::RWF_NOWAIT)? as u64;
        if got >= want { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EAGAIN)) }
    };
    // EAGAIN may come from one dirty page: another range decides.
    let second = (bytes / 2) & !(BLOCK as u64 - 1);
    ask(&mut block, 0).or_else(|error| match error.raw_os_error() {
        Some(libc::EAGAIN) if second > 0 => ask(&mut block, second),
        _ => Err(error),
    })
}

fn nowait_finding(nowait: &io::Result<()>) -> Finding {
    let Err(error) = nowait else {
        return Finding::ok(
            "a 64 KiB read with RWF_NOWAIT starts at once",
            "io_uring drives the disk without helper threads",
        );
    };
    Finding::note(
        format!("a 64 KiB read with RWF_NOWAIT answers {}", errno_name(errno(error))),
        "io_uring would pass each read to a kernel thread; strait's own pread threads are as fast or faster here",
        "keep shards on ext4 or xfs on a local disk",
    )
}

fn choose(ring: &RingAnswer, direct: &Direct, nowait: &io::Result<()>) -> (Engine, String) {
    match nowait {
        _ if !ring.allowed => (Engine::Pread, ring.reason.clone()),
        Err(error) => {
            let errno = errno_name(errno(error));
            (Engine::Pread, format!("RWF_NOWAIT answers {errno}: a ring would pass each read to a kernel thread"))
        }
        Ok(()) if !direct.works() => {
            (Engine::Pread, "reads go through the page cache, where a ring gains nothing".into())
        }
        Ok(()) => (Engine::Ring, "io_uring is allowed, O_DIRECT works and RWF_NOWAIT reads start at once".into()),
    }
}
