//! The entries of a header, each looked at as it is parsed: nothing is kept that is there twice or cannot be.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Header, METADATA, Tensor, dtype_name};
use crate::dtype::DType;
use crate::error::{short, short_shape};

pub(super) struct HeaderVisitor {
    pub(super) data_start: u64,
}

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                header.metadata = map.next_value::<Option<Metadata>>()?.unwrap_or_default().0;
            } else {
                header.tensors.push(map.next_value_seed(TensorSeed { name: &name, data_start: self.data_start })?);
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{}` is there twice", short(&name))));
            }
        }
        Ok(header)
    }
}

#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if pairs.contains_key(&key) {
                        return Err(A::Error::custom(format!("`{METADATA}` has `{}` twice", short(&key))));
                    }
                    pairs.insert(key, value);
                }
                Ok(Metadata(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// One tensor's entry, whose name is known already.
struct TensorSeed<'a> {
    name: &'a str,
    data_start: u64,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = Tensor;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Tensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_> {
    type Value = Tensor;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object that says where tensor `{}` is", short(self.name))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensor, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None::<String>, None::<Vec<u64>>, None::<(u64, u64)>);
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(map.next_value()?).is_some(),
                "shape" => shape.replace(map.next_value()?).is_some(),
                "data_offsets" => offsets.replace(map.next_value()?).is_some(),
                _ => map.next_value::<IgnoredAny>().map(|_| false)?,
            };
            if twice {
                return Err(A::Error::custom(format!("tensor `{}` has `{key}` twice", short(self.name))));
            }
        }
        let lacks = |key| A::Error::custom(format!("tensor `{}` has no `{key}`", short(self.name)));
        let dtype = dtype.ok_or_else(|| lacks("dtype"))?;
        let shape = shape.ok_or_else(|| lacks("shape"))?;
        let offsets = offsets.ok_or_else(|| lacks("data_offsets"))?;
        self.tensor(&dtype, shape, offsets).map_err(A::Error::custom)
    }
}

impl TensorSeed<'_> {
    fn tensor(&self, dtype: &str, shape: Vec<u64>, (begin, end): (u64, u64)) -> Result<Tensor, String> {
        let name = short(self.name);
        let known = DType::all().find(|known| dtype_name(*known).is_some_and(|name| name == dtype));
        let dtype = known.ok_or_else(|| format!("tensor `{name}` has the unknown dtype `{}`", short(dtype)))?;
        let bytes = dtype.array_bytes(&shape).ok_or_else(|| {
            let shape = short_shape(&shape);
            format!("tensor `{name}`: {shape} of {dtype} is no whole number of bytes, or more than there can be")
        })?;
        if end.checked_sub(begin) != Some(bytes) {
            let shape = short_shape(&shape);
            return Err(format!(
                "tensor `{name}`: {shape} of {dtype} takes {bytes} bytes, and its offsets are {begin} to {end}"
            ));
        }
        let absolute = |offset: u64| self.data_start.checked_add(offset);
        match (absolute(begin), absolute(end)) {
            (Some(begin), Some(end)) => Ok(Tensor { name: self.name.into(), dtype, shape, begin, end }),
            _ => Err(format!("tensor `{name}` ends at byte {end}, which no file has")),
        }
    }
}
