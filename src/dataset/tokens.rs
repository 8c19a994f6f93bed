//! Files of tokens, one after another.
//!
//! ```text
//! nanoGPT, OLMo   tokens                                      no header: the type must be given
//! llm.c           i32 magic, i32 version, i32 tokens, zeros up to byte 1024, then tokens
//!                 20240520, 1: u16        20240801, 7: u32
//! datatrove       X.ds: tokens            X.ds.index: u64 end of each document, in tokens
//! ```
//! After `karpathy/nanoGPT:train.py`, `olmo_core/data/utils.py`, `karpathy/llm.c:dev/data/data_common.py` and
//! `datatrove:pipeline/tokens/tokenizer.py`. Where there are no documents, a file is one.

use std::path::{Path, PathBuf};

use super::Field;
use super::body::Body;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::options::Options;
use super::parse::{Problem, u32_at, u64s};
use super::table::{Bound, Cells, Numbers, Table};
use crate::dtype::DType;
use crate::error::Result;
use crate::file::{open_file, read_at, read_whole};

pub(super) const READER: Reader = Reader { format: Format::Tokens, recognise, sources };

/// What datatrove writes beside `X.ds`.
const BESIDE: [&str; 3] = [".ds.index", ".ds.loss", ".ds.metadata"];

/// Bare tokens look like anything: only llm.c's header and datatrove's name tell.
fn recognise(look: &Look) -> Verdict {
    match look.ends(&BESIDE) {
        true => Verdict::Beside,
        false => (is_llm_c(&look.start) || look.ends(&[".ds"])).into(),
    }
}

fn sources(path: &Path, _: &Options) -> Result<Vec<Source>> {
    let own = path.to_string_lossy();
    // Whichever of them is named.
    let path = BESIDE.iter().find_map(|end| own.strip_suffix(&end[3..])).map_or(path.to_owned(), PathBuf::from);
    let documents = ds_index(&path);
    let mut source = Source::file(&path, index);
    source.beside.extend(documents.filter(|index| index.exists()));
    Ok(vec![source])
}

/// The index of a `.ds`.
fn ds_index(path: &Path) -> Option<PathBuf> {
    let ds = path.extension().is_some_and(|extension| extension == "ds");
    ds.then(|| path.with_extension("ds.index"))
}

fn index(path: &Path, options: &Options) -> Result<Indexed> {
    let (file, bytes) = open_file(path)?;
    let documents = ds_index(path).filter(|index| index.exists());
    let (dtype, table) = match documents {
        Some(documents) => of_documents(&documents, bytes, options.dtype)?,
        None => {
            let mut start = [0; 16];
            let got = read_at(&file, path, 0, &mut start)?;
            let tokens = parse(&start[..got], bytes, options.dtype).map_err(|problem| problem.of(path))?;
            // An empty file has no document.
            let rows = u64::from(tokens.bytes > 0);
            (tokens.dtype, Table::even(rows, &[(tokens.first, tokens.bytes, tokens.bytes)]))
        }
    };
    let field = Field {
        name: "tokens".into(),
        fixed_bytes: None,
        dtype: Some(dtype),
        shape: None,
        text: false,
        varints: false,
    };
    Ok(Indexed { path: path.into(), bytes, fields: vec![field], met_at: Vec::new(), table })
}

fn of_documents(index: &Path, bytes: u64, dtype: Option<DType>) -> Result<(DType, Table)> {
    // A document is a token at least, but for a few.
    let text = read_whole(index, 8 * (bytes + 1))?;
    let (dtype, item_bytes) = documents(&text, bytes, dtype).map_err(|problem| problem.of(index))?;
    let rows = text.len() as u64 / 8;
    // The first document starts where none has ended.
    let edges = [vec![0; 8], text].concat();
    let edges_of = Numbers { at: 0, stride: 8, wide: true, unit: item_bytes };
    let cells = Cells::Between { edges: edges_of, start: Bound::AfterFirst(0), end: Bound::BeforeLast(0) };
    Ok((dtype, Table::over(Body::owned(edges), rows, vec![cells])?))
}

/// The bytes of llm.c's header.
pub(super) const HEADER_BYTES: u64 = 1024;

/// What llm.c's evaluation data start with: questions and answers, which are no stream of tokens.
const EVALUATION_MAGIC: u32 = 20240522;

/// llm.c's magics, versions and types.
const LLM_C: [(u32, u32, DType); 2] = [(20240520, 1, DType::U16), (20240801, 7, DType::U32)];

/// Where the tokens of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) first: u64,
    pub(super) dtype: DType,
    pub(super) bytes: u64,
}

/// Whether a file that starts so says that it is llm.c's.
fn is_llm_c(start: &[u8]) -> bool {
    let magic = u32_at(start, 0);
    magic == Some(EVALUATION_MAGIC)
        || LLM_C.iter().any(|known| (Some(known.0), Some(known.1)) == (magic, u32_at(start, 4)))
}

/// Reads the first bytes of a file of `file_bytes`; `dtype` is what a file without a header has.
pub(super) fn parse(start: &[u8], file_bytes: u64, dtype: Option<DType>) -> Result<Tokens, Problem> {
    if is_llm_c(start) {
        return llm_c(start, file_bytes);
    }
    if start.starts_with(super::npy::MAGIC) {
        return Err(Problem::new(0, "a NumPy array with a header, and no bare tokens: open it as npy"));
    }
    let Some(dtype) = dtype else {
        let problem = "a file of tokens without a header does not say of which type they are; give it (u16 for \
                       vocabularies below 65,536 as nanoGPT writes them, u32 for larger ones)";
        return Err(Problem::new(0, problem));
    };
    let item_bytes = item_bytes(dtype)?;
    let rest = file_bytes % item_bytes;
    if rest != 0 {
        let problem = format!(
            "the last token has {rest} of {item_bytes} bytes: {file_bytes} bytes are no whole number of {dtype} tokens; \
             check the type, or whether the file was truncated"
        );
        return Err(Problem::new(file_bytes - rest, problem));
    }
    Ok(Tokens { first: 0, dtype, bytes: file_bytes })
}

fn llm_c(start: &[u8], file_bytes: u64) -> Result<Tokens, Problem> {
    let known = LLM_C.into_iter().find(|known| Some(known.0) == u32_at(start, 0));
    let Some((.., dtype)) = known else {
        let problem =
            "evaluation data of llm.c (20240522): questions with answers, and no stream of tokens to train on";
        return Err(Problem::new(0, problem));
    };
    let Some(count) = u32_at(start, 8) else {
        return Err(Problem::new(8, "the file ends in its header: it was truncated; write it again"));
    };
    let bytes = u64::from(count) * item_bytes(dtype)?;
    if file_bytes != HEADER_BYTES + bytes {
        let problem = format!(
            "the header tells of {count} {dtype} tokens, {} bytes with itself, and the file has {file_bytes}: it was \
             truncated, or written by a program that does not fill in the count; write it again",
            HEADER_BYTES + bytes
        );
        return Err(Problem::new(8, problem));
    }
    Ok(Tokens { first: HEADER_BYTES, dtype, bytes })
}

fn item_bytes(dtype: DType) -> Result<u64, Problem> {
    match dtype.bytes() {
        Some(bytes) if dtype.is_integer() => Ok(bytes),
        _ => Err(Problem::new(0, format!("tokens of type {dtype}: they are integers, from u8 to i64"))),
    }
}

/// Checks the `.ds.index` of a `.ds` of `file_bytes`: the type of a token, and its bytes. A [`Problem`] is the index's.
fn documents(index: &[u8], file_bytes: u64, dtype: Option<DType>) -> Result<(DType, u64), Problem> {
    if !index.len().is_multiple_of(8) {
        let rest = index.len() % 8;
        return Err(Problem::new((index.len() - rest) as u64, "the index ends inside a number: it was truncated"));
    }
    let last = u64s(index).next_back().unwrap_or(0);
    let written = |dtype: DType| dtype.bytes().and_then(|bytes| last.checked_mul(bytes)) == Some(file_bytes);
    let known = [DType::U16, DType::U32];
    let Some(dtype) =
        dtype.map_or_else(|| known.into_iter().find(|&dtype| written(dtype)), |own| written(own).then_some(own))
    else {
        let problem = format!(
            "the last document ends at token {last}, and the .ds has {file_bytes} bytes, which is neither 2 nor 4 bytes a \
             token (or not the type given): one of the two was truncated, or is another's"
        );
        return Err(Problem::new(index.len().saturating_sub(8) as u64, problem));
    };
    let mut before = 0;
    for (document, end) in u64s(index).enumerate() {
        if end < before {
            let problem =
                format!("document {document} ends at token {end}, in front of its start; make the index anew");
            return Err(Problem::new(8 * document as u64, problem));
        }
        before = end;
    }
    // No end is above the last, whose bytes the file has.
    Ok((dtype, item_bytes(dtype)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: u32, version: u32, count: u32) -> Vec<u8> {
        let mut header = [magic, version, count].map(u32::to_le_bytes).concat();
        header.resize(1024, 0);
        header
    }

    #[test]
    fn headers_of_llm_c_give_the_type() {
        let four = header(20240520, 1, 4);
        assert_eq!(four[..12], *b"\x88\xd8\x34\x01\x01\0\0\0\x04\0\0\0");
        assert_eq!(parse(&four, 1032, None), Ok(Tokens { first: 1024, dtype: DType::U16, bytes: 8 }));
        // A type that is given changes nothing: the header knows better.
        let llama = Tokens { first: 1024, dtype: DType::U32, bytes: 16 };
        assert_eq!(parse(&header(20240801, 7, 4), 1040, Some(DType::U16)), Ok(llama));
        for (bytes, count) in [(1031, 4), (1033, 4), (1032, u32::MAX), (1024, 1), (12, 4), (0, 0)] {
            assert_eq!(parse(&header(20240520, 1, count), bytes, None).unwrap_err().at, 8, "{bytes} {count}");
        }
        assert_eq!(parse(&four[..10], 10, None).unwrap_err().at, 8);
        let evaluation = parse(&header(20240522, 1, 4), 1032, Some(DType::U16)).unwrap_err();
        assert!(evaluation.what.contains("evaluation"), "{evaluation:?}");
    }

    #[test]
    fn without_a_header_the_type_must_be_given() {
        let start = [1; 10];
        assert!(parse(&start, 10, None).unwrap_err().what.contains("give it"));
        assert_eq!(parse(&start, 10, Some(DType::U16)), Ok(Tokens { first: 0, dtype: DType::U16, bytes: 10 }));
        assert_eq!(parse(&start, 10, Some(DType::U32)).unwrap_err().at, 8);
        assert!(parse(&start, 10, Some(DType::F16)).unwrap_err().what.contains("integers"));
        assert!(parse(b"\x93NUMPY\x01\0", 8, Some(DType::U16)).unwrap_err().what.contains("npy"));
        // Version 2 of the header is no one's.
        assert!(parse(&header(20240520, 2, 4), 1032, None).unwrap_err().what.contains("give it"));
        assert_eq!(parse(&[], 0, Some(DType::U16)).unwrap().bytes, 0);
    }

    #[test]
    fn documents_end_where_the_index_says() {
        let index = |ends: &[u64]| ends.iter().flat_map(|end| end.to_le_bytes()).collect::<Vec<u8>>();
        let of = |ends: &[u64], bytes, dtype| documents(&index(ends), bytes, dtype);
        assert_eq!(of(&[3, 3, 5], 10, None), Ok((DType::U16, 2)));
        assert_eq!(of(&[3, 3, 5], 20, None), Ok((DType::U32, 4)));
        assert_eq!(of(&[3, 3, 5], 10, Some(DType::I16)), Ok((DType::I16, 2)));
        assert_eq!(of(&[], 0, None), Ok((DType::U16, 2)));
        assert_eq!(of(&[3, 5], 10, Some(DType::U32)).unwrap_err().at, 8);
        assert_eq!(of(&[3, 5], 11, None).unwrap_err().at, 8);
        assert_eq!(of(&[6, 5], 10, None).unwrap_err().at, 8);
        assert_eq!(of(&[u64::MAX, 5], 10, None).unwrap_err().at, 8);
        assert_eq!(of(&[1, u64::MAX], 10, None).unwrap_err().at, 8);
        assert_eq!(documents(&index(&[5])[..7], 10, None).err().unwrap().at, 0);
    }
}
