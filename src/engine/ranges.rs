//! The stages of an engine, of batches or of weights, as ranges on NVIDIA's timeline (NVTX, for Nsight Systems). Nothing
//! without the feature `nvtx`, and nothing where no NVTX library is found, which is ordinary.

use std::ffi::CStr;

/// A stage, as long as this lives.
pub(crate) struct Range {
    #[cfg(feature = "nvtx")]
    table: Option<&'static on::Table>,
}

/// Begins a range on this thread. Ranges nest.
#[inline]
pub(crate) fn range(_name: &'static CStr) -> Range {
    Range {
        #[cfg(feature = "nvtx")]
        table: on::begin(on::Table::get(), _name),
    }
}

#[cfg(feature = "nvtx")]
impl Drop for Range {
    fn drop(&mut self) {
        if let Some(table) = self.table {
            table.end();
        }
    }
}

#[cfg(feature = "nvtx")]
mod on {
    use std::ffi::{CStr, c_char, c_int, c_void};
    use std::sync::OnceLock;

    pub(super) struct Table {
        push: unsafe extern "C" fn(*const c_char) -> c_int,
        pop: unsafe extern "C" fn() -> c_int,
    }

    /// CUDA 13's package, and what all before it had.
    const NAMES: [&CStr; 3] = [c"libnvtx3interop.so.1", c"libnvtx3interop.so", c"libnvToolsExt.so.1"];

    impl Table {
        pub(super) fn get() -> Option<&'static Table> {
            #[cfg(test)]
            return Some(&seen::TABLE);
            #[cfg(not(test))]
            Table::loaded()
        }

        fn loaded() -> Option<&'static Table> {
            static TABLE: OnceLock<Option<Table>> = OnceLock::new();
            TABLE.get_or_init(Table::load).as_ref()
        }

        fn load() -> Option<Table> {
            // SAFETY: the names are C strings; loading NVTX runs its initialisers, as every program that uses it does.
            let open = |name: &&CStr| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
            let library = NAMES.iter().map(open).find(|library| !library.is_null())?;
            // SAFETY: the library was just opened and is never closed.
            let symbol = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) };
            let (push, pop) = (symbol(c"nvtxRangePushA"), symbol(c"nvtxRangePop"));
            if push.is_null() || pop.is_null() {
                return None;
            }
            // SAFETY: the types are those of nvToolsExt.h.
            Some(unsafe {
                Table {
                    push: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(push),
                    pop: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(pop),
                }
            })
        }

        pub(super) fn end(&self) {
            // SAFETY: a push on this thread came before: a Range does not leave its scope.
            unsafe { (self.pop)() };
        }
    }

    pub(super) fn begin(table: Option<&'static Table>, name: &'static CStr) -> Option<&'static Table> {
        let table = table?;
        // SAFETY: the name is a C string.
        unsafe { (table.push)(name.as_ptr()) };
        Some(table)
    }

    /// What tests see in NVTX's place.
    #[cfg(test)]
    pub(crate) mod seen {
        use super::*;
        use std::cell::RefCell;
        use std::collections::BTreeSet;

        thread_local! {
            static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
        }

        pub(super) static TABLE: Table = Table { push, pop };

        /// The beginnings and ends on this thread since the last call.
        pub(crate) fn take() -> Vec<String> {
            SEEN.take()
        }

        /// The same as ranges, each behind those that it lies in.
        pub(crate) fn nested() -> BTreeSet<String> {
            let (mut open, mut found) = (Vec::new(), BTreeSet::new());
            for name in take() {
                match name.strip_prefix("strait: ") {
                    Some(stage) => {
                        open.push(stage.to_string());
                        found.insert(open.join(" > "));
                    }
                    None => drop(open.pop().expect("an end of nothing")),
                }
            }
            assert!(open.is_empty(), "{open:?} without an end");
            found
        }

        unsafe extern "C" fn push(name: *const c_char) -> c_int {
            // SAFETY: as NVTX is called.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
            SEEN.with_borrow_mut(|seen| seen.push(name));
            0
        }

        unsafe extern "C" fn pop() -> c_int {
            SEEN.with_borrow_mut(|seen| seen.push("end".into()));
            0
        }

        #[test]
        fn a_range_ends_where_it_began_and_none_is_no_harm() {
            take();
            {
                let _outer = super::super::range(c"outer");
                let _inner = super::super::range(c"inner");
                let _none = super::super::Range { table: begin(None, c"none") };
            }
            assert_eq!(take(), ["outer", "inner", "end", "end"]);
            let loaded = begin(Table::loaded(), c"whatever library there is");
            loaded.into_iter().for_each(Table::end);
        }
    }
}

#[cfg(all(test, feature = "nvtx"))]
pub(crate) use on::seen;
