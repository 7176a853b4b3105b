//! The byte format of a segment, version 2. All integers are little-endian, checksums are CRC-32/ISO-HDLC (zlib's).
//!
//! A file is named `<first, 20 digits>.journal`. It is a header and then frames, one behind the other; one sync
//! writes one frame or several. Record numbers have no holes: a frame begins where the one before ended.
//!
//! ```text
//! header  32
//!     0   8  magic         "CAMNETJ2"; the last byte is the version
//!     8   8  first         number of the first record in this segment
//!    16   4  salt          drawn when the file was made; all frames of the file repeat it
//!    20   8  zero
//!    28   4  crc           of the 28 bytes before; stands here in every later version too
//!
//! frame   48, then the payload
//!     0   4  magic         F7 43 4A 46
//!     4   1  length        of this header: 48
//!     5   1  kind          0 stored, 1 zstd, 2 lost
//!     6   2  zero
//!     8   4  salt          as in the file's header
//!    12   4  count         of records
//!    16   8  first         number of the first record
//!    24   8  durable_upto  all records below were synced before this frame was written; at most `first`
//!    32   4  raw_bytes     of the payload when unpacked
//!    36   4  stored_bytes  of the payload as it stands here
//!    40   4  payload_crc   of the payload as it stands here
//!    44   4  crc           of the 44 bytes before
//!    48   n  payload
//! ```
//!
//! The payload, when unpacked, is `count` records, each a length (LEB128, at most 4 bytes, 1 to
//! [`JOURNAL_RECORD_BYTES_MAX`]) and so many bytes. A frame holds up to [`JOURNAL_FRAME_BYTES_MAX`] or one record
//! that is larger.
//!
//! * A frame of kind *lost* has no payload: `camnet journal repair` puts it where records can't be read any more.
//! * A frame with no records is a *mark*: it tells by `durable_upto` that what stands before it was synced. One is
//!   written when the journal is closed in good order.
//!
//! **What the fields are for.** After a bad frame a reader looks for the next place where a good one begins. The
//! *salt* keeps what somebody handed in as a record, or a file system left behind, from being taken for a frame.
//! `durable_upto` tells damage from a torn write: a bad frame in the last segment is *damage* if a frame behind it
//! says that its records were durable, and a *torn tail* otherwise. In an older segment it is always damage, since
//! a segment is begun only when the one before is synced.

use crate::limits::{JOURNAL_FRAME_BYTES_MAX, JOURNAL_PACK_BYTES_MIN, JOURNAL_RECORD_BYTES_MAX};

pub const MAGIC: [u8; 8] = *b"CAMNETJ2";
pub const HEADER_BYTES: u64 = 32;
pub const FRAME_MAGIC: [u8; 4] = [0xf7, b'C', b'J', b'F'];
pub const FRAME_HEADER_BYTES: usize = 48;
pub const EXTENSION: &str = "journal";

/// The cheapest: the hub packs every event.
const PACK_LEVEL: i32 = 1;
/// Longest length in front of a record.
const LENGTH_BYTES_MAX: usize = 4;
/// Largest unpacked payload: a full frame, or one large record.
pub const RAW_BYTES_MAX: usize = {
    let large_record = JOURNAL_RECORD_BYTES_MAX + LENGTH_BYTES_MAX;
    if large_record > JOURNAL_FRAME_BYTES_MAX { large_record } else { JOURNAL_FRAME_BYTES_MAX }
};

pub fn file_name(first: u64) -> String {
    format!("{first:020}.{EXTENSION}")
}

/// The first record's number, if `name` is that of a segment.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub first: u64,
    pub salt: u32,
}

/// Why the beginning of a file is not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("it is of version {0}, this program knows version 2")]
    Version(char),
    #[error("{0}")]
    Bad(String),
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bad = |why: String| Err(HeaderError::Bad(why));
        let is_of_journal = bytes.starts_with(&MAGIC[..7]);
        // Version 1 had 20 bytes and its checksum behind 16.
        if is_of_journal
            && bytes.len() >= 20
            && bytes[7] == b'1'
            && crc32fast::hash(&bytes[..16]) == u32_at(bytes, 16)
        {
            return Err(HeaderError::Version('1'));
        }
        if bytes.len() < HEADER_BYTES as usize {
            return bad(format!("the header has {} of {HEADER_BYTES} bytes", bytes.len()));
        }
        if !is_of_journal {
            return bad("it does not begin with CAMNETJ".to_owned());
        }
        if u32_at(bytes, 28) != crc32fast::hash(&bytes[..28]) {
            return bad("the checksum of the header is wrong".to_owned());
        }
        if bytes[7] != MAGIC[7] {
            return Err(HeaderError::Version(bytes[7] as char));
        }
        Ok(Self { first: u64_at(bytes, 8), salt: u32_at(bytes, 16) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stored,
    Zstd,
    Lost,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub salt: u32,
    pub count: u32,
    pub first: u64,
    pub durable_upto: u64,
    pub raw_bytes: u32,
    pub stored_bytes: u32,
    pub payload_crc: u32,
}

impl Frame {
    /// A frame without payload: `count` records from `first` on that are lost, or a mark if there are none.
    pub fn without_payload(salt: u32, first: u64, count: u32) -> Self {
        let kind = if count == 0 { Kind::Stored } else { Kind::Lost };
        let payload_crc = crc32fast::hash(&[]);
        Self { kind, salt, count, first, durable_upto: first, raw_bytes: 0, stored_bytes: 0, payload_crc }
    }

    /// Number of the record behind the last one.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Bytes of header and payload.
    pub fn bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.stored_bytes)
    }

    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4] = FRAME_HEADER_BYTES as u8;
        bytes[5] = match self.kind {
            Kind::Stored => 0,
            Kind::Zstd => 1,
            Kind::Lost => 2,
        };
        bytes[8..12].copy_from_slice(&self.salt.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable_upto.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a frame's header, or says what is wrong with it. What it returns is within all limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err("the last frame is cut off".into());
        }
        if bytes[..FRAME_HEADER_BYTES].iter().all(|&b| b == 0) {
            return Err("zeros where a frame should be".into());
        }
        if bytes[..4] != FRAME_MAGIC {
            return Err("no frame begins here".into());
        }
        if u32_at(bytes, 44) != crc32fast::hash(&bytes[..44]) {
            return Err("the checksum of a frame's header is wrong".into());
        }
        let kind = match (bytes[4], bytes[5]) {
            (48, 0) => Kind::Stored,
            (48, 1) => Kind::Zstd,
            (48, 2) => Kind::Lost,
            (length, kind) => return Err(format!("a frame of kind {kind} with a header of {length} bytes")),
        };
        let frame = Self {
            kind,
            salt: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            first: u64_at(bytes, 16),
            durable_upto: u64_at(bytes, 24),
            raw_bytes: u32_at(bytes, 32),
            stored_bytes: u32_at(bytes, 36),
            payload_crc: u32_at(bytes, 40),
        };
        let is_sized = match kind {
            Kind::Lost => frame.count > 0 && frame.raw_bytes == 0 && frame.stored_bytes == 0,
            Kind::Stored => frame.raw_bytes == frame.stored_bytes,
            Kind::Zstd => frame.stored_bytes < frame.raw_bytes,
        };
        // A record takes two bytes at least.
        let has_room = kind == Kind::Lost || u64::from(frame.count) * 2 <= u64::from(frame.raw_bytes);
        let is_placed =
            frame.first.checked_add(u64::from(frame.count)).is_some() && frame.durable_upto <= frame.first;
        if !is_sized || !has_room || !is_placed || frame.raw_bytes as usize > RAW_BYTES_MAX {
            return Err("a frame's header contradicts itself".into());
        }
        Ok(frame)
    }
}

/// Adds a record to an unpacked payload.
pub fn push_record(payload: &[u8], raw: &mut Vec<u8>) {
    let mut length = payload.len() as u32;
    while length >= 0x80 {
        raw.push(length as u8 | 0x80);
        length >>= 7;
    }
    raw.push(length as u8);
    raw.extend_from_slice(payload);
}

/// Bytes that a record takes in an unpacked payload, at most.
pub fn record_bytes_max(payload: &[u8]) -> usize {
    payload.len() + LENGTH_BYTES_MAX
}

/// A frame that was checked and unpacked. Its buffers can be used again.
#[derive(Default)]
pub struct Unpacked {
    first: u64,
    raw: Vec<u8>,
    /// Where each record begins and ends in `raw`.
    places: Vec<(u32, u32)>,
}

impl Unpacked {
    /// Number of the first record.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Number of the record behind the last one.
    pub fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    pub fn record(&self, number: u64) -> Option<&[u8]> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let &(start, end) = self.places.get(at)?;
        Some(&self.raw[start as usize..end as usize])
    }

    pub fn clear(&mut self) {
        self.raw.clear();
        self.places.clear();
    }

    /// Takes the payload of `frame`, or says what is wrong with it.
    pub fn fill(&mut self, frame: &Frame, stored: &[u8], unpacker: &mut Unpacker) -> Result<(), String> {
        let filled = self.try_fill(frame, stored, unpacker);
        if filled.is_err() {
            self.clear();
        }
        filled
    }

    fn try_fill(&mut self, frame: &Frame, stored: &[u8], unpacker: &mut Unpacker) -> Result<(), String> {
        self.clear();
        self.first = frame.first;
        check_payload(frame, stored)?;
        match frame.kind {
            Kind::Lost => return Ok(()),
            Kind::Stored => self.raw.extend_from_slice(stored),
            Kind::Zstd => unpacker
                .unpack(stored, frame.raw_bytes as usize, &mut self.raw)
                .map_err(|error| format!("a frame can't be unpacked: {error}"))?,
        }
        if self.raw.len() != frame.raw_bytes as usize {
            return Err(format!("a frame unpacks to {} bytes, not {}", self.raw.len(), frame.raw_bytes));
        }
        let mut at = 0;
        for _ in 0..frame.count {
            let (length, begins) = length_at(&self.raw, at).ok_or("a record's length can't be read")?;
            if !(1..=JOURNAL_RECORD_BYTES_MAX).contains(&length) || self.raw.len() - begins < length {
                return Err(format!("a record says it has {length} bytes"));
            }
            at = begins + length;
            self.places.push((begins as u32, at as u32));
        }
        if at != self.raw.len() {
            return Err("a frame has more in it than its records".into());
        }
        Ok(())
    }
}

/// What unpacking needs besides the bytes; made when it is first needed.
#[derive(Default)]
pub struct Unpacker(Option<zstd::bulk::Decompressor<'static>>);

impl Unpacker {
    fn unpack(&mut self, stored: &[u8], raw_bytes: usize, raw: &mut Vec<u8>) -> std::io::Result<()> {
        let zstd = match &mut self.0 {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        raw.reserve(raw_bytes);
        zstd.decompress_to_buffer(stored, raw).map(|_| ())
    }
}

/// What packing needs besides the bytes; made when it is first needed.
#[derive(Default)]
pub struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    packed: Vec<u8>,
}

impl Packer {
    /// Adds a frame with these records to `out`; packed if that pays.
    pub fn add_frame(
        &mut self,
        salt: u32,
        first: u64,
        count: u32,
        durable_upto: u64,
        raw: &[u8],
        out: &mut Vec<u8>,
    ) {
        let is_packed = raw.len() >= JOURNAL_PACK_BYTES_MIN
            && self.pack(raw).is_ok()
            // Unpacking has a price: a sixteenth is the least that it must save.
            && self.packed.len() + raw.len() / 16 < raw.len();
        let (kind, stored) = if is_packed { (Kind::Zstd, &self.packed[..]) } else { (Kind::Stored, raw) };
        let frame = Frame {
            kind,
            salt,
            count,
            first,
            durable_upto,
            raw_bytes: raw.len() as u32,
            stored_bytes: stored.len() as u32,
            payload_crc: crc32fast::hash(stored),
        };
        out.extend_from_slice(&frame.encode());
        out.extend_from_slice(stored);
    }

    fn pack(&mut self, raw: &[u8]) -> std::io::Result<()> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Compressor::new(PACK_LEVEL)?),
        };
        self.packed.clear();
        // What does not fit is not worth packing.
        self.packed.reserve(raw.len());
        zstd.compress_to_buffer(raw, &mut self.packed).map(|_| ())
    }
}

/// Says what is wrong with a frame's payload as it is stored.
pub fn check_payload(frame: &Frame, stored: &[u8]) -> Result<(), String> {
    if stored.len() < frame.stored_bytes as usize {
        return Err("the last frame is cut off".into());
    }
    if crc32fast::hash(stored) != frame.payload_crc {
        return Err(format!(
            "the checksum of records {} to {} is wrong",
            frame.first,
            frame.end().saturating_sub(1)
        ));
    }
    Ok(())
}

/// The length at `at` and where the record begins.
fn length_at(raw: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut length = 0;
    for (i, &byte) in raw.get(at..)?.iter().take(LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((length, at + i + 1));
        }
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
