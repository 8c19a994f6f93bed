//! `kill -9` at every system call of a save: afterwards the old checkpoint is there, or the new one, and nothing else
//! after the next save.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::process::Within;
use common::{bytes_of, disk_directory};
use safetensors::SafeTensors;
use strait::weights::{Save, SaveTensor};
use strait::{DType, Device, RingChoice};

/// Where a victim saves, and how.
const VICTIM: &str = "STRAIT_TEST_VICTIM";
/// The victim's sign that the save begins: a call with an argument that nobody else gives.
const SIGN: i32 = 0x5717;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The file has no name until it is complete.
    Unnamed,
    /// It has a temporary one, as where the file system knows no files without.
    Named,
    Sharded,
}

fn save(directory: &Path, how: How, seed: u64) {
    let names: Vec<String> = (0..4).map(|n| format!("t{n}")).collect();
    let bytes: Vec<Vec<u8>> = (0..4).map(|n| bytes_of(seed + n, 0, 6000)).collect();
    let tensors: Vec<SaveTensor<'_>> =
        names.iter().zip(&bytes).map(|(name, bytes)| SaveTensor::new(name, DType::U8, &[6000], bytes)).collect();
    let save = Save::new(&Device::host()).block_bytes(8192).writes_in_flight(2).ring(RingChoice::Pread);
    let save = if how == How::Sharded { save.shard_bytes_max(12_000) } else { save };
    save.save(directory.join("model.safetensors"), &tensors).unwrap();
}

/// What a reader finds: all bytes of the checkpoint.
fn read(directory: &Path, how: How) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut add = |file: &Path, names: Option<&str>| {
        let file = fs::read(file).unwrap();
        for (name, view) in SafeTensors::deserialize(&file).unwrap().tensors() {
            if names.is_none_or(|only| only == name) {
                found.insert(name, view.data().to_vec());
            }
        }
    };
    if how == How::Sharded {
        let index = fs::read(directory.join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        for (name, file) in index["weight_map"].as_object().unwrap() {
            add(&directory.join(file.as_str().unwrap()), Some(name));
        }
    } else {
        add(&directory.join("model.safetensors"), None);
    }
    found
}

fn wanted(seed: u64) -> BTreeMap<String, Vec<u8>> {
    (0..4).map(|n| (format!("t{n}"), bytes_of(seed + n, 0, 6000))).collect()
}

/// Not a test: the process that is killed.
#[test]
fn victim() {
    let Ok(place) = std::env::var(VICTIM) else { return };
    let (how, directory) = place.split_once(':').unwrap();
    let how = [How::Unnamed, How::Named, How::Sharded].into_iter().find(|one| format!("{one:?}") == how).unwrap();
    if how == How::Named {
        refuse_files_without_names();
    }
    // SAFETY: takes a number.
    unsafe { libc::getpgid(SIGN) };
    save(Path::new(directory), how, 20);
    // SAFETY: ends the process; nothing is left to do.
    unsafe { libc::_exit(0) };
}

/// openat with O_TMPFILE gets EOPNOTSUPP from now on.
fn refuse_files_without_names() {
    let word = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, set) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
    );
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        word(load, 0, 0, 0),
        word(equal, 0, 3, libc::SYS_openat as u32),
        word(load, 0, 0, 16 + 8 * 2), // the lower half of the third argument
        word(set, 0, 1, (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32),
        word(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32),
        word(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program and its words outlive the call, which copies them.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }, 0);
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> i64 {
    // SAFETY: the requests used here take numbers, or a structure of the caller's that outlives the call.
    unsafe { libc::ptrace(request, pid, address, data) }
}

/// Runs a victim and kills it as it enters its `number`th system call since the sign; true if it got that far.
fn kill_at(number: u64, directory: &Path, how: How) -> Result<bool, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "victim", "--nocapture", "--test-threads=1"]);
    command.env(VICTIM, format!("{how:?}:{}", directory.display())).stdout(Stdio::null()).stderr(Stdio::null());
    let trace = || match ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: between fork and exec one system call is made, which is allowed there.
    let child = unsafe { command.pre_exec(trace) }.spawn().map_err(|e| format!("no ptrace: {e}"))?;
    let victim = child.id() as i32;
    let (mut signed, mut count, mut started) = (false, 0, false);
    loop {
        let mut status = 0;
        // SAFETY: `status` is writable. Children of other threads, which other tests have, are not waited for.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if pid != victim {
                continue;
            }
            assert!(!libc::WIFEXITED(status) || libc::WEXITSTATUS(status) == 0, "the victim failed: {status:#x}");
            assert!(libc::WIFEXITED(status) || libc::WTERMSIG(status) == libc::SIGKILL, "{status:#x}");
            return Ok(libc::WIFSIGNALED(status));
        }
        let signal = libc::WSTOPSIG(status);
        if !started {
            let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
            assert_eq!(ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options as usize), 0);
            started = true;
        }
        if signal == libc::SIGTRAP | 0x80 {
            // SAFETY: an all-zero structure is a valid value of that plain C structure.
            let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
            let size = size_of_val(&info);
            ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, (&raw mut info) as usize);
            if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                // SAFETY: the kernel has filled in this part of the union.
                let entry = unsafe { info.u.entry };
                count += u64::from(signed);
                signed |= entry.nr == libc::SYS_getpgid as u64 && entry.args[0] == SIGN as u64;
                if signed && count == number {
                    // SAFETY: the child is ours and has not been waited for.
                    unsafe { libc::kill(victim, libc::SIGKILL) };
                }
            }
        }
        let pass = if signal & 0x7f == libc::SIGTRAP || signal == libc::SIGSTOP { 0 } else { signal };
        ptrace(libc::PTRACE_SYSCALL, pid, 0, pass as usize);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}

fn every_call(how: How) {
    let _within = Within::seconds(120);
    let (mut old, mut new, mut temporary, mut ended) = (0, 0, 0, 0);
    for number in 1.. {
        // In memory, where fsync takes no time: a killed process loses nothing that it has written.
        let directory = common::mount::memory_directory().unwrap_or_else(|_| disk_directory());
        let directory = directory.path();
        save(directory, how, 10);
        let before = names(directory);
        match kill_at(number, directory, how) {
            Ok(true) => ended = 0,
            // Threads make a few calls more or fewer each time.
            Ok(false) if ended == 8 => break,
            Ok(false) => ended += 1,
            Err(why) => return eprintln!("SKIPPED: {why}"),
        }
        let found = read(directory, how);
        let is_new = found == wanted(20);
        assert!(ended == 0 || is_new, "{how:?}: it ended by itself, and the old one is there");
        assert!(is_new || found == wanted(10), "{how:?}: killed at call {number}, neither old nor new");
        (old, new) = (old + u64::from(!is_new), new + u64::from(is_new));
        temporary += names(directory).iter().filter(|name| name.starts_with(".strait-save-")).count();
        if number % 8 == 0 || is_new {
            // The next save, whatever it finds.
            save(directory, how, 30);
            assert_eq!(read(directory, how), wanted(30));
            let left = names(directory);
            assert!(left.iter().all(|name| !name.starts_with('.')), "{how:?}: killed at call {number}: {left:?}");
            if how != How::Sharded {
                assert_eq!(left, before);
            }
        }
    }
    assert!(old > 10 && new > 0, "{how:?}: {old} times the old one, {new} times the new one");
    assert!(how == How::Unnamed || temporary > 0, "{how:?}: never killed while there was a temporary name");
    println!("{how:?}: killed at {} calls: {old} times the old one, {new} times the new one", old + new);
}

#[test]
fn a_file_that_has_no_name_until_it_is_complete() {
    every_call(How::Unnamed);
}

#[test]
fn a_file_with_a_temporary_name() {
    every_call(How::Named);
}

#[test]
fn shards_and_their_index() {
    every_call(How::Sharded);
}
