//! Which elements change on their way into an array, and into what.

use super::{Dense, Wanted, number};
use crate::dataset::Field;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::Cast;

impl Wanted {
    /// What asked for it.
    pub(crate) fn option(&self) -> &'static str {
        if self.scale.is_some() { "scale" } else { "widen" }
    }

    /// How elements of type `from` become what is wanted; `None` where they are it already.
    fn cast(&self, from: DType) -> Result<Option<Cast>> {
        let Wanted { field, dtype: to, scale } = self;
        let (cast, offered) = match *scale {
            None if from == *to => return Ok(None),
            None => (Cast::widen(from, *to), Cast::WIDENS),
            Some((factor, bias)) => (Cast::scale(from, *to, factor, bias), Cast::SCALES),
        };
        let option = self.option();
        let Some(cast) = cast else {
            let problem = format!("no {to} is made of {field}, which is {from}: this option makes {offered}");
            return Err(Error::config(option, problem));
        };
        match (cast.is_finite(), scale) {
            (false, Some((factor, bias))) => {
                let problem = format!(
                    "{field}: 0 to 255 times {factor} plus {bias} is not always a finite {to}; give smaller numbers, or \
                     a type that holds more"
                );
                Err(Error::config(option, problem))
            }
            _ => Ok(Some(cast)),
        }
    }
}

/// Gives the arrays the types that are wanted.
pub(super) fn apply(dense: &mut [Dense], fields: &[Field], wanted: &[Wanted]) -> Result<()> {
    for (place, one) in wanted.iter().enumerate() {
        let (field, option) = (number(fields, one.option(), &one.field)?, one.option());
        let differs =
            |other: &&Wanted| other.field == one.field && (other.dtype, other.scale) != (one.dtype, one.scale);
        if let Some(other) = wanted[..place].iter().find(differs) {
            let problem = format!("{} is to be {} and {}; ask for one of them", one.field, other.dtype, one.dtype);
            return Err(Error::config(option, problem));
        }
        let Some(array) = dense.iter_mut().find(|dense| dense.field == field) else {
            let problem = format!(
                "{} is no array: name it in `tensors` if you name any, and say what it is with `array` if its format \
                 does not",
                one.field
            );
            return Err(Error::config(option, problem));
        };
        let from = array.cast.map_or(array.dtype, Cast::from);
        array.cast = one.cast(from)?;
        (array.dtype, array.row_bytes) = match array.cast {
            Some(cast) => (cast.to(), cast.bytes_of(array.stored_bytes)),
            None => (from, array.stored_bytes),
        };
    }
    Ok(())
}
