//! One place that shards are read from: file system, O_DIRECT, and which engine reads from it best.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strait::storage::{Probed, Prober, Way};
use tempfile::NamedTempFile;

use super::direct::{Direct, nowait, nowait_finding};
use super::disk;
use super::ring::RingAnswer;
use super::{Finding, Section};
use crate::linux::file::file_system;
use crate::linux::{errno, errno_name};

/// A loader's own alignment, unless it is told another.
const ALIGN: u64 = 4096;
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
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => "check the path",
        (io::ErrorKind::PermissionDenied, _) => "check the permissions of the path and of the directories above it",
        (_, Some(libc::EIO | libc::ENODATA)) => "the storage reports a media error: see dmesg",
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
    let (engine, goes_direct, reason) = choose(ring, probe.path());
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
    (findings, facts, engine, goes_direct, reason)
}

/// What the loader's own probe says, so that the doctor cannot promise anything else.
fn choose(ring: &RingAnswer, file: &Path) -> (Engine, bool, String) {
    match Prober::new(ring.allowed, ALIGN).open(file) {
        Err(error) => (Engine::None, false, error.to_string()),
        Ok(Probed { mode, fallback, .. }) => {
            let reason = match fallback {
                Some(fallback) => fallback.to_string(),
                None if mode.way == Way::Ring => "io_uring is allowed, and direct reads start without waiting".into(),
                None => ring.reason.clone(),
            };
            let engine = if mode.way == Way::Ring { Engine::Ring } else { Engine::Pread };
            (engine, mode.direct, reason)
        }
    }
}
