//! Kernel, memory limit of the control group, NUMA nodes.

use std::path::{Path, PathBuf};

use serde_json::json;
use strait::order::Rank;

use super::{Finding, Section};
use crate::linux::{entry_bytes, kernel_release, kernel_version, line};
use crate::size;

pub(super) fn examine() -> Section {
    let limit = memory_limit();
    let nodes = line("/sys/devices/system/node/online");
    let rank = Rank::from_env(|name| std::env::var(name).ok()).map_err(|error| error.to_string());
    let findings = vec![kernel(), control_group(limit.as_ref()), numa(nodes.as_deref()), launcher(&rank)];
    let facts = json!({
        "kernel": kernel_release(),
        "cgroup_memory_max": limit.as_ref().map(|(bytes, _)| bytes),
        "numa_nodes": nodes,
        "cores": std::thread::available_parallelism().map_or(1, |n| n.get()),
        "launcher": match &rank {
            Ok(rank) => rank.map(|r| json!({ "rank": r.rank(), "world": r.world(), "local_rank": r.local_rank() })),
            Err(contradiction) => Some(json!({ "error": contradiction })),
        },
        "memory_bytes": entry_bytes("/proc/meminfo", "MemTotal"),
    });
    Section { key: "machine", title: "machine".into(), findings, facts }
}

fn kernel() -> Finding {
    let found = format!("Linux {}", kernel_release());
    let upgrade = "use a newer kernel";
    match kernel_version() {
        Some(version) if version >= (6, 12) => Finding::ok(found, "has everything strait uses"),
        Some(version) if version >= (6, 1) => Finding::note(
            found,
            "registers huge pages piece by piece (Linux 6.12 joins them): a little more CPU per read",
            upgrade,
        ),
        Some(version) if version >= (5, 6) => Finding::note(
            found,
            "io_uring works without SINGLE_ISSUER|DEFER_TASKRUN (6.1) and without statx DIOALIGN (6.1): more CPU per \
             read, alignment is probed",
            upgrade,
        ),
        _ => Finding::note(found, "older than 5.6: files are read by pread threads", upgrade),
    }
}

fn control_group(limit: Option<&(u64, PathBuf)>) -> Finding {
    let Some((bytes, file)) = limit else {
        return Finding::ok("no cgroup memory limit", "pinned memory is bounded by strait alone");
    };
    let found = format!("cgroup memory limit {} ({})", size::show(*bytes), file.display());
    if *bytes >= 1 << 30 {
        return Finding::ok(found, "leaves room for 256 MiB of pinned slabs (the default bound)");
    }
    Finding::note(
        found,
        "pinned memory counts here, and passing the limit is answered by SIGKILL, not by an error",
        "raise memory.max (docker: --memory), or lower pinned_bytes_max and region_bytes",
    )
}

fn numa(nodes: Option<&str>) -> Finding {
    match nodes {
        None | Some("0") => Finding::ok("one NUMA node", "memory is equally near to every disk and GPU"),
        Some(nodes) => Finding::note(
            format!("NUMA nodes {nodes}"),
            "bytes that cross between nodes share the link between sockets; see the nodes of disk and GPU below",
            "run one process per node, near its disk and GPU: numactl --cpunodebind=N --membind=N",
        ),
    }
}

/// What a loader that takes its rank from the environment would come to.
fn launcher(rank: &Result<Option<Rank>, String>) -> Finding {
    match rank {
        Ok(None) => Finding::ok("no launcher in the environment", "a loader is the only process of its run"),
        Ok(Some(rank)) => {
            let local = rank.local_rank().map_or(String::new(), |local| format!(", local rank {local}"));
            Finding::ok(
                format!("the launcher says rank {} of {}{local}", rank.rank(), rank.world()),
                "a loader with rank_from_env reads this rank's slice of every global batch",
            )
        }
        Err(contradiction) => Finding::problem(
            format!("the environment contradicts itself: {contradiction}"),
            "a loader with rank_from_env refuses to start, since samples would be read twice or never",
            "unset the variables of all launchers but the one that started this process",
        ),
    }
}

/// The smallest memory limit on the way from this process's control group up, and the file that holds it.
pub(super) fn memory_limit() -> Option<(u64, PathBuf)> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut smallest: Option<(u64, PathBuf)> = None;
    for group in groups.lines() {
        let mut parts = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // In a container the path may be the host's, and only the root is visible: missing directories are passed over.
        let group = Path::new(root).join(path.trim_start_matches('/'));
        for directory in group.ancestors().take_while(|directory| directory.starts_with(root)) {
            let file = directory.join(file);
            let bytes = line(&file).and_then(|text| text.parse().ok()).filter(|bytes| *bytes < 1 << 60);
            if let Some(bytes) = bytes
                && smallest.as_ref().is_none_or(|(least, _)| bytes < *least)
            {
                smallest = Some((bytes, file));
            }
        }
    }
    smallest
}
