//! Processes with limits of their own, and tests that end.

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{env, io, thread};

/// Ends the process if it is not dropped in time: a test that hangs must not hang the run.
pub struct Within(#[expect(dead_code, reason = "its end is the message")] Sender<()>);

impl Within {
    pub fn seconds(seconds: u64) -> Within {
        let (sender, receiver) = mpsc::channel();
        let test = thread::current().name().unwrap_or("a test").to_string();
        thread::spawn(move || {
            if receiver.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} has not ended within {seconds} s");
                std::process::abort();
            }
        });
        Within(sender)
    }
}

const ALONE: &str = "STRAIT_TEST_ALONE";

/// Runs the body of the test called `test` in a process of its own, whose limits it may change, with a temporary
/// directory on the file system of the build, and passes on how it ended.
pub fn alone(test: &str, body: impl FnOnce(&Path)) {
    if let Some(directory) = env::var_os(ALONE) {
        return body(Path::new(&directory));
    }
    let directory = super::disk_directory();
    let mut log = tempfile::tempfile().unwrap();
    let (out, err) = (log.try_clone().unwrap(), log.try_clone().unwrap());
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, directory.path())
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(err))
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(240);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > end => break None,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    text.lines().filter(|line| line.contains("SKIPPED")).for_each(|line| eprintln!("{line}"));
    let passed = status.is_some_and(|status| status.success()) && text.contains("1 passed");
    assert!(passed, "in a process of its own ({status:?}): {text}");
}

/// From now on a system call fails with `errno` in this thread and those it starts.
pub fn refuse(system_call: i64, errno: i32) {
    let word = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, answer) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let mut filter = [
        word(load, 0, 0, 0), // the number of the system call
        word(equal, 0, 1, system_call as u32),
        word(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        word(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes no pointer.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    // SAFETY: the program and its words outlive the call, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// Sets a limit of this process, soft and hard.
pub fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure outlives the call.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0, "{}", io::Error::last_os_error());
}

/// Whether this process may become another user.
pub fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// From now on this process is an ordinary user's, without capabilities.
///
/// The kernel counts locked memory by user: tests that run side by side take users of their own.
pub fn become_user(id: u32) {
    // SAFETY: no list of groups is passed, so none is read.
    assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0, "{}", io::Error::last_os_error());
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::setresgid(id, id, id) }, 0, "{}", io::Error::last_os_error());
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::setresuid(id, id, id) }, 0, "{}", io::Error::last_os_error());
    // SAFETY: takes no pointer. Otherwise /proc/self stays root's.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }, 0, "{}", io::Error::last_os_error());
}
