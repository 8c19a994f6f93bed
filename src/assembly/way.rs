//! Which way bytes take into a device's memory: tried by a real read where the device's own answer does not settle it.

use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::config::{PathChoice, RingChoice, Way};
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::memory;
use crate::stats::{Counters, Fallback};
use crate::storage::{Cufile, Enter};

/// What is asked for that the way depends on.
pub(crate) struct Wishes {
    pub(crate) ring: RingChoice,
    pub(crate) path: PathChoice,
    /// The option that has the CPU look at what is read.
    pub(crate) on_the_way: Option<&'static str>,
    pub(crate) deadline: Duration,
}

/// A driver that takes longer than this to open, or to read a megabyte, will not do.
const TRIAL_MAX: Duration = Duration::from_secs(10);
/// File systems that are tried; datasets rarely lie on more.
const FILE_SYSTEMS_MAX: usize = 8;

/// The way that the options name, or the best that works here for files such as these, and why a better one does not.
pub(crate) fn choose<'a>(
    device: &Device,
    files: impl Iterator<Item = &'a Arc<Path>>,
    wishes: &Wishes,
) -> Result<(Way, Option<Fallback>)> {
    let on_host = device.kind() == DeviceKind::Host;
    if wishes.ring == RingChoice::Cufile {
        let problem = match (device.kind(), wishes.path) {
            (DeviceKind::Cuda(_), PathChoice::Auto) => None,
            (DeviceKind::Cuda(_), PathChoice::Staged) => {
                Some("cuFile writes into the device's memory: it has no slabs")
            }
            _ => Some("cuFile reads into the memory of CUDA devices; for this device leave the ring to be chosen"),
        };
        if let Some(problem) = problem {
            return Err(Error::config("ring", problem));
        }
    }
    if let (Some(option), RingChoice::Cufile) = (wishes.on_the_way, wishes.ring) {
        let problem = "cuFile goes past the host: the CPU sees nothing of what is read; leave the ring to be chosen";
        return Err(Error::config(option, problem));
    }
    match (wishes.path, wishes.ring, device.kind()) {
        (PathChoice::Auto, ..) if on_host => Ok((Way::Host, None)),
        (PathChoice::Auto, RingChoice::Cufile, _) => {
            try_cufile(device, files, wishes, true).map_err(broken)?;
            Ok((Way::Cufile { compat: true }, None))
        }
        (PathChoice::Auto, RingChoice::Auto, DeviceKind::Cuda(_)) => {
            Ok(match try_cufile(device, files, wishes, false) {
                Ok(()) => (Way::Cufile { compat: false }, None),
                Err(refusal) => (Way::Staged, Some(refusal)),
            })
        }
        _ => Ok((Way::Staged, None)),
    }
}

/// A refusal where there is no other way.
pub(crate) fn broken(refusal: Fallback) -> Error {
    let Fallback { reason, remedy, errno, .. } = refusal;
    Error::Ring { ring: "cufile", problem: format!("{reason}; {remedy}"), errno: errno.unwrap_or(libc::ENODEV) }
}

pub(crate) fn unregistered(bytes: usize, code: i32) -> Fallback {
    Fallback {
        instead: "device memory that cuFile opens to the bus at each read, or goes around, instead of registered"
            .into(),
        reason: format!("{bytes} bytes with cuFileBufRegister"),
        errno: Some(code),
        remedy: BAR1,
    }
}

const BAR1: &str = "take less device memory at once (a loader: region_bytes): a GPU opens only so much of it to the bus \
                    (BAR1 of `nvidia-smi -q`), and cuFile registers only so much (max_device_pinned_mem_size_kb of \
                    cufile.json)";

/// Why bytes go through slabs after all.
pub(crate) fn refusal(reason: String, remedy: &'static str) -> Fallback {
    Cufile::refusal(reason, remedy)
}

/// The same where slabs are there to go through.
pub(crate) fn slabs_instead(bytes: usize, code: i32) -> Fallback {
    let Fallback { reason, errno, remedy, .. } = unregistered(bytes, code);
    Fallback { errno, ..Cufile::refusal(reason, remedy) }
}

/// Keeps this thread, its children and what they allocate to the device's NUMA node, where there are several; gives it.
pub(crate) fn stay_near(device: &Device, counters: &Counters) -> Option<u32> {
    let node = device.raw().numa_node()?;
    match memory::stay_near(node) {
        Ok(near) => near.then_some(node),
        Err(reason) => {
            counters.fall_back(Fallback {
                instead: format!("an engine that runs anywhere instead of near {}", device.kind()),
                reason,
                errno: None,
                remedy: "start the process on the CPUs of the device's NUMA node (`nvidia-smi topo -m`, `numactl -N`)",
            });
            None
        }
    }
}

/// What makes the device current where cuFile looks for it.
pub(crate) fn enter(device: &Device) -> Enter {
    let device = device.clone();
    Arc::new(move || device.raw().make_current())
}

/// Reads the start of a shard of each file system into the device's memory, on a thread that is left behind if it hangs.
fn try_cufile<'a>(
    device: &Device,
    files: impl Iterator<Item = &'a Arc<Path>>,
    wishes: &Wishes,
    compat: bool,
) -> Result<(), Fallback> {
    // Asked first: it costs nothing, and most machines stop here.
    if let Some(obstacle) = Cufile::obstacle(compat) {
        return Err(obstacle);
    }
    if let Some(option) = wishes.on_the_way {
        let reason = format!("{option} was asked for, and cuFile goes past the host");
        return Err(Cufile::refusal(reason, "leave that option out if the device does better without"));
    }
    let deadline = wishes.deadline.min(TRIAL_MAX);
    let (device, shards) = (device.clone(), one_of_each_file_system(files));
    let (tell, answer) = mpsc::channel();
    let body = move || {
        let answer = trial(&device, &shards, compat, deadline);
        drop(device); // whoever hears the answer may count on that
        let _ = tell.send(answer);
    };
    let refused = |reason: &str| Cufile::refusal(reason, "see cufile.log in the working directory, and `dmesg`");
    let thread = std::thread::Builder::new().name("strait-trial".into()).spawn(body);
    thread.map_err(|error| refused(&format!("cannot start a thread: {error}")))?;
    answer.recv_timeout(deadline).unwrap_or_else(|_| Err(refused("a trial read did not return in time")))
}

fn trial(device: &Device, shards: &[Arc<Path>], compat: bool, deadline: Duration) -> Result<(), Fallback> {
    let failed = |error: Error| Cufile::refusal(error.to_string(), "run `strait doctor`");
    let enter = enter(device);
    enter().map_err(failed)?;
    let memory = device.raw().allocate(Cufile::TRIAL_BYTES).map_err(failed)?;
    let target = NonNull::new(std::ptr::without_provenance_mut(memory.base as usize)).expect("memory at an address");
    // SAFETY: the memory is ours, and cuFile has done with what is read back.
    let mut read_back = |found: &mut [u8]| unsafe { device.raw().read_back(memory.base, found) };
    let mut tries = shards.iter();
    // SAFETY: nobody else has the memory. It is freed behind this; if cuFile does not return, never.
    let result =
        tries.try_for_each(|shard| unsafe { Cufile::trial(shard, target, &mut read_back, compat, &enter, deadline) });
    // SAFETY: every trial has returned and taken its registration back.
    unsafe { device.raw().free(memory) };
    result
}

fn one_of_each_file_system<'a>(files: impl Iterator<Item = &'a Arc<Path>>) -> Vec<Arc<Path>> {
    let (mut seen, mut shards) = (Vec::new(), Vec::new());
    for path in files {
        let system = std::fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta)).ok();
        if !seen.contains(&system) && seen.len() < FILE_SYSTEMS_MAX {
            seen.push(system);
            shards.push(path.clone());
        }
    }
    shards
}
