//! Memory that can be pinned: the locked-memory limit, what really registers, huge pages.

use serde_json::{Value, json};

use super::machine::memory_limit;
use super::probe::{LADDER, register, set_up};
use super::{Finding, Section};
use crate::linux::pages::Pages;
use crate::linux::{entry, entry_bytes, errno, errno_name, line, number};
use crate::size;

/// Pinned memory a loader takes at most unless told otherwise.
const WANTED: u64 = 256 << 20;
const CAP_IPC_LOCK: u64 = 14;

pub(super) fn examine() -> Section {
    let (limits, limit_facts) = limit();
    let (registered, register_facts) = registration();
    let (huge, huge_facts) = huge_pages();
    let facts = json!({ "memlock": limit_facts, "register": register_facts, "huge_pages": huge_facts });
    Section { key: "memory", title: "memory".into(), findings: vec![limits, registered, huge], facts }
}

fn limit() -> (Finding, Value) {
    // SAFETY: rlimit is plain data that outlives the call which fills it.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit);
        limit
    };
    let bytes = |limit: u64| (limit != libc::RLIM_INFINITY).then_some(limit);
    let show = |limit| bytes(limit).map_or("unlimited".into(), size::show);
    let capable = entry("/proc/self/status", "CapEff")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1);
    let with = if capable { "with" } else { "without" };
    let found = format!(
        "locked-memory limit: soft {}, hard {}; {with} CAP_IPC_LOCK",
        show(limit.rlim_cur),
        show(limit.rlim_max)
    );
    let facts = json!({ "soft": bytes(limit.rlim_cur), "hard": bytes(limit.rlim_max), "cap_ipc_lock": capable });
    let finding = if capable {
        Finding::ok(found, "the limit does not apply to this process")
    } else if limit.rlim_cur >= 2 * WANTED {
        Finding::ok(found, "room for rings and 256 MiB of registered slabs")
    } else {
        Finding::note(found, "rings and registered slabs of this user count against it together", RAISE)
    };
    (finding, facts)
}

const RAISE: &str = "ulimit -l unlimited (/etc/security/limits.conf: memlock); systemd: LimitMEMLOCK=infinity; docker: \
                     --ulimit memlock=-1";

/// Registers for real, from what a loader wants downwards: limits, other users of them and old kernels are many.
fn registration() -> (Finding, Value) {
    let Some(ring) = (0..LADDER.len()).find_map(|step| set_up(step, 64).ok()) else {
        let finding = Finding::note("not tried to register memory: there is no ring", "pread needs none", "");
        return (finding, json!({ "bytes": Value::Null, "errno": Value::Null }));
    };
    let room = entry_bytes("/proc/meminfo", "MemAvailable").unwrap_or(0).min(memory_limit().map_or(u64::MAX, |l| l.0));
    let mut refused = 0;
    for bytes in [WANTED, 64 << 20, 16 << 20, 4 << 20, 1 << 20, 4096] {
        // Pinning past a control group's limit ends in SIGKILL: stay well below.
        if bytes > 4096 && bytes > room / 4 {
            continue;
        }
        match Pages::new(bytes as usize).and_then(|memory| register(&ring, &memory)) {
            Ok(()) => {
                let facts = json!({ "bytes": bytes, "errno": (refused != 0).then_some(refused) });
                return (registered(bytes, refused), facts);
            }
            Err(error) => refused = errno(&error),
        }
    }
    let finding = Finding::note(
        format!("registering memory fails even for 4 KiB: {}", errno_name(refused)),
        "every read pins and unpins its own pages: 1.5 times the CPU with huge pages, 2.5 times without",
        RAISE,
    );
    (finding, json!({ "bytes": 0, "errno": refused }))
}

fn registered(bytes: u64, refused: i32) -> Finding {
    let found = format!("{} of memory registered with a ring", size::show(bytes));
    if bytes == WANTED {
        return Finding::ok(found, "the default bound of pinned memory fits");
    }
    if refused == 0 {
        return Finding::note(found, "more was not tried: little memory is free", "free memory or raise memory.max");
    }
    let found = format!("{found}; more fails with {}", errno_name(refused));
    Finding::note(found, "a loader that wants more reads into unregistered memory, at 1.5 to 2.5 times the CPU", RAISE)
}

fn huge_pages() -> (Finding, Value) {
    let reserved = number("/proc/sys/vm/nr_hugepages").unwrap_or(0);
    let free = entry("/proc/meminfo", "HugePages_Free").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let page = entry_bytes("/proc/meminfo", "Hugepagesize").unwrap_or(2 << 20);
    let setting = line("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_else(|| "(not there)".into());
    let (hugetlb, transparent) = (Pages::with_flags(page as usize, libc::MAP_HUGETLB).is_ok(), transparent_works());
    let found = format!(
        "huge pages: {reserved} reserved ({free} free, {} each); transparent: {setting}, {}",
        size::show(page),
        if transparent { "a probe got them" } else { "a probe got none" },
    );
    let facts = json!({
        "nr_hugepages": reserved, "free": free, "page_bytes": page, "hugetlb_works": hugetlb,
        "transparent": setting, "transparent_works": transparent,
    });
    let finding = if hugetlb && free * page >= WANTED {
        Finding::ok(found, "slabs lie in reserved huge pages: one request per block")
    } else if transparent {
        Finding::ok(found, "slabs lie in transparent huge pages: about a third of the CPU of 4 KiB pages")
    } else {
        Finding::note(
            found,
            "slabs lie in 4 KiB pages: three times the CPU per GiB, and large blocks are split",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or reserve: sysctl vm.nr_hugepages=160",
        )
    };
    (finding, facts)
}

/// The setting alone proves nothing (fragmentation, prctl): take some and look.
fn transparent_works() -> bool {
    let huge_bytes = || entry_bytes("/proc/self/smaps_rollup", "AnonHugePages").unwrap_or(0);
    let before = huge_bytes();
    // 6 MiB hold two aligned huge pages wherever they begin.
    Pages::new(6 << 20).is_ok_and(|mut memory| {
        memory.advise_huge();
        memory.bytes_mut().fill(1);
        huge_bytes() > before
    })
}
