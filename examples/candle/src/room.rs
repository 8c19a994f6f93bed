//! Memory for one tensor: a vector of its type that strait fills and candle keeps.

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use strait::DType;
use strait::weights::TensorInfo;

macro_rules! rooms {
    ($($dtype:ident: $type:ty),*) => {
        /// A vector with the room for a tensor, and how many elements that are.
        pub enum Room {
            $($dtype(Vec<$type>, usize)),*
        }

        impl Room {
            /// Room for a tensor; none if candle has no tensors of its type.
            pub fn new(tensor: &TensorInfo) -> Option<Room> {
                let count = (tensor.bytes / tensor.dtype.bytes()?) as usize;
                match tensor.dtype {
                    $(DType::$dtype => Some(Room::$dtype(Vec::with_capacity(count), count)),)*
                    _ => None,
                }
            }

            /// Where its first byte is, also when the room is moved.
            pub fn base(&mut self) -> u64 {
                match self {
                    $(Room::$dtype(values, _) => values.as_mut_ptr() as u64),*
                }
            }

            /// The tensor, whose storage is this memory.
            ///
            /// # Safety
            /// All of it has been written.
            pub unsafe fn into_tensor(self, shape: &[u64]) -> candle_core::Result<Tensor> {
                let shape: Vec<usize> = shape.iter().map(|&length| length as usize).collect();
                match self {
                    $(Room::$dtype(mut values, count) => {
                        // SAFETY: the capacity is `count`, the caller has written that many, and any bits are a value.
                        unsafe { values.set_len(count) };
                        Tensor::from_vec(values, shape, &Device::Cpu)
                    })*
                }
            }
        }
    };
}

rooms!(U8: u8, U32: u32, I16: i16, I32: i32, I64: i64, BF16: bf16, F16: f16, F32: f32, F64: f64);
