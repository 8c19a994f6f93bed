//! File systems of a test's own, seen by its threads alone, gone with them.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Why a test cannot have what it needs here: to be said aloud, with `SKIPPED`.
pub type Skip = String;

/// What a file system is, by statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext4 or XFS: the kernel starts direct reads without waiting.
    Direct,
    /// tmpfs or overlayfs: it never does, and says EOPNOTSUPP.
    Waits,
    /// Another one, of which these tests expect nothing but right bytes.
    Other,
}

impl Kind {
    pub fn of(path: &Path) -> Kind {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: an all-zero statfs is a valid value of that plain C struct.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is a C string, the result outlives the call.
        assert_eq!(unsafe { libc::statfs(path.as_ptr(), &raw mut stat) }, 0, "{}", io::Error::last_os_error());
        match stat.f_type as i64 {
            0xEF53 | 0x5846_5342 => Kind::Direct,
            0x0102_1994 | 0x794C_7630 => Kind::Waits,
            _ => Kind::Other,
        }
    }
}

/// A temporary directory in memory.
pub fn memory_directory() -> Result<tempfile::TempDir, Skip> {
    let directory = tempfile::tempdir_in("/dev/shm").map_err(|e| format!("/dev/shm: {e}"))?;
    match Kind::of(directory.path()) {
        Kind::Waits => Ok(directory),
        other => Err(format!("/dev/shm is no tmpfs ({other:?})")),
    }
}

/// A mount namespace of the calling thread and of the threads it starts, and what is mounted in it.
///
/// Dropping it unmounts everything; if a test is killed, the kernel does, and frees the loop devices with it.
pub struct Mounts {
    directory: tempfile::TempDir,
    mounted: Vec<PathBuf>,
}

impl Mounts {
    pub fn new() -> Result<Mounts, Skip> {
        // SAFETY: takes no pointer; it concerns this thread and those it will start.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(format!("no mount namespace: {}", io::Error::last_os_error()));
        }
        let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: the target is a C string; a change of propagation reads nothing else.
        if unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) } != 0 {
            return Err(format!("no private mounts: {}", io::Error::last_os_error()));
        }
        let directory = memory_directory().unwrap_or_else(|_| super::disk_directory());
        Ok(Mounts { directory, mounted: Vec::new() })
    }

    /// A file system in an image of `mib` MiB, on a loop device with sectors of `sector` bytes: where it is mounted,
    /// and the image.
    pub fn image(&mut self, make: &[&str], options: &str, sector: u32, mib: u64) -> Result<(PathBuf, PathBuf), Skip> {
        let image = self.directory.path().join(format!("{}.img", self.mounted.len()));
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).map_err(|e| e.to_string())?;
        let device = Loop::attach(&image, sector)?;
        run(make[0], &[&make[1..], &[&device.0]].concat())?;
        // The device is let go at once: the mount keeps it, and the kernel detaches it with the mount.
        let target = self.mount(&["-o", options, &device.0])?;
        Ok((target, image))
    }

    /// An overlay whose files lie in `upper`, on another file system.
    pub fn overlay(&mut self, upper: &Path) -> Result<PathBuf, Skip> {
        let [lower, data, work] = ["lower", "data", "work"].map(|name| upper.join(name));
        for directory in [&lower, &data, &work] {
            fs::create_dir_all(directory).map_err(|e| e.to_string())?;
        }
        let places = format!("lowerdir={},upperdir={},workdir={}", lower.display(), data.display(), work.display());
        self.mount(&["-t", "overlay", "-o", &places, "overlay"])
    }

    /// Mounts again with other options.
    pub fn remount(&self, target: &Path, options: &str) -> Result<(), Skip> {
        run("mount", &["-o", &format!("remount,{options}"), &target.display().to_string()])
    }

    fn mount(&mut self, arguments: &[&str]) -> Result<PathBuf, Skip> {
        let target = self.directory.path().join(self.mounted.len().to_string());
        fs::create_dir(&target).map_err(|e| e.to_string())?;
        run("mount", &[arguments, &[&target.display().to_string()]].concat())?;
        self.mounted.push(target.clone());
        Ok(target)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            let target = CString::new(target.as_os_str().as_encoded_bytes()).unwrap();
            // SAFETY: the target is a C string.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

/// A loop device, by name. Dropped, it goes once nothing is mounted from it.
struct Loop(String);

impl Loop {
    fn attach(image: &Path, sector: u32) -> Result<Loop, Skip> {
        let (sector, image) = (sector.to_string(), image.display().to_string());
        let mut last = String::new();
        // Others may take the free device between the question and the answer.
        for _ in 0..20 {
            let arguments = ["--find", "--show", "--direct-io=on", "--sector-size", &sector, &image];
            match output("losetup", &arguments) {
                Ok(device) => return Ok(Loop(device.trim().into())),
                Err(error) => last = error,
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(last)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.0]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Skip> {
    output(program, arguments).map(drop)
}

fn output(program: &str, arguments: &[&str]) -> Result<String, Skip> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
