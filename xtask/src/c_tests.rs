//! later
pub(crate) fn run(_quick: bool) -> crate::Result {
    Ok(())
}
