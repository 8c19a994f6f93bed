//! Cursors
//!
//! The state of a run: which epoch, how many samples all ranks together were given, of which dataset, in which order. World,
//! batch size and what was read ahead are not in it, so a run goes on from one with other ranks and batches. A cursor does
//! not change.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use strait::order::Cursor;

use crate::call::{array, call, free, give, out};
use crate::error::{c_string, strait_error};
use crate::handle::{Kind, live, register};
use crate::status::strait_status;

/// Where a run stands, and what it is a run of. Threads: any, at once.
pub struct strait_cursor(());

pub(crate) struct Taken {
    pub(crate) cursor: Cursor,
    json: OnceLock<CString>,
}

impl Kind for Taken {
    type Handle = strait_cursor;
    const NAME: &'static str = "cursor";
    const NUMBER: u8 = 5;
}

impl Taken {
    pub(crate) fn new(cursor: Cursor) -> Taken {
        Taken { cursor, json: OnceLock::new() }
    }
}

/// Reads a cursor from the `len` bytes that `strait_cursor_json` gave: `STRAIT_STATUS_CONFIG` for anything else. Give it
/// back with `strait_cursor_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_cursor_parse(
    json: *const c_char,
    len: usize,
    cursor: Option<&mut *mut strait_cursor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let cursor = out(cursor, "cursor")?;
        // SAFETY: `len` bytes, as the header's conventions say.
        let json = unsafe { array(json.cast::<u8>(), len, "json") }?;
        *cursor = register(Taken::new(Cursor::parse(json)?))?;
        Ok(())
    })
}

/// The cursor as one line of JSON, a few hundred bytes, to be saved with a checkpoint: `len` bytes and a NUL. It lives as
/// long as the cursor's handle. `len` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_cursor_json(
    cursor: *const strait_cursor,
    json: Option<&mut *const c_char>,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let json = out(json, "json")?;
        let taken = live::<Taken>(cursor, "cursor")?;
        let text = taken.json.get_or_init(|| c_string(taken.cursor.to_json()));
        *json = text.as_ptr();
        give(len, text.as_bytes().len());
        Ok(())
    })
}

/// How far the run is: its epoch, how many of that epoch's positions all ranks together were given, and how many there
/// are. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_cursor_progress(
    cursor: *const strait_cursor,
    epoch: Option<&mut u64>,
    consumed: Option<&mut u64>,
    positions: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let taken = live::<Taken>(cursor, "cursor")?;
        give(epoch, taken.cursor.progress.epoch);
        give(consumed, taken.cursor.progress.consumed);
        give(positions, taken.cursor.positions);
        Ok(())
    })
}

/// One cursor that knows of all samples that either of two ranks has skipped. Both must be of the same run and step. The
/// two stay as they are; the result is given back with `strait_cursor_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_cursor_merge(
    cursor: *const strait_cursor,
    other: *const strait_cursor,
    merged: Option<&mut *mut strait_cursor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let merged = out(merged, "merged")?;
        let mut sum = live::<Taken>(cursor, "cursor")?.cursor.clone();
        sum.merge(&live::<Taken>(other, "other")?.cursor)?;
        *merged = register(Taken::new(sum))?;
        Ok(())
    })
}

/// Gives a cursor back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_cursor_free(cursor: *mut strait_cursor) -> strait_status {
    free::<Taken>(cursor)
}
