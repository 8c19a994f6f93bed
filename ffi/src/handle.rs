//! What C holds: numbers that are looked up, never addresses that are followed.
//!
//! ```text
//!   63        56 55       48 47                    24 23                     0
//!   +-----------+-----------+------------------------+------------------------+
//!   | 0x80|kind |   fork    |       generation       |         place          |
//!   +-----------+-----------+------------------------+------------------------+
//! ```
//!
//! The top bit makes it an address that no process has: to follow it faults at once. A place is used again, oldest
//! first, under the next generation. After fork the child starts with an empty table: engine threads and pinned memory are
//! its parent's, so nothing of what was made there is touched, waited for or freed.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use std::sync::{Arc, Once, PoisonError, RwLock};

use crate::error::Failure;
use crate::status::strait_status;

/// A kind of value that C may hold.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    /// The type that a handle points to, as far as C is concerned.
    type Handle;
    /// What it is called in messages.
    const NAME: &'static str;
    /// Below 128, another one for every kind.
    const NUMBER: u8;
}

struct Entry<T> {
    /// A call with it has panicked.
    poisoned: AtomicBool,
    value: T,
}

/// A value in use by a call. If the call panics, the value is poisoned.
pub(crate) struct Live<T: Kind> {
    entry: Arc<Entry<T>>,
    calm: bool,
}

impl<T: Kind> Deref for Live<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.entry.value
    }
}

impl<T: Kind> Drop for Live<T> {
    fn drop(&mut self) {
        if self.calm && std::thread::panicking() {
            self.entry.poisoned.store(true, Ordering::Release);
        }
    }
}

#[derive(Default)]
struct Place {
    generation: u32,
    value: Option<Arc<dyn Any + Send + Sync>>,
}

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    free: VecDeque<u32>,
}

const PLACE_BITS: u32 = 24;
const GENERATION_BITS: u32 = 24;

static TABLE: AtomicPtr<RwLock<Table>> = AtomicPtr::new(ptr::null_mut());
/// The table of the process that this one was forked from: kept, so that what lies in it does not pass for leaked.
static PARENTS: AtomicPtr<RwLock<Table>> = AtomicPtr::new(ptr::null_mut());
static FORKS: AtomicU8 = AtomicU8::new(0);

/// How often this process, or one that it comes from, was forked since the library was first used.
pub(crate) fn forks() -> u8 {
    FORKS.load(Ordering::Relaxed)
}

extern "C" fn forked() {
    PARENTS.store(TABLE.swap(ptr::null_mut(), Ordering::Relaxed), Ordering::Relaxed);
    FORKS.fetch_add(1, Ordering::Relaxed);
    crate::log::forked();
}

/// From now on forks are noticed.
pub(crate) fn watch_forks() {
    static WATCH_FORKS: Once = Once::new();
    WATCH_FORKS.call_once(|| {
        // SAFETY: the handler only stores to atomics, which is allowed between fork and exec; the library stays loaded
        // (build.rs).
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    });
}

fn table() -> &'static RwLock<Table> {
    let there = TABLE.load(Ordering::Acquire);
    let there = if there.is_null() {
        watch_forks();
        let new = Box::into_raw(Box::default());
        match TABLE.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(first) => {
                // SAFETY: made above and given to nobody.
                drop(unsafe { Box::from_raw(new) });
                first
            }
        }
    } else {
        there
    };
    // SAFETY: tables are never freed.
    unsafe { &*there }
}

/// Puts a value where C finds it.
pub(crate) fn register<T: Kind>(value: T) -> Result<*mut T::Handle, Failure> {
    let entry: Arc<dyn Any + Send + Sync> = Arc::new(Entry { poisoned: AtomicBool::new(false), value });
    let mut table = table().write().unwrap_or_else(PoisonError::into_inner);
    // Only once a good many are free, so that a handle that was freed is told from the next one for long.
    let place = match table.free.len() {
        0..64 if table.places.len() < 1 << PLACE_BITS => {
            table.places.push(Place::default());
            table.places.len() as u32 - 1
        }
        _ => table.free.pop_front().ok_or_else(|| {
            Failure::new(strait_status::Memory, format!("{} handles are live: free some", table.places.len()))
        })?,
    };
    let Place { generation, value } = &mut table.places[place as usize];
    *value = Some(entry);
    let kind = u64::from(0x80 | T::NUMBER);
    let number = kind << 56 | u64::from(forks()) << 48 | u64::from(*generation) << PLACE_BITS | u64::from(place);
    Ok(ptr::without_provenance_mut(number as usize))
}

/// The value behind a handle, for the time of a call.
pub(crate) fn live<T: Kind>(handle: *const T::Handle, argument: &str) -> Result<Live<T>, Failure> {
    let entry = find::<T>(handle, argument)?;
    if entry.poisoned.load(Ordering::Acquire) {
        let message = format!("{argument}: an earlier call with this {} panicked; free it, and start anew", T::NAME);
        return Err(Failure::new(strait_status::Poisoned, message));
    }
    Ok(Live { entry, calm: !std::thread::panicking() })
}

/// Makes a handle invalid. What it stood for ends with the last call that still uses it.
pub(crate) fn take<T: Kind>(handle: *mut T::Handle, argument: &str) -> Result<impl Sized + use<T>, Failure> {
    let entry = find::<T>(handle, argument)?;
    let mut table = table().write().unwrap_or_else(PoisonError::into_inner);
    let (place, generation) = parts(handle.addr());
    let slot = &mut table.places[place];
    // Another thread may have been faster.
    if slot.generation != generation || slot.value.take().is_none() {
        return Err(not_live::<T>(handle.addr(), argument));
    }
    slot.generation = (slot.generation + 1) & ((1 << GENERATION_BITS) - 1);
    table.free.push_back(place as u32);
    Ok(entry)
}

/// How many handles are live in this process.
pub(crate) fn count() -> usize {
    let table = table().read().unwrap_or_else(PoisonError::into_inner);
    table.places.len() - table.free.len()
}

fn find<T: Kind>(handle: *const T::Handle, argument: &str) -> Result<Arc<Entry<T>>, Failure> {
    if handle.is_null() {
        return Err(null(argument));
    }
    let number = handle.addr();
    let (place, generation) = parts(number);
    let own = (number >> 56) as u8 == 0x80 | T::NUMBER && (number >> 48) as u8 == forks();
    let found = own.then(|| {
        let table = table().read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.places.get(place).filter(|slot| slot.generation == generation)?;
        slot.value.clone()?.downcast::<Entry<T>>().ok()
    });
    found.flatten().ok_or_else(|| not_live::<T>(number, argument))
}

fn parts(number: usize) -> (usize, u32) {
    let generation = (number >> PLACE_BITS) & ((1 << GENERATION_BITS) - 1);
    (number & ((1 << PLACE_BITS) - 1), generation as u32)
}

pub(crate) fn null(argument: &str) -> Failure {
    Failure::new(strait_status::NullArgument, format!("{argument} is NULL"))
}

fn not_live<T: Kind>(number: usize, argument: &str) -> Failure {
    let why = match ((number >> 56) as u8, (number >> 48) as u8) {
        (kind, _) if kind & 0x80 == 0 => "it was never made by strait",
        (kind, _) if kind != 0x80 | T::NUMBER => "it is one of another kind",
        (_, fork) if fork != forks() => {
            "it was made before a fork, whose child has neither its engine nor its memory: make a new one, or use spawn"
        }
        _ => "it has been freed",
    };
    Failure::new(strait_status::BadHandle, format!("{argument} is not a live {}: {why}", T::NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{call, free};
    use crate::error::{strait_error, strait_error_free, strait_error_message};

    struct Thing(u64);
    struct strait_thing(());

    impl Kind for Thing {
        type Handle = strait_thing;
        const NAME: &'static str = "thing";
        const NUMBER: u8 = 100;
    }

    struct Other;
    struct strait_other(());

    impl Kind for Other {
        type Handle = strait_other;
        const NAME: &'static str = "other";
        const NUMBER: u8 = 101;
    }

    fn read(handle: *const strait_thing, panics: bool) -> (strait_status, String) {
        let mut error: *mut strait_error = ptr::null_mut();
        let status = call(Some(&mut error), || {
            let thing = live::<Thing>(handle, "thing")?;
            assert!(!panics || thing.0 == 0, "the test's own panic");
            Ok(())
        });
        // SAFETY: the message of a live error, or the empty text.
        let message = unsafe { std::ffi::CStr::from_ptr(strait_error_message(error)) }.to_str().unwrap().to_owned();
        assert_eq!(strait_error_free(error), strait_status::Ok);
        (status, message)
    }

    /// Mutant that this catches: a call that does not ask whether the value is poisoned.
    #[test]
    fn a_panic_is_a_status_and_the_handle_says_so_from_then_on() {
        let handle = register(Thing(7)).unwrap();
        assert_eq!(read(handle, false).0, strait_status::Ok);
        let (status, message) = read(handle, true);
        assert_eq!(status, strait_status::Panic);
        assert!(message.contains("the test's own panic"), "{message}");
        for _ in 0..2 {
            let (status, message) = read(handle, false);
            assert!(status == strait_status::Poisoned && message.contains("thing panicked"), "{status:?} {message}");
        }
        assert_eq!(free::<Thing>(handle), strait_status::Ok);
        assert_eq!(read(handle, false).0, strait_status::BadHandle);
    }

    /// Mutant that this catches: a place that is used again under the same generation.
    #[test]
    fn what_is_no_live_handle_is_told_from_what_is() {
        let first = register(Thing(0)).unwrap();
        assert_eq!(free::<Thing>(first), strait_status::Ok);
        assert_eq!(free::<Thing>(first), strait_status::BadHandle, "twice");
        for _ in 0..1000 {
            let next = register(Thing(1)).unwrap();
            assert_ne!(next, first);
            let (status, message) = read(first, false);
            assert!(status == strait_status::BadHandle && message.contains("freed"), "{message}");
            assert_eq!(free::<Thing>(next), strait_status::Ok);
        }
        let other = register(Other).unwrap();
        let (status, message) = read(other.cast(), false);
        assert!(status == strait_status::BadHandle && message.contains("another kind"), "{message}");
        assert_eq!(free::<Other>(other), strait_status::Ok);
        for number in [1, 0x1234_5678, usize::MAX, (&raw const other).addr()] {
            assert_eq!(read(ptr::without_provenance(number), false).0, strait_status::BadHandle, "{number:#x}");
        }
        assert_eq!(read(ptr::null(), false), (strait_status::NullArgument, "thing is NULL".into()));
    }

    #[test]
    fn a_value_that_is_freed_in_use_ends_with_its_last_call() {
        let handle = register(Thing(3)).unwrap();
        let thing = live::<Thing>(handle, "thing").unwrap();
        std::thread::scope(|scope| {
            let number = handle.addr();
            scope.spawn(move || assert_eq!(free::<Thing>(ptr::without_provenance_mut(number)), strait_status::Ok));
        });
        assert_eq!((thing.0, read(handle, false).0), (3, strait_status::BadHandle));
    }
}
