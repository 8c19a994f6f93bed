//! Sizes on the command line and in tables: `4KiB`, `1MiB`, `4096`.

/// Reads `4096`, `4KiB`, `4k`, `1MiB`, `1.5GiB`. Decimal units are refused: nobody means them for block sizes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a size; write 4KiB, 1MiB, 2GiB or 4096"))?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "kb" | "mb" | "gb" | "tb" => {
            let binary = format!("{}iB", unit[..1].to_uppercase());
            return Err(format!("`{unit}` could mean 1000 or 1024; write {binary}, or the number of bytes"));
        }
        _ => return Err(format!("`{unit}` is not a unit; write B, KiB, MiB, GiB or TiB")),
    };
    let bytes = number * (1u64 << shift) as f64;
    if bytes.fract() != 0.0 || bytes >= (1u64 << 60) as f64 {
        return Err(format!("`{text}` is not a whole number of bytes below 1 EiB"));
    }
    Ok(bytes as u64)
}

/// As [`parse`], and at least one byte.
pub(crate) fn parse_nonzero(text: &str) -> Result<u64, String> {
    match parse(text)? {
        0 => Err("must be at least 1 byte".into()),
        bytes => Ok(bytes),
    }
}

/// `4 KiB`, `1.5 GiB`: exact where it can be, else one decimal.
pub(crate) fn show(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        let one = 1u64 << shift;
        if bytes >= one {
            let whole = bytes.is_multiple_of(one);
            return if whole {
                format!("{} {unit}", bytes >> shift)
            } else {
                format!("{:.1} {unit}", bytes as f64 / one as f64)
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_units_only() {
        for (text, bytes) in
            [("4096", 4096), ("4KiB", 4096), ("4k", 4096), ("1.5MiB", 3 << 19), ("2 GiB", 2 << 30), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "4KB", "1.0001KiB", "-1", "4XiB", "1..5K", "99999999TiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("4MB").unwrap_err().contains("MiB"));
        assert!(parse_nonzero("0").is_err());
    }

    #[test]
    fn sizes_are_shown_exactly_where_a_unit_fits() {
        assert_eq!(
            [0, 512, 4096, 102_400, 1 << 20, 3 << 29].map(show),
            ["0 B", "512 B", "4 KiB", "100 KiB", "1 MiB", "1.5 GiB"]
        );
    }
}
