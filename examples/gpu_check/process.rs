//! Runs a program under a deadline, and hears it line by line. Whatever it does, this returns.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Exited(i32),
    /// By a signal that we did not send.
    Signal(i32),
    /// Killed by us.
    Deadline,
    /// Killed by us, since we were told to stop.
    Stopped,
    NotStarted(String),
}

/// Set by SIGTERM and SIGINT.
static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// From now on SIGTERM and SIGINT end the program that runs, and then this one, with a report.
pub(crate) fn stop_on_signals() {
    extern "C" fn stop(_: i32) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, stop as extern "C" fn(i32) as libc::sighandler_t) };
    }
}

/// Runs a command in a process group of its own; `hear` gets every line of its output and errors, as they come.
pub(crate) fn run(mut command: Command, deadline: Duration, mut hear: impl FnMut(&str)) -> End {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // SAFETY: prctl is a plain system call, allowed between fork and exec. Where we are killed, so is the child.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return End::NotStarted(format!("{}: {error}", command.get_program().display())),
    };
    let lines = lines(&mut child);
    let end = Instant::now() + deadline;
    let ended = loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => hear(&line),
            // Both pipes closed, or it is quiet: has it ended?
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(2)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            break how(status);
        }
        if is_stopped() {
            break kill(&mut child, End::Stopped);
        }
        if Instant::now() >= end {
            break kill(&mut child, End::Deadline);
        }
    };
    kill_group(&child); // what it may have left behind
    // What was on its way; processes that it left behind may keep the pipes open.
    while let Ok(line) = lines.recv_timeout(Duration::from_millis(300)) {
        hear(&line);
    }
    ended
}

fn how(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}

/// A process in a system call that does not end stays where it is.
fn kill(child: &mut Child, end: End) -> End {
    kill_group(child);
    let patience = Instant::now() + Duration::from_secs(3);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    end
}

fn kill_group(child: &Child) {
    // SAFETY: a plain system call; the group is the child's own, since `process_group(0)`.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
}

/// The lines of both of a child's pipes.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        read(pipe, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        read(pipe, sender);
    }
    receiver
}

fn read(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        // Up to 1 MiB a line, whatever bytes they are.
        while matches!((&mut pipe).take(1 << 20).read_until(b'\n', &mut line), Ok(bytes) if bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}
