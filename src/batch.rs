//! What a consumer gets: samples that already lie in device memory.

mod body;
mod views;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::dataset::Field;
use crate::device::{DevicePtr, RawStream, Seq};
use crate::engine::{Message, Shared};
use crate::error::{Error, Result};
use crate::order::{Cursor, Progress};
use crate::outlet::LOOK;
use crate::region::Region;
use crate::selection::Dense;
use crate::stall::{HELD_UP, Overdue, Watch};

pub(crate) use body::{Body, Kept, Places};
pub use views::{FieldView, Tensor, WindowView};

/// A batch of samples on the device. Dropping it gives its memory back to the loader.
///
/// The bytes are there once [`wait`](Batch::wait) says so, or, without blocking the host, on a stream that
/// [`wait_on`](Batch::wait_on) has made wait. On the host device they are there at once.
pub struct Batch {
    body: Option<Body>,
    back: Sender<Message>,
    shared: Arc<Shared>,
}

impl Batch {
    pub(crate) fn new(body: Body, back: Sender<Message>, shared: Arc<Shared>) -> Batch {
        shared.held.fetch_add(1, Ordering::Relaxed);
        Batch { body: Some(body), back, shared }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.body().samples.len()
    }

    /// Whether there is no sample: only where each of them was [skipped](crate::order::BadSamplePolicy::Skip).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The epoch that this batch belongs to.
    pub fn epoch(&self) -> u64 {
        self.body().epoch
    }

    /// The batch's place among those that [`Loader::epoch`](crate::Loader::epoch) or
    /// [`Loader::rest_of_epoch`](crate::Loader::rest_of_epoch) delivers, from 0.
    pub fn step(&self) -> u64 {
        self.body().step
    }

    /// The ids of the samples, in the order in which they stand in the batch; where samples are windows, their numbers in
    /// the epoch.
    pub fn samples(&self) -> &[u64] {
        &self.body().samples
    }

    /// How many samples at the end are padding ([`Policy::Pad`](crate::order::Policy::Pad)): repeated, to be masked.
    pub fn padded(&self) -> u64 {
        self.body().padded
    }

    /// Where the run stands once every rank has used its batch of this step: what to save then, and to give to
    /// [`Loader::resume`](crate::Loader::resume). Batches read ahead are not in it. After an epoch's last batch it
    /// names the next epoch; where a budget cuts batches and the policy drops what is left behind it, only
    /// [`Loader::cursor`](crate::Loader::cursor) after the end does: going on from either is the same.
    ///
    /// Every rank has the same, but for the samples that a rank has skipped ([`Cursor::merge`]). Takes about a
    /// microsecond, wherever the run stands.
    pub fn cursor(&self) -> Cursor {
        self.body().standing.cursor(&self.shared.start)
    }

    /// The dataset that a sample of the batch comes from, among those that [`Dataset::concat`](crate::Dataset::concat)
    /// joined, and its number there.
    ///
    /// # Panics
    /// If `index` is not less than the batch's length, or the batch is one of windows.
    pub fn origin(&self, index: usize) -> (usize, u64) {
        assert!(!self.body().pieces.are_there(), "windows are of documents: see Batch::window");
        let (mut dataset, mut sample) = (0, self.samples()[index]);
        while sample >= self.shared.parts[dataset] {
            sample -= self.shared.parts[dataset];
            dataset += 1;
        }
        (dataset, sample)
    }

    /// How far each dataset of a mixture is once every rank has used its batch of this step: its own epoch, and how many
    /// of its samples are consumed there. Empty where there is no mixture.
    pub fn datasets(&self) -> Vec<Progress> {
        let progress = self.body().standing.progress;
        self.shared.order.as_mixture().map_or_else(Vec::new, |mixture| mixture.progress(progress))
    }

    /// The fields that samples have.
    pub fn fields(&self) -> &[Field] {
        &self.shared.fields
    }

    /// A window of tokens, in pieces of one document each: what [`Builder::windows`](crate::Builder::windows) and
    /// [`Builder::pack`](crate::Builder::pack) make batches of. `None` where samples are no windows.
    ///
    /// # Panics
    /// If `index` is not less than the batch's length.
    pub fn window(&self, index: usize) -> Option<WindowView<'_>> {
        let body = self.body();
        if !body.pieces.are_there() {
            return None;
        }
        let (range, cu_seqlens) = body.pieces.of_window(index);
        let (offsets, lengths) = (&body.plan.offsets()[range.clone()], &body.plan.lengths()[range.clone()]);
        let dtype = self.fields().first().and_then(|field| field.dtype);
        let bytes = FieldView { batch: self, offsets, lengths, dtype, varints: false, kept: None };
        Some(WindowView { pieces: &body.pieces.pieces[range], cu_seqlens, bytes })
    }

    /// One field of all samples; `None` if the dataset has no field of that name, or samples are
    /// [windows](Self::window).
    pub fn field(&self, name: &str) -> Option<FieldView<'_>> {
        let field = self.shared.fields.iter().position(|f| &*f.name == name)?;
        let body = self.body();
        if body.pieces.are_there() {
            return None;
        }
        let views = field * body.samples.len()..(field + 1) * body.samples.len();
        let offsets = &body.plan.offsets()[views.clone()];
        let lengths = &body.plan.lengths()[views];
        let kept = body.kept.is_used() && self.shared.on_host.contains(&field);
        let kept = kept.then_some(field * body.samples.len());
        let &Field { dtype, varints, .. } = &self.shared.fields[field];
        Some(FieldView { batch: self, offsets, lengths, dtype, varints, kept })
    }

    /// One field of all samples as one array: what [`Builder::tensors`](crate::Builder::tensors) says, by default every
    /// field whose type and shape are known. Of [windows](Self::window) it is the tokens, a row for each window. `None`
    /// if that field is no array, or there is none of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let named = |dense: &Dense| &*self.shared.fields[dense.field].name == name;
        let array = self.shared.dense.iter().position(named)?;
        Some(Tensor { batch: self, array })
    }

    /// First byte of the batch's region in device memory; offsets of views count from here. 0 if no sample has a byte.
    pub fn device_ptr(&self) -> DevicePtr {
        self.body().region.as_ref().map_or(0, Region::base)
    }

    /// Length of the region in use, in bytes: all views lie inside.
    pub fn region_bytes(&self) -> u64 {
        self.body().plan.region_bytes()
    }

    /// The sum of all views' lengths.
    pub fn bytes(&self) -> u64 {
        self.body().plan.wanted_bytes()
    }

    /// The point on the loader's copy stream behind which the bytes are there. `Seq(0)`: they are there now.
    pub fn seq(&self) -> Seq {
        self.body().seq
    }

    /// Waits, on the host, until the bytes are there. [`Error::Timeout`] if for the loader's deadline neither they come nor
    /// anything else that it reads; where, as long as there is the loader, copies wait for a stream that an earlier batch was
    /// [released](Batch::release_on) on, after sixty times as long.
    pub fn wait(&self) -> Result<()> {
        let Some(timeline) = self.shared.timeline.get() else { return Ok(()) };
        let mut watch = Watch::new(self.shared.deadline, Duration::ZERO);
        let (slice, mut now) = (self.shared.deadline.min(LOOK), Duration::ZERO);
        loop {
            if let Some(Overdue { waited, held_up }) = watch.look(now, self.shared.signs()) {
                let why = if held_up { format!(": {HELD_UP}") } else { String::new() };
                let what = format!("the copies of batch {} to {}{why}", self.step(), self.shared.device.name());
                return Err(Error::Timeout { what, waited });
            }
            if timeline.wait(self.seq(), slice)? {
                return Ok(());
            }
            now += slice;
        }
    }

    /// Makes a consumer's stream wait until the bytes are there, without blocking the host.
    ///
    /// # Safety
    /// `stream` is a live stream of the loader's device.
    pub unsafe fn wait_on(&self, stream: RawStream) -> Result<()> {
        match self.shared.timeline.get() {
            // SAFETY: the caller vouches for the stream.
            Some(timeline) => unsafe { timeline.wait_on(self.seq(), stream) },
            None => Ok(()),
        }
    }

    /// Gives the memory back once `stream` has done what is on it now, without blocking the host. (If the loader is
    /// gone and this was its last batch, the memory is freed: that waits for the stream.)
    ///
    /// A plain drop says instead that nothing uses the memory any more. If the fence cannot be recorded, the batch
    /// is leaked rather than refilled under its reader, and the error says so.
    ///
    /// # Safety
    /// `stream` is a live stream of the loader's device, and only work already on it uses the batch.
    pub unsafe fn release_on(mut self, stream: RawStream) -> Result<()> {
        if self.body().region.is_none() {
            // Nothing to keep. The fence may still stand for a region that this body had earlier.
            return Ok(());
        }
        let fence = self.body().fence;
        // SAFETY: the caller vouches for the stream.
        let recorded = unsafe { self.shared.device.raw().record(fence, stream) };
        let body = self.body.as_mut().expect("taken only by drop");
        match &recorded {
            Ok(()) => body.fenced = true,
            Err(_) => std::mem::forget(self.body.take()),
        }
        recorded
    }

    /// Copies bytes of the region, from wherever it is.
    fn read_back(&self, source: DevicePtr, len: u64, target: &mut Vec<u8>) -> Result<()> {
        target.clear();
        target.resize(len as usize, 0);
        if len == 0 {
            return Ok(());
        }
        self.wait()?;
        // SAFETY: the bytes lie inside the batch's region, the copies there have ended, and nothing writes to it while the
        // batch lives.
        unsafe { self.shared.device.raw().read_back(source, target) }
    }

    /// Bytes of the region, where the host can address it.
    fn host(&self, offset: u64, len: u64) -> Result<&[u8]> {
        let Some(region) = &self.body().region else { return Ok(&[]) };
        let Some(host) = region.host() else {
            let device = self.shared.device.name();
            let problem = format!("the memory of {device} is not the host's; use device_ptr, or copy it back");
            return Err(Error::config("host_bytes", problem));
        };
        self.wait()?;
        assert!(offset + len <= region.bytes() as u64, "a view outside its region");
        // SAFETY: the view lies inside the region, whose bytes were written before its seq, reached above. Nothing
        // writes to it while the batch lives: the lease is in the batch, and the slice borrows the batch.
        Ok(unsafe { std::slice::from_raw_parts(host.as_ptr().add(offset as usize), len as usize) })
    }

    fn body(&self) -> &Body {
        self.body.as_ref().expect("taken only by drop")
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(1, Ordering::Relaxed);
        if let Some(body) = self.body.take() {
            // Without an engine the body is dropped here, and with the last one the device memory. With an engine that
            // does not look at its messages, its region stays leased: never refilled, never freed under anybody.
            let _ = self.back.send_timeout(Message::Release(body), self.shared.deadline);
            if self.shared.starved.load(Ordering::SeqCst) {
                self.shared.wake(); // else it has others to fill
            }
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch {{ epoch: {}, step: {}, samples: {} }}", self.epoch(), self.step(), self.len())
    }
}
