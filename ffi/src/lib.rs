//! The place of strait's C ABI (`libstrait.so`, `strait.h`). It exports nothing yet.
