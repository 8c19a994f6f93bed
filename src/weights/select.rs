//! Which tensors are loaded, and which part of each.

use super::{Checkpoint, TensorInfo};
use crate::error::{Error, Result};

/// What a device gets of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The elements `from..to` of dimension `dim`, dense and in C order: what is left of the tensor has the shape of the
    /// whole but for that dimension.
    Slice {
        /// Which dimension, counted from 0, the slowest first.
        dim: usize,
        /// The first element.
        from: u64,
        /// The element after the last.
        to: u64,
    },
    /// Nothing.
    Skip,
}

impl Part {
    /// The share of rank `rank` of `world` in dimension `dim`: as even as it goes, in order of ranks. For tensor
    /// parallelism.
    pub fn share(tensor: &TensorInfo, dim: usize, rank: u32, world: u32) -> Part {
        let len = tensor.shape.get(dim).copied().unwrap_or(0);
        let border = |rank: u32| (u128::from(len) * u128::from(rank) / u128::from(world.max(1))) as u64;
        Part::Slice { dim, from: border(rank), to: border(rank.saturating_add(1)) }
    }
}

/// What was asked for.
#[derive(Default)]
pub(super) struct Selection {
    pub(super) names: Vec<String>,
    pub(super) globs: Vec<String>,
    #[allow(clippy::type_complexity, reason = "a predicate")]
    pub(super) filter: Option<Box<dyn Fn(&TensorInfo) -> bool + Send>>,
}

impl Selection {
    /// The chosen tensors, by their places in the checkpoint, ascending. A name or pattern that fits none is an error.
    pub(super) fn places(&self, checkpoint: &Checkpoint) -> Result<Vec<usize>> {
        let tensors = checkpoint.tensors();
        let mut chosen = vec![self.names.is_empty() && self.globs.is_empty(); tensors.len()];
        for name in &self.names {
            let place = checkpoint.place(name).ok_or_else(|| {
                Error::config("names", format!("the checkpoint has no tensor `{name}`; it tells which it has"))
            })?;
            chosen[place] = true;
        }
        for pattern in &self.globs {
            let mut any = false;
            for (chosen, tensor) in chosen.iter_mut().zip(tensors) {
                let fits = fits(pattern, &tensor.name);
                *chosen |= fits;
                any |= fits;
            }
            if !any {
                return Err(Error::config("matching", format!("no tensor's name fits `{pattern}`")));
            }
        }
        let wanted = |place: &usize| chosen[*place] && self.filter.as_ref().is_none_or(|f| f(&tensors[*place]));
        Ok((0..tensors.len()).filter(wanted).collect())
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters and `?` for one.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None; // where to go on if the last `*` takes one character more
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, n + 1));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((next, from)) = star else { return false };
                (p, n) = (next, from);
                star = Some((next, from + 1));
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
            Some((&c, rest)) => {
                name.split_first().is_some_and(|(&n, names)| (c == '?' || c == n) && naive(rest, names))
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn patterns_fit_as_defined(pattern in "[ab?*é]{0,8}", name in "[abé]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            proptest::prop_assert_eq!(fits(&pattern, &name), naive(&chars(&pattern), &chars(&name)));
        }
    }

    #[test]
    fn shares_are_even_and_leave_nothing() {
        for (len, world) in [(0, 3), (1, 3), (7, 3), (8, 4), (u64::MAX, 7)] {
            let tensor = TensorInfo {
                name: "t".into(),
                dtype: crate::DType::U8,
                shape: vec![2, len],
                shard: 0,
                offset: 0,
                bytes: 0,
            };
            let mut end = 0;
            for rank in 0..world {
                let Part::Slice { dim: 1, from, to } = Part::share(&tensor, 1, rank, world) else { panic!() };
                assert_eq!(from, end);
                assert!((to - from).abs_diff(len / u64::from(world)) <= 1);
                end = to;
            }
            assert_eq!(end, len);
        }
    }
}
