//! The options of a loader, as people give them.

use crate::assembly::{self, MakeRing};
use crate::config::{Config, RingChoice, Verify, Windows, options, read_options};
use crate::dataset::Dataset;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::loader::Loader;
use crate::order::{AtEnd, BadSamplePolicy, Bucketing, Budget, Policy, Rank, Shuffle};
use crate::selection::Wanted;
use crate::sim::Clock;
use crate::storage::Ring;

#[cfg(doc)]
use crate::{batch::Batch, error::Error};

/// Options of a [`Loader`]. Everything has a default; what cannot be met is an error of [`build`](Builder::build).
pub struct Builder {
    dataset: Dataset,
    device: Option<Device>,
    config: Config,
    rank: Option<Rank>,
    rank_from_env: bool,
    make_ring: Option<MakeRing>,
}

impl Builder {
    pub(crate) fn new(dataset: Dataset) -> Builder {
        let config = Config::default();
        Builder { dataset, device: None, config, rank: None, rank_from_env: false, make_ring: None }
    }

    options! {
        /// Samples per batch. Default 256.
        batch_size: usize => config.batch_size = batch_size;
        /// The order of samples, anew in every epoch. Default: sequential.
        shuffle: Shuffle => config.shuffle = shuffle;
        /// What happens behind the last whole global batch. Default: [`Policy::default_for`] the world.
        policy: Policy => config.policy = Some(policy);
        /// What decides the random order. Default 0.
        seed: u64 => config.seed = seed;
        /// What becomes of samples that cannot be read, because the storage fails ([`Error::Io`]) or a shard is cut
        /// short ([`Error::Truncated`]). Default: the error goes to the consumer.
        ///
        /// A batch with a failed read is read again block by block; a sample is bad if one of its own blocks fails then
        /// too. Each sample's fate is decided in the order of delivery, whatever is read ahead, and travels in the
        /// cursor. A shard that is missing or has changed is an error under every policy.
        ///
        /// A [window](Self::windows) of tokens is bad if a block that it needs is. What is remembered then is a token of that
        /// block, which stands for it in every epoch; a stand-in for a [packed](Self::pack) window is one of the epoch's first
        /// 1,024. Within a [budget](Self::budget) a stand-in is no longer than what it stands in for; a place that none is
        /// found for, among 64, is left out.
        bad_samples: BadSamplePolicy => config.bad_samples = bad_samples;
        /// Whether samples are compared with their checksums as they are read. Default: no.
        ///
        /// A thread of its own does that while the bytes are in host memory, some GB/s, and the ring goes on meanwhile;
        /// cuFile, which goes past the host, is not used then. What fails is read again, block by block; what fails
        /// again is a [bad sample](Self::bad_samples), of cause [`Error::Corrupt`], which names shard, byte, field and
        /// sample. Fields without a checksum are not compared; where no sample has one, [`build`](Self::build) says so.
        /// In [windows](Self::windows) there are only parts of documents: nothing to compare.
        verify: Verify => config.verify = verify;
        /// Batches read ahead. Default: as many as keep the storage busy.
        prefetch: usize => config.prefetch = Some(prefetch);
        /// Batches that the consumer may hold at once while others are read. Default 2.
        hold: usize => config.hold = hold;
        /// Memory for batches on a device other than the host, at most. Default 1 GiB.
        region_bytes_max: u64 => config.region_bytes_max = region_bytes_max;
        /// Memory for batches. Default: room for the batches read ahead and held.
        region_bytes: u64 => config.region_bytes = Some(region_bytes);
    }

    read_options! {
        config.reads,
        gap_bytes: "Extents of a batch that are nearer to each other than this are read as one, as far as there is room. At most \
                    `block_bytes`, or 1 MiB if that is more. Default 16 KiB.",
        pinned_bytes_max: "Pinned or registered host memory at most. Default 256 MiB.",
        deadline: "Whatever takes longer than this is an error that names it. Default 30 s. While the loader reads, streams that \
                   batches were released on have sixty times as long: collectives on them wait for other ranks. Once it is \
                   dropped they have this long, then the memory is leaked."
    }

    /// Reads only these fields of each sample. Default: all that the dataset has.
    ///
    /// What is not named is neither read nor counted: regions, [budgets](Self::budget) and the stats' bytes are those of
    /// the fields that are, [`Batch::fields`](crate::Batch::fields) lists them. Fields less than [`gap_bytes`](Self::gap_bytes) apart are still one
    /// read, with what lies between.
    pub fn fields(mut self, names: &[&str]) -> Builder {
        self.config.fields.names = Some(names.iter().map(|&name| name.into()).collect());
        self
    }

    /// [Shuffles](Self::shuffle) blocks of about `block_bytes` of the dataset's files, mixed inside windows of `window` of
    /// them: [`Shuffle::Block`] with as many samples as that is on average. What that costs and brings is said there; the
    /// number of samples is what the cursor holds.
    pub fn shuffle_blocks(mut self, block_bytes: u64, window: u64) -> Builder {
        let bytes = self.dataset.shards().iter().map(|shard| shard.bytes).sum();
        self.config.shuffle = Shuffle::block_bytes(block_bytes, window, self.dataset.len(), bytes);
        self
    }

    /// Which slice of every global batch is this process's. Default: all of it.
    pub fn rank(mut self, rank: Rank) -> Builder {
        (self.config.rank, self.rank) = (rank, Some(rank));
        self
    }

    /// Takes the [rank](Self::rank) from the launcher's environment variables ([`Rank::from_env`]): torchrun, Slurm,
    /// Open MPI, PMI. Without a launcher this is the only process. Launchers that contradict each other, or a rank that was
    /// given, are an error of [`build`](Self::build). The local rank then chooses the [device](Device::for_rank), unless
    /// one is given.
    pub fn rank_from_env(mut self) -> Builder {
        self.rank_from_env = true;
        self
    }

    /// Says what a field is that the format knows only as bytes, or knows otherwise: in every sample an array of this type
    /// and shape (without dimensions: one number), which must take the field's bytes exactly.
    pub fn array(mut self, field: &str, dtype: DType, shape: &[u64]) -> Builder {
        self.config.fields.arrays.push((field.into(), dtype, shape.to_vec()));
        self
    }

    /// The fields that come out as one array a batch too, [`Batch::tensor`](crate::Batch::tensor). Default: all whose type
    /// and shape are known, and the tokens of [windows](Self::windows); none if `names` is empty.
    ///
    /// Where the samples of a batch do not lie one after the other already, they are moved to where they do: by the copies
    /// to the device themselves if they are large (64 KiB) and all that is read, else by a gather on the device. On the host a
    /// thread does that, which is the only way in which the CPU touches them. It takes as much room in the region again.
    ///
    /// A sample that lacks such a field, or has it in another size, is an error of its batch.
    pub fn tensors(mut self, names: &[&str]) -> Builder {
        self.config.fields.tensors = Some(names.iter().map(|&name| name.into()).collect());
        self
    }

    /// Makes the elements of a field's [array](Self::tensors) wider, which keeps every value: `u16` tokens `i64`, as an
    /// embedding takes them. `i32` and `i64` are made of `u16`, `i64` of `i32` and `u32`, and `f16`, `bf16` and `f32` of `u8`;
    /// what is of the type already stays so, and nothing is narrowed.
    ///
    /// The device does that as it gathers the array, a thread on the host; it takes room in the region for the wide array,
    /// beside what is read. [Views](crate::FieldView) of single samples stay as they are stored. Where a device cannot,
    /// [`build`](Self::build) says why.
    pub fn widen(mut self, field: &str, dtype: DType) -> Builder {
        self.config.fields.casts.push(Wanted { field: field.into(), dtype, scale: None });
        self
    }

    /// Makes `byte * factor + bias` of every `u8` of a field's [array](Self::tensors), as `f16`, `bf16` or `f32`: pictures
    /// from 0 to 1 are those with a factor of `1.0 / 255.0`. As [`widen`](Self::widen) does it.
    ///
    /// The product is rounded to the nearest `f32`, then the sum, then that to the nearest of the type, ties to even: on
    /// every device alike. What could come out infinite is an error of [`build`](Self::build).
    pub fn scale(mut self, field: &str, dtype: DType, factor: f32, bias: f32) -> Builder {
        self.config.fields.casts.push(Wanted { field: field.into(), dtype, scale: Some((factor, bias)) });
        self
    }

    /// The fields whose bytes are on the host too, whatever device batches live on: [`FieldView::host_bytes`],
    /// [`text`](crate::FieldView::text) and [`integer`](crate::FieldView::integer) need not ask the device for them. Default: those of
    /// a fixed size of at most 8 bytes, those that the format calls [text](crate::dataset::Field::text), and `cls`, `cls2`, `index`, `inx`, `id`, `json`, `jsn`, `text`, `txt`,
    /// `transcript`.
    ///
    /// They are copied out of the slabs by the engine's thread, so let them be small. Each batch has room for four times
    /// the usual, 64 KiB to 16 MiB; what exceeds it is an error of `host_bytes`, noted once in the stats, and can be
    /// read back. In windows there is none, and where [cuFile](crate::RingChoice::Cufile) writes past the host none by
    /// default: naming some here takes the way through the host.
    ///
    /// [`FieldView::host_bytes`]: crate::FieldView::host_bytes
    pub fn on_host(mut self, names: &[&str]) -> Builder {
        self.config.fields.on_host = Some(names.iter().map(|&name| name.into()).collect());
        self
    }

    /// Mixes the datasets that [`Dataset::concat`] joined: each gives its weight's share of the positions of an epoch,
    /// without drift, and is shuffled by itself. Default: the samples of all of them are one dataset's.
    pub fn mixture(mut self, weights: &[u32], at_end: AtEnd) -> Builder {
        self.config.mixture = Some((weights.to_vec(), at_end));
        self
    }

    /// Cuts batches by length in place of [`batch_size`](Self::batch_size): as many samples as the budget holds, and of
    /// similar length if `bucketing` says so. A sample's length is the bytes of its [fields](Self::fields), or
    /// [tokens](Self::tokens).
    ///
    /// Every rank works out the batches of all ranks, which takes a look at the index per sample of the global batch;
    /// bucketing sorts a window of samples whenever it comes to the next. A sample that exceeds the budget alone is an
    /// error of the batch that it would be in.
    pub fn budget(mut self, budget: Budget, bucketing: Bucketing) -> Builder {
        self.config.budget = Some((budget, bucketing));
        self
    }

    /// Makes batches of windows of `window_tokens` [tokens](Self::tokens), each starting `stride_tokens` after the one
    /// before, over the documents one after another as they are stored. [`batch_size`](Self::batch_size) counts windows,
    /// [`shuffle`](Self::shuffle) shuffles windows, and a [mixture](Self::mixture) mixes those of each dataset, none of which
    /// goes over the border to the next. See [`Batch::window`].
    ///
    /// Documents that cannot be read are [raised](Self::bad_samples). A document is a sample; where samples
    /// are records ([`Dataset::records`]) or single numbers, it is a whole shard. Takes 8 bytes per document. Tokens at the very end that fill no window
    /// are in none.
    pub fn windows(mut self, window_tokens: u64, stride_tokens: u64) -> Builder {
        self.config.windows = Some(Windows::Stored { window_tokens, stride_tokens });
        self
    }

    /// Makes batches of windows of `window_tokens` [tokens](Self::tokens) over the documents in shuffled order, one after
    /// another, none padded. [`batch_size`](Self::batch_size) counts windows, [`shuffle`](Self::shuffle) shuffles documents.
    /// See [`Batch::window`], and [`windows`](Self::windows) for what a document is.
    ///
    /// An epoch has every token once, but for those at its end that fill no window: other documents' in each epoch. Every
    /// rank walks over the documents of all ranks, one look at a table each; the place reached is in the cursor.
    pub fn pack(mut self, window_tokens: u64) -> Builder {
        self.config.windows = Some(Windows::Packed { window_tokens });
        self
    }

    /// Measures samples in tokens: items of `item_bytes` bytes in `field`. A sample without that field has none.
    ///
    /// Default for windows and packing: the dataset's only field, where its format says that it is made of integers.
    pub fn tokens(mut self, field: &str, item_bytes: u64) -> Builder {
        self.config.tokens = Some((field.into(), item_bytes));
        self
    }

    /// Where batches live. Default: [`Device::auto`], or that of the [launcher's](Self::rank_from_env) local rank.
    pub fn device(mut self, device: Device) -> Builder {
        self.device = Some(device);
        self
    }

    /// A storage backend of one's own, made on the engine's thread; it gets the number of reads in flight.
    pub fn custom_ring(mut self, make: impl FnOnce(usize) -> Result<Box<dyn Ring>> + Send + 'static) -> Builder {
        self.make_ring = Some(Box::new(make));
        self
    }

    /// Allocates all memory, starts the engine's thread, and returns once it is ready to read.
    pub fn build(self) -> Result<Loader> {
        let Builder { dataset, device, mut config, rank, rank_from_env, make_ring } = self;
        let environment = |name: &str| std::env::var(name).ok();
        if rank_from_env {
            config.rank = Rank::given_or_from_env(rank, environment)?;
        } else if rank.is_none() {
            match Rank::from_env(environment) {
                Ok(Some(said)) if said.world() > 1 => {
                    let (rank, world) = (said.rank(), said.world());
                    tracing::warn!(
                        "this is rank {rank} of {world}, and reads what every other rank reads: see rank_from_env"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("this process reads all samples, whatever its launcher says: {error}"),
            }
        }
        if make_ring.is_some() {
            config.reads.ring = RingChoice::Pread; // nothing is to be chosen, and cuFile not to be tried
        }
        let device = device.map_or_else(|| Device::for_rank(config.rank), Ok)?;
        let config = config.with_tokens_of(&dataset);
        let frame = assembly::frame(dataset, device, config, Clock::real())?;
        Loader::launch(frame, make_ring)
    }
}
