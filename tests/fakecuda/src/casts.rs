//! What the kernels that change elements do, by their names (`strait_widen_u16_i64`): worked out from the definition of the
//! types, and not as the library or the kernels do it.

#[derive(Clone, Copy)]
pub(crate) struct Cast {
    from: Type,
    to: Type,
    factor: f32,
    bias: f32,
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    U8,
    U16,
    U32,
    I32,
    I64,
    F16,
    BF16,
    F32,
}

impl Type {
    fn of(name: &str) -> Option<Type> {
        use Type::*;
        let all = [
            ("u8", U8),
            ("u16", U16),
            ("u32", U32),
            ("i32", I32),
            ("i64", I64),
            ("f16", F16),
            ("bf16", BF16),
            ("f32", F32),
        ];
        all.into_iter().find(|(own, _)| *own == name).map(|(_, of)| of)
    }

    fn bytes(self) -> usize {
        match self {
            Type::U8 => 1,
            Type::U16 | Type::F16 | Type::BF16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::I64 => 8,
        }
    }
}

impl Cast {
    /// That of a kernel; `number` gives its further arguments.
    pub(crate) fn of(kernel: &str, number: impl Fn(usize) -> f32) -> Option<Cast> {
        let (what, types) = kernel.strip_prefix("strait_")?.split_once('_')?;
        let (from, to) = types.split_once('_')?;
        let (from, to) = (Type::of(from)?, Type::of(to)?);
        match what {
            "widen" => Some(Cast { from, to, factor: 1.0, bias: 0.0 }),
            "scale" => Some(Cast { from, to, factor: number(2), bias: number(3) }),
            _ => None,
        }
    }

    pub(crate) fn stored_item(self) -> usize {
        self.from.bytes()
    }

    pub(crate) fn wide_item(self) -> usize {
        self.to.bytes()
    }

    pub(crate) fn bytes_of(self, stored: usize) -> usize {
        stored / self.from.bytes() * self.to.bytes()
    }

    pub(crate) fn change(self, stored: &[u8], wide: &mut [u8]) {
        for (element, place) in stored.chunks_exact(self.from.bytes()).zip(wide.chunks_exact_mut(self.to.bytes())) {
            let mut word = [0; 8];
            word[..element.len()].copy_from_slice(element);
            let bits = i64::from_le_bytes(word);
            let whole = if self.from == Type::I32 { i64::from(bits as i32) } else { bits };
            let value = || whole as f32 * self.factor + self.bias;
            match self.to {
                Type::F32 => place.copy_from_slice(&value().to_le_bytes()),
                Type::F16 => place.copy_from_slice(&half(value(), 10, 15).to_le_bytes()),
                Type::BF16 => place.copy_from_slice(&half(value(), 7, 127).to_le_bytes()),
                _ => place.copy_from_slice(&whole.to_le_bytes()[..place.len()]),
            }
        }
    }
}

/// The nearest number of 16 bits, ties to even, of which so many are the fraction's.
fn half(value: f32, fraction_bits: i32, bias: i32) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let (size, infinity) = (f64::from(value.abs()), ((2 * bias + 1) << fraction_bits) as u16);
    let exponent = (1 - bias..=bias + 1).rev().find(|&exponent| size >= 2f64.powi(exponent)).unwrap_or(1 - bias);
    // In units of the last place; the leading one, where there is one, carries over into the exponent.
    let units = (size / 2f64.powi(exponent - fraction_bits)).round_ties_even().min(1e9) as u64;
    let bits = ((exponent + bias - 1) as u64) << fraction_bits;
    sign | (bits + units).min(u64::from(infinity)) as u16
}
