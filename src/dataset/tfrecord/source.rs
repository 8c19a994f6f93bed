//! Bytes by offset: a file, or memory in tests.

use crate::dataset::window::Window;
use crate::error::Result;

/// Bytes that can be had from any offset on.
pub(super) trait Source {
    /// What is there from `offset` on: at least one byte, not necessarily all. `offset` lies inside.
    fn from(&mut self, offset: u64) -> Result<&[u8]>;

    /// Has these bytes at hand together, where that is possible.
    fn hold(&mut self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Fills `out` from `offset` on; all of it lies inside.
    fn read(&mut self, mut offset: u64, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let part = self.from(offset)?;
            let (now, later) = out.split_at_mut(part.len().min(out.len()));
            now.copy_from_slice(&part[..now.len()]);
            offset += now.len() as u64;
            out = later;
        }
        Ok(())
    }
}

impl Source for Window<'_> {
    fn from(&mut self, offset: u64) -> Result<&[u8]> {
        Window::from(self, offset)
    }

    fn hold(&mut self, offset: u64, len: u64) -> Result<()> {
        Window::hold(self, offset, len)
    }
}

impl Source for &[u8] {
    fn from(&mut self, offset: u64) -> Result<&[u8]> {
        Ok(&self[offset as usize..])
    }
}
