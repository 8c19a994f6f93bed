//! cuFile's driver: what is looked at before it is called, and how it is opened without hanging this process.
//!
//! ```text
//!  /proc/modules? ---no---> refused: cuFileDriverOpen would spin for ever
//!  /run/udev/data? --no---> refused: no file would be taken
//!  nvidia-fs or P2PDMA? no> refused, unless compatibility mode is asked for: a copy through host memory, piece by piece
//!  libcufile.so.0? --no---> refused
//!  open, on a thread of its own --late--> refused, now and for the rest of the process
//!  properties: direct? no-> refused, unless ..
//! ```

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::library::{Answer, Library, Properties};
use super::surroundings::Surroundings;
use crate::error::Result;
use crate::stats::Fallback;

/// What makes a device current on the calling thread: cuFile looks for it there.
pub type Enter = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Why bytes go another way than through cuFile.
pub(super) fn refusal(reason: impl Into<String>, remedy: &'static str, code: Option<i32>) -> Fallback {
    let instead = "the staged path through host memory instead of cuFile's direct one".into();
    Fallback { instead, reason: reason.into(), errno: code, remedy }
}

pub(super) fn no_library(why: String) -> Fallback {
    refusal(why, "install NVIDIA's cuFile (GPUDirect Storage), part of the CUDA toolkit", None)
}

/// Every answer but success.
pub(super) fn check(call: &str, answer: Answer) -> Result<(), Fallback> {
    let Answer { code, cuda } = answer;
    if code == 0 {
        return Ok(());
    }
    let cuda = if code == CUDA_ERROR { format!(" (CUresult {cuda})") } else { String::new() };
    Err(refusal(format!("{call} failed{cuda}"), remedy(code), Some(code)))
}

const CUDA_ERROR: i32 = 5011;
const ALREADY_OPEN: i32 = 5026;

fn remedy(code: i32) -> &'static str {
    match code {
        5001 | 5004 | 5005 | 5033 => "load the module nvidia-fs of the driver's version; see cufile.log",
        5007 | 5009 => "this GPU or platform has no GPUDirect Storage",
        5008 | 5018 | 5020 | 5034 => "keep the shards on ext4 or XFS on a local NVMe drive",
        5016 | 5036 => "lower region_bytes: less device memory can be opened to the bus than that",
        5025 => "check the rights on /dev/nvidia-fs* and on the files",
        5030 => "mount the host's /run/udev into the container; see cufile.log",
        _ => "see cufile.log in the working directory; run `strait doctor`",
    }
}

/// cuFile, open in this process.
#[derive(Clone, Copy)]
pub(super) struct Driver {
    pub(super) library: &'static Library,
    pub(super) batch_max: u32,
}

#[derive(Clone, Copy)]
enum Opened {
    NotYet,
    Open(Properties),
    /// A thread is inside cuFile and will not come back.
    Hung,
}

/// `CU_FILE_NVME_SUPPORTED` of the status flags.
const STORAGE_NVME: u32 = 1 << 4;
/// `CU_FILE_NVME_P2P_SUPPORTED` of the status flags, which NVIDIA has given up for the next one.
const STORAGE_PEER_TO_PEER: u32 = 1 << 11;
/// `CU_FILE_P2P_SUPPORTED` of the feature flags.
const FEATURE_PEER_TO_PEER: u32 = 1 << 4;

impl Properties {
    /// Whether NVMe drives are read without a detour through host memory.
    fn is_direct(&self) -> bool {
        let nvidia_fs = (self.nvidia_fs_major, self.nvidia_fs_minor) != (0, 0);
        nvidia_fs && self.storage & STORAGE_NVME != 0
            || self.storage & STORAGE_PEER_TO_PEER != 0
            || self.features & FEATURE_PEER_TO_PEER != 0
    }
}

impl Driver {
    /// Opens cuFile's driver, or says why it is not used. It stays open for the rest of the process: other users count on
    /// it too.
    pub(super) fn open(enter: &Enter, compat: bool, deadline: Duration) -> Result<Driver, Fallback> {
        if let Some(obstacle) = Surroundings::look().obstacle(compat) {
            return Err(obstacle);
        }
        let library = Library::get().map_err(no_library)?;
        let properties = opened(library, enter, deadline)?;
        if !compat && !properties.is_direct() {
            return Err(refusal(
                "cuFile says, once it is open, that it runs in compatibility mode here: it would read into host memory and \
                 copy, piece by piece",
                "see cufile.log in the working directory for what it lacks, and use_pci_p2pdma in cufile.json; the staged path \
                 is faster than compatibility mode",
                None,
            ));
        }
        Ok(Driver { library, batch_max: properties.batch_max.clamp(1, 128) })
    }
}

fn opened(library: &'static Library, enter: &Enter, deadline: Duration) -> Result<Properties, Fallback> {
    static OPENED: Mutex<Opened> = Mutex::new(Opened::NotYet);
    let hung = || refusal("cuFileDriverOpen did not return in time", "see cufile.log, and `dmesg` for nvidia-fs", None);
    // Others wait here as long as this one does.
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match *opened {
        Opened::Open(properties) => return Ok(properties),
        Opened::Hung => return Err(hung()),
        Opened::NotYet => {}
    }
    let (tell, answer) = mpsc::channel();
    let enter = enter.clone();
    let body = move || drop(tell.send(open_here(library, &enter)));
    let thread = std::thread::Builder::new().name("strait-cufile".into()).spawn(body);
    thread.map_err(|error| refusal("cannot start a thread", "raise `ulimit -u`", error.raw_os_error()))?;
    match answer.recv_timeout(deadline) {
        Ok(result) => {
            if let Ok(properties) = result {
                *opened = Opened::Open(properties);
            }
            result
        }
        Err(_) => {
            *opened = Opened::Hung;
            Err(hung())
        }
    }
}

fn open_here(library: &Library, enter: &Enter) -> Result<Properties, Fallback> {
    enter().map_err(|error| refusal(error.to_string(), "", None))?;
    // SAFETY: a context is current, if the device has any.
    match unsafe { (library.driver_open)() } {
        Answer { code: ALREADY_OPEN, .. } => {}
        answer => check("cuFileDriverOpen", answer)?,
    }
    let mut properties = Properties::default();
    // SAFETY: there is room for the properties, and for more than this library's version has.
    check("cuFileDriverGetProperties", unsafe { (library.properties)(&mut properties) })?;
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_nvme_drives_is_direct() {
        let is_direct = |nvidia_fs_minor, storage, features| {
            Properties { nvidia_fs_minor, storage, features, ..Properties::default() }.is_direct()
        };
        assert!(is_direct(24, 1 << 4, 0) && is_direct(24, 0x7FF, 15), "nvidia-fs");
        assert!(is_direct(0, 1 << 11, 0) && is_direct(0, 0, 1 << 4), "peer to peer, in either way of saying it");
        assert!(!is_direct(24, 0, 15) && !is_direct(24, 0b1111, 15), "nvidia-fs for other storage");
        assert!(!is_direct(0, 1 << 4, 15) && !is_direct(0, 0, 15), "NVMe drives, and nothing that reads them so");
    }
}
