//! Formats that are recognised and not read, and what to do instead.

use std::path::Path;

use super::format::Look;
use super::tar;

/// What a file is, and what its user can do: two parts of one sentence.
pub(super) fn recognise(look: &Look) -> Option<(String, String)> {
    let said = |(what, remedy): (&str, &str)| (what.to_owned(), remedy.to_owned());
    by_content(look).or_else(|| by_name(look)).map(said).or_else(|| compressed(look))
}

/// The same of a directory that is a dataset as a whole: Lance's.
pub(super) fn directory(path: &Path) -> Option<(&'static str, &'static str)> {
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("lance"));
    let has = |part: &str| path.join(part).is_dir();
    (has("_versions") && (named || has("data"))).then_some(LANCE)
}

const PICKLE: (&str, &str) = (
    "a pickle, which is a program that its reader has to run, and so is never read here",
    "save the tensors with safetensors, arrays with numpy.save, anything else in a WebDataset tar",
);
const PYTORCH: (&str, &str) = (
    "a PyTorch file, whose tensors are described by a pickle, which is a program that its reader has to run, and so is \
     never read here",
    "load it where you trust it and save the tensors with safetensors",
);
const PARQUET: (&str, &str) = (
    "Parquet, whose columns are encoded and compressed, so that a CPU has to unpack them",
    "write the columns out as WebDataset, MDS or .npy; token columns as Megatron .bin/.idx",
);
const ARROW: (&str, &str) = (
    "Arrow (or Feather), whose buffers may be compressed and hold many rows each",
    "write fixed-size columns out with numpy.save, others as WebDataset or MDS",
);
const LANCE: (&str, &str) =
    ("Lance, whose pages are encoded", "write the rows out as WebDataset or MDS, fixed-size columns with numpy.save");
const FFCV: (&str, &str) = ("FFCV, whose fields need their own decoders", "write the samples out as WebDataset or MDS");
const ARRAY_RECORD: (&str, &str) = (
    "ArrayRecord, which is compressed, and has headers inside its payload at every 64 KiB",
    "write the records out as TFRecord",
);
const HDF5: (&str, &str) =
    ("HDF5, whose arrays may be in compressed pieces", "save each array with numpy.save, or as safetensors");
const NPZ: (&str, &str) = (
    "a zip archive (.npz is one), which may be compressed",
    "unpack it: each array becomes an .npy file, which is read",
);

fn by_content(look: &Look) -> Option<(&'static str, &'static str)> {
    let start = &look.start;
    let riegeli = b"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f";
    Some(match () {
        () if start.starts_with(b"PAR1") => PARQUET,
        () if start.starts_with(b"ARROW1") || start.starts_with(b"FEA1") => ARROW,
        () if start.starts_with(b"\x89HDF\r\n\x1a\n") => HDF5,
        () if start.starts_with(riegeli) => ARRAY_RECORD,
        () if start.starts_with(b"PK\x03\x04") && look.ends(&[".pt", ".pth", ".ckpt", ".bin"]) => PYTORCH,
        () if start.starts_with(b"PK\x03\x04") => NPZ,
        // Protocol 2 to 5, then a frame, an opcode that begins a container or a global, or PyTorch's magic number.
        () if matches!(
            start.as_slice(),
            [0x80, 2..=5, b'\x95' | b'}' | b']' | b'(' | b'c' | 0x8a | 0x8c | b'X', ..]
        ) =>
        {
            if look.ends(&[".pt", ".pth", ".ckpt"]) {
                PYTORCH
            } else {
                PICKLE
            }
        }
        () => return None,
    })
}

fn by_name(look: &Look) -> Option<(&'static str, &'static str)> {
    let known: [(&[&str], _); 9] = [
        (&[".parquet"], PARQUET),
        (&[".arrow", ".feather"], ARROW),
        (&[".lance"], LANCE),
        (&[".beton"], FFCV),
        (&[".array_record", ".arrayrecord", ".riegeli"], ARRAY_RECORD),
        (&[".h5", ".hdf5"], HDF5),
        (&[".npz", ".zip"], NPZ),
        (&[".pkl", ".pickle"], PICKLE),
        (&[".pt", ".pth", ".ckpt"], PYTORCH),
    ];
    known.into_iter().find(|(endings, _)| look.ends(endings)).map(|(_, what)| what)
}

fn compressed(look: &Look) -> Option<(String, String)> {
    let (kind, remedy) = tar::compression(&look.start)?;
    let what = format!("compressed with {kind}: samples are read at their own offsets, which it does not have");
    Some((what, format!("decompress it first (`{remedy}`)")))
}
