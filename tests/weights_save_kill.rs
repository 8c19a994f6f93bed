//! `kill -9` at every system call of a save: afterwards the old checkpoint is there, or the new one, and nothing else
//! after the next save. And what is on stable storage when: the order of the calls themselves.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::process::Within;
use common::{bytes_of, disk_directory, names};
use strait::weights::{Checkpoint, Save, SaveTensor, TensorInfo};
use strait::{DType, Device, Error, RingChoice};

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
    /// Without a limit, over whatever is there.
    Plain,
    /// Shards, where nothing is there.
    Fresh,
    /// Shards, where there is one file.
    Split,
    /// One file, where there are shards.
    Joined,
}

const ALL: [How; 7] = [How::Unnamed, How::Named, How::Sharded, How::Plain, How::Fresh, How::Split, How::Joined];

impl How {
    /// How the checkpoint before was saved.
    fn before(self) -> Option<How> {
        match self {
            How::Fresh => None,
            How::Split => Some(How::Unnamed),
            How::Joined | How::Plain => Some(How::Sharded),
            how => Some(how),
        }
    }

    fn shard_bytes_max(self) -> Option<u64> {
        match self {
            How::Sharded | How::Fresh | How::Split => Some(12_000),
            How::Joined => Some(1 << 20),
            How::Unnamed | How::Named | How::Plain => None,
        }
    }
}

fn save(directory: &Path, how: How, seed: u64) {
    let names: Vec<String> = (0..4).map(|n| format!("t{n}")).collect();
    let bytes: Vec<Vec<u8>> = (0..4).map(|n| bytes_of(seed + n, 0, 6000)).collect();
    let tensors: Vec<SaveTensor<'_>> =
        names.iter().zip(&bytes).map(|(name, bytes)| SaveTensor::new(name, DType::U8, &[6000], bytes)).collect();
    let save = Save::new(&Device::host()).block_bytes(8192).writes_in_flight(2).ring(RingChoice::Pread);
    let save = how.shard_bytes_max().into_iter().fold(save, Save::shard_bytes_max);
    save.save(directory.join("model.safetensors"), &tensors).unwrap();
}

/// What a reader of the directory finds: all bytes of the checkpoint.
fn read(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let checkpoint = Checkpoint::open(directory)?;
    let files: Vec<Vec<u8>> = checkpoint.files().iter().map(|file| fs::read(&file.path).unwrap()).collect();
    let bytes = |t: &TensorInfo| files[t.shard as usize][t.offset as usize..(t.offset + t.bytes) as usize].to_vec();
    Ok(checkpoint.tensors().iter().map(|tensor| (tensor.name.to_string(), bytes(tensor))).collect())
}

fn wanted(seed: u64) -> BTreeMap<String, Vec<u8>> {
    (0..4).map(|n| (format!("t{n}"), bytes_of(seed + n, 0, 6000))).collect()
}

/// Not a test: the process that is killed.
#[test]
fn victim() {
    let Ok(place) = std::env::var(VICTIM) else { return };
    let (how, directory) = place.split_once(':').unwrap();
    let how = ALL.into_iter().find(|one| format!("{one:?}") == how).unwrap();
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

/// A call of a save that says what is to stay, and under which name. A number is that of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Sync(u64),
    Link(u64),
    Rename(u64, String),
    Unlink(String),
}

/// The call that a stopped thread is about to make, if it is one of those.
fn call(thread: i32, number: u64, args: [u64; 6]) -> Option<Call> {
    let text = |address: u64| {
        let (memory, mut text) = (fs::File::open(format!("/proc/{thread}/mem")).unwrap(), Vec::new());
        let byte = |at| {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, at).unwrap();
            byte[0]
        };
        text.extend((address..).map(byte).take_while(|&byte| byte != 0));
        String::from_utf8(text).unwrap()
    };
    let own = |path: String| PathBuf::from(path.replace("/proc/self", &format!("/proc/{thread}")));
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let name = |path: String| PathBuf::from(path).file_name().unwrap().to_str().unwrap().to_owned();
    let descriptor = || inode(format!("/proc/{thread}/fd/{}", args[0]).into());
    match number as i64 {
        libc::SYS_fsync | libc::SYS_fdatasync => Some(Call::Sync(descriptor())),
        libc::SYS_linkat => Some(Call::Link(inode(own(text(args[1]))))),
        libc::SYS_renameat | libc::SYS_renameat2 => Some(Call::Rename(inode(own(text(args[1]))), name(text(args[3])))),
        libc::SYS_unlinkat => Some(Call::Unlink(name(text(args[1])))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Some(Call::Rename(inode(own(text(args[0]))), name(text(args[1])))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => Some(Call::Unlink(name(text(args[0])))),
        _ => None,
    }
}

/// Runs a victim and kills it as it enters its `number`th system call since the sign; true if it got that far. `calls`
/// are those that it enters until then.
fn kill_at(number: u64, directory: &Path, how: How, calls: &mut Vec<Call>) -> Result<bool, String> {
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
                calls.extend(signed.then(|| call(pid, entry.nr, entry.args)).flatten());
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

fn every_call(how: How) {
    let _within = Within::seconds(300);
    let (mut old, mut new, mut temporary, mut ended) = (0, 0, 0, 0);
    for number in 1.. {
        // In memory, where fsync takes no time: a killed process loses nothing that it has written.
        let directory = common::mount::memory_directory().unwrap_or_else(|_| disk_directory());
        let directory = directory.path();
        how.before().into_iter().for_each(|before| save(directory, before, 10));
        let before = names(directory);
        match kill_at(number, directory, how, &mut Vec::new()) {
            Ok(true) => ended = 0,
            // Threads make a few calls more or fewer each time.
            Ok(false) if ended == 8 => break,
            Ok(false) => ended += 1,
            Err(why) => return eprintln!("SKIPPED: {why}"),
        }
        let found = read(directory);
        let is_new = matches!(&found, Ok(found) if *found == wanted(20));
        let is_old = match (&found, how.before()) {
            (Ok(found), Some(_)) => *found == wanted(10),
            (Err(error), None) => {
                let text = error.to_string();
                text.contains("without *.safetensors") || text.contains("interrupted")
            }
            _ => false,
        };
        assert!(ended == 0 || is_new, "{how:?}: it ended by itself, and the old one is there");
        assert!(is_new || is_old, "{how:?}: killed at call {number}, neither old nor new: {:?}", found.map(|_| ()));
        (old, new) = (old + u64::from(!is_new), new + u64::from(is_new));
        temporary += names(directory).iter().filter(|name| name.starts_with(".strait-save-")).count();
        if number % 8 == 0 || is_new {
            // The next save, whatever it finds.
            save(directory, how, 30);
            assert_eq!(read(directory).unwrap(), wanted(30));
            let left = names(directory);
            assert!(left.iter().all(|name| !name.starts_with('.')), "{how:?}: killed at call {number}: {left:?}");
            match how {
                How::Unnamed | How::Named => assert_eq!(left, before),
                How::Sharded | How::Fresh => assert_eq!(left.len(), 3, "{left:?}"),
                How::Split | How::Joined | How::Plain => {}
            }
        }
    }
    assert!(old > 10 && new > 0, "{how:?}: {old} times the old one, {new} times the new one");
    // Others have one between two calls only, and threads make a few calls more or fewer each time.
    assert!(how != How::Named || temporary > 0, "{how:?}: never killed while there was a temporary name");
    println!("{how:?}: killed at {} calls: {old} times the old one, {new} times the new one", old + new);
}

/// Files before their names, names before the index, the index before anything goes.
#[test]
fn everything_is_on_stable_storage_before_the_next_step_relies_on_it() {
    let _within = Within::seconds(300);
    for how in ALL {
        let directory = disk_directory();
        let directory = directory.path();
        how.before().into_iter().for_each(|before| save(directory, before, 10));
        let mut calls = Vec::new();
        match kill_at(u64::MAX, directory, how, &mut calls) {
            Ok(killed) => assert!(!killed),
            Err(why) => return eprintln!("SKIPPED: {why}"),
        }
        let of_directory = Call::Sync(fs::metadata(directory).unwrap().ino());
        for (place, call) in calls.iter().enumerate() {
            if let Call::Link(inode) | Call::Rename(inode, _) = call {
                assert!(calls[..place].contains(&Call::Sync(*inode)), "{how:?}: named before its fsync: {calls:?}");
            }
        }
        // What is left are the steps: renames by what they make, and the directory's fsync.
        let steps = calls.iter().filter_map(|call| match call {
            Call::Rename(_, name) if name.ends_with(".json") => Some("index"),
            Call::Rename(..) => Some("file"),
            Call::Unlink(name) if name.ends_with(".json") => Some("no index"),
            Call::Unlink(_) => Some("gone"),
            call => (*call == of_directory).then_some("sync"),
        });
        let steps = steps.collect::<Vec<_>>().join(", ");
        let wanted = match how {
            How::Unnamed | How::Named => "file, sync",
            How::Sharded => "file, file, sync, index, sync, gone, gone",
            How::Fresh => "file, file, sync, index, sync",
            How::Split => "file, file, sync, index, sync, gone",
            How::Joined => "file, sync, no index, sync, gone, gone",
            How::Plain => "file, sync, no index, sync",
        };
        assert_eq!(steps, wanted, "{how:?}: {calls:?}");
    }
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

#[test]
fn shards_where_nothing_was() {
    every_call(How::Fresh);
}

#[test]
fn shards_in_place_of_a_file() {
    every_call(How::Split);
}

#[test]
fn a_file_in_place_of_shards() {
    every_call(How::Joined);
}

#[test]
fn a_file_beside_shards_that_stay() {
    every_call(How::Plain);
}
