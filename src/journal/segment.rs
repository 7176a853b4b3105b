//! The byte format of a segment, version 1. All integers are little-endian.
//!
//! ```text
//! header   8  magic      "CAMNETJ1"
//!          8  first      number of the first record in this segment
//!          4  crc32      of the 16 bytes before (CRC-32/ISO-HDLC, as in zlib)
//! record   4  length     of the payload in bytes, 1 to JOURNAL_RECORD_BYTES_MAX
//!          4  crc32      of length (4 bytes), record number (8 bytes) and payload
//!          n  payload
//! ```
//!
//! A file is named `<first, 20 digits>.journal`. The number of a record is that of the one before plus
//! one; since it goes into the checksum, a record copied to another place does not pass.

use crate::limits::JOURNAL_RECORD_BYTES_MAX;

pub const MAGIC: &[u8; 8] = b"CAMNETJ1";
pub const HEADER_BYTES: u64 = 20;
pub const RECORD_HEADER_BYTES: u64 = 8;
pub const EXTENSION: &str = "journal";

pub fn file_name(first: u64) -> String {
    format!("{first:020}.{EXTENSION}")
}

/// The first record's number, if `name` is that of a segment.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

pub fn encode_header(first: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The first record's number, or what is wrong with the header.
pub fn decode_header(header: &[u8]) -> Result<u64, String> {
    if header.len() < HEADER_BYTES as usize {
        return Err(format!("the header has {} of {HEADER_BYTES} bytes", header.len()));
    }
    if &header[..8] != MAGIC {
        return Err("it does not begin with CAMNETJ1".into());
    }
    let crc = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
    if crc != crc32fast::hash(&header[..16]) {
        return Err("the checksum of the header is wrong".into());
    }
    Ok(u64::from_le_bytes(header[8..16].try_into().expect("eight bytes")))
}

/// Appends one framed record to `out`.
///
/// # Panics
/// If the payload is empty or larger than [`JOURNAL_RECORD_BYTES_MAX`]; callers check it.
pub fn encode_record(number: u64, payload: &[u8], out: &mut Vec<u8>) {
    assert!((1..=JOURNAL_RECORD_BYTES_MAX).contains(&payload.len()), "payload of {} bytes", payload.len());
    let length = (payload.len() as u32).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&record_crc(number, length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// What stands at the beginning of a record's header.
pub struct RecordHeader {
    pub length: usize,
    pub crc: u32,
}

/// The header of a record, or what is wrong with it. `Ok(None)` for eight zero bytes: the file was
/// extended but nothing was written there (a power cut leaves such tails).
pub fn decode_record_header(
    bytes: [u8; RECORD_HEADER_BYTES as usize],
) -> Result<Option<RecordHeader>, String> {
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    let crc = u32::from_le_bytes(bytes[4..].try_into().expect("four bytes"));
    if length == 0 && crc == 0 {
        return Ok(None);
    }
    if !(1..=JOURNAL_RECORD_BYTES_MAX).contains(&length) {
        return Err(format!("a record says it has {length} bytes"));
    }
    Ok(Some(RecordHeader { length, crc }))
}

pub fn record_crc(number: u64, length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}
