//! Gathers by a kernel: rows of a table, each a move of at most 16 KiB, for the warps of a GPU to share.
//!
//! ```text
//!   moves --cut--> table in pinned memory --copy--> table on the device --kernel--> moved     event: the table is free again
//! ```
//!
//! The kernel is PTX that the driver compiles (`kernels/gather.cu`). Where it cannot, or where every table is in use, plain
//! copies do the same, one call for each move. Casts, which change elements on the way, are kernels of the same kind that no
//! copy stands in for: they have to be there, and wait until a table is free.

use std::ffi::{CStr, c_uint, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUevent, CUfunction, CUmodule, CUstream};

use super::super::DevicePtr;
use super::code::{NOT_READY, SUCCESS};
use super::driver::HOST_REGISTER_PORTABLE;
use super::shared::Shared;
use crate::error::Result;
use crate::memory::Arena;
use crate::plan::{Cast, Move};
use crate::stats::Fallback;

const PTX: &str = concat!(include_str!("kernels/gather.ptx"), "\0");

/// A batch of 64 MiB in one table.
const ROWS: usize = 4096;
/// As many gathers as are under way at once, in the usual case.
const TABLES: usize = 16;
/// What a warp takes at a time.
const ROW_BYTES_MAX: u64 = 16 << 10;
const TABLE_BYTES: usize = ROWS * size_of::<Move>();
/// Threads of a block: 8 warps.
const BLOCK: u32 = 256;
const BLOCKS_MAX: u32 = 1024;
/// The queue that owned the stream has waited already, with a deadline of its own.
const DROP_WAIT: Duration = Duration::from_millis(50);

/// The least that a warp takes of a cast, which has a table to itself: where there is little to do, each has some of it.
const CAST_ROW_BYTES_MIN: u64 = 512;

/// The kernels that cast, each in the place that [`number`] gives.
const CASTS: [&CStr; 7] = [
    c"strait_widen_u16_i32",
    c"strait_widen_u16_i64",
    c"strait_widen_u32_i64",
    c"strait_widen_i32_i64",
    c"strait_scale_u8_f32",
    c"strait_scale_u8_f16",
    c"strait_scale_u8_bf16",
];

/// Which kernel casts so, and what it takes besides the table.
fn number(cast: Cast) -> (usize, [f32; 2]) {
    match cast {
        Cast::U16ToI32 => (0, [0.0; 2]),
        Cast::U16ToI64 => (1, [0.0; 2]),
        Cast::U32ToI64 => (2, [0.0; 2]),
        Cast::I32ToI64 => (3, [0.0; 2]),
        Cast::U8ToF32 { factor, bias } => (4, [factor, bias]),
        Cast::U8ToF16 { factor, bias } => (5, [factor, bias]),
        Cast::U8ToBF16 { factor, bias } => (6, [factor, bias]),
    }
}

/// The kernels, compiled for the device by its driver.
pub(super) struct Kernels {
    module: CUmodule,
    gather: CUfunction,
    casts: [CUfunction; CASTS.len()],
}

impl Kernels {
    /// The caller has entered the context.
    fn load(shared: &Shared) -> Result<Kernels> {
        let none = std::ptr::null_mut();
        let mut kernels = Kernels { module: std::ptr::null_mut(), gather: none, casts: [none; CASTS.len()] };
        let (call, load) = shared.driver.module_load;
        // SAFETY: `module` is writable; the text ends with 0.
        shared.check(call, unsafe { load(&mut kernels.module, PTX.as_ptr().cast()) })?;
        let (call, function) = shared.driver.module_function;
        let find = |name: &CStr| {
            let mut kernel = none;
            // SAFETY: `kernel` is writable; the module was just loaded, the name is a C string.
            shared.check(call, unsafe { function(&mut kernel, kernels.module, name.as_ptr()) }).map(|()| kernel)
        };
        let found = find(c"strait_gather").and_then(|gather| {
            let mut casts = kernels.casts;
            casts.iter_mut().zip(CASTS).try_for_each(|(kernel, name)| find(name).map(|found| *kernel = found))?;
            Ok((gather, casts))
        });
        match found {
            Ok((gather, casts)) => Ok(Kernels { gather, casts, ..kernels }),
            Err(error) => {
                kernels.unload(shared);
                Err(error)
            }
        }
    }

    /// The caller has entered the context, and nothing is launched any more.
    pub(super) fn unload(&self, shared: &Shared) {
        let (call, unload) = shared.driver.module_unload;
        // SAFETY: loaded in `load`, and not used again.
        shared.driver.check_release(&shared.label, call, unsafe { unload(self.module) });
    }
}

/// Tables, used in turn.
pub(super) struct Tables {
    shared: Arc<Shared>,
    /// The one that they are used on.
    stream: CUstream,
    gather: CUfunction,
    casts: [CUfunction; CASTS.len()],
    /// Pinned.
    host: Arc<Arena>,
    device: DevicePtr,
    tables: Vec<Table>,
    next: usize,
}

struct Table {
    /// Recorded behind the kernel.
    event: CUevent,
    /// Something on the stream reads it, until `event` is reached.
    used: bool,
    /// Something on the stream may read it, and no event tells until when.
    lost: bool,
}

// SAFETY: handles are names, addresses are the driver's; see `Shared`.
unsafe impl Send for Tables {}

/// What is done without the kernel.
fn plain_copies(reason: String) -> Fallback {
    Fallback {
        instead: "a copy for each piece of an array instead of a gather by a kernel".into(),
        reason,
        errno: None,
        remedy: "update the NVIDIA driver: it has to take PTX 8.0 (CUDA 12.0), and its compiler (libnvidia-ptxjitcompiler) must be there",
    }
}

impl Tables {
    /// Memory for tables, and the kernel; or why gathers are plain copies.
    pub(super) fn new(shared: &Arc<Shared>, stream: CUstream) -> Result<Tables, Fallback> {
        let why = |error: crate::error::Error| plain_copies(error.to_string());
        let entered = shared.enter().map_err(why)?;
        let kernels = shared.kernels.get_or_init(|| Kernels::load(shared)).as_ref();
        let &Kernels { gather, casts, .. } = kernels.map_err(|error| why(error.clone()))?;
        let host = Arc::new(Arena::map(TABLES * TABLE_BYTES).map_err(why)?);
        let (call, register) = shared.driver.host_register;
        // SAFETY: the mapping lives until it has been unregistered, or for ever: see Drop.
        let pinned = unsafe { register(host.base().as_ptr().cast(), host.bytes(), HOST_REGISTER_PORTABLE) };
        shared.check(call, pinned).map_err(why)?;
        // From here on Drop gives back what there is.
        let mut tables =
            Tables { shared: shared.clone(), stream, gather, casts, host, device: 0, tables: Vec::new(), next: 0 };
        tables.device = shared.allocate_bytes(TABLES * TABLE_BYTES).map_err(why)?;
        drop(entered);
        for _ in 0..TABLES {
            let event = shared.create_event().map_err(why)?;
            tables.tables.push(Table { event, used: false, lost: false });
        }
        Ok(tables)
    }

    /// Whether the stream has done with a table. The caller has entered the context.
    fn is_free(&mut self, place: usize) -> Result<bool> {
        if self.tables[place].lost {
            self.record(place)?; // stands behind whatever was started
        }
        let table = &mut self.tables[place];
        if !table.used {
            return Ok(true);
        }
        let (call, query) = self.shared.driver.event_query;
        // SAFETY: the event lives as long as the Tables.
        match unsafe { query(table.event) } {
            SUCCESS => table.used = false,
            NOT_READY => return Ok(false),
            code => self.shared.check(call, code)?,
        }
        Ok(true)
    }

    /// Starts moves.
    ///
    /// # Safety
    /// As for [`Stream::gather`](super::super::Stream::gather); the caller has entered the context.
    pub(super) unsafe fn gather(&mut self, base: DevicePtr, moves: &[Move]) -> Result<()> {
        let mut rows = moves.iter().flat_map(|&one| cut(base, one));
        let mut first = rows.next();
        while let Some(row) = first {
            let place = self.next;
            if !self.is_free(place)? {
                // SAFETY: the caller's promise.
                return std::iter::once(row).chain(rows).try_for_each(|row| unsafe { self.copy(row) });
            }
            let count = self.fill(place, std::iter::once(row).chain(&mut rows));
            // SAFETY: the caller's promise; the table is free and filled.
            unsafe { self.start(place, count, self.gather, [0.0; 2]) }?;
            first = rows.next();
        }
        Ok(())
    }

    /// Starts moves that change elements, as many as there are free tables for, and says how many.
    ///
    /// # Safety
    /// As for [`Stream::cast`](super::super::Stream::cast); the caller has entered the context.
    pub(super) unsafe fn cast(&mut self, base: DevicePtr, cast: Cast, moves: &[Move]) -> Result<usize> {
        let (kernel, numbers) = number(cast);
        let (kernel, row_bytes) = (self.casts[kernel], cast_row_bytes(moves));
        let mut started = 0;
        while started < moves.len() && self.is_free(self.next)? {
            let (place, left, mut count) = (self.next, &moves[started..], 0);
            let fits = |one: &&Move| {
                count += one.bytes.div_ceil(row_bytes);
                count <= ROWS as u64
            };
            let whole = left.iter().take_while(fits).count();
            let rows = left[..whole].iter().flat_map(|&one| cut_cast(base, cast, one, row_bytes));
            let count = self.fill(place, rows);
            // SAFETY: the caller's promise; the table is free and filled.
            unsafe { self.start(place, count, kernel, numbers) }?;
            started += whole;
        }
        Ok(started)
    }

    fn fill(&mut self, place: usize, rows: impl Iterator<Item = Move>) -> usize {
        // SAFETY: the table lies inside the arena, which is aligned to pages.
        let table = unsafe { self.host.base().cast::<Move>().add(place * ROWS) };
        // SAFETY: at most ROWS rows, and nothing on the stream reads this table.
        rows.take(ROWS).enumerate().map(|(row, one)| unsafe { table.add(row).write(one) }).count()
    }

    /// Launches a kernel on the next table, which is in use from then on.
    ///
    /// # Safety
    /// As for `launch`.
    unsafe fn start(&mut self, place: usize, count: usize, kernel: CUfunction, numbers: [f32; 2]) -> Result<()> {
        self.next = (self.next + 1) % TABLES;
        // SAFETY: the caller's promise.
        let launched = unsafe { self.launch(place, count, kernel, numbers) };
        // Also behind a call that failed, which may have started something.
        self.tables[place].lost = true;
        self.record(place)?;
        launched
    }

    /// # Safety
    /// As for `gather` or `cast`, of `count` filled rows.
    unsafe fn launch(&mut self, place: usize, count: usize, kernel: CUfunction, mut numbers: [f32; 2]) -> Result<()> {
        let (shared, stream) = (&*self.shared, self.stream);
        let at = self.device + (place * TABLE_BYTES) as u64;
        let (call, copy) = shared.driver.copy_to_device;
        // SAFETY: inside the pinned arena, which nobody writes to until the table's event is reached.
        let source = unsafe { self.host.base().cast::<Move>().add(place * ROWS) };
        // SAFETY: as above; the target is this table's memory on the device, on the stream alone.
        shared.check(call, unsafe { copy(at, source.as_ptr().cast(), count * size_of::<Move>(), stream) })?;
        let (mut table, mut rows) = (at, count as c_uint);
        let [factor, bias] = numbers.each_mut().map(|number| (&raw mut *number).cast());
        let mut arguments: [*mut c_void; 4] = [(&raw mut table).cast(), (&raw mut rows).cast(), factor, bias];
        let blocks = (count as u32).div_ceil(BLOCK / 32).min(BLOCKS_MAX);
        let (call, launch) = shared.driver.launch;
        let (arguments, none) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the arguments are those of the kernel, of which only those that scale have more than two, and are read before
        // the call returns. What the rows name is the caller's promise.
        shared.check(call, unsafe { launch(kernel, blocks, 1, 1, BLOCK, 1, 1, 0, stream, arguments, none) })
    }

    fn record(&mut self, place: usize) -> Result<()> {
        let table = &mut self.tables[place];
        let (call, record) = self.shared.driver.event_record;
        // SAFETY: event and stream are alive, and the caller has entered the context.
        self.shared.check(call, unsafe { record(table.event, self.stream) })?;
        (table.used, table.lost) = (true, false);
        Ok(())
    }

    /// # Safety
    /// As for `gather`, of one row.
    unsafe fn copy(&self, Move { source, target, bytes }: Move) -> Result<()> {
        let (call, copy) = self.shared.driver.copy_on_device;
        // SAFETY: the caller's promise.
        self.shared.check(call, unsafe { copy(target, source, bytes as usize, self.stream) })
    }
}

/// A move as rows, by address.
fn cut(base: DevicePtr, Move { source, target, bytes }: Move) -> impl Iterator<Item = Move> {
    (0..bytes.div_ceil(ROW_BYTES_MAX)).map(move |row| {
        let at = row * ROW_BYTES_MAX;
        Move { source: base + source + at, target: base + target + at, bytes: (bytes - at).min(ROW_BYTES_MAX) }
    })
}

/// What a warp takes of these moves at a time, so that every single one of them fits a table.
fn cast_row_bytes(moves: &[Move]) -> u64 {
    let (sum, most) = moves.iter().fold((0, 0), |(sum, most), one| (sum + one.bytes, one.bytes.max(most)));
    let even = (sum / (ROWS as u64 / 2)).clamp(CAST_ROW_BYTES_MIN, ROW_BYTES_MAX);
    even.max(most.div_ceil(ROWS as u64)).next_multiple_of(CAST_ROW_BYTES_MIN)
}

/// A move of a cast as rows, by address; whole elements each.
fn cut_cast(
    base: DevicePtr,
    cast: Cast,
    Move { source, target, bytes }: Move,
    row_bytes: u64,
) -> impl Iterator<Item = Move> {
    (0..bytes.div_ceil(row_bytes)).map(move |row| {
        let at = row * row_bytes;
        let (source, target) = (base + source + at, base + target + cast.bytes_of(at));
        Move { source, target, bytes: (bytes - at).min(row_bytes) }
    })
}

impl Drop for Tables {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        let Ok(entered) = shared.enter() else { return std::mem::forget(self.host.clone()) };
        let end = Instant::now() + DROP_WAIT;
        while !(0..self.tables.len()).all(|place| matches!(self.is_free(place), Ok(true))) {
            if Instant::now() > end {
                // Dropping a stream does not stop it: what it still reads stays where it is.
                return std::mem::forget(self.host.clone());
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        if self.device != 0 {
            shared.free_bytes(self.device);
        }
        let (call, unregister) = shared.driver.host_unregister;
        // SAFETY: registered in `new`; every table is free.
        let code = unsafe { unregister(self.host.base().as_ptr().cast()) };
        if code != SUCCESS {
            std::mem::forget(self.host.clone()); // or what is mapped there next would pass for pinned
        }
        shared.driver.check_release(&shared.label, call, code);
        drop(entered);
        let events: Vec<CUevent> = self.tables.drain(..).map(|table| table.event).collect();
        // SAFETY: they came from this Shared and are not used again.
        unsafe { shared.destroy(std::ptr::null_mut(), &events) };
    }
}
