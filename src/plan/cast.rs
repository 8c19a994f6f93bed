//! Elements that change on their way into an array: token numbers become wider, bytes become numbers with a fraction.
//!
//! ```text
//!  extents   ..[s1: u16 u16 u16]....[s2: u16 u16 u16]..          each move names the bytes of a piece as they are stored
//!  array     | s1: i64 i64 i64   s2: i64 i64 i64 |               and where its elements begin
//! ```
//!
//! Every device gives the same bits: those that this file works out on the host (`device/cuda/kernels/gather.cu` on CUDA).

use std::ops::Range;

use super::{Limits, Move, Plan};
use crate::dtype::DType;

/// What becomes of each element on its way into an array. None of these narrows.
///
/// Bytes become `byte * factor + bias`: the product rounded to the nearest `f32`, then the sum, then that to the nearest
/// number of the wanted type, ties to even.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names and the text above are what there is to say")]
pub enum Cast {
    U16ToI32,
    U16ToI64,
    U32ToI64,
    I32ToI64,
    U8ToF32 { factor: f32, bias: f32 },
    U8ToF16 { factor: f32, bias: f32 },
    U8ToBF16 { factor: f32, bias: f32 },
}

impl Cast {
    /// The pairs that [`Cast::widen`] knows, for people.
    pub(crate) const WIDENS: &str = "i32 and i64 of u16, i64 of i32 and u32, and f16, bf16 and f32 of u8";
    /// Those that [`Cast::scale`] knows.
    pub(crate) const SCALES: &str = "f16, bf16 and f32 of u8";

    /// The one that keeps every value.
    pub fn widen(from: DType, to: DType) -> Option<Cast> {
        match (from, to) {
            (DType::U16, DType::I32) => Some(Cast::U16ToI32),
            (DType::U16, DType::I64) => Some(Cast::U16ToI64),
            (DType::U32, DType::I64) => Some(Cast::U32ToI64),
            (DType::I32, DType::I64) => Some(Cast::I32ToI64),
            _ => Cast::scale(from, to, 1.0, 0.0), // all of 0 to 255 are numbers of each of these types
        }
    }

    /// The one that makes `byte * factor + bias` of bytes.
    pub fn scale(from: DType, to: DType, factor: f32, bias: f32) -> Option<Cast> {
        match (from, to) {
            (DType::U8, DType::F32) => Some(Cast::U8ToF32 { factor, bias }),
            (DType::U8, DType::F16) => Some(Cast::U8ToF16 { factor, bias }),
            (DType::U8, DType::BF16) => Some(Cast::U8ToBF16 { factor, bias }),
            _ => None,
        }
    }

    /// What the elements are where they are stored.
    pub fn from(self) -> DType {
        match self {
            Cast::U16ToI32 | Cast::U16ToI64 => DType::U16,
            Cast::U32ToI64 => DType::U32,
            Cast::I32ToI64 => DType::I32,
            Cast::U8ToF32 { .. } | Cast::U8ToF16 { .. } | Cast::U8ToBF16 { .. } => DType::U8,
        }
    }

    /// What they are in the array.
    pub fn to(self) -> DType {
        match self {
            Cast::U16ToI32 => DType::I32,
            Cast::U16ToI64 | Cast::U32ToI64 | Cast::I32ToI64 => DType::I64,
            Cast::U8ToF32 { .. } => DType::F32,
            Cast::U8ToF16 { .. } => DType::F16,
            Cast::U8ToBF16 { .. } => DType::BF16,
        }
    }

    /// Bytes in the array of what is stored in so many, which are whole elements.
    pub fn bytes_of(self, stored: u64) -> u64 {
        stored * self.to().bits() / self.from().bits()
    }

    /// Whether every byte becomes a finite number.
    pub(crate) fn is_finite(self) -> bool {
        let (Cast::U8ToF32 { factor, bias } | Cast::U8ToF16 { factor, bias } | Cast::U8ToBF16 { factor, bias }) = self
        else {
            return true;
        };
        // What lies between these two is finite if they are.
        [0.0, 255.0].into_iter().all(|byte: f32| {
            let value = byte * factor + bias;
            value.is_finite()
                && match self {
                    Cast::U8ToF16 { .. } => to_f16(value) & 0x7C00 != 0x7C00,
                    Cast::U8ToBF16 { .. } => to_bf16(value) & 0x7F80 != 0x7F80,
                    _ => true,
                }
        })
    }

    /// What carries it out on the host.
    pub(crate) fn caster(self) -> Caster {
        let halves = |half: fn(f32) -> u16, factor: f32, bias: f32| {
            Caster::Halves(std::array::from_fn(|byte| half(byte as f32 * factor + bias)))
        };
        match self {
            Cast::U8ToF16 { factor, bias } => halves(to_f16, factor, bias),
            Cast::U8ToBF16 { factor, bias } => halves(to_bf16, factor, bias),
            other => Caster::Plain(other),
        }
    }
}

/// A cast, and what it need not work out for each element.
#[allow(
    clippy::large_enum_variant,
    reason = "made once for each array of a batch, on the stack; a box would be allocated"
)]
pub(crate) enum Caster {
    Plain(Cast),
    /// What becomes of each byte.
    Halves([u16; 256]),
}

impl Caster {
    /// Casts whole elements, at any address.
    ///
    /// # Panics
    /// If `target` is not as long as [`Cast::bytes_of`] says.
    pub(crate) fn cast(&self, source: &[u8], target: &mut [u8]) {
        match *self {
            Caster::Plain(Cast::U16ToI32) => each(source, target, |it| i32::from(u16::from_le_bytes(it)).to_le_bytes()),
            Caster::Plain(Cast::U16ToI64) => each(source, target, |it| i64::from(u16::from_le_bytes(it)).to_le_bytes()),
            Caster::Plain(Cast::U32ToI64) => each(source, target, |it| i64::from(u32::from_le_bytes(it)).to_le_bytes()),
            Caster::Plain(Cast::I32ToI64) => each(source, target, |it| i64::from(i32::from_le_bytes(it)).to_le_bytes()),
            Caster::Plain(
                Cast::U8ToF32 { factor, bias } | Cast::U8ToF16 { factor, bias } | Cast::U8ToBF16 { factor, bias },
            ) => each::<1, 4>(source, target, |[byte]| (f32::from(byte) * factor + bias).to_le_bytes()),
            Caster::Halves(ref halves) => {
                each::<1, 2>(source, target, |[byte]| halves[usize::from(byte)].to_le_bytes())
            }
        }
    }
}

fn each<const FROM: usize, const TO: usize>(source: &[u8], target: &mut [u8], to: impl Fn([u8; FROM]) -> [u8; TO]) {
    let ((elements, rest), (places, left)) = (source.as_chunks::<FROM>(), target.as_chunks_mut::<TO>());
    assert!(rest.is_empty() && left.is_empty() && elements.len() == places.len(), "not the same elements");
    elements.iter().zip(places).for_each(|(&element, place)| *place = to(element));
}

/// The nearest IEEE binary16, ties to even.
fn to_f16(value: f32) -> u16 {
    let (sign, rest) = (((value.to_bits() >> 16) & 0x8000) as u16, value.to_bits() & 0x7FFF_FFFF);
    match rest {
        0x7F80_0001.. => return sign | 0x7E00,
        0x477F_F000.. => return sign | 0x7C00, // rounds to 65536 or more
        ..0x3300_0001 => return sign,          // at most half of the smallest subnormal: to even, 0
        _ => {}
    }
    let (exponent, fraction) = (rest >> 23, (rest & 0x7F_FFFF) | 0x80_0000);
    let subnormal = exponent < 113; // and keeps fewer bits
    let drop = if subnormal { 126 - exponent } else { 13 };
    let (kept, below, half) = (fraction >> drop, fraction & ((1 << drop) - 1), 1 << (drop - 1));
    let up = u32::from(below > half || (below == half && kept & 1 == 1));
    // `kept` carries the leading one: it counts as one exponent.
    let base = if subnormal { 0 } else { (exponent - 113) << 10 };
    sign | (base + kept + up) as u16
}

/// The nearest bfloat16, ties to even.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

impl Plan {
    /// The same with room for so many casts of `views` views in all.
    pub fn with_casts(mut self, casts: usize, views: usize) -> Plan {
        self.casts.reserve_exact(casts);
        self.cast_moves.reserve_exact(if casts > 0 { views } else { 0 });
        self
    }

    /// Makes an array as [`array`](Plan::array) does, whose elements are changed on the way. Views are whole elements.
    pub fn cast(&mut self, views: Range<usize>, cast: Cast, limits: &Limits) {
        let (at, first) = (self.region_bytes, self.cast_moves.len());
        let mut target = at;
        for view in views.clone() {
            let (source, bytes) = (self.offsets[view], self.lengths[view]);
            match self.cast_moves[first..].last_mut() {
                Some(last) if last.source + last.bytes == source => last.bytes += bytes,
                _ if bytes > 0 => self.cast_moves.push(Move { source, target, bytes }),
                _ => {}
            }
            target += cast.bytes_of(bytes);
        }
        self.arrays.push((views, at));
        if self.cast_moves.len() > first {
            self.casts.push((cast, first..self.cast_moves.len()));
        }
        self.region_bytes = target.next_multiple_of(limits.align);
    }

    /// Cast number `number`, from 0, and the pieces that it goes over: their bytes are those at the source. They are
    /// there once everything has been read and copied.
    pub fn cast_moves(&self, number: usize) -> Option<(Cast, &[Move])> {
        let (cast, moves) = self.casts.get(number)?;
        Some((*cast, &self.cast_moves[moves.clone()]))
    }

    /// Bytes of all arrays whose elements are changed on the way.
    pub fn cast_bytes(&self) -> u64 {
        let bytes = |(cast, moves): (Cast, &[Move])| moves.iter().map(|one| cast.bytes_of(one.bytes)).sum::<u64>();
        (0..self.casts.len()).filter_map(|number| self.cast_moves(number)).map(bytes).sum()
    }
}

#[cfg(test)]
#[path = "../../tests/common/nearest.rs"]
pub(crate) mod nearest;

#[cfg(test)]
mod tests {
    use super::*;

    fn cast(cast: Cast, source: &[u8]) -> Vec<u8> {
        let mut target = vec![0xEE; cast.bytes_of(source.len() as u64) as usize];
        cast.caster().cast(source, &mut target);
        target
    }

    #[test]
    fn every_value_of_every_pair_is_the_nearest() {
        let bytes: Vec<u8> = (0..=255).collect();
        let words: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let large: Vec<u8> = (0..1u64 << 16).flat_map(|i| ((i * 0x1_0001) as u32).to_le_bytes()).collect();
        for one in [Cast::U16ToI32, Cast::U16ToI64] {
            assert!(cast(one, &words) == nearest::cast(one.from(), one.to(), None, &words), "{one:?}");
        }
        for one in [Cast::U32ToI64, Cast::I32ToI64] {
            assert!(cast(one, &large) == nearest::cast(one.from(), one.to(), None, &large), "{one:?}");
        }
        for to in [DType::F32, DType::F16, DType::BF16] {
            let widened = cast(Cast::widen(DType::U8, to).unwrap(), &bytes);
            assert!(widened == nearest::cast(DType::U8, to, None, &bytes), "{to}");
            for factor in [1.0, 1.0 / 255.0, -0.017, 1e-7, 3e-8, 257.003] {
                for bias in [0.0, -0.5, 1e-7, 3.0, -65000.0] {
                    let one = Cast::scale(DType::U8, to, factor, bias).unwrap();
                    let want = nearest::cast(DType::U8, to, Some((factor, bias)), &bytes);
                    assert!(cast(one, &bytes) == want, "{one:?}");
                }
            }
        }
    }

    /// Every half, what lies between two of them, and the floats beside that.
    #[test]
    fn halves_are_rounded_to_the_nearest_and_ties_to_even() {
        for (half, to) in [(to_f16 as fn(f32) -> u16, DType::F16), (to_bf16, DType::BF16)] {
            let numbers = nearest::Halves::of(to);
            for pair in numbers.values().windows(2) {
                let middle = ((pair[0] + pair[1]) / 2.0) as f32;
                for value in [pair[0] as f32, middle, middle.next_down(), middle.next_up()] {
                    assert_eq!(half(value), numbers.nearest(value), "{value:e} as {to}");
                    assert_eq!(half(-value), numbers.nearest(value) | 0x8000, "-{value:e} as {to}");
                }
            }
        }
        assert_eq!((to_f16(65519.996), to_f16(65520.0), to_f16(f32::MAX)), (0x7BFF, 0x7C00, 0x7C00));
        assert_eq!((to_bf16(f32::MAX), to_bf16(f32::INFINITY), to_f16(f32::NEG_INFINITY)), (0x7F80, 0x7F80, 0xFC00));
        assert!(to_f16(f32::NAN) & 0x7FFF > 0x7C00 && to_bf16(f32::NAN) & 0x7FFF > 0x7F80);
    }

    #[test]
    fn what_no_half_can_hold_is_known_before() {
        let finite = |to, factor, bias| Cast::scale(DType::U8, to, factor, bias).unwrap().is_finite();
        assert!(finite(DType::F16, 256.0, 0.0) && !finite(DType::F16, 257.0, 0.0) && !finite(DType::F16, 1.0, 65500.0));
        assert!(
            finite(DType::BF16, 257.0, 0.0) && !finite(DType::BF16, 1.0, f32::MAX) && finite(DType::F32, 1.0, 1e38)
        );
        assert!(
            !finite(DType::F32, f32::NAN, 0.0)
                && !finite(DType::F32, 1.0, f32::INFINITY)
                && !finite(DType::F32, 1e38, 0.0)
        );
    }

    #[test]
    fn nothing_is_narrowed() {
        for from in DType::all() {
            for to in DType::all() {
                let Some(cast) = Cast::widen(from, to) else { continue };
                assert_eq!((cast.from(), cast.to()), (from, to));
                assert!(to.bits() > from.bits());
                assert_eq!(cast.bytes_of(from.bytes().unwrap() * 5), to.bytes().unwrap() * 5);
            }
        }
    }
}
