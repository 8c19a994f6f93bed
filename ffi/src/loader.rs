//! Loaders
//!
//! A loader reads batches ahead on a thread of its own. Begin an epoch, take its batches with `strait_loader_next` until it
//! says `STRAIT_STATUS_END`, and give each batch back. What a loader waits for has a deadline, so nothing hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use strait::order::IfChanged;
use strait::{Loader, Next, StatsReader};

use crate::batch::{Kept, strait_batch};
use crate::call::{call, free, lock, out};
use crate::cursor::{Taken, strait_cursor};
use crate::dataset::{FieldTexts, STRAIT_UNKNOWN};
use crate::device::{Named, give, strait_device};
use crate::dlpack::DLDevice;
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, live, register};
use crate::held::Held;
use crate::stats::{Snapshot, strait_stats};
use crate::status::strait_status;

/// Reads a dataset's samples in batches. Threads: any; calls with one loader take turns, but for `strait_loader_stats`,
/// which waits for none. One that is freed while another thread waits for a batch ends when that call does.
pub struct strait_loader(());

pub(crate) struct Running {
    loader: Mutex<Loader>,
    stats: StatsReader,
    begun: AtomicBool,
    dl: DLDevice,
    texts: Arc<OnceLock<FieldTexts>>,
}

impl Kind for Running {
    type Handle = strait_loader;
    const NAME: &'static str = "loader";
    const NUMBER: u8 = 8;
}

impl Running {
    /// `dl` where the device was given, since then it is known what DLPack calls it.
    pub(crate) fn new(loader: Loader, dl: Option<DLDevice>) -> Running {
        let dl = dl.unwrap_or_else(|| Named::new(loader.device().clone()).dl);
        let (stats, begun, texts) = (loader.stats_reader(), AtomicBool::new(false), Arc::default());
        Running { loader: Mutex::new(loader), stats, begun, dl, texts }
    }
}

/// Stops the loader in bounded time. Batches and tensors that are still held stay valid. NULL is fine; one that is not live
/// is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_free(loader: *mut strait_loader) -> strait_status {
    free::<Running>(loader)
}

/// The number of batches in an epoch, the same on every rank; `STRAIT_UNKNOWN` where batches are cut by a budget.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_steps(
    loader: *const strait_loader,
    steps: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let steps = out(steps, "steps")?;
        *steps = lock(&live::<Running>(loader, "loader")?.loader).steps().unwrap_or(STRAIT_UNKNOWN);
        Ok(())
    })
}

/// Begins epoch `epoch`: all of its batches, in order. An epoch under way is given up. The last epoch that there is has the
/// number `UINT64_MAX - 1`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_begin(
    loader: *mut strait_loader,
    epoch: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let running = live::<Running>(loader, "loader")?;
        if epoch == u64::MAX {
            let message = format!("epoch is {epoch}; the last one is {}", epoch - 1);
            return Err(Failure::new(strait_status::OutOfRange, message));
        }
        lock(&running.loader).begin(epoch);
        running.begun.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// Begins where the run stands: behind the last batch that was taken, or behind the cursor that was resumed; where an epoch
/// has ended, all of the next.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_begin_rest(
    loader: *mut strait_loader,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let running = live::<Running>(loader, "loader")?;
        lock(&running.loader).begin_rest();
        running.begun.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// The next batch of the epoch that was begun, to be given back with `strait_batch_free` or `strait_batch_release_on`.
///
/// `STRAIT_STATUS_END` at the end of the epoch. `STRAIT_STATUS_PENDING` if no batch comes within `timeout_ms`
/// milliseconds: it may be asked for again, after signals were looked at. A negative time is without end; a batch that does
/// not come within the loader's deadline is an error all the same. After an error the epoch is over, and another may be
/// begun.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_next(
    loader: *mut strait_loader,
    timeout_ms: i64,
    batch: Option<&mut *mut strait_batch>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let batch = out(batch, "batch")?;
        let running = live::<Running>(loader, "loader")?;
        if !running.begun.load(Ordering::Relaxed) {
            let message = "no epoch was begun: begin one first";
            return Err(Failure::new(strait_status::WrongOrder, message));
        }
        let patience = u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis);
        let mut loader = lock(&running.loader);
        match loader.next_within(patience)? {
            Next::Batch(next) => {
                let held = Held::new(next, loader.device().clone(), running.dl);
                *batch = register(Kept::new(held, running.texts.clone()))?;
                Ok(strait_status::Ok)
            }
            Next::End => Ok(strait_status::End),
            Next::Pending => Ok(strait_status::Pending),
        }
    })
}

/// Where the run stands: after the last batch that was taken, at the end of an epoch at the start of the next. See
/// `strait_batch_cursor` for the one to save in a loop. Give it back with `strait_cursor_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_cursor(
    loader: *const strait_loader,
    cursor: Option<&mut *mut strait_cursor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let cursor = out(cursor, "cursor")?;
        *cursor = register(Taken::new(lock(&live::<Running>(loader, "loader")?.loader).cursor()))?;
        Ok(())
    })
}

/// Goes on where `cursor` was taken, in whatever world and with whatever batch size: begin the rest of the epoch after it.
/// Nothing is replayed; an epoch under way is given up. The cursor stays the caller's.
///
/// `STRAIT_STATUS_CONFIG` names what differs between this run and the cursor's. A dataset that has changed is such a
/// difference, unless `allow_changed`; which samples were seen is then no longer known.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_resume(
    loader: *mut strait_loader,
    cursor: *const strait_cursor,
    allow_changed: bool,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let running = live::<Running>(loader, "loader")?;
        let taken = live::<Taken>(cursor, "cursor")?;
        let if_changed = if allow_changed { IfChanged::Allow } else { IfChanged::Refuse };
        lock(&running.loader).resume(&taken.cursor, if_changed)?;
        running.begun.store(false, Ordering::Relaxed);
        Ok(())
    })
}

/// The device that its batches live on, which was given or chosen; to be given back with `strait_device_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_device(
    loader: *const strait_loader,
    device: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    give(device, error, || {
        let running = live::<Running>(loader, "loader")?;
        let device = lock(&running.loader).device().clone();
        Ok(Named::new(device).called(running.dl))
    })
}

/// A snapshot of what the loader has done so far, to be given back with `strait_stats_free`. May be called while another
/// thread waits for a batch.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_stats(
    loader: *const strait_loader,
    stats: Option<&mut *mut strait_stats>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let stats = out(stats, "stats")?;
        *stats = register(Snapshot::from(live::<Running>(loader, "loader")?.stats.stats()))?;
        Ok(())
    })
}
