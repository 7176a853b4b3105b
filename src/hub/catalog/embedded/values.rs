//! Values of the embedded index: one byte version, then postcard; times are microseconds since 1970.
//!
//! Owns what is stored of clips, spans, epochs and what was refused. Blocks have forms of their
//! own (`block.rs`, `clip_block.rs`, `span_block.rs`, `id_block.rs`).

use jiff::fmt::serde::timestamp::microsecond::{optional, required};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::VERSION;
use crate::hub::catalog::{Basis, CatalogError, clock_as_placed};
use crate::model::{BoxId, ClockQuality, ClockSource, DeviceId, Epoch, GapCause, SyncState, Time, Video};

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("stored values have only types that postcard knows")
}

pub fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, CatalogError> {
    match value.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| corrupt(key, e.to_string())),
        Some((version, _)) => Err(corrupt(key, format!("value version {version}"))),
        None => Err(corrupt(key, "no value".into())),
    }
}

pub fn corrupt(key: &[u8], why: String) -> CatalogError {
    CatalogError::Corrupt { key: key.escape_ascii().to_string(), why }
}

#[derive(Serialize, Deserialize)]
pub struct SourceValue {
    pub box_id: BoxId,
    pub device: Option<DeviceId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipValue {
    pub device: DeviceId,
    pub box_id: BoxId,
    #[serde(with = "required")]
    pub received: Time,
    pub clock: ClockValue,
    #[serde(with = "required")]
    pub start: Time,
    #[serde(with = "required")]
    pub end: Time,
    #[serde(with = "optional")]
    pub motion_start: Option<Time>,
    #[serde(with = "optional")]
    pub motion_end: Option<Time>,
    pub peak_score: f64,
    pub bytes: u64,
    pub sha256: [u8; 32],
    pub video: Video,
    pub audio_codec: Option<String>,
    pub thumbnail: Option<StillValue>,
    pub run: Uuid,
    pub first_fragment: u64,
    pub fragments: u64,
    #[serde(with = "required")]
    pub placed_start: Time,
    #[serde(with = "required")]
    pub placed_end: Time,
    pub basis: Basis,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StillValue {
    pub sha256: [u8; 32],
    pub bytes: u64,
    #[serde(with = "required")]
    pub time: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClockValue {
    pub source: ClockSource,
    pub sync: SyncState,
    pub offset_ms: Option<i64>,
    pub uncertainty_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpanValue {
    pub box_id: BoxId,
    #[serde(with = "required")]
    pub received: Time,
    pub epoch: Epoch,
    pub sequence: u64,
    pub cause: Option<GapCause>,
    #[serde(with = "required")]
    pub start: Time,
    #[serde(with = "required")]
    pub upto: Time,
    pub open: bool,
    pub merkle_root: Option<[u8; 32]>,
    #[serde(with = "optional")]
    pub ring_from: Option<Time>,
    /// What the box said of its clock for this span: add so many milliseconds, known to so many.
    pub correction: Option<(i64, u64)>,
}

#[derive(Serialize, Deserialize, Default, PartialEq, Clone, Copy)]
pub struct DeviceValue {
    /// Longest clip, with what its clock leaves open at both ends, and the longest of these margins.
    pub clip_us_max: i64,
    pub clip_margin_us_max: i64,
    pub span_us_max: i64,
    /// Clips of it are keys in the store: those that a correction or their arrival put elsewhere.
    pub has_clip_keys: bool,
    /// So are spans of it, beside those that are open.
    pub has_span_keys: bool,
}

/// When a box was last heard of by something without an epoch.
#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub struct SeenValue(#[serde(with = "required")] pub Time);

/// What a box last said of its ring.
#[derive(Serialize, Deserialize, PartialEq, Clone, Copy)]
pub struct RingValue {
    /// When that arrived.
    #[serde(with = "required")]
    pub received: Time,
    /// The oldest moment that it had.
    #[serde(with = "required")]
    pub from: Time,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy)]
pub struct EpochValue {
    #[serde(with = "required")]
    pub last_seen: Time,
    pub upto: u64,
    /// Sequences that came, well or refused.
    pub handed_over: u64,
    pub refused: u64,
    pub conflicts: u64,
}

#[derive(Serialize, Deserialize)]
pub struct RefusedValue {
    pub box_id: BoxId,
    pub received: Time,
    pub reason: String,
    pub detail: String,
    pub epoch: Option<Epoch>,
    pub sequence: Option<u64>,
    pub body: Vec<u8>,
    pub body_bytes: u64,
}

/// Where in the file of its day a run lies; its directory stands last.
#[derive(Serialize, Deserialize)]
pub struct RunValue {
    /// Position behind its last record.
    pub end: u64,
    pub offset: u64,
    pub bytes: u64,
    pub directory_bytes: u32,
}

impl ClipValue {
    /// How good its clock is, as far as the hub knows by now.
    pub fn as_placed(&self) -> ClockQuality {
        let ClockValue { source, sync, offset_ms, uncertainty_ms } = self.clock;
        clock_as_placed(ClockQuality { source, sync, offset_ms, uncertainty_ms }, self.basis)
    }
}
