//! The drives that a file lies on, as sysfs tells: cuFile reads NVMe drives directly, and others through host memory without
//! saying so.
//!
//! ```text
//!  st_dev --> dev/block/MAJOR:MINOR --partition--> its disk: nvme..
//!                     `--md, dm--> slaves: each of them
//! ```

use std::fs;
use std::path::Path;

/// More than anybody stacks.
const DEPTH_MAX: usize = 16;

/// Which drive below the device of this number is none that is read directly; `None` if each of them is.
pub(super) fn other_than_nvme(root: &Path, device: u64) -> Option<String> {
    let place = root.join(format!("sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
    look(&place, DEPTH_MAX).err()
}

fn look(place: &Path, depth: usize) -> Result<(), String> {
    let unknown = || format!("a device of which {} tells nothing", place.display());
    // Links: the place of a partition is inside that of its disk.
    let place = place.canonicalize().map_err(|_| unknown())?;
    let (Some(name), Some(parent), Some(depth)) = (place.file_name(), place.parent(), depth.checked_sub(1)) else {
        return Err(unknown());
    };
    if place.join("partition").exists() {
        return look(parent, depth);
    }
    let name = name.to_string_lossy();
    if fs::read_to_string(place.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("CRYPT-")) {
        return Err(format!("{name}, which the CPU decrypts"));
    }
    let slaves: Vec<_> = fs::read_dir(place.join("slaves")).into_iter().flatten().flatten().collect();
    if slaves.is_empty() && !name.starts_with("nvme") {
        return Err(format!("{name}, which is no NVMe drive"));
    }
    slaves.iter().try_for_each(|slave| look(&slave.path(), depth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine on which 8:1 is `top`; each of the others lies below the one before the colon.
    fn found(top: &str, others: &[&str], files: &[(&str, &str)]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        let devices = root.path().join("sys/devices");
        fs::create_dir_all(devices.join(top)).unwrap();
        for (name, below) in others.iter().filter_map(|other| other.split_once(": ")) {
            fs::create_dir_all(devices.join(below)).unwrap();
            fs::create_dir_all(devices.join(name).join("slaves")).unwrap();
            symlink(devices.join(below), devices.join(name).join("slaves").join(below.replace('/', "-"))).unwrap();
        }
        for (file, text) in files {
            fs::create_dir_all(devices.join(file).parent().unwrap()).unwrap();
            fs::write(devices.join(file), text).unwrap();
        }
        fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
        symlink(Path::new("../../devices").join(top), root.path().join("sys/dev/block/8:1")).unwrap();
        other_than_nvme(root.path(), libc::makedev(8, 1))
    }

    #[test]
    fn drives_are_found_below_partitions_and_what_joins_them() {
        let part = ("nvme0n1/nvme0n1p2/partition", "2\n");
        assert_eq!(found("nvme0n1", &[], &[]), None);
        assert_eq!(found("nvme0n1/nvme0n1p2", &[], &[part]), None);
        assert_eq!(found("md0", &["md0: nvme0n1/nvme0n1p2", "md0: nvme1n1"], &[part]), None);
        assert_eq!(found("dm-1", &["dm-1: md0", "md0: nvme1n1"], &[("dm-1/dm/uuid", "LVM-1")]), None);
        assert_eq!(found("md0/md0p1", &["md0: nvme1n1"], &[("md0/md0p1/partition", "1\n")]), None);
        for (top, others, files, told) in [
            ("vda", &[][..], &[][..], "vda"),
            ("sda/sda1", &[], &[("sda/sda1/partition", "1\n")], "sda"),
            ("loop0", &[], &[], "loop0"),
            ("md0", &["md0: nvme0n1", "md0: sdb"], &[], "sdb"),
            ("md0", &[], &[], "md0"),
            ("dm-0", &["dm-0: nvme0n1"], &[("dm-0/dm/uuid", "CRYPT-LUKS2-1")], "decrypts"),
            ("md0", &["md0: dm-1", "dm-1: md0"], &[], "nothing"),
        ] {
            let answer = found(top, others, files);
            assert!(answer.as_ref().is_some_and(|answer| answer.contains(told)), "{top} {others:?}: {answer:?}");
        }
        let nowhere = other_than_nvme(Path::new("/no/such"), libc::makedev(8, 1));
        assert!(nowhere.is_some_and(|answer| answer.contains("/no/such/sys/dev/block/8:1")));
    }
}
