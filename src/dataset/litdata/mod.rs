//! LitData.

pub(super) mod index;
