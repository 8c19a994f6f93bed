//! What cuFile needs of the machine besides itself, looked at before it is called.

use std::path::Path;

use super::driver::refusal;
use crate::machine;
use crate::stats::Fallback;

/// What cuFile needs of the machine besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// `/proc/modules` exists.
    pub modules: bool,
    /// `/run/udev/data` has entries.
    pub udev: bool,
    /// The module nvidia-fs is loaded.
    pub nvidia_fs: bool,
    /// Kernel and driver can do PCI peer-to-peer DMA.
    pub peer_to_peer: bool,
}

impl Surroundings {
    /// What this machine has.
    pub fn look() -> Surroundings {
        Surroundings::below(machine::root())
    }

    fn below(root: &Path) -> Surroundings {
        let text = |place| std::fs::read_to_string(root.join(place)).unwrap_or_default();
        let (release, driver) = (text("proc/sys/kernel/osrelease"), text("proc/driver/nvidia/version"));
        Surroundings {
            modules: root.join("proc/modules").exists(),
            udev: has_entries(&root.join("run/udev/data")),
            nvidia_fs: root.join("proc/driver/nvidia-fs/version").exists(),
            peer_to_peer: kernel_is_new_enough(&release) && driver_is_new_enough(&driver),
        }
    }

    /// What stands in the way, as the caller of cuFile is told.
    pub fn obstacle(&self, compat: bool) -> Option<Fallback> {
        if !self.modules {
            return Some(refusal(
                "there is no /proc/modules, without which cuFileDriverOpen never returns",
                "use a kernel with loadable modules (CONFIG_MODULES); some virtual machines have none",
                None,
            ));
        }
        if !self.udev {
            return Some(refusal(
                "there is nothing in /run/udev/data, without which cuFile takes no file",
                "in a container, mount the host's: `-v /run/udev:/run/udev:ro`",
                None,
            ));
        }
        if !compat && !self.nvidia_fs && !self.peer_to_peer {
            return Some(compat_refused());
        }
        None
    }
}

/// A container may have an empty directory there.
fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Linux 6.2 brought user mappings of peer-to-peer memory to O_DIRECT.
fn kernel_is_new_enough(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 2)
}

/// NVIDIA's open kernel modules, from the version on in which they can. The text begins as in
/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build ..`.
fn driver_is_new_enough(text: &str) -> bool {
    const MAJOR: u32 = 565;
    let Some((_, rest)) = text.lines().next().unwrap_or("").split_once("Open Kernel Module") else { return false };
    let mut majors = rest.split_whitespace().filter_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
    majors.next().is_some_and(|major| major >= MAJOR)
}

fn compat_refused() -> Fallback {
    refusal(
        "cuFile would run in compatibility mode, which reads into host memory and copies, piece by piece: there is \
         neither nvidia-fs nor PCI peer-to-peer DMA",
        "load nvidia-fs, or use Linux 6.2 with NVIDIA's open kernel modules (565 or newer); the staged path is faster than \
         compatibility mode",
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_no_udev_database() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!has_entries(directory.path()) && !has_entries(&directory.path().join("none")));
        std::fs::write(directory.path().join("b8:1"), "").unwrap();
        assert!(has_entries(directory.path()));
    }

    /// Mutants that this catches: any kernel, any driver, an open driver of any version passes.
    #[test]
    fn the_machine_is_looked_at() {
        let open = |version| {
            format!("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (a.b)")
        };
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Wed Jan 1";
        let look = |release: &str, driver: &str, others: &[&str]| {
            let root = tempfile::tempdir().unwrap();
            let files = [("proc/sys/kernel/osrelease", release), ("proc/driver/nvidia/version", driver)];
            for (place, text) in files.into_iter().chain(others.iter().map(|&place| (place, ""))) {
                let place = root.path().join(place);
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                std::fs::write(place, text).unwrap();
            }
            Surroundings::below(root.path())
        };
        for (release, driver, can) in [
            ("6.2.0-39-generic\n", open("565.57.01"), true),
            ("6.18.5\n", open("580.65.06"), true),
            ("10.0.0\n", open("1000.1"), true),
            ("6.1.99\n", open("565.57.01"), false),
            ("5.15.0-1\n", open("580.65.06"), false),
            ("6.8.0\n", open("560.35.03"), false),
            ("6.8.0\n", closed.into(), false),
            ("6.8.0\n", String::new(), false),
        ] {
            assert_eq!(look(release, &driver, &[]).peer_to_peer, can, "{release} {driver}");
        }
        let nothing = look("6.1.0", "", &[]);
        assert!(!nothing.modules && !nothing.udev && !nothing.nvidia_fs);
        let all = look("6.1.0", "", &["proc/modules", "run/udev/data/b8:1", "proc/driver/nvidia-fs/version"]);
        assert!(all.modules && all.udev && all.nvidia_fs && all.obstacle(false).is_none());
    }
}
