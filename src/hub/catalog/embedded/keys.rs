//! Keys of the embedded index: one letter, then its parts; texts end with a zero byte, numbers are big-endian.
//!
//! Owns their layout, nothing else.

use uuid::Uuid;

use crate::hub::catalog::ClipKey;
use crate::model::{BoxId, DeviceId, Epoch, Sha256Hash};

/// First byte of a key.
pub mod kind {
    /// Position and version.
    pub const META: u8 = b'!';
    /// day, first position → where a run's blocks lie
    pub const RUN: u8 = b'R';
    /// day, first position of the run, order, number → block of events
    pub const BLOCK: u8 = b'B';
    /// number → box, and device or nothing
    pub const SOURCE: u8 = b'v';
    /// device → longest clip and span, to know how far a scan must look back
    pub const DEVICE: u8 = b'd';
    /// device, start as placed, clip → clip
    pub const CLIP: u8 = b'c';
    /// clip → key of the clip
    pub const CLIP_BY_ID: u8 = b'i';
    /// box, start as recorded, clip → nothing
    pub const CLIP_AS_RECORDED: u8 = b'r';
    /// device, start as placed, span → span
    pub const SPAN: u8 = b'g';
    /// device, span → key of the span
    pub const SPAN_BY_ID: u8 = b's';
    /// box, position → correction
    pub const CORRECTION: u8 = b'k';
    /// box, span → its correction and how well that is known, milliseconds
    pub const SPAN_CORRECTION: u8 = b'K';
    /// sha256 → stored file
    pub const STORED: u8 = b'h';
    /// box → last seen by something that has no epoch
    pub const BOX: u8 = b'b';
    /// box, epoch → counts
    pub const EPOCH: u8 = b'p';
    /// position → refused
    pub const REFUSED: u8 = b'f';
    /// box, position → nothing
    pub const REFUSED_BY_BOX: u8 = b'o';
    /// box, epoch, sequence → nothing
    pub const REFUSED_SEQUENCE: u8 = b'q';
    /// box, reason → count
    pub const REFUSED_COUNT: u8 = b'n';
}

/// A key in the making.
pub struct Key(pub Vec<u8>);

impl Key {
    pub fn new(kind: u8) -> Self {
        Self(vec![kind])
    }
    pub fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    pub fn short(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    pub fn time(self, us: i64) -> Self {
        self.number(us as u64 ^ (1 << 63))
    }
    pub fn uuid(mut self, id: Uuid) -> Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

pub fn version_key() -> Vec<u8> {
    Key::new(kind::META).text("version").0
}
pub fn applied_key() -> Vec<u8> {
    Key::new(kind::META).text("applied").0
}
pub fn clip_key(device: &DeviceId, key: ClipKey) -> Vec<u8> {
    Key::new(kind::CLIP).text(device.as_str()).time(key.start_us).uuid(key.clip).0
}
pub fn stored_key(sha256: &Sha256Hash) -> Vec<u8> {
    Key::new(kind::STORED).bytes(&sha256.0).0
}
pub fn epoch_key(box_id: &BoxId, epoch: Epoch) -> Vec<u8> {
    Key::new(kind::EPOCH).text(box_id.as_str()).number(epoch.0).0
}
pub fn source_key(number: u32) -> Vec<u8> {
    Key::new(kind::SOURCE).short(number).0
}
pub fn run_key(day: u32, start: u64) -> Vec<u8> {
    Key::new(kind::RUN).short(day).number(start).0
}
pub fn block_key(day: u32, start: u64, order: u8, number: u32) -> Vec<u8> {
    Key::new(kind::BLOCK).short(day).number(start).bytes(&[order]).short(number).0
}

/// The big-endian number at the end of a key.
pub fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
