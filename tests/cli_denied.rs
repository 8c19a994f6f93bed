//! The command where io_uring, locked memory or files are denied: it says by whom, and goes another way.
#![cfg(feature = "cli")]

mod command;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use command::{findings, json, strait, text};
use strait::storage::Uring;

/// One instruction of a classic BPF program.
fn instruction(code: u32, jump: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: jump, k: value }
}

/// Makes the child answer io_uring_setup with `errno`, as container runtimes do.
fn deny_io_uring(command: &mut Command, errno: i32) -> &mut Command {
    let filter = [
        // Load the system call number, the first word of seccomp_data; if it is io_uring_setup, answer errno.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: prctl is async-signal-safe; the program and its instructions, owned by the closure, outlive the
        // call, which copies them.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
        };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and neither allocates nor takes a lock.
    unsafe { command.pre_exec(install) }
}

#[test]
fn a_seccomp_filter_is_named_with_its_errno_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let output = deny_io_uring(strait().args(["doctor", "--json"]).arg(dir.path()), libc::EPERM).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "pread still works: {}", text(&output.stderr));
    let json = json(&output);
    assert_eq!(json["io_uring"]["allowed"], false);
    assert_eq!(json["io_uring"]["errno"], libc::EPERM);
    assert_eq!(json["io_uring"]["seccomp"], "2");
    assert_eq!(json["paths"][0]["engine"], "pread");
    let all = findings(&json);
    if json["io_uring"]["io_uring_disabled"].as_str().is_some_and(|value| value != "0") {
        eprintln!("skipped: the sysctl forbids io_uring here, whatever seccomp does");
        return;
    }
    for word in ["EPERM", "Seccomp: 2", "seccomp filter", "--security-opt", "pread threads"] {
        assert!(all.contains(word), "no {word} in {all}");
    }
    assert!(json["verdict"]["text"].as_str().unwrap().contains("EPERM"));
}

#[test]
fn a_hidden_io_uring_is_told_from_a_forbidden_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = deny_io_uring(strait().args(["doctor", "--json"]).arg(dir.path()), libc::ENOSYS).output().unwrap();
    let json = json(&output);
    assert_eq!(json["io_uring"]["errno_name"], "ENOSYS (errno 38)");
    assert!(findings(&json).contains("gVisor"), "{json:#}");
}

#[test]
fn the_limit_is_measured_by_pread_threads_where_io_uring_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = strait();
    command.args(["bench", "--references-only", "--size", "8MiB", "--rounds", "1", "--json", "--dir"]).arg(dir.path());
    let output = deny_io_uring(&mut command, libc::EPERM).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json = json(&output);
    assert_eq!(json["rounds"][0]["limit"]["bytes"], 8 << 20);
    let how = json["limit_how"].as_str().unwrap();
    assert!(how.contains("pread threads") && how.contains("EPERM"), "{how}");
    assert!(
        json["fio_gb_per_s"].is_null() && json["fio_reason"].is_string(),
        "fio cannot have used io_uring: {json:#}"
    );
}

/// A user of whom nobody else has processes: the kernel adds up what all processes of a user are and have locked, and lets
/// go of a ring's share late. Each test takes numbers of its own, below 16.
fn user(number: u32) -> u32 {
    20_000 + (16 * std::process::id() + number) % 40_000
}

/// A user without privileges, whose locked memory is limited to `bytes`.
fn as_nobody_with_memlock(command: &mut Command, user: u32, bytes: u64) -> &mut Command {
    let restrict = move || {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: async-signal-safe system calls; `limit` outlives the call that reads it.
        let refused = unsafe {
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) != 0
                || libc::setgroups(0, std::ptr::null()) != 0
                || libc::setgid(user) != 0
                || libc::setuid(user) != 0
        };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes four system calls and neither allocates nor takes a lock.
    unsafe { command.pre_exec(restrict) }
}

/// A user without privileges, who may have so many threads and no more.
fn as_nobody_with_threads(command: &mut Command, user: u32, threads: u64) -> &mut Command {
    let restrict = move || {
        let limit = libc::rlimit { rlim_cur: threads, rlim_max: threads };
        // SAFETY: async-signal-safe system calls; `limit` outlives the call that reads it.
        let refused = unsafe {
            libc::setgroups(0, std::ptr::null()) != 0
                || libc::setgid(user) != 0
                || libc::setrlimit(libc::RLIMIT_NPROC, &limit) != 0
                || libc::setuid(user) != 0
        };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes four system calls and neither allocates nor takes a lock.
    unsafe { command.pre_exec(restrict) }
}

/// Files that another user may read: each a checkpoint of one tensor.
fn checkpoints(count: usize, tensor_bytes: u64) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let paths = checkpoints_in(directory.path(), count, tensor_bytes);
    (directory, paths)
}

fn checkpoints_in(directory: &Path, count: usize, tensor_bytes: u64) -> Vec<PathBuf> {
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(directory, 0o755);
    let paths: Vec<_> = (0..count).map(|i| directory.join(format!("{i}.safetensors"))).collect();
    for (i, path) in paths.iter().enumerate() {
        let header =
            format!(r#"{{"t{i}":{{"dtype":"U8","shape":[{tensor_bytes}],"data_offsets":[0,{tensor_bytes}]}}}}"#);
        let head = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        std::fs::write(path, &head).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_len(head.len() as u64 + tensor_bytes).unwrap();
        open(path, 0o644);
    }
    paths
}

/// Mutants that this catches: a thread that hashes, or one that watches it, of which nobody asks whether it can be had.
#[test]
fn hashing_goes_on_with_the_threads_that_there_are() {
    let (_directory, paths) = checkpoints(4, 1 << 20);
    let command = || {
        let mut command = strait();
        command.args(["hash", "--threads", "4"]).args(&paths);
        command
    };
    let all = command().output().unwrap();
    for threads in [1, 2, 3] {
        let Ok(output) = as_nobody_with_threads(&mut command(), user(threads), threads.into()).output() else {
            eprintln!("skipped: this user cannot become another one, or the other one cannot run the program");
            return;
        };
        let said = text(&output.stderr);
        if said.contains("pread: cannot start a thread") {
            assert!(said.contains("ulimit -u"), "{said}");
            continue; // io_uring is denied here, and the other ring needs threads
        }
        assert!(output.status.success(), "{threads} threads: {said}");
        assert_eq!(text(&output.stdout), text(&all.stdout), "{threads} threads");
    }
}

/// Mutant that this catches: as above, of those that read for the limit.
#[test]
fn the_limit_is_measured_by_the_threads_that_there_are_and_says_so() {
    // Long enough that no thread is over, and leaves its place to another, before all were asked for.
    let (_directory, paths) = checkpoints(1, 1 << 30);
    for threads in [1, 3] {
        let mut command = strait();
        command.args(["bench", "--references-only", "--no-fio", "--json", "--rounds", "1"]).args(&paths);
        let command =
            deny_io_uring(as_nobody_with_threads(&mut command, user(3 + threads), threads.into()), libc::EPERM);
        let Ok(output) = command.output() else {
            eprintln!("skipped: this user cannot become another one, or the other one cannot run the program");
            return;
        };
        let (code, said) = (output.status.code(), text(&output.stdout) + &text(&output.stderr));
        if threads == 1 {
            assert!(code == Some(1) && said.contains("no thread") && said.contains("ulimit -u"), "{said}");
        } else {
            assert_eq!(code, Some(0), "{said}");
            let how = json(&output)["limit_how"].as_str().unwrap().to_owned();
            assert!(how.contains(" of 8 pread threads"), "{how}");
        }
    }
}

/// Mutant that this catches: as above, of those that read what fio prints.
#[test]
fn fio_is_left_out_where_no_thread_is_to_be_had_for_it() {
    if !Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: no fio");
    }
    // In memory the kernel reads by a thread that counts as the user's, and not even fio itself is to be had.
    let places = [tempfile::tempdir().ok(), tempfile::tempdir_in("/dev/shm").ok()];
    for (number, place) in (7..).zip(places.into_iter().flatten()) {
        let paths = checkpoints_in(place.path(), 1, 1 << 20);
        let mut command = strait();
        command.args(["bench", "--references-only", "--json", "--rounds", "1"]).args(&paths);
        let Ok(output) = as_nobody_with_threads(&mut command, user(number), 2).output() else {
            eprintln!("skipped: this user cannot become another one, or the other one cannot run the program");
            return;
        };
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let reason = json(&output)["fio_reason"].as_str().unwrap().to_owned();
        let what = reason.contains("no thread") || reason.contains("no process");
        assert!(what && reason.contains("ulimit -u"), "{reason}");
    }
}

/// Mutant that this catches: 0 bytes, which is what a thread was said to lack.
#[test]
fn a_load_without_a_thread_says_what_to_do() {
    let (_directory, paths) = checkpoints(1, 1 << 20);
    let mut command = strait();
    command.args(["load", "--no-references", "--device", "host"]).args(&paths);
    let Ok(output) = as_nobody_with_threads(&mut command, user(9), 1).output() else {
        eprintln!("skipped: this user cannot become another one, or the other one cannot run the program");
        return;
    };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("thread: ") && said.contains("ulimit -u") && said.contains("pids.max"), "{said}");
    assert!(!said.contains(" bytes"), "{said}");
}

/// Mutant that this catches: the remedy for pinned memory.
#[test]
fn a_load_without_memory_for_its_tensors_says_what_to_do() {
    let (_directory, paths) = checkpoints(1, 8 << 30);
    let mut command = strait();
    command.args(["load", "--no-references", "--device", "host"]).args(&paths);
    let restrict = || {
        let limit = libc::rlimit { rlim_cur: 4 << 30, rlim_max: 4 << 30 };
        // SAFETY: an async-signal-safe system call; `limit` outlives it.
        let refused = unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } != 0;
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes one system call and neither allocates nor takes a lock.
    let output = unsafe { command.pre_exec(restrict) }.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("tensors: ") && said.contains("ENOMEM") | said.contains("errno 12"), "{said}");
    assert!(said.contains("ulimit -v") && said.contains("overcommit") && !said.contains("pinned"), "{said}");
}

#[test]
fn a_small_memlock_limit_is_found_by_trying() {
    if let Err(error) = Uring::new(8, 4) {
        return eprintln!("SKIPPED: {error}");
    }
    let Ok(output) = as_nobody_with_memlock(strait().args(["doctor", "--json", "/usr"]), user(10), 64 << 10).output()
    else {
        eprintln!("skipped: this user cannot become another one, or the other one cannot run the program");
        return;
    };
    let json = json(&output);
    assert_eq!(json["memory"]["memlock"]["soft"], 64 << 10);
    assert_eq!(json["memory"]["memlock"]["cap_ipc_lock"], false);
    let all = findings(&json);
    assert!(all.contains("ENOMEM") && all.contains("ulimit -l"), "{all}");
    // Where not even a small ring fits there is nothing to register with.
    let bytes = &json["memory"]["register"]["bytes"];
    assert!(bytes.is_null() || bytes.as_u64().unwrap() < 256 << 20, "{json:#}");
}

#[test]
fn nobody_is_told_of_a_directory_without_readable_files() {
    let dir = tempfile::tempdir().unwrap();
    let Ok(output) =
        as_nobody_with_memlock(strait().args(["doctor", "--json"]).arg(dir.path()), user(11), 1 << 20).output()
    else {
        eprintln!("skipped: this user cannot become another one, or the other one cannot run the program");
        return;
    };
    assert_eq!(output.status.code(), Some(1));
    assert!(findings(&json(&output)).contains("permissions"));
}
