//! The thread of an engine: it makes the engine, says when that is ready, runs it, and leaves word where it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError};

use crate::error::{Error, Result};

/// How long making an engine may take at least: a driver may take seconds to wake a GPU.
pub(crate) const LAUNCH_WAIT_MIN: Duration = Duration::from_secs(60);

/// Makes an engine on a thread of its own and runs it there, if it is made within `bound`. What comes back is disconnected
/// once the thread is over; where that is a panic's doing, `stopped` says so.
pub(crate) fn launch<E>(
    bound: Duration,
    stopped: &Arc<OnceLock<String>>,
    make: impl FnOnce() -> Result<E> + Send + 'static,
    run: impl FnOnce(E) + Send + 'static,
) -> Result<Receiver<()>> {
    // Handed from thread to thread: what is sent has been received.
    let (ready, answer) = channel::bounded(0);
    let (alive, over) = channel::bounded(0);
    let said = stopped.clone();
    let body = move || {
        let _alive = alive; // goes last: what the others share keeps memory
        let life = AssertUnwindSafe(|| match make() {
            Ok(engine) => {
                if ready.send(Ok(())).is_ok() {
                    run(engine);
                } // else it took too long, and nobody is there to read for
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        if let Err(panic) = catch_unwind(life) {
            let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            let _ = said.set(format!("it panicked: {text}"));
        }
    };
    let named = thread::Builder::new().name("strait-engine".into());
    named.spawn(body).map_err(|e| Error::thread("the engine's thread", &e))?;
    let start = Instant::now();
    match answer.recv_timeout(bound) {
        Ok(made) => made.map(|()| over),
        Err(RecvTimeoutError::Timeout) => {
            let what = "the engine to allocate its memory".into();
            Err(Error::Timeout { what, waited: start.elapsed() })
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(Error::Stopped { reason: stopped.get().cloned().unwrap_or_default() })
        }
    }
}
