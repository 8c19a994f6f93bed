//! What a place gives to plain reads by threads, without strait: the ceiling.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;
use strait::memory::Arena;
use strait::sim::Rng;

use crate::check::Outcome;
use crate::lines;

/// How files are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) threads: usize,
    pub(super) block: usize,
    /// By O_DIRECT.
    pub(super) direct: bool,
    pub(super) shuffled: bool,
}

impl Way {
    pub(super) fn text(self) -> String {
        let Way { threads, block, direct, shuffled } = self;
        let how = if direct { "O_DIRECT" } else { "plain" };
        let order = if shuffled { " in any order" } else { "" };
        format!("{threads} threads, {} KiB {how}{order}", block >> 10)
    }
}

/// Reads whole files in blocks.
pub(super) fn gb_per_s(paths: &[PathBuf], way: Way) -> Outcome<f64> {
    let flags = if way.direct { libc::O_DIRECT } else { 0 };
    let open = |path: &PathBuf| OpenOptions::new().read(true).custom_flags(flags).open(path);
    let files = paths.iter().map(open).collect::<Result<Vec<File>, _>>()?;
    let mut blocks = Vec::new();
    for (file, opened) in files.iter().enumerate() {
        let bytes = opened.metadata()?.len() as usize / way.block * way.block;
        blocks.extend((0..bytes).step_by(way.block).map(|at| (file, at as u64)));
    }
    if way.shuffled {
        let mut rng = Rng::new(31);
        (1..blocks.len()).rev().for_each(|at| blocks.swap(at, rng.below(at as u64 + 1) as usize));
    }
    let arena = Arena::map(way.threads * way.block)?;
    let base = arena.base().as_ptr() as usize;
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let read = |thread: usize| -> std::io::Result<()> {
        // SAFETY: a block of the arena, which outlives the scope of the threads; no other thread has this one.
        let buffer = unsafe { std::slice::from_raw_parts_mut((base + thread * way.block) as *mut u8, way.block) };
        while let Some(&(file, at)) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            files[file].read_exact_at(buffer, at)?;
        }
        Ok(())
    };
    let read = &read;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..way.threads).map(|thread| scope.spawn(move || read(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a reader does not panic"))
    })?;
    Ok((blocks.len() * way.block) as f64 / start.elapsed().as_secs_f64() / 1e9)
}

/// The quickest of a few ways to read whole files in order, and its rate. O_DIRECT if the place takes it. The report has all of
/// them: strait reads from memory by eight threads.
pub(super) fn best(place_name: &str, paths: &[PathBuf], direct: bool) -> Outcome<(Way, f64)> {
    let mut best: Option<(Way, f64)> = None;
    let start = Instant::now();
    for (place, (threads, block)) in
        [(16, 1 << 20), (4, 4 << 20), (16, 4 << 20), (8, 1 << 20), (32, 1 << 20), (8, 4 << 20)].into_iter().enumerate()
    {
        let way = Way { threads, block, direct, shuffled: false };
        let one = &paths[place % paths.len()..][..1];
        super::files::evict(if direct { one } else { &[] });
        let rate = match gb_per_s(one, way) {
            Ok(rate) => rate,
            // The place does not take O_DIRECT.
            Err(_) if direct => return self::best(place_name, paths, false),
            Err(error) => return Err(error),
        };
        lines::row(
            "plain reads of one file",
            json!({ "what": format!("{place_name}, {}", way.text()), "GB_per_s": rate }),
        );
        if best.is_none_or(|(_, so_far)| rate > so_far) {
            best = Some((way, rate));
        }
        if start.elapsed().as_secs() > 6 {
            break;
        }
    }
    best.ok_or_else(|| "nothing could be read".into())
}
