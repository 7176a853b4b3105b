//! Numbers in blocks: varints, and differences where neighbours are alike.
//!
//! Owns their bytes. Pure; what can't be read is an error, never a panic.

pub fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}
pub fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[inline]
pub fn take(rest: &mut &[u8]) -> Result<u64, String> {
    // Most numbers are one byte.
    match rest.split_first() {
        Some((&byte, behind)) if byte < 0x80 => {
            *rest = behind;
            Ok(byte.into())
        }
        _ => take_long(rest),
    }
}

fn take_long(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0u64;
    for (n, &byte) in rest.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * n);
        if byte < 0x80 {
            *rest = &rest[n + 1..];
            return Ok(number);
        }
    }
    Err(if rest.len() < 10 { "it ends early" } else { "a number without end" }.into())
}
