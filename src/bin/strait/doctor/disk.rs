//! The block device behind a file: queue limits and NUMA node.

use std::path::Path;

use serde_json::{Value, json};

use super::Finding;
use crate::linux::file::block_device;
use crate::linux::{line, number};

/// What its queue says; absent for network and stacked file systems, and in many containers.
pub(super) fn examine(device: u64) -> (Vec<Finding>, Value) {
    let Some(sys) = block_device(device) else {
        let finding = Finding::note(
            "no block device of its own (network or stacked file system, or /sys is hidden)",
            "queue limits are unknown: strait takes blocks of 1 MiB and 16 reads in flight for granted",
            "",
        );
        return (vec![finding], Value::Null);
    };
    // A partition has no queue; its disk has.
    let queue = [sys.join("queue"), sys.join("../queue")].into_iter().find(|queue| queue.is_dir());
    let limit = |name: &str| queue.as_ref().and_then(|queue| number(queue.join(name)));
    let name = sys.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (sectors, requests) = (limit("max_sectors_kb"), limit("nr_requests"));
    let (rotational, node) = (limit("rotational"), numa_node(&sys));
    let facts = json!({
        "name": name, "max_sectors_kb": sectors, "nr_requests": requests, "rotational": rotational.map(|r| r == 1),
        "logical_block_size": limit("logical_block_size"), "max_segments": limit("max_segments"), "numa_node": node,
    });
    let show = |value: Option<u64>| value.map_or("?".into(), |value| value.to_string());
    let found = format!(
        "disk {name}: max_sectors_kb {}, nr_requests {}, logical block {}, NUMA node {}",
        show(sectors),
        show(requests),
        show(limit("logical_block_size")),
        node.map_or("none".into(), |node| node.to_string()),
    );
    let mut findings = vec![limits(found, sectors, requests, queue.as_deref())];
    // Virtual disks often claim to rotate; the claim alone harms nothing.
    if rotational == Some(1) && !name.starts_with("vd") {
        let means = "each random read moves a head: expect 100 to 200 samples per second in full shuffle";
        findings.push(Finding::note("the disk says that it rotates", means, "keep shards on an SSD"));
    }
    (findings, facts)
}

fn limits(found: String, sectors: Option<u64>, requests: Option<u64>, queue: Option<&Path>) -> Finding {
    let queue = queue.map_or("/sys/block/DISK/queue".into(), |queue| queue.display().to_string());
    match (sectors, requests) {
        (Some(sectors), _) if sectors < 512 => Finding::note(
            found,
            format!("a 4 MiB block becomes {} requests", (4096 / sectors.max(1)).max(1)),
            format!("echo 1024 > {queue}/max_sectors_kb (at most max_hw_sectors_kb)"),
        ),
        (_, Some(requests)) if requests < 64 => Finding::note(
            found,
            "few requests fit the queue: a submission sleeps when they are used up",
            format!("echo 256 > {queue}/nr_requests"),
        ),
        _ => Finding::ok(found, "blocks of 4 MiB, 8 in flight, fit the queue"),
    }
}

/// The node of the nearest device above that has one; a single-node machine says -1.
pub(super) fn numa_node(sys: &Path) -> Option<u64> {
    let node = sys.ancestors().find_map(|directory| line(directory.join("numa_node")))?;
    node.parse().ok()
}
