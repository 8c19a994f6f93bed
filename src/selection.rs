//! Which fields of each sample are read, and which of them come out as one array a batch.

mod casts;

use std::sync::Arc;

use crate::dataset::{Dataset, Extent, Field};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::Cast;

/// What a person says of fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldOptions {
    /// Those that are read; `None`: all.
    pub(crate) names: Option<Vec<String>>,
    /// What they are.
    pub(crate) arrays: Vec<(String, DType, Vec<u64>)>,
    /// Those that come out as one array a batch; `None`: all that can.
    pub(crate) tensors: Option<Vec<String>>,
    /// What their elements become on the way.
    pub(crate) casts: Vec<Wanted>,
    /// Those whose bytes are on the host too; `None`: those that a trainer usually wants there.
    pub(crate) on_host: Option<Vec<String>>,
}

/// What a person wants the elements of an array to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) field: String,
    pub(crate) dtype: DType,
    /// Factor and bias; `None`: the same numbers.
    pub(crate) scale: Option<(f32, f32)>,
}

/// The tokens that windows are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) field: &'a str,
    pub(crate) item_bytes: u64,
    pub(crate) window_tokens: u64,
}

/// Fields of a dataset, in its order. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// Their numbers in the dataset.
    pub(crate) numbers: Arc<[usize]>,
    /// With the types that they were given.
    pub(crate) fields: Arc<[Field]>,
    pub(crate) dense: Arc<[Dense]>,
    /// Those whose bytes are on the host too, by their places here. None of windows.
    pub(crate) on_host: Arc<[usize]>,
}

/// A field whose samples, or windows, are one array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    /// Its place among those that are read.
    pub(crate) field: usize,
    /// In the array.
    pub(crate) dtype: DType,
    /// Shape of one sample or window.
    pub(crate) shape: Vec<u64>,
    /// Bytes of one sample or window in the array.
    pub(crate) row_bytes: u64,
    /// The same as they are stored.
    pub(crate) stored_bytes: u64,
    /// How elements change on the way, if they do.
    pub(crate) cast: Option<Cast>,
}

impl Selection {
    /// What the options say is to be read. Windows are of tokens alone.
    pub(crate) fn new(dataset: &Dataset, options: &FieldOptions, windows: Option<Tokens>) -> Result<Selection> {
        let numbers = match (&options.names, windows) {
            (Some(_), Some(_)) => {
                let problem = "windows read the field of their tokens alone; leave this option out";
                return Err(Error::config("fields", problem));
            }
            (None, Some(tokens)) => vec![number(dataset.fields(), "tokens", tokens.field)?],
            (None, None) => (0..dataset.fields().len()).collect(),
            (Some(names), None) => named(dataset, names)?,
        };
        let mut fields: Vec<Field> = numbers.iter().map(|&number| dataset.fields()[number].clone()).collect();
        for (name, dtype, shape) in &options.arrays {
            let field = number(&fields, "array", name)?;
            give_type(&mut fields[field], *dtype, shape)?;
        }
        let mut dense = dense(&fields, options, windows)?;
        casts::apply(&mut dense, &fields, &options.casts)?;
        let on_host = if windows.is_some() { Vec::new() } else { on_host(&fields, options)? };
        Ok(Selection { numbers: numbers.into(), fields: fields.into(), dense: dense.into(), on_host: on_host.into() })
    }

    /// The extents of a batch: field by field, each of every sample.
    pub(crate) fn extents<'a>(
        &'a self,
        dataset: &'a Dataset,
        samples: &'a [u64],
    ) -> impl Iterator<Item = Option<Extent>> + 'a {
        let of_field = move |&field: &'a usize| samples.iter().map(move |&sample| dataset.extent(sample, field));
        self.numbers.iter().flat_map(of_field)
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}

/// The number of the field of that name.
pub(crate) fn number(fields: &[Field], option: &'static str, name: &str) -> Result<usize> {
    fields.iter().position(|field| &*field.name == name).ok_or_else(|| {
        let names: Vec<&str> = fields.iter().map(|field| &*field.name).collect();
        Error::config(option, format!("there is no field {name:?}; the fields are {}", names.join(", ")))
    })
}

fn named(dataset: &Dataset, names: &[String]) -> Result<Vec<usize>> {
    if names.is_empty() {
        return Err(Error::config("fields", "no field is named; name one or more"));
    }
    let numbers: Result<Vec<usize>> = names.iter().map(|name| number(dataset.fields(), "fields", name)).collect();
    let mut numbers = numbers?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Labels and short texts, by the names that WebDataset gives them; larger text is rare under these.
const ON_HOST: [&str; 10] = ["cls", "cls2", "index", "inx", "id", "json", "jsn", "text", "txt", "transcript"];
/// So many bytes are a number.
const NUMBER_BYTES_MAX: u64 = 8;

/// The fields named, or those that a trainer usually wants on the host.
fn on_host(fields: &[Field], options: &FieldOptions) -> Result<Vec<usize>> {
    if let Some(names) = &options.on_host {
        let places: Result<Vec<usize>> = names.iter().map(|name| number(fields, "on_host", name)).collect();
        let mut places = places?;
        places.sort_unstable();
        places.dedup();
        return Ok(places);
    }
    let usual = |field: &Field| {
        field.text
            || ON_HOST.contains(&&*field.name)
            || field.fixed_bytes.is_some_and(|bytes| bytes <= NUMBER_BYTES_MAX)
    };
    Ok((0..fields.len()).filter(|&place| usual(&fields[place])).collect())
}

/// Takes a person's word for what a field is, as far as its size agrees.
fn give_type(field: &mut Field, dtype: DType, shape: &[u64]) -> Result<()> {
    let bytes = dtype.array_bytes(shape);
    if bytes.is_none() || bytes != field.fixed_bytes {
        let has = field.fixed_bytes.map_or("samples of different sizes".into(), |bytes| format!("{bytes} bytes each"));
        let takes = bytes.map_or("no whole number of bytes".into(), |bytes| format!("{bytes} bytes"));
        let problem = format!("{} has {has}; {dtype} of shape {shape:?} takes {takes}", field.name);
        return Err(Error::config("array", problem));
    }
    (field.dtype, field.shape, field.varints) = (Some(dtype), Some(shape.into()), false);
    Ok(())
}

/// The fields that come out as arrays: those named, or all that can.
fn dense(fields: &[Field], options: &FieldOptions, windows: Option<Tokens>) -> Result<Vec<Dense>> {
    let numbers: Vec<usize> = match &options.tensors {
        Some(names) => names.iter().map(|name| number(fields, "tensors", name)).collect::<Result<_>>()?,
        None => (0..fields.len()).collect(),
    };
    let mut dense = Vec::with_capacity(numbers.len());
    for field in numbers {
        let own = match windows {
            Some(tokens) => of_windows(&fields[field], tokens),
            None => of_samples(&fields[field]),
        };
        match own.filter(|(.., row_bytes)| *row_bytes > 0) {
            Some((dtype, shape, row_bytes)) => {
                dense.push(Dense { field, dtype, shape, row_bytes, stored_bytes: row_bytes, cast: None });
            }
            None if options.tensors.is_none() => {}
            None => {
                let problem = format!(
                    "{} has no type and shape that every sample shares; say what it is with `array`",
                    fields[field].name
                );
                return Err(Error::config("tensors", problem));
            }
        }
    }
    dense.sort_by_key(|dense| dense.field);
    dense.dedup();
    Ok(dense)
}

fn of_samples(field: &Field) -> Option<(DType, Vec<u64>, u64)> {
    let (dtype, shape) = (field.dtype?, field.shape.as_deref()?);
    let bytes = dtype.array_bytes(shape)?;
    (field.fixed_bytes == Some(bytes)).then(|| (dtype, shape.to_vec(), bytes))
}

/// Tokens are of their field's type, if that is as large as they are; else unsigned integers.
fn of_windows(field: &Field, tokens: Tokens) -> Option<(DType, Vec<u64>, u64)> {
    let as_large = |dtype: &DType| dtype.bytes() == Some(tokens.item_bytes);
    let unsigned = [DType::U8, DType::U16, DType::U32, DType::U64];
    let dtype = field.dtype.filter(as_large).or_else(|| unsigned.into_iter().find(as_large))?;
    let shape = vec![tokens.window_tokens];
    let bytes = dtype.array_bytes(&shape)?;
    Some((dtype, shape, bytes))
}
