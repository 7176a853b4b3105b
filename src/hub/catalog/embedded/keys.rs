//! Keys of the embedded index: one letter, then its parts; texts end with a zero byte, numbers are big-endian.
//!
//! Owns their layout, nothing else.

use uuid::Uuid;

use super::packed::Moved;
use super::values::corrupt;
use crate::hub::catalog::{CatalogError, ClipKey};
use crate::model::{BoxId, DeviceId, Epoch, Time};

/// First byte of a key.
pub mod kind {
    /// Position and version.
    pub const META: u8 = b'!';
    /// day, first position → where in the day's file the run lies
    pub const RUN: u8 = b'R';
    /// number → box, and device or nothing
    pub const SOURCE: u8 = b'v';
    /// device → longest clip and span, to know how far a scan must look back, and whether clips and spans of it are
    /// keys
    pub const DEVICE: u8 = b'd';
    /// kind, source, clip or span of a closed run → nothing: what is said of it now is a key
    pub const MOVED: u8 = b'm';
    /// group of sources → of each, the oldest moment that the box's ring still has of the device
    pub const RING: u8 = b'a';
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
    /// group of sources → of each box, when it was last seen by something that has no epoch
    pub const SEEN: u8 = b'b';
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

/// Sources that one key tells of, where something changes of most of them in each run.
pub const SOURCES_OF_GROUP: u32 = 256;

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
pub fn clip_id_key(clip: Uuid) -> Vec<u8> {
    Key::new(kind::CLIP_BY_ID).uuid(clip).0
}

pub fn as_recorded_key(box_id: &BoxId, start: Time, clip: Uuid) -> Vec<u8> {
    Key::new(kind::CLIP_AS_RECORDED).text(box_id.as_str()).time(start.as_microsecond()).uuid(clip).0
}

pub fn span_id_key(device: &DeviceId, span: Uuid) -> Vec<u8> {
    Key::new(kind::SPAN_BY_ID).text(device.as_str()).uuid(span).0
}
pub fn moved_key((what, source, id): Moved) -> Vec<u8> {
    Key::new(kind::MOVED).short(what.into()).short(source).uuid(id).0
}

/// What a key of [`moved_key`] says.
pub fn moved_of(key: &[u8]) -> Option<Moved> {
    let (what, rest) = key.get(1..)?.split_first_chunk::<4>()?;
    let (source, id) = rest.split_first_chunk::<4>()?;
    let what = u8::try_from(u32::from_be_bytes(*what)).ok()?;
    Some((what, u32::from_be_bytes(*source), Uuid::from_slice(id).ok()?))
}
pub fn device_key(device: &DeviceId) -> Vec<u8> {
    Key::new(kind::DEVICE).text(device.as_str()).0
}

/// The text that a key begins with.
pub fn first_text(key: &[u8]) -> Result<&str, CatalogError> {
    let text = key[1..].split(|&byte| byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).map_err(|e| corrupt(key, e.to_string()))
}

/// The device that a key begins with.
pub fn device_of(key: &[u8]) -> Result<DeviceId, CatalogError> {
    DeviceId::new(first_text(key)?).map_err(|e| corrupt(key, e.to_string()))
}
/// The key of kind `what` that tells of sources `group * SOURCES_OF_GROUP` and up.
pub fn group_key(what: u8, group: u32) -> Vec<u8> {
    Key::new(what).short(group).0
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
/// The id at the end of a key.
pub fn id_of(key: &[u8]) -> Uuid {
    key.last_chunk().map_or(Uuid::nil(), |bytes| Uuid::from_bytes(*bytes))
}
/// The big-endian number at the end of a key.
pub fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
