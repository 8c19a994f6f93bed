//! What arrays should be whose elements were changed on the way: worked out from the definition, number by number.

use super::DType;

/// One after the other: the numbers in `bytes` of type `from`, as numbers of type `to`.
#[allow(dead_code, reason = "some who share this file round only")]
pub(crate) fn cast(from: DType, to: DType, scale: Option<(f32, f32)>, bytes: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    let halves = [DType::F16, DType::BF16].contains(&to).then(|| Halves::of(to));
    for element in bytes.chunks(from.bytes().unwrap() as usize) {
        let mut word = [0; 8];
        word[..element.len()].copy_from_slice(element);
        let mut whole = i128::from(u64::from_le_bytes(word));
        if from == DType::I32 && whole >= 1 << 31 {
            whole -= 1 << 32;
        }
        let (factor, bias) = scale.unwrap_or((1.0, 0.0));
        let product = whole as f32 * factor;
        let value = product + bias;
        match (to, &halves) {
            (_, Some(halves)) => {
                let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
                numbers.extend((halves.nearest(value.abs()) | sign).to_le_bytes());
            }
            (DType::F32, _) => numbers.extend(value.to_le_bytes()),
            (DType::I32, _) => numbers.extend(i32::try_from(whole).unwrap().to_le_bytes()),
            (DType::I64, _) => numbers.extend(i64::try_from(whole).unwrap().to_le_bytes()),
            other => panic!("{other:?}"),
        }
    }
    numbers
}

/// All finite halves from 0 on, and behind them the one that would be next if there were an exponent more: each has its
/// bits as its place.
#[derive(Debug)]
pub(crate) struct Halves(Vec<f64>);

impl Halves {
    pub(crate) fn of(dtype: DType) -> Halves {
        let (fraction_bits, bias, infinity) = if dtype == DType::F16 { (10, 15, 0x7C00) } else { (7, 127, 0x7F80) };
        let value = |bits: i32| {
            let (exponent, fraction) = (bits >> fraction_bits, f64::from(bits & ((1 << fraction_bits) - 1)));
            let one = f64::from(1 << fraction_bits);
            match exponent {
                0 => fraction / one * 2f64.powi(1 - bias),
                _ => (1.0 + fraction / one) * 2f64.powi(exponent - bias),
            }
        };
        Halves((0..=infinity).map(value).collect())
    }

    #[allow(dead_code, reason = "some who share this file cast only")]
    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The bits of the nearest to a number that is not negative; of two as near, the even one.
    pub(crate) fn nearest(&self, value: f32) -> u16 {
        let value = f64::from(value);
        let above = self.0.partition_point(|&half| half < value);
        if above == 0 || above == self.0.len() {
            return above.min(self.0.len() - 1) as u16;
        }
        let (down, up) = (value - self.0[above - 1], self.0[above] - value);
        let even = above - above % 2;
        let nearest = if down == up {
            even
        } else if down < up {
            above - 1
        } else {
            above
        };
        nearest as u16
    }
}
