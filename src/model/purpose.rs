//! The purpose of a look on its way through an HTTP header.
//!
//! Owns the encoding that the console, `camnet search` and the hub share: what is not printable ASCII, and `%`,
//! travels percent-encoded as UTF-8. May not judge a purpose.

/// Name of the header.
pub const PURPOSE_HEADER: &str = "camnet-purpose";

/// `purpose` as the header's value.
pub fn purpose_to_header(purpose: &str) -> String {
    let mut value = String::with_capacity(purpose.len());
    for byte in purpose.trim().bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => value.push(byte.into()),
            _ => value += &format!("%{byte:02X}"),
        }
    }
    value
}

/// The purpose that a header's value stands for. What is not validly encoded stays as it came.
pub fn purpose_from_header(value: &[u8]) -> String {
    percent_decoded(value).unwrap_or_else(|| String::from_utf8_lossy(value).into_owned())
}

fn percent_decoded(value: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.extend(hex::decode(digits).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_survives_the_header() {
        for purpose in
            ["", "stolen motorbike", "tin báo mất xe, 14 Hoa Phượng", "100% chắc", "%41", "a\tb\nc", "𠊛"]
        {
            let value = purpose_to_header(purpose);
            assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{value:?}");
            assert_eq!(purpose_from_header(value.as_bytes()), purpose);
        }
        assert_eq!(purpose_to_header(" mất xe 100% "), "m%E1%BA%A5t xe 100%25", "as the console writes it");
    }

    #[test]
    fn what_is_not_validly_encoded_stays_as_it_came() {
        for value in ["100%", "5% giảm", "%zz", "%E1%BA", "%FF", "vụ trộm xe", "%+1", "%"] {
            assert_eq!(purpose_from_header(value.as_bytes()), value);
        }
        assert_eq!(purpose_from_header(b"\xff"), "\u{fffd}");
    }
}
