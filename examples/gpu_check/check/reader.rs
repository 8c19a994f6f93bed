//! Reads batches as a consumer does: on a stream of its own, long after it has given them back.

use std::rc::Rc;
use std::sync::Arc;

use strait::{Batch, FieldView};

use super::Outcome;
use super::cuda::{ConsumerStream, Gpu, Pinned, Scratch};
use super::shards::Shards;

/// How a batch is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Behind what is on the stream.
    Fenced,
    /// At once, though the stream still reads it: what a program must not do, to see that the check would tell.
    TooEarly,
    /// As it should be, but the stream has not waited for the batch's copies: as wrong, and for the same end.
    Unwaited,
}

/// A consumer's stream, and what it has read but not looked at.
pub(crate) struct Reader {
    // The stream drops first, and waits for its copies.
    stream: ConsumerStream,
    scratch: Scratch,
    landing: Pinned,
    used: usize,
    pending: Vec<Pending>,
    /// Copies of the whole scratch memory that keep the stream busy before each batch.
    ballast: usize,
    /// What holds up copies to the device.
    traffic: Option<Traffic>,
}

/// Copies to the device by a stream of their own, which others have to wait for.
struct Traffic {
    stream: ConsumerStream,
    source: Pinned,
    target: Scratch,
}

struct Pending {
    /// Where in the landing the batch's region begins.
    at: usize,
    samples: Vec<u64>,
    fields: Vec<(Arc<str>, Vec<u64>, Vec<u64>)>,
}

impl Reader {
    /// Room for `bytes` of batches read but not looked at.
    pub(crate) fn new(gpu: &Rc<Gpu>, bytes: usize, ballast: usize) -> Outcome<Reader> {
        Ok(Reader {
            stream: ConsumerStream::new(gpu)?,
            scratch: Scratch::new(gpu, 2 * bytes)?,
            landing: Pinned::new(gpu, bytes)?,
            used: 0,
            pending: Vec::new(),
            ballast,
            traffic: None,
        })
    }

    /// With so many bytes of copies to the device behind each batch: the loader's own come late from then on.
    #[allow(dead_code, reason = "tests hold them up in another way")]
    pub(crate) fn with_traffic(mut self, gpu: &Rc<Gpu>, bytes: usize) -> Outcome<Reader> {
        let (stream, source, target) = (ConsumerStream::new(gpu)?, Pinned::new(gpu, bytes)?, Scratch::new(gpu, bytes)?);
        self.traffic = Some(Traffic { stream, source, target });
        Ok(self)
    }

    #[allow(dead_code, reason = "tests slow it down")]
    pub(crate) fn stream(&self) -> &ConsumerStream {
        &self.stream
    }

    /// Whether there is room for this batch; if not, [`check`](Reader::check) makes room.
    pub(crate) fn has_room(&self, batch: &Batch) -> bool {
        self.used + batch.region_bytes() as usize <= self.landing.len()
    }

    /// Puts copies of the batch on the stream (within the device, then to the host) and gives it back at once.
    pub(crate) fn take(&mut self, batch: Batch, release: Release) -> Outcome {
        let (bytes, at) = (batch.region_bytes() as usize, self.used);
        if !self.has_room(&batch) {
            return Err(format!("a batch of {bytes} bytes does not fit the reader").into());
        }
        let (stream, half) = (&self.stream, self.landing.len());
        // SAFETY: the stream is live and of the loader's device. The batch lives until its release, which is behind
        // the copies; where it is too early on purpose, the memory stays the loader's, and only its bytes are wrong.
        unsafe {
            if release != Release::Unwaited {
                batch.wait_on(stream.raw())?;
            }
            for _ in 0..self.ballast {
                stream.to_scratch(self.scratch.base, &self.scratch, half, half)?;
            }
            if bytes > 0 {
                stream.to_scratch(batch.device_ptr(), &self.scratch, at, bytes)?;
                stream.to_host(self.scratch.base + at as u64, &self.landing, at, bytes)?;
            }
        }
        self.pending.push(Pending::of(&batch, at));
        self.used += bytes;
        match release {
            // SAFETY: as above; all that uses the batch is on the stream.
            Release::Fenced | Release::Unwaited => unsafe { batch.release_on(stream.raw()) }?,
            Release::TooEarly => drop(batch),
        }
        match &self.traffic {
            Some(Traffic { stream, source, target }) => stream.to_device(source, 0, target, source.len()),
            None => Ok(()),
        }
    }

    /// Waits for the stream, and compares all that was taken; says how many samples had a wrong byte.
    pub(crate) fn check(&mut self, shards: &Shards<'_>) -> Outcome<usize> {
        self.stream.synchronize()?;
        self.traffic.iter().try_for_each(|traffic| traffic.stream.synchronize())?;
        let landing = &self.landing;
        let wrong = self.pending.iter().map(|pending| pending.wrong(landing, shards)).sum();
        self.pending.clear();
        self.used = 0;
        Ok(wrong)
    }
}

impl Pending {
    fn of(batch: &Batch, at: usize) -> Pending {
        let fields = batch.fields().iter().map(|field| {
            let view = batch.field(&field.name).expect("a field of the batch");
            (field.name.clone(), view.offsets().to_vec(), view.lengths().to_vec())
        });
        Pending { at, samples: batch.samples().to_vec(), fields: fields.collect() }
    }

    fn wrong(&self, landing: &Pinned, shards: &Shards<'_>) -> usize {
        let is_wrong = |i: usize| {
            self.fields.iter().any(|(name, offsets, lengths)| {
                let found = (lengths[i] != FieldView::ABSENT)
                    .then(|| landing.bytes(self.at + offsets[i] as usize, lengths[i] as usize));
                found != shards.field(self.samples[i], name)
            })
        };
        (0..self.samples.len()).filter(|&i| is_wrong(i)).count()
    }
}
