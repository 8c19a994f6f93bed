//! DLPack
//!
//! The structures by which frameworks hand tensors to each other, as `dlpack.h` 1.1 has them.
//! `strait.h` only names them: include `dlpack.h`, or `strait_dlpack.h`, before using what is inside.

use std::ffi::c_void;

use strait::DType;

/// cbindgen:ignore
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDevice {
    pub(crate) device_type: i32,
    pub(crate) device_id: i32,
}

impl DLDevice {
    pub(crate) const CPU: i32 = 1;
    pub(crate) const CUDA: i32 = 2;
    pub(crate) const CUDA_HOST: i32 = 3;
    pub(crate) const ROCM: i32 = 10;
    pub(crate) const ROCM_HOST: i32 = 11;
}

/// cbindgen:ignore
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

impl DLDataType {
    pub(crate) const U8: DLDataType = DLDataType { code: 1, bits: 8, lanes: 1 };

    /// DLPack knows every type that strait does; those of less than a byte are packed.
    pub(crate) fn of(dtype: DType) -> Option<DLDataType> {
        let code = match dtype {
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => 1,
            DType::F16 | DType::F32 | DType::F64 => 2,
            DType::BF16 => 4,
            DType::C64 | DType::C128 => 5,
            DType::Bool => 6,
            // safetensors' F8_E4M3 has no infinities: it is the `fn` one of two.
            DType::F8E4M3 => 10,
            DType::F8E4M3Fnuz => 11,
            DType::F8E5M2 => 12,
            DType::F8E5M2Fnuz => 13,
            DType::F8E8M0 => 14,
            DType::F6E2M3 => 15,
            DType::F6E3M2 => 16,
            DType::F4 => 17,
            _ => return None,
        };
        Some(DLDataType { code, bits: dtype.bits() as u8, lanes: 1 })
    }
}

/// cbindgen:ignore
#[repr(C)]
#[derive(Debug)]
pub struct DLTensor {
    pub(crate) data: *mut c_void,
    pub(crate) device: DLDevice,
    pub(crate) ndim: i32,
    pub(crate) dtype: DLDataType,
    pub(crate) shape: *mut i64,
    pub(crate) strides: *mut i64,
    pub(crate) byte_offset: u64,
}

/// cbindgen:ignore
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    pub(crate) dl_tensor: DLTensor,
    pub(crate) manager_ctx: *mut c_void,
    pub(crate) deleter: Option<extern "C" fn(*mut DLManagedTensor)>,
}

/// cbindgen:ignore
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DLPackVersion {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// cbindgen:ignore
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    pub(crate) version: DLPackVersion,
    pub(crate) manager_ctx: *mut c_void,
    pub(crate) deleter: Option<extern "C" fn(*mut DLManagedTensorVersioned)>,
    pub(crate) flags: u64,
    pub(crate) dl_tensor: DLTensor,
}

/// The version whose structures, types and rules these are.
pub(crate) const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 1 };

// What tests/dlpack_layout.c asserts of the header.
const _: () = {
    assert!(size_of::<DLTensor>() == 48 && size_of::<DLManagedTensor>() == 64);
    assert!(size_of::<DLManagedTensorVersioned>() == 80 && size_of::<DLDataType>() == 4);
    assert!(std::mem::offset_of!(DLTensor, dtype) == 20 && std::mem::offset_of!(DLTensor, byte_offset) == 40);
    assert!(std::mem::offset_of!(DLManagedTensorVersioned, dl_tensor) == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden list of `DLDataTypeCode`, by hand from dlpack.h 1.1.
    #[test]
    fn every_type_has_its_number() {
        let expected = [
            ("bool", 6, 8),
            ("u8", 1, 8),
            ("i8", 0, 8),
            ("u16", 1, 16),
            ("i16", 0, 16),
            ("u32", 1, 32),
            ("i32", 0, 32),
            ("u64", 1, 64),
            ("i64", 0, 64),
            ("f16", 2, 16),
            ("bf16", 4, 16),
            ("f32", 2, 32),
            ("f64", 2, 64),
            ("c64", 5, 64),
            ("c128", 5, 128),
            ("f4", 17, 4),
            ("f6_e2m3", 15, 6),
            ("f6_e3m2", 16, 6),
            ("f8_e5m2", 12, 8),
            ("f8_e4m3", 10, 8),
            ("f8_e8m0", 14, 8),
            ("f8_e4m3fnuz", 11, 8),
            ("f8_e5m2fnuz", 13, 8),
        ];
        assert_eq!(DType::all().count(), expected.len(), "a new type has no DLPack number yet");
        for (name, code, bits) in expected {
            let dtype = DType::from_name(name).unwrap();
            assert_eq!(DLDataType::of(dtype), Some(DLDataType { code, bits, lanes: 1 }), "{name}");
        }
    }
}
