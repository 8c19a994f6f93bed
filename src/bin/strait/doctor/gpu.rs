//! Accelerators: the CUDA driver, where the GPUs sit, and whether a disk can write into them by itself.

use std::path::PathBuf;

use serde_json::{Value, json};
use strait::storage::Surroundings;

use super::disk::numa_node;
use super::{Finding, Section};
use crate::linux::line;

const NVIDIA: &str = "0x10de";
const AMD: &str = "0x1002";

struct Gpu {
    pci: String,
    vendor: &'static str,
    numa_node: Option<u64>,
}

/// The section, and whether there is a CUDA device to load into.
pub(super) fn examine() -> (Section, bool) {
    let cuda = strait::Device::cuda(0).map(|device| device.name()).map_err(|error| error.to_string());
    let gpus = gpus();
    let (gds, gds_facts) = gds(&Surroundings::look(), !gpus.is_empty());
    let mut findings = vec![driver(&cuda)];
    findings.extend(gpus.iter().map(place));
    findings.push(gds);
    let (cufile, cufile_facts) = super::cufile::examine();
    if !gpus.is_empty() || cuda.is_ok() {
        findings.extend(cufile);
    }
    let facts = json!({
        "cuda": { "available": cuda.is_ok(), "answer": cuda.as_ref().unwrap_or_else(|reason| reason) },
        "gpus": gpus.iter().map(|gpu| json!({ "pci": gpu.pci, "vendor": gpu.vendor, "numa_node": gpu.numa_node }))
            .collect::<Vec<_>>(),
        "gds": gds_facts,
        "cufile": cufile_facts,
    });
    (Section { key: "devices", title: "devices".into(), findings, facts }, cuda.is_ok())
}

fn driver(cuda: &Result<String, String>) -> Finding {
    match cuda {
        Ok(answer) => Finding::ok(format!("CUDA: {answer}"), "batches are delivered in GPU memory"),
        Err(reason) => Finding::note(
            format!("no CUDA device ({reason})"),
            "batches are delivered in host memory (device host), without a copy",
            "install the NVIDIA driver; in a container start it with --gpus all (NVIDIA Container Toolkit)",
        ),
    }
}

fn place(gpu: &Gpu) -> Finding {
    let node = gpu.numa_node.map_or("none".into(), |node| node.to_string());
    Finding::ok(
        format!("{} GPU at {}, NUMA node {node}", gpu.vendor, gpu.pci),
        "fastest when the disk and the engine thread are on the same node",
    )
}

/// Display and compute controllers on the PCI bus.
fn gpus() -> Vec<Gpu> {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let mut gpus: Vec<Gpu> = devices.filter_map(|entry| gpu(entry.path())).collect();
    gpus.sort_by(|a, b| a.pci.cmp(&b.pci));
    gpus
}

fn gpu(sys: PathBuf) -> Option<Gpu> {
    // PCI class 0x03: display controllers; 0x12: processing accelerators.
    let class = line(sys.join("class"))?;
    if !class.starts_with("0x03") && !class.starts_with("0x12") {
        return None;
    }
    let vendor = match line(sys.join("vendor"))?.as_str() {
        NVIDIA => "NVIDIA",
        AMD => "AMD",
        _ => return None,
    };
    Some(Gpu { pci: sys.file_name()?.to_string_lossy().into_owned(), vendor, numa_node: numa_node(&sys) })
}

/// GPUDirect Storage: through nvidia-fs, or through the kernel's own peer-to-peer DMA.
///
/// What is there is what a loader goes by.
fn gds(surroundings: &Surroundings, has_gpu: bool) -> (Finding, Value) {
    let nvidia_fs = surroundings.nvidia_fs.then(|| line("/proc/driver/nvidia-fs/version").unwrap_or_default());
    let driver = line("/proc/driver/nvidia/version").as_deref().and_then(driver_version);
    let peer_to_peer = surroundings.peer_to_peer;
    let facts = json!({
        "nvidia_fs": nvidia_fs,
        "p2pdma": peer_to_peer,
        "driver": driver.as_ref().map(|d| &d.text),
        "driver_open": driver.as_ref().map(|d| d.open),
    });
    let staged = "bytes go through pinned slabs: at disk speed, the CPU touches none of them";
    let finding = if let Some(version) = &nvidia_fs {
        Finding::ok(format!("GPUDirect Storage: nvidia-fs {version}"), "a disk may write into GPU memory by itself")
    } else if peer_to_peer {
        let found = "GPUDirect Storage: no nvidia-fs; P2PDMA is possible (kernel and open driver are new enough)";
        Finding::ok(found, "a disk may write into GPU memory if the PCIe topology lets it: tried by a real read")
    } else if !has_gpu {
        Finding::note("GPUDirect Storage: no GPU on the PCI bus", "nothing to gain from it here", "")
    } else {
        Finding::note(
            "GPUDirect Storage: neither nvidia-fs nor P2PDMA",
            staged,
            "optional: the nvidia-fs module, or Linux 6.2 with the open kernel modules of driver 565 or newer",
        )
    };
    (finding, facts)
}

struct DriverVersion {
    text: String,
    open: bool,
}

/// From `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build ..`.
fn driver_version(text: &str) -> Option<DriverVersion> {
    let first = text.lines().next()?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let version = first.split_whitespace().find(is_version)?;
    Some(DriverVersion { text: version.to_owned(), open: first.contains("Open Kernel Module") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_says_its_version_and_whether_it_is_open() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  (dvs)\nGCC";
        let version = driver_version(open).unwrap();
        assert_eq!((version.text.as_str(), version.open), ("565.57.01", true));
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.06  Wed Jun 26";
        let version = driver_version(closed).unwrap();
        assert_eq!((version.text.as_str(), version.open), ("535.183.06", false));
        assert!(driver_version("").is_none());
    }

    /// Mutant that this catches: another opinion than the loader's.
    #[test]
    fn it_says_what_a_loader_goes_by() {
        let none = Surroundings { modules: true, udev: true, nvidia_fs: false, peer_to_peer: false };
        let of = |surroundings: Surroundings| {
            let (finding, facts) = gds(&surroundings, true);
            (finding.found, facts["p2pdma"].as_bool().unwrap(), surroundings.obstacle(false).is_some())
        };
        let (found, can, refused) = of(none);
        assert!(found.contains("neither nvidia-fs nor P2PDMA") && !can && refused, "{found}");
        let (found, can, refused) = of(Surroundings { peer_to_peer: true, ..none });
        assert!(found.contains("P2PDMA is possible") && can && !refused, "{found}");
        let (found, can, refused) = of(Surroundings { nvidia_fs: true, ..none });
        assert!(found.contains("nvidia-fs") && !can && !refused, "{found}");
    }
}
