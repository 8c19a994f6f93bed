//! Log
//!
//! What strait has to say that is no error of a call: what it does in place of what was wanted, with the reason and what
//! would change it (a warning, each once), samples that are left out, memory that is leaked rather than used wrongly. Nothing
//! is said until a function is named to say it to.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::call::call;
use crate::error::{Failure, c_string, strait_error};
use crate::handle::watch_forks;
use crate::status::strait_status;

/// A level of the log: something went wrong that no call could return.
pub const STRAIT_LOG_ERROR: u32 = 1;

/// A level of the log: it works, but not as it was wanted or could.
pub const STRAIT_LOG_WARNING: u32 = 2;

/// A level of the log: what was chosen.
pub const STRAIT_LOG_INFO: u32 = 3;

/// A level of the log: for those who look for a fault.
pub const STRAIT_LOG_DEBUG: u32 = 4;

/// Is told something: `level` is one of `STRAIT_LOG_`.., `source` the part of strait that says it, `message` a line of UTF-8.
/// Both texts last for the call.
pub type strait_log =
    Option<unsafe extern "C" fn(context: *mut c_void, level: u32, source: *const c_char, message: *const c_char)>;

/// Has `log` called with `context` for everything that is said at `level` and graver levels in this process from now on,
/// whoever's loader it is about, in place of the function before. `log` may be NULL: then nothing is said any more.
///
/// It is called in the thread in which something happened: one that calls strait, or an engine's, which waits for it; in
/// several at once. It must not throw, and should neither block nor call strait: what is said while it does is lost.
///
/// This returns once no call of the function before is under way: what that needs may go then. From `log` itself it is
/// `STRAIT_STATUS_WRONG_ORDER`. The child of a fork goes on with its parent's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_log_to(
    level: u32,
    log: strait_log,
    context: *mut c_void,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        if INSIDE.get() {
            return Err(Failure::new(strait_status::WrongOrder, "the function that logs cannot name another one"));
        }
        watch_forks();
        subscribe()?;
        let before = replace(Sink { function: log, context, level, calls: AtomicUsize::new(0), before: ptr::null() });
        // SAFETY: sinks are never freed.
        while unsafe { before.as_ref() }.is_some_and(|before| before.calls.load(Ordering::SeqCst) > 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
}

/// What is told, and how many calls of it are under way. Never freed: whoever comes late still counts in it.
struct Sink {
    function: strait_log,
    context: *mut c_void,
    level: u32,
    calls: AtomicUsize,
    /// The one that it replaced: kept, so that it does not pass for leaked.
    before: *const Sink,
}

static SINK: AtomicPtr<Sink> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// This thread is in a call of the function.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Puts a sink in place of the one before, which is returned.
fn replace(sink: Sink) -> *const Sink {
    let new = Box::into_raw(Box::new(sink));
    loop {
        let before = SINK.load(Ordering::SeqCst);
        // SAFETY: made above, and nobody else's until the exchange.
        unsafe { (*new).before = before };
        if SINK.compare_exchange(before, new, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return before;
        }
    }
}

/// In the child of a fork, where of all threads only this one is left. Only stores to atomics.
pub(crate) fn forked() {
    // SAFETY: sinks are never freed.
    if let Some(sink) = unsafe { SINK.load(Ordering::SeqCst).as_ref() } {
        sink.calls.store(usize::from(INSIDE.get()), Ordering::SeqCst);
    }
}

fn current() -> Option<&'static Sink> {
    // SAFETY: sinks are never freed.
    unsafe { SINK.load(Ordering::SeqCst).as_ref() }
}

/// A call under way: whoever replaces the sink waits for it.
struct Saying(&'static Sink);

impl Saying {
    fn begin() -> Option<Saying> {
        loop {
            let saying = Saying(current()?);
            saying.0.calls.fetch_add(1, Ordering::SeqCst);
            // Replaced in between, it may not have been waited for.
            if current().is_some_and(|now| ptr::eq(now, saying.0)) {
                INSIDE.set(true);
                return Some(saying);
            }
        }
    }
}

impl Drop for Saying {
    fn drop(&mut self) {
        INSIDE.set(false);
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Once, for the whole process.
fn subscribe() -> Result<(), Failure> {
    static DONE: OnceLock<bool> = OnceLock::new();
    if *DONE.get_or_init(|| tracing::subscriber::set_global_default(ToC).is_ok()) {
        return Ok(());
    }
    let message = "this program has a subscriber of the crate tracing, which is told everything";
    Err(Failure::new(strait_status::WrongOrder, message))
}

/// Takes what strait's parts say to the function.
struct ToC;

impl Subscriber for ToC {
    /// The level may change.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let wanted = |sink: &Sink| sink.function.is_some() && number(*metadata.level()) <= sink.level;
        metadata.is_event() && !INSIDE.get() && current().is_some_and(wanted)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // Whoever says something goes on, whatever befalls the text.
        let _ = catch_unwind(AssertUnwindSafe(|| say(event)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn say(event: &Event<'_>) {
    let mut line = Line::default();
    event.record(&mut line);
    let metadata = event.metadata();
    let (source, message) = (c_string(metadata.target()), c_string(line.message + &line.values));
    let Some(saying) = Saying::begin() else { return };
    let Sink { function: Some(function), context, .. } = *saying.0 else { return };
    // SAFETY: the header says of this function how it is called, and that it and its context are there until another one
    // has been named; that waits for `saying`. The texts last until the end.
    unsafe { function(context, number(*metadata.level()), source.as_ptr(), message.as_ptr()) };
}

fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => STRAIT_LOG_ERROR,
        Level::WARN => STRAIT_LOG_WARNING,
        Level::INFO => STRAIT_LOG_INFO,
        _ => STRAIT_LOG_DEBUG,
    }
}

/// The text of an event, and the values beside it.
#[derive(Default)]
struct Line {
    message: String,
    values: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.values, " {name}={value:?}"),
        };
    }
}
