//! Device plug-in
//!
//! A table of functions with which a vendor adds a device to strait without touching it. The device then takes the staged
//! path: the storage writes into host memory that the device has pinned, and copies of the device bring it to the batch.
//!
//! What a device promises:
//! - Memory from `allocate` stays valid until `free`. Pinned memory may be copied from and to asynchronously until `unpin`.
//! - Copies, gathers and casts of one stream take effect in order. A mark is a number, greater than 0 and than those that the
//!   stream has given before; it is reached once everything that the stream was given before has finished reading its source
//!   and its bytes are visible to work ordered after it, and to the host if they went there.
//! - An error is never taken for completion, by neither side: after one, the work may have started all the same.
//! - `copy`, `copy_out`, `gather`, `cast`, `mark`, `reached`, `wait_fence` of one stream are called by one thread at a time, `wait` and
//!   `wait_on` by any thread at any time, everything else by any thread at any time. Only `wait` and `read_back` may block.
//!
//! Every function takes the `device` that `strait_device_custom` was given. One that can fail returns 0, or the driver's
//! own code, which `strait_error_device_code` then gives; outputs are looked at only if it returns 0.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use strait::device::{DeviceKind, DevicePtr, Fence, RawDevice, RawMemory, RawStream, Seq, Stream, Timeline};
use strait::plan::{Cast, Move};
use strait::{Device, Error};

use crate::call::{c_str, call, out};
use crate::device::{Named, strait_device};
use crate::error::{Failure, strait_error};
use crate::handle::{null, register};
use crate::status::strait_status;

type Result<T> = std::result::Result<T, Error>;

/// A run of bytes that `gather` moves: offsets from the start of one piece of device memory. Runs do not overlap.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct strait_move {
    /// Where they are.
    pub source: u64,
    /// Where they go.
    pub target: u64,
    /// How many; not 0.
    pub bytes: u64,
}

/// What becomes of each element: of the type in front, one of that behind. Values stay but for those of `u8`, which become
/// `byte * factor + bias`: the product rounded to the nearest `f32`, then the sum, then that to the nearest of the type, ties
/// to even. Later versions add kinds.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names and the text above are what there is to say")]
pub enum strait_cast_kind {
    U16ToI32 = 1,
    U16ToI64 = 2,
    U32ToI64 = 3,
    I32ToI64 = 4,
    U8ToF32 = 5,
    U8ToF16 = 6,
    U8ToBf16 = 7,
}

/// What `cast` does.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct strait_cast {
    /// What becomes of what.
    pub kind: strait_cast_kind,
    /// Of those that begin with `u8`.
    pub factor: f32,
    /// The same.
    pub bias: f32,
}

/// The functions of a device. Zero it, set `size` to `sizeof(strait_device_vtable)`, and fill in the rest. All are required
/// but `destroy`, `gather`, `error_name` and `cast`. Later versions add entries at the end, which a smaller `size` leaves out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct strait_device_vtable {
    /// `sizeof(strait_device_vtable)`.
    pub size: usize,
    /// What DLPack calls such a device: its `DLDeviceType` (12, `kDLExtDev`, if it has none).
    pub dlpack_type: i32,
    /// What DLPack calls this one: its `device_id`.
    pub dlpack_id: i32,
    /// A name for people; copied.
    pub name: *const c_char,
    /// The last user of the device is gone: no other function is called any more. May be NULL.
    pub destroy: Option<unsafe extern "C" fn(device: *mut c_void)>,
    /// Allocates `bytes` of device memory, at a multiple of 4096.
    pub allocate: Option<unsafe extern "C" fn(device: *mut c_void, bytes: usize, base: *mut u64) -> i32>,
    /// Gives it back. Nothing uses it any more.
    pub free: Option<unsafe extern "C" fn(device: *mut c_void, base: u64, bytes: usize)>,
    /// Pins host memory, so that streams copy from and to it asynchronously.
    pub pin: Option<unsafe extern "C" fn(device: *mut c_void, base: *mut c_void, bytes: usize) -> i32>,
    /// Takes that back. No copy from or to it is in flight. If it fails, the memory stays mapped for ever.
    pub unpin: Option<unsafe extern "C" fn(device: *mut c_void, base: *mut c_void) -> i32>,
    /// Makes a copy queue.
    pub stream_create: Option<unsafe extern "C" fn(device: *mut c_void, stream: *mut *mut c_void) -> i32>,
    /// Gives it back. Copies that are on it still happen.
    pub stream_destroy: Option<unsafe extern "C" fn(device: *mut c_void, stream: *mut c_void)>,
    /// Starts a copy of `bytes` from pinned host memory to device memory.
    pub copy: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            stream: *mut c_void,
            source: *const c_void,
            target: u64,
            bytes: usize,
        ) -> i32,
    >,
    /// Starts a copy of `bytes` from device memory to pinned host memory.
    pub copy_out: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            stream: *mut c_void,
            source: u64,
            target: *mut c_void,
            bytes: usize,
        ) -> i32,
    >,
    /// Puts a mark behind all that is on the stream, also behind what failed to start.
    pub mark: Option<unsafe extern "C" fn(device: *mut c_void, stream: *mut c_void, mark: *mut u64) -> i32>,
    /// The latest mark that is reached; 0 if none is.
    pub reached: Option<unsafe extern "C" fn(device: *mut c_void, stream: *mut c_void, mark: *mut u64) -> i32>,
    /// Waits until `mark` is reached, or `timeout_ns` nanoseconds (`UINT64_MAX`: for ever) have passed, and says which. A
    /// mark that was never given out is not reached.
    pub wait: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            stream: *mut c_void,
            mark: u64,
            timeout_ns: u64,
            reached: *mut bool,
        ) -> i32,
    >,
    /// Makes a consumer's stream wait for `mark`, on the device.
    pub wait_on:
        Option<unsafe extern "C" fn(device: *mut c_void, stream: *mut c_void, mark: u64, consumer: *mut c_void) -> i32>,
    /// Makes a fence: a place on a consumer's stream. Not recorded yet, it holds nothing up.
    pub fence_create: Option<unsafe extern "C" fn(device: *mut c_void, fence: *mut u64) -> i32>,
    /// Gives it back. Waits for it that are under way still hold.
    pub fence_destroy: Option<unsafe extern "C" fn(device: *mut c_void, fence: u64)>,
    /// Records it behind all that is on a consumer's stream now, in place of where it was recorded before.
    pub record: Option<unsafe extern "C" fn(device: *mut c_void, fence: u64, consumer: *mut c_void) -> i32>,
    /// Orders what the stream is given later behind the fence as last recorded.
    pub wait_fence: Option<unsafe extern "C" fn(device: *mut c_void, stream: *mut c_void, fence: u64) -> i32>,
    /// Copies device memory to the host and waits for it. Nothing writes to it meanwhile.
    pub read_back:
        Option<unsafe extern "C" fn(device: *mut c_void, source: u64, target: *mut c_void, bytes: usize) -> i32>,
    /// Starts `count` moves within the device memory at `base`. The table is read before the call returns. NULL: dense
    /// tensors that need it are an error.
    pub gather: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            stream: *mut c_void,
            base: u64,
            moves: *const strait_move,
            count: usize,
        ) -> i32,
    >,
    /// The driver's name for a code. May be NULL, and may return NULL.
    pub error_name: Option<unsafe extern "C" fn(device: *mut c_void, code: i32) -> *const c_char>,
    /// Starts moves as `gather` does, of whole elements that change on the way; `bytes` is what they take at the source. Sources
    /// begin anywhere, targets at multiples of their elements' size. A kind that it does not know is an error, not done in part.
    /// NULL: arrays whose elements are to change (`strait_loader_builder_widen`, `_scale`) are an error of building.
    pub cast: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            stream: *mut c_void,
            base: u64,
            cast: *const strait_cast,
            moves: *const strait_move,
            count: usize,
        ) -> i32,
    >,
}

/// Adds a device. The table is copied; `device` is passed to its functions, and belongs to strait until it calls `destroy`. If
/// this fails, `device` is still the caller's, and `destroy` is not called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_device_custom(
    vtable: *const strait_device_vtable,
    device: *mut c_void,
    custom: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let custom = out(custom, "custom")?;
        // SAFETY: NULL, or a table of at least the size that it says, as the header says.
        let table = unsafe { copy_of(vtable) }?;
        // SAFETY: NULL or a C string, as the header's conventions say.
        let name = unsafe { c_str(table.name, "vtable.name") }?.to_string_lossy().into_owned();
        let kind = DeviceKind::Other { dlpack_type: table.dlpack_type, ordinal: table.dlpack_id };
        let plugin = Plugin { table: Table::of(&table)?, device, name, kind };
        *custom = register(Named::new(Device::new(Arc::new(PluginDevice(Arc::new(plugin))))))?;
        Ok(())
    })
}

/// # Safety
/// NULL, or `size` readable bytes, of which `size` itself is the first.
unsafe fn copy_of(vtable: *const strait_device_vtable) -> std::result::Result<strait_device_vtable, Failure> {
    if vtable.is_null() {
        return Err(null("vtable"));
    }
    // SAFETY: the caller's promise.
    let size = unsafe { vtable.cast::<usize>().read() };
    let first_version = std::mem::offset_of!(strait_device_vtable, error_name) + size_of::<usize>();
    if size < first_version {
        let message = format!("vtable.size is {size}; it is at least {first_version}: sizeof(strait_device_vtable)");
        return Err(Failure::new(strait_status::Config, message));
    }
    // SAFETY: NULL pointers, NULL functions and zeros are a table.
    let mut table: strait_device_vtable = unsafe { std::mem::zeroed() };
    let known = size.min(size_of::<strait_device_vtable>());
    // SAFETY: `size` bytes are readable, the caller's promise, and the table has as many as are copied.
    unsafe { std::ptr::copy_nonoverlapping(vtable.cast::<u8>(), (&raw mut table).cast::<u8>(), known) };
    Ok(table)
}

macro_rules! table {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The required functions.
        struct Table {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            destroy: Option<unsafe extern "C" fn(*mut c_void)>,
            #[allow(clippy::type_complexity, reason = "the table's own")]
            gather: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, u64, *const strait_move, usize) -> i32>,
            error_name: Option<unsafe extern "C" fn(*mut c_void, i32) -> *const c_char>,
            #[allow(clippy::type_complexity, reason = "the table's own")]
            cast: Option<
                unsafe extern "C" fn(*mut c_void, *mut c_void, u64, *const strait_cast, *const strait_move, usize) -> i32,
            >,
        }

        impl Table {
            fn of(table: &strait_device_vtable) -> std::result::Result<Table, Failure> {
                Ok(Table {
                    $($name: table.$name.ok_or_else(|| null(concat!("vtable.", stringify!($name))))?,)*
                    destroy: table.destroy,
                    gather: table.gather,
                    error_name: table.error_name,
                    cast: table.cast,
                })
            }
        }
    };
}

table! {
    allocate(*mut c_void, usize, *mut u64) -> i32;
    free(*mut c_void, u64, usize);
    pin(*mut c_void, *mut c_void, usize) -> i32;
    unpin(*mut c_void, *mut c_void) -> i32;
    stream_create(*mut c_void, *mut *mut c_void) -> i32;
    stream_destroy(*mut c_void, *mut c_void);
    copy(*mut c_void, *mut c_void, *const c_void, u64, usize) -> i32;
    copy_out(*mut c_void, *mut c_void, u64, *mut c_void, usize) -> i32;
    mark(*mut c_void, *mut c_void, *mut u64) -> i32;
    reached(*mut c_void, *mut c_void, *mut u64) -> i32;
    wait(*mut c_void, *mut c_void, u64, u64, *mut bool) -> i32;
    wait_on(*mut c_void, *mut c_void, u64, *mut c_void) -> i32;
    fence_create(*mut c_void, *mut u64) -> i32;
    fence_destroy(*mut c_void, u64);
    record(*mut c_void, u64, *mut c_void) -> i32;
    wait_fence(*mut c_void, *mut c_void, u64) -> i32;
    read_back(*mut c_void, u64, *mut c_void, usize) -> i32;
}

struct Plugin {
    table: Table,
    device: *mut c_void,
    name: String,
    kind: DeviceKind,
}

// SAFETY: the vendor's functions take the device from any thread, as the header asks of them.
unsafe impl Send for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Plugin {}

impl Plugin {
    fn check(&self, call: &'static str, code: i32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the vendor's function, with its own device.
        let name = self.table.error_name.map(|name| unsafe { name(self.device, code) }).filter(|name| !name.is_null());
        // SAFETY: not NULL, so a C string, as the header asks.
        let name =
            name.map_or_else(|| "error".into(), |name| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        Err(Error::Device { device: self.name.clone(), call, code, name, remedy: String::new() })
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(destroy) = self.table.destroy {
            // SAFETY: streams and memory hold a share of this value, so nothing of the device is in use.
            unsafe { destroy(self.device) };
        }
    }
}

struct PluginDevice(Arc<Plugin>);

// SAFETY: the promises are the table's, which the vendor makes (the section's text in the header). Streams share the plugin,
// which keeps the device.
unsafe impl RawDevice for PluginDevice {
    fn name(&self) -> String {
        self.0.name.clone()
    }

    fn kind(&self) -> DeviceKind {
        self.0.kind
    }

    fn allocate(&self, bytes: usize) -> Result<RawMemory> {
        let Plugin { table, device, name, .. } = &*self.0;
        let mut base = 0;
        // SAFETY: the vendor's function, with its own device and a place for the result.
        self.0.check("allocate", unsafe { (table.allocate)(*device, bytes, &mut base) })?;
        if base == 0 || base % 4096 != 0 {
            // SAFETY: allocated above, and used by nobody.
            unsafe { (table.free)(*device, base, bytes) };
            let remedy = format!("; it gave {base:#x}, which is no multiple of 4096");
            return Err(Error::Device {
                device: name.clone(),
                call: "allocate",
                code: 0,
                name: "misaligned".into(),
                remedy,
            });
        }
        Ok(RawMemory { base, bytes, host: None, pages: "device" })
    }

    unsafe fn free(&self, memory: RawMemory) {
        // SAFETY: allocated by this device and not in use any more: the caller's promise.
        unsafe { (self.0.table.free)(self.0.device, memory.base, memory.bytes) };
    }

    unsafe fn pin(&self, base: NonNull<u8>, bytes: usize) -> Result<()> {
        // SAFETY: memory that stays mapped until it is unpinned: the caller's promise.
        self.0.check("pin", unsafe { (self.0.table.pin)(self.0.device, base.as_ptr().cast(), bytes) })
    }

    unsafe fn unpin(&self, base: NonNull<u8>) -> Result<()> {
        // SAFETY: pinned by this device, and no copy in flight: the caller's promise.
        self.0.check("unpin", unsafe { (self.0.table.unpin)(self.0.device, base.as_ptr().cast()) })
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the vendor's function, with its own device and a place for the result.
        self.0.check("stream_create", unsafe { (self.0.table.stream_create)(self.0.device, &mut stream) })?;
        Ok(Box::new(PluginStream(Arc::new(Queue { plugin: self.0.clone(), stream }))))
    }

    fn fence(&self) -> Result<Fence> {
        let mut fence = 0;
        // SAFETY: as above.
        self.0.check("fence_create", unsafe { (self.0.table.fence_create)(self.0.device, &mut fence) })?;
        Ok(Fence(fence))
    }

    fn free_fence(&self, fence: Fence) {
        // SAFETY: made by this device and given back once.
        unsafe { (self.0.table.fence_destroy)(self.0.device, fence.0) };
    }

    unsafe fn record(&self, fence: Fence, consumer: RawStream) -> Result<()> {
        // SAFETY: a live stream of the device: the caller's promise.
        self.0.check("record", unsafe { (self.0.table.record)(self.0.device, fence.0, consumer.0) })
    }

    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        let (address, bytes) = (target.as_mut_ptr().cast(), target.len());
        // SAFETY: the source is valid and nothing writes to it, the caller's promise; the target is a mutable slice.
        self.0.check("read_back", unsafe { (self.0.table.read_back)(self.0.device, source, address, bytes) })
    }
}

/// A stream and what it belongs to; destroyed with the last of the stream and its timelines.
struct Queue {
    plugin: Arc<Plugin>,
    stream: *mut c_void,
}

// SAFETY: what may be called by which thread is the table's contract, and that of Stream and Timeline is the same.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    fn wait(&self, seq: Seq, timeout: Duration) -> Result<bool> {
        let (mut reached, timeout_ns) = (false, u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let Plugin { table, device, .. } = &*self.plugin;
        // SAFETY: a live stream of the device, and a place for the result.
        self.plugin.check("wait", unsafe { (table.wait)(*device, self.stream, seq.0, timeout_ns, &mut reached) })?;
        Ok(reached)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the last user of the stream is gone.
        unsafe { (self.plugin.table.stream_destroy)(self.plugin.device, self.stream) };
    }
}

struct PluginStream(Arc<Queue>);

// SAFETY: the promises are the table's, which the vendor makes (the section's text in the header).
unsafe impl Stream for PluginStream {
    unsafe fn copy(&mut self, source: NonNull<u8>, target: DevicePtr, bytes: usize) -> Result<()> {
        let Queue { plugin, stream } = &*self.0;
        let source = source.as_ptr().cast_const().cast();
        // SAFETY: a pinned source that does not change, and a target of the device: the caller's promise.
        plugin.check("copy", unsafe { (plugin.table.copy)(plugin.device, *stream, source, target, bytes) })
    }

    unsafe fn copy_out(&mut self, source: DevicePtr, target: NonNull<u8>, bytes: usize) -> Result<()> {
        let Queue { plugin, stream } = &*self.0;
        let target = target.as_ptr().cast();
        // SAFETY: a pinned target that nobody else uses, and a source of the device: the caller's promise.
        plugin.check("copy_out", unsafe { (plugin.table.copy_out)(plugin.device, *stream, source, target, bytes) })
    }

    fn mark(&mut self) -> Result<Seq> {
        let Queue { plugin, stream } = &*self.0;
        let mut mark = 0;
        // SAFETY: a live stream of the device, and a place for the result.
        plugin.check("mark", unsafe { (plugin.table.mark)(plugin.device, *stream, &mut mark) })?;
        Ok(Seq(mark))
    }

    fn reached(&mut self) -> Result<Seq> {
        let Queue { plugin, stream } = &*self.0;
        let mut mark = 0;
        // SAFETY: as above.
        plugin.check("reached", unsafe { (plugin.table.reached)(plugin.device, *stream, &mut mark) })?;
        Ok(Seq(mark))
    }

    fn wait(&mut self, seq: Seq, timeout: Duration) -> Result<Seq> {
        self.0.wait(seq, timeout)?;
        self.reached()
    }

    fn wait_fence(&mut self, fence: Fence) -> Result<()> {
        let Queue { plugin, stream } = &*self.0;
        // SAFETY: a live stream and a live fence of the device.
        plugin.check("wait_fence", unsafe { (plugin.table.wait_fence)(plugin.device, *stream, fence.0) })
    }

    unsafe fn gather(&mut self, base: DevicePtr, moves: &[Move]) -> Result<()> {
        let Queue { plugin, stream } = &*self.0;
        let Some(gather) = plugin.table.gather else {
            let remedy = "; the device's table has none: take the field as offsets and lengths".into();
            let (device, name) = (plugin.name.clone(), "not supported".into());
            return Err(Error::Device { device, call: "gather", code: 0, name, remedy });
        };
        // Move and strait_move are the same three numbers (checked below).
        let table = moves.as_ptr().cast();
        // SAFETY: runs inside memory of the device, apart from each other: the caller's promise.
        plugin.check("gather", unsafe { gather(plugin.device, *stream, base, table, moves.len()) })
    }

    fn ready_to_cast(&mut self, cast: Cast) -> std::result::Result<(), String> {
        match (self.0.plugin.table.cast, cast_of(cast)) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err("the device's table has no `cast`: fill it in, or leave this option out".into()),
        }
    }

    unsafe fn cast(&mut self, base: DevicePtr, cast: Cast, moves: &[Move]) -> Result<usize> {
        let Queue { plugin, stream } = &*self.0;
        let (Some(start), Some(cast)) = (plugin.table.cast, cast_of(cast)) else {
            let (device, name) = (plugin.name.clone(), "not supported".into());
            return Err(Error::Device { device, call: "cast", code: 0, name, remedy: String::new() });
        };
        let table = moves.as_ptr().cast();
        // SAFETY: runs inside memory of the device, apart from each other, aligned as the table says: the caller's promise.
        // The cast and the moves are read before the call returns.
        plugin.check("cast", unsafe { start(plugin.device, *stream, base, &cast, table, moves.len()) })?;
        Ok(moves.len())
    }

    fn timeline(&self) -> Arc<dyn Timeline> {
        Arc::new(PluginTimeline(self.0.clone()))
    }
}

fn cast_of(cast: Cast) -> Option<strait_cast> {
    use strait_cast_kind as Kind;
    let (kind, [factor, bias]) = match cast {
        Cast::U16ToI32 => (Kind::U16ToI32, [1.0, 0.0]),
        Cast::U16ToI64 => (Kind::U16ToI64, [1.0, 0.0]),
        Cast::U32ToI64 => (Kind::U32ToI64, [1.0, 0.0]),
        Cast::I32ToI64 => (Kind::I32ToI64, [1.0, 0.0]),
        Cast::U8ToF32 { factor, bias } => (Kind::U8ToF32, [factor, bias]),
        Cast::U8ToF16 { factor, bias } => (Kind::U8ToF16, [factor, bias]),
        Cast::U8ToBF16 { factor, bias } => (Kind::U8ToBf16, [factor, bias]),
        _ => return None,
    };
    Some(strait_cast { kind, factor, bias })
}

const _: () = assert!(
    size_of::<Move>() == size_of::<strait_move>()
        && std::mem::offset_of!(Move, source) == std::mem::offset_of!(strait_move, source)
        && std::mem::offset_of!(Move, target) == std::mem::offset_of!(strait_move, target)
        && std::mem::offset_of!(Move, bytes) == std::mem::offset_of!(strait_move, bytes)
);

struct PluginTimeline(Arc<Queue>);

// SAFETY: the promises are the table's, which the vendor makes (the section's text in the header).
unsafe impl Timeline for PluginTimeline {
    fn wait(&self, seq: Seq, timeout: Duration) -> Result<bool> {
        self.0.wait(seq, timeout)
    }

    unsafe fn wait_on(&self, seq: Seq, consumer: RawStream) -> Result<()> {
        let Queue { plugin, stream } = &*self.0;
        if seq == Seq(0) {
            return Ok(());
        }
        // SAFETY: a live stream of the device: the caller's promise.
        plugin.check("wait_on", unsafe { (plugin.table.wait_on)(plugin.device, *stream, seq.0, consumer.0) })
    }
}
