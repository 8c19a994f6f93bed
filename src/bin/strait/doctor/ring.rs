//! io_uring: allowed? with which flags? and if not, who forbids it.

use io_uring::{Probe, opcode};
use serde_json::{Value, json};

use super::probe::{LADDER, set_up};
use super::{Finding, Section};
use crate::linux::{entry, errno, errno_name, line};

/// Entries of the probe's ring, as many as a loader's ring has.
const ENTRIES: u32 = 256;
const SMALL: u32 = 64;

/// What later examinations need to know of it.
pub(super) struct RingAnswer {
    pub(super) allowed: bool,
    /// The best step of the ladder that works.
    pub(super) flags: Option<&'static str>,
    /// Why not, in few words.
    pub(super) reason: String,
}

pub(super) fn examine() -> (Section, RingAnswer) {
    let seccomp = entry("/proc/self/status", "Seccomp");
    let sysctl = line("/proc/sys/kernel/io_uring_disabled");
    let mut steps = Vec::new();
    let mut refused = 0;
    let mut working = None;
    for (step, flags) in LADDER.iter().enumerate() {
        // A tight memory limit may still have room for a small ring.
        match set_up(step, ENTRIES).or_else(|_| set_up(step, SMALL)) {
            Ok(ring) => {
                steps.push(json!({ "flags": flags, "works": true }));
                working = Some((step, ring));
                break;
            }
            Err(error) => {
                refused = errno(&error);
                steps.push(json!({ "flags": flags, "works": false, "errno": refused, "name": errno_name(refused) }));
            }
        }
        // Only EINVAL means "not these flags"; every other answer is the same for all of them.
        if refused != libc::EINVAL {
            break;
        }
    }
    let mut facts = json!({
        "allowed": working.is_some(), "errno": Value::Null, "errno_name": Value::Null, "flags": Value::Null,
        "steps": steps, "seccomp": seccomp, "io_uring_disabled": sysctl,
    });
    let (findings, answer) = match working {
        Some((step, ring)) => {
            facts["flags"] = LADDER[step].into();
            let findings = vec![flags_finding(step, ring.params().sq_entries()), operations(&ring)];
            (findings, RingAnswer { allowed: true, flags: Some(LADDER[step]), reason: String::new() })
        }
        None => {
            facts["errno"] = refused.into();
            facts["errno_name"] = errno_name(refused).into();
            let finding = refusal(refused, seccomp.as_deref(), sysctl.as_deref());
            let reason = format!("io_uring is refused with {}", errno_name(refused));
            (vec![finding], RingAnswer { allowed: false, flags: None, reason })
        }
    };
    (Section { key: "io_uring", title: "io_uring".into(), findings, facts }, answer)
}

fn flags_finding(step: usize, entries: u32) -> Finding {
    let found = format!("allowed; a ring of {entries} entries works with {}", LADDER[step]);
    if step < 2 {
        return Finding::ok(found, "completions are handled on the engine's own thread, when it asks for them");
    }
    Finding::note(
        found,
        "completions may interrupt the engine thread: a few percent more CPU",
        "use Linux 6.1 or newer",
    )
}

fn operations(ring: &io_uring::IoUring) -> Finding {
    let mut probe = Probe::new();
    match ring.submitter().register_probe(&mut probe) {
        Ok(()) if probe.is_supported(opcode::ReadFixed::CODE) && probe.is_supported(opcode::Read::CODE) => {
            Finding::ok("operations READ and READ_FIXED are supported", "blocks land in registered memory")
        }
        Ok(()) => Finding::note("READ or READ_FIXED is missing", "reads go by pread threads", "use Linux 5.6 or newer"),
        Err(error) => Finding::note(
            format!("io_uring_register: {}", errno_name(errno(&error))),
            "memory and files cannot be registered; reads work and cost about 2.5 times the CPU",
            "if a seccomp profile forbids io_uring_register alone, allow it as well",
        ),
    }
}

/// Each errno has its own culprit, and its own remedy.
fn refusal(refused: i32, seccomp: Option<&str>, sysctl: Option<&str>) -> Finding {
    let found = format!(
        "io_uring_setup fails: {}; Seccomp: {}, kernel.io_uring_disabled = {}",
        errno_name(refused),
        seccomp.unwrap_or("?"),
        sysctl.unwrap_or("(not there)"),
    );
    let filtered = seccomp.is_some_and(|mode| mode != "0");
    let disabled = sysctl.is_some_and(|value| value != "0");
    let (culprit, change) = match refused {
        libc::EPERM | libc::EACCES if disabled => (
            "the administrator turned io_uring off (1: only for CAP_SYS_ADMIN and kernel.io_uring_group; 2: for all)",
            "sysctl kernel.io_uring_disabled=0, or put this user into the group of kernel.io_uring_group",
        ),
        libc::EPERM | libc::EACCES if filtered => (
            "a seccomp filter forbids it, as the default profiles of Docker 25 and containerd 2.0 do",
            "run the container with a profile that allows io_uring_setup, io_uring_enter and io_uring_register \
             (docker: --security-opt seccomp=profile.json; Kubernetes: securityContext.seccompProfile)",
        ),
        libc::EPERM | libc::EACCES => (
            "something other than seccomp and the sysctl forbids it: an LSM policy or a sandbox",
            "ask who runs this machine to allow io_uring for this process",
        ),
        libc::ENOSYS => (
            "the kernel has no io_uring (before 5.1, or built without), or the container runtime hides it (rootless \
             Podman's profile, gVisor)",
            "use Linux 5.6 or newer, or a runtime and seccomp profile that pass io_uring through",
        ),
        libc::ENOMEM => (
            "the rings do not fit under this user's locked-memory limit",
            "raise it: ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1",
        ),
        _ => ("no step of the flag ladder works", "look the errno up in io_uring_setup(2)"),
    };
    Finding::note(
        found,
        format!("{culprit}; shards are read by pread threads: exact, at several times the CPU"),
        change,
    )
}
