//! What the numbers of a field or tensor are.

/// The type of a field's or tensor's elements. Little-endian, as every format that is read here stores them.
///
/// The list is that of safetensors (`safetensors/src/tensor.rs`), and `C128` of NumPy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are what there is to say")]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
    /// Two `F32`: real, imaginary.
    C64,
    /// Two `F64`: real, imaginary.
    C128,
    /// E2M1, two in a byte, the first in the lower half.
    F4,
    F6E2M3,
    F6E3M2,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
}

/// Each with its name and its bits.
const ALL: [(DType, &str, u64); 23] = [
    (DType::Bool, "bool", 8),
    (DType::U8, "u8", 8),
    (DType::I8, "i8", 8),
    (DType::U16, "u16", 16),
    (DType::I16, "i16", 16),
    (DType::U32, "u32", 32),
    (DType::I32, "i32", 32),
    (DType::U64, "u64", 64),
    (DType::I64, "i64", 64),
    (DType::F16, "f16", 16),
    (DType::BF16, "bf16", 16),
    (DType::F32, "f32", 32),
    (DType::F64, "f64", 64),
    (DType::C64, "c64", 64),
    (DType::C128, "c128", 128),
    (DType::F4, "f4", 4),
    (DType::F6E2M3, "f6_e2m3", 6),
    (DType::F6E3M2, "f6_e3m2", 6),
    (DType::F8E5M2, "f8_e5m2", 8),
    (DType::F8E4M3, "f8_e4m3", 8),
    (DType::F8E8M0, "f8_e8m0", 8),
    (DType::F8E4M3Fnuz, "f8_e4m3fnuz", 8),
    (DType::F8E5M2Fnuz, "f8_e5m2fnuz", 8),
];

impl DType {
    /// Every type there is.
    pub fn all() -> impl Iterator<Item = DType> {
        ALL.into_iter().map(|(dtype, ..)| dtype)
    }

    /// `"u16"`, `"bf16"`, `"f8_e4m3"`: the name in safetensors in lower case.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type of that [name](Self::name), in lower or upper case.
    pub fn from_name(name: &str) -> Option<DType> {
        ALL.into_iter().find(|(_, own, _)| own.eq_ignore_ascii_case(name)).map(|(dtype, ..)| dtype)
    }

    /// Bits of one element: 4 and 6 too, of which several share bytes.
    pub fn bits(self) -> u64 {
        self.row().2
    }

    /// Bytes of one element; `None` for those that share bytes.
    pub fn bytes(self) -> Option<u64> {
        self.bits().is_multiple_of(8).then_some(self.bits() / 8)
    }

    /// Whether elements are whole numbers, as tokens are.
    pub fn is_integer(self) -> bool {
        use DType::{I8, I16, I32, I64, U8, U16, U32, U64};
        matches!(self, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
    }

    /// The bytes that an array of this shape takes; `None` if that is no whole number of bytes or no `u64`.
    ///
    /// A shape without dimensions is one element.
    pub fn array_bytes(self, shape: &[u64]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |product, &len| product.checked_mul(len))?;
        let bits = u128::from(elements) * u128::from(self.bits());
        bits.is_multiple_of(8).then(|| u64::try_from(bits / 8).ok()).flatten()
    }

    fn row(self) -> (DType, &'static str, u64) {
        ALL[self as usize]
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_stands_in_its_own_row_and_is_found_by_its_name() {
        for (row, dtype) in DType::all().enumerate() {
            assert_eq!(dtype as usize, row);
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
            assert_eq!(DType::from_name(&dtype.name().to_uppercase()), Some(dtype));
        }
        assert_eq!(DType::from_name("float32"), None);
    }

    #[test]
    fn arrays_take_what_their_elements_take() {
        assert_eq!(DType::F32.array_bytes(&[2, 3]), Some(24));
        assert_eq!(DType::F32.array_bytes(&[]), Some(4));
        assert_eq!(DType::F32.array_bytes(&[5, 0]), Some(0));
        assert_eq!(DType::F4.array_bytes(&[4]), Some(2));
        assert_eq!(DType::F4.array_bytes(&[3]), None, "half a byte");
        assert_eq!(DType::F6E2M3.array_bytes(&[4]), Some(3));
        assert_eq!(DType::U8.array_bytes(&[1 << 32, 1 << 32]), None, "overflow");
        assert_eq!(DType::C128.array_bytes(&[1 << 61]), None, "overflow");
    }
}
