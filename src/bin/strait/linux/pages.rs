//! Page-aligned heap memory, as a plain program has it: 4 KiB pages unless the system makes all memory huge.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment that O_DIRECT accepts everywhere.
pub(crate) const ALIGN: usize = 4096;

/// A zeroed buffer at a multiple of [`ALIGN`].
pub(crate) struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: Pages owns its memory alone, as a Box<[u8]> does.
unsafe impl Send for Pages {}

impl Pages {
    pub(crate) fn new(bytes: usize) -> Pages {
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).expect("a buffer of less than isize::MAX bytes");
        // SAFETY: the layout has a size of at least 1.
        let base = unsafe { alloc_zeroed(layout) };
        Pages { base: NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `base` is valid for `len` initialised bytes as long as self lives, and `&mut self` makes this the only
        // view; who hands `base()` to the kernel does not call this before the read has completed.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once. Whoever handed `base()` to the kernel has counted
        // every completion before dropping this.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}
