//! The thread of a stream: takes its work in order, late and in pieces.

use std::time::Duration;

use crate::machine::{Cast, Machine, Op, Source, changed, machine, wait_for_change};

/// A copy gives others a turn after this many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Of memory that a call named, and that is allocated or registered until then.
const KEPT: &str = "it is neither freed nor unregistered while work that uses it is pending: the stand-in refuses that";

pub(crate) fn spawn(stream: usize) {
    std::thread::Builder::new()
        .name("fakecuda".into())
        .spawn(move || while turn(stream) {})
        .expect("the stand-in driver needs threads");
}

/// One op; false when the stream is gone.
fn turn(stream: usize) -> bool {
    let Some(delay) = wait_for_op(stream) else { return false };
    std::thread::sleep(delay);
    let mut done = 0;
    while let Some(pause) = step(stream, &mut done) {
        std::thread::sleep(pause);
    }
    changed();
    true
}

/// Puts the moves of a table in the place of the kernel that carries them out: on a GPU warps run in any order.
fn unfold(machine: &mut Machine, stream: usize, table: u64, count: usize, cast: Option<Cast>) -> Option<Duration> {
    let rows = machine.device_bytes(table, count * 24).expect(KEPT).to_vec();
    let number = |row: &[u8], at: usize| u64::from_le_bytes(row[8 * at..8 * at + 8].try_into().expect("8 bytes"));
    let mut moves: Vec<Op> = Vec::with_capacity(count);
    for row in rows.chunks(24) {
        let (source, target, bytes) = (number(row, 0), number(row, 1), number(row, 2) as usize);
        if cast.is_none() && bytes > 16 << 10 {
            machine.misuse.push("more than 16 KiB for one warp".into());
        }
        let place = machine.below(moves.len() as u64 + 1) as usize;
        moves.push(match cast {
            None => Op::OnDevice { source, target, bytes, row: true },
            Some(cast) => Op::Change { source, target, bytes, cast },
        });
        let last = moves.len() - 1;
        moves.swap(place, last);
    }
    let ops = &mut machine.streams.get_mut(&stream)?.ops;
    moves.into_iter().for_each(|one| ops.push_front(one));
    None
}

/// Waits until the first op can begin; says how late it does.
fn wait_for_op(stream: usize) -> Option<Duration> {
    let mut guard = machine();
    loop {
        let state = guard.streams.get(&stream)?;
        match state.ops.front() {
            None if state.destroyed => {
                guard.streams.remove(&stream);
                return None;
            }
            Some(_) if guard.knobs.stalled => {}
            Some(op) if guard.is_blocked(op) => {}
            Some(
                Op::ToDevice { row: false, .. }
                | Op::ToHost { .. }
                | Op::OnDevice { row: false, .. }
                | Op::Gather { .. },
            ) => {
                if let Some(&late) = guard.knobs.late.get(&stream) {
                    return Some(late);
                }
                let latency_max = guard.knobs.latency_max.as_micros() as u64;
                return Some(Duration::from_micros(guard.below(latency_max + 1)));
            }
            Some(_) => return Some(Duration::ZERO),
            None => {}
        }
        guard = wait_for_change(guard);
    }
}

/// One piece of the first op; the pause before the next piece, or nothing when the op is done.
fn step(stream: usize, done: &mut usize) -> Option<Duration> {
    let mut guard = machine();
    let mut op = guard.streams.get_mut(&stream)?.ops.pop_front()?;
    let bytes = match &op {
        Op::ToDevice { bytes, .. } | Op::ToHost { bytes, .. } | Op::OnDevice { bytes, .. } => *bytes,
        Op::Change { .. } | Op::Gather { .. } | Op::Record { .. } | Op::Wait { .. } => 0,
    };
    let piece = (bytes - *done).min(PIECE_BYTES);
    guard.check_order(stream, &op);
    if let Op::Gather { table, count, cast, .. } = op {
        return unfold(&mut guard, stream, table, count, cast);
    }
    perform(&mut guard, &mut op, *done, piece);
    *done += piece;
    if *done == bytes {
        finish(&mut guard, op);
        return None;
    }
    let pause = Duration::from_millis(piece as u64).checked_div(guard.knobs.bytes_per_ms as u32);
    guard.streams.get_mut(&stream)?.ops.push_front(op);
    Some(pause.unwrap_or_default())
}

fn perform(machine: &mut Machine, op: &mut Op, done: usize, piece: usize) {
    match op {
        Op::ToDevice { source, target, .. } => {
            let staged;
            let from = match source {
                Source::Staged(bytes) => &bytes[done..done + piece],
                Source::Pinned { at, .. } => {
                    assert!(machine.is_registered(*at + done, piece), "{KEPT}");
                    // SAFETY: registered memory stays mapped until it is unregistered, which takes the lock that the
                    // caller holds. Programs must not write to it now; if one does, this reads what a bus would.
                    staged = unsafe { std::slice::from_raw_parts((*at + done) as *const u8, piece) }.to_vec();
                    &staged
                }
            };
            machine.device_bytes(*target + done as u64, piece).expect(KEPT).copy_from_slice(from);
        }
        Op::ToHost { source, target, pageable, .. } => {
            assert!(*pageable || machine.is_registered(*target + done, piece), "{KEPT}");
            let memory = machine.device_bytes(*source + done as u64, piece).expect(KEPT);
            // SAFETY: the program keeps the target valid until the copy has ended: it either waits in the call
            // (pageable) or for the stream (registered).
            unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr(), (*target + done) as *mut u8, piece) };
        }
        Op::OnDevice { source, target, .. } => {
            let moved = machine.device_bytes(*source + done as u64, piece).map(|memory| memory.to_vec());
            match (moved, machine.device_bytes(*target + done as u64, piece)) {
                (Some(moved), Some(memory)) => memory.copy_from_slice(&moved),
                _ => machine.misuse.push("memory was freed while a copy used it".into()),
            }
        }
        Op::Change { source, target, bytes, cast } => {
            if !target.is_multiple_of(cast.wide_item() as u64) || !bytes.is_multiple_of(cast.stored_item()) {
                machine.misuse.push("a kernel's elements are not aligned, or not whole".into());
            }
            let stored = machine.device_bytes(*source, *bytes).map(|memory| memory.to_vec());
            match (stored, machine.device_bytes(*target, cast.bytes_of(*bytes))) {
                (Some(stored), Some(memory)) => cast.change(&stored, memory),
                _ => machine.misuse.push("memory was freed while a kernel used it".into()),
            }
        }
        Op::Gather { .. } | Op::Record { .. } | Op::Wait { .. } => {}
    }
}

fn finish(machine: &mut Machine, op: Op) {
    match op {
        Op::Record { event, generation } => {
            let Some(found) = machine.events.get_mut(&event) else { return };
            found.passed = found.passed.max(generation);
            if found.destroyed && found.passed >= found.recorded {
                machine.events.remove(&event);
            }
        }
        Op::ToDevice { source: Source::Pinned { at, started_with }, bytes, .. } if machine.is_registered(at, bytes) => {
            // SAFETY: as in `perform`.
            let now = unsafe { std::slice::from_raw_parts(at as *const u8, bytes) };
            if now != started_with {
                machine.misuse.push("a copy's source changed while it was in flight".into());
            }
        }
        _ => {}
    }
}
