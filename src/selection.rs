//! Which fields of each sample are read.

use std::sync::Arc;

use crate::dataset::{Dataset, Extent, Field};
use crate::error::{Error, Result};

/// Fields of a dataset, in its order. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// Their numbers in the dataset.
    pub(crate) numbers: Arc<[usize]>,
    pub(crate) fields: Arc<[Field]>,
}

impl Selection {
    /// The fields of these names, each once; all of them where none is given.
    pub(crate) fn new(dataset: &Dataset, option: &'static str, names: Option<&[String]>) -> Result<Selection> {
        let numbers: Vec<usize> = match names {
            None => (0..dataset.fields().len()).collect(),
            Some([]) => return Err(Error::config(option, "no field is named; name one or more")),
            Some(names) => {
                let numbers: Result<Vec<usize>> = names.iter().map(|name| number(dataset, option, name)).collect();
                let mut numbers = numbers?;
                numbers.sort_unstable();
                numbers.dedup();
                numbers
            }
        };
        let fields = numbers.iter().map(|&number| dataset.fields()[number].clone()).collect();
        Ok(Selection { numbers: numbers.into(), fields })
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
pub(crate) fn number(dataset: &Dataset, option: &'static str, name: &str) -> Result<usize> {
    dataset.fields().iter().position(|field| &*field.name == name).ok_or_else(|| {
        let names: Vec<&str> = dataset.fields().iter().map(|field| &*field.name).collect();
        Error::config(option, format!("there is no field {name:?}; the fields are {}", names.join(", ")))
    })
}
