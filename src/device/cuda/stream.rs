//! A copy stream, and its timeline on a ring of events.
//!
//! Mark `n` is recorded in event `(n - 1) % EVENTS`, always on the same stream. So once a thread knows of mark `n` (it has
//! read `marked >= n`), the event says something about mark `n` or about a later one that uses the same event, never about
//! an earlier one: if it is done, `n` is reached; a stream that waits for it waits for `n` or longer. Consumers therefore
//! need no lock against the engine that sets marks, and more marks than events only make them wait longer. They cannot
//! wait in a circle: whatever an event stands for was put on its stream before the wait.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUDA_MEMCPY2D, CUevent, CUevent_st, CUmemorytype, CUstream};

use super::super::{DevicePtr, Fence, RawCopy, RawRows, RawStream, Seq, Stream, Timeline};
use super::batch::{BatchCopy, COPIES_MAX};
use super::code::{NOT_READY, SUCCESS};
use super::gather::Tables;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::plan::{Cast, Move};
use crate::stats::Fallback;

/// More than there are slabs of 512 KiB in 256 MiB.
const EVENTS: usize = 512;

/// A copy of 4 MiB takes 80 us on a PCIe Gen5 bus; a sleep of this length wakes up about 60 us late.
const POLL_SLEEP_MIN: Duration = Duration::from_micros(20);
/// What has not come for long comes a little later than it could: copies behind a consumer's fence wait for a whole training
/// step, and each look takes a core's time, and the context's lock, from the thread that starts its kernels.
const POLL_SLEEP_MAX: Duration = Duration::from_millis(1);
/// Looks are so much closer together than the wait is long.
const POLLS: u32 = 8;

/// Fields drop in order: the tables look at the stream first.
pub(super) struct CudaStream {
    tables: Option<Tables>,
    points: Arc<Points>,
    /// What was waited for last, and since when: the same wait, in several calls.
    waited: (Seq, Instant),
    /// It has been said that copies are not started together.
    told: bool,
}

struct CudaTimeline(Arc<Points>);

struct Points {
    shared: Arc<Shared>,
    stream: CUstream,
    /// Each comes with the first mark that needs it: a stream that is made for one wait has one.
    events: Box<[AtomicPtr<CUevent_st>]>,
    /// The last mark; written by the stream alone, after its event was recorded.
    marked: AtomicU64,
    /// A mark that has been reached; written by whoever saw it, so it may lag behind.
    reached: AtomicU64,
}

// SAFETY: as for Shared: handles are names that the driver accepts from any thread.
unsafe impl Send for Points {}
// SAFETY: as above; what threads share here are atomics.
unsafe impl Sync for Points {}

impl CudaStream {
    pub(super) fn new(shared: Arc<Shared>) -> Result<CudaStream> {
        let stream = shared.create_stream()?;
        let events = (0..EVENTS).map(|_| AtomicPtr::default()).collect();
        let points = Points { shared, stream, events, marked: AtomicU64::new(0), reached: AtomicU64::new(0) };
        Ok(CudaStream { tables: None, points: Arc::new(points), waited: (Seq(0), Instant::now()), told: false })
    }
}

impl Drop for Points {
    fn drop(&mut self) {
        let events: Vec<CUevent> = self.events.iter_mut().map(|event| *event.get_mut()).collect();
        let made = events.iter().position(|event| event.is_null()).unwrap_or(EVENTS);
        // SAFETY: made in `CudaStream::new` and `mark`; the last owner is going.
        unsafe { self.shared.destroy(self.stream, &events[..made]) };
    }
}

impl Points {
    /// Of a mark that has been set.
    fn event(&self, seq: u64) -> CUevent {
        self.place(seq).load(Ordering::Acquire)
    }

    fn place(&self, seq: u64) -> &AtomicPtr<CUevent_st> {
        &self.events[((seq - 1) % EVENTS as u64) as usize]
    }

    /// Asks the driver about the marks after the last one seen, until one is not done.
    fn advance(&self) -> Result<Seq> {
        let marked = self.marked.load(Ordering::Acquire);
        let mut reached = self.reached.load(Ordering::Acquire);
        if reached >= marked {
            return Ok(Seq(reached));
        }
        let _entered = self.shared.enter()?;
        let (call, query) = self.shared.driver.event_query;
        while reached < marked {
            // SAFETY: the events live as long as the Points.
            match unsafe { query(self.event(reached + 1)) } {
                SUCCESS => reached = self.reached.fetch_max(reached + 1, Ordering::AcqRel).max(reached + 1),
                NOT_READY => break,
                code => self.shared.check(call, code)?,
            }
        }
        Ok(Seq(reached))
    }

    /// Polls: a wait inside the driver has no deadline. The wait began at `since`, in an earlier call perhaps.
    fn wait(&self, seq: Seq, timeout: Duration, since: Instant) -> Result<Seq> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let reached = self.advance()?;
            if reached >= seq {
                return Ok(reached);
            }
            let now = Instant::now();
            let left = deadline.map_or(POLL_SLEEP_MAX, |deadline| deadline.saturating_duration_since(now));
            if left.is_zero() {
                return Ok(reached);
            }
            std::thread::sleep(left.min(((now - since) / POLLS).clamp(POLL_SLEEP_MIN, POLL_SLEEP_MAX)));
        }
    }
}

// SAFETY: the driver runs a stream in order, and `reached` moves only to marks whose event the driver called done (see
// the head of this file); every other result of the query is returned as an error.
unsafe impl Stream for CudaStream {
    unsafe fn copy(&mut self, source: NonNull<u8>, target: DevicePtr, bytes: usize) -> Result<()> {
        let Points { shared, stream, .. } = &*self.points;
        let _entered = shared.enter()?;
        let (call, copy) = shared.driver.copy_to_device;
        // SAFETY: the caller promises that both sides stay valid until a later mark is reached.
        shared.check(call, unsafe { copy(target, source.as_ptr().cast(), bytes, *stream) })
    }

    unsafe fn copy_many(&mut self, copies: &[RawCopy]) -> Result<()> {
        let shared = self.points.shared.clone();
        let usable = shared.batch_copy.filter(|_| shared.batch_refused.get().is_none());
        let Some(batch) = usable.filter(|_| copies.len() > 1) else {
            // SAFETY: the caller's promise, one by one.
            return copies.iter().try_for_each(|one| unsafe { self.copy(one.source, one.target, one.bytes) });
        };
        let _entered = shared.enter()?;
        for some in copies.chunks(COPIES_MAX) {
            // SAFETY: the caller's promise; the stream is our own.
            let code = unsafe { batch.start(some, self.points.stream) };
            if let Err(error) = shared.check(BatchCopy::CALL, code) {
                let _ = shared.batch_refused.set(one_by_one(&error));
                // SAFETY: as above. What the call started all the same is written twice, alike.
                return copies.iter().try_for_each(|one| unsafe { self.copy(one.source, one.target, one.bytes) });
            }
        }
        Ok(())
    }

    fn fallback(&mut self) -> Option<Fallback> {
        // Also where the driver refused another stream's: this one's are not tried.
        let refused = self.points.shared.batch_refused.get().filter(|_| !self.told)?;
        self.told = true;
        Some(refused.clone())
    }

    unsafe fn copy_rows(&mut self, rows: RawRows) -> Result<()> {
        let Points { shared, stream, .. } = &*self.points;
        let _entered = shared.enter()?;
        let (call, copy) = shared.driver.copy_rows_to_device;
        let rows = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: rows.source.as_ptr().cast(),
            srcDevice: 0,
            srcArray: std::ptr::null_mut(),
            srcPitch: rows.source_stride,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: rows.target,
            dstArray: std::ptr::null_mut(),
            dstPitch: rows.row_bytes,
            WidthInBytes: rows.row_bytes,
            Height: rows.rows,
        };
        // SAFETY: the caller promises that both sides of each row stay valid until a later mark is reached; the driver
        // reads the description before it returns.
        shared.check(call, unsafe { copy(&raw const rows, *stream) })
    }

    unsafe fn copy_out(&mut self, source: DevicePtr, target: NonNull<u8>, bytes: usize) -> Result<()> {
        let Points { shared, stream, .. } = &*self.points;
        let _entered = shared.enter()?;
        let (call, copy) = shared.driver.copy_to_host;
        // SAFETY: the caller promises that both sides stay valid until a later mark is reached.
        shared.check(call, unsafe { copy(target.as_ptr().cast(), source, bytes, *stream) })
    }

    fn mark(&mut self) -> Result<Seq> {
        let points = &*self.points;
        let seq = points.marked.load(Ordering::Relaxed) + 1;
        let _entered = points.shared.enter()?;
        if points.event(seq).is_null() {
            points.place(seq).store(points.shared.create_event()?, Ordering::Release);
        }
        let (call, record) = points.shared.driver.event_record;
        // SAFETY: event and stream live as long as the Points.
        points.shared.check(call, unsafe { record(points.event(seq), points.stream) })?;
        points.marked.store(seq, Ordering::Release);
        Ok(Seq(seq))
    }

    fn reached(&mut self) -> Result<Seq> {
        self.points.advance()
    }

    fn wait(&mut self, seq: Seq, timeout: Duration) -> Result<Seq> {
        if self.waited.0 != seq {
            self.waited = (seq, Instant::now());
        }
        self.points.wait(seq, timeout, self.waited.1)
    }

    fn wait_fence(&mut self, fence: Fence) -> Result<()> {
        let event = self.points.shared.fence_event(fence)?;
        let _entered = self.points.shared.enter()?;
        let (call, wait) = self.points.shared.driver.stream_wait_event;
        // SAFETY: the event lives as long as the Shared, the stream as long as the Points.
        self.points.shared.check(call, unsafe { wait(self.points.stream, event, 0) })
    }

    fn ready_to_gather(&mut self) -> Option<Fallback> {
        match Tables::new(&self.points.shared, self.points.stream) {
            Ok(tables) => {
                self.tables = Some(tables);
                None
            }
            Err(fallback) => Some(fallback),
        }
    }

    unsafe fn gather(&mut self, base: DevicePtr, moves: &[Move]) -> Result<()> {
        let Points { shared, stream, .. } = &*self.points;
        let _entered = shared.enter()?;
        if let Some(tables) = &mut self.tables {
            // SAFETY: the caller's promise is the same; the context is entered.
            return unsafe { tables.gather(base, moves) };
        }
        let (call, copy) = shared.driver.copy_on_device;
        moves.iter().try_for_each(|&Move { source, target, bytes }| {
            // SAFETY: the caller promises that both sides are device memory that stays valid until a later mark is
            // reached, and that they do not overlap.
            shared.check(call, unsafe { copy(base + target, base + source, bytes as usize, *stream) })
        })
    }

    fn ready_to_cast(&mut self, _cast: Cast) -> Result<(), String> {
        let why = if self.tables.is_some() { None } else { self.ready_to_gather() };
        why.map_or(Ok(()), |Fallback { reason, remedy, .. }| {
            Err(format!("only a kernel does that, and none can be had: {reason}; {remedy}. Else leave this option out"))
        })
    }

    unsafe fn cast(&mut self, base: DevicePtr, cast: Cast, moves: &[Move]) -> Result<usize> {
        let _entered = self.points.shared.enter()?;
        match &mut self.tables {
            // SAFETY: the caller's promise is the same; the context is entered.
            Some(tables) => unsafe { tables.cast(base, cast, moves) },
            None => Err(Error::config("widen", "no kernel was made ready for it")),
        }
    }

    fn timeline(&self) -> Arc<dyn Timeline> {
        Arc::new(CudaTimeline(self.points.clone()))
    }
}

fn one_by_one(error: &Error) -> Fallback {
    Fallback {
        instead: "copies started one by one instead of together".into(),
        reason: error.to_string(),
        errno: None,
        remedy: "costs CPU per copy, not correctness; a newer driver may take them",
    }
}

// SAFETY: as for CudaStream; a consumer's stream waits for the event of `seq`, which is about `seq` or a later mark.
unsafe impl Timeline for CudaTimeline {
    fn wait(&self, seq: Seq, timeout: Duration) -> Result<bool> {
        Ok(self.0.wait(seq, timeout, Instant::now())? >= seq)
    }

    unsafe fn wait_on(&self, seq: Seq, consumer: RawStream) -> Result<()> {
        let points = &*self.0;
        if points.reached.load(Ordering::Acquire) >= seq.0 {
            return Ok(());
        }
        let (call, wait) = points.shared.driver.stream_wait_event;
        if points.marked.load(Ordering::Acquire) < seq.0 {
            let (device, name) = (points.shared.label.clone(), "no such mark yet".into());
            return Err(Error::Device { device, call, code: NOT_READY, name, remedy: String::new() });
        }
        let _entered = points.shared.enter()?;
        // SAFETY: the caller's promise.
        if let Err(refused) = unsafe { points.shared.driver.check_capture(&points.shared.label, consumer.0.cast()) } {
            // A graph cannot wait for what is outside of it, and need not where that has ended.
            return if points.advance()? >= seq { Ok(()) } else { Err(refused) };
        }
        // SAFETY: the event lives as long as the Points; the stream is the caller's promise.
        points.shared.check(call, unsafe { wait(consumer.0.cast(), points.event(seq.0), 0) })
    }
}
