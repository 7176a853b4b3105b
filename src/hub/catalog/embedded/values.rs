//! Values of the embedded index: one byte version, then postcard.
//!
//! Owns what is stored of clips, spans, epochs and what was refused. Blocks of events have a form of their
//! own (`block.rs`).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::VERSION;
use crate::hub::catalog::{Basis, CatalogError};
use crate::model::{BoxId, ClockSource, DeviceId, Epoch, GapCause, SyncState, Time, Video};

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

#[derive(Serialize, Deserialize)]
pub struct ClipValue {
    pub device: DeviceId,
    pub box_id: BoxId,
    pub received: Time,
    pub clock: ClockValue,
    pub start: Time,
    pub end: Time,
    pub motion_start: Option<Time>,
    pub motion_end: Option<Time>,
    pub peak_score: f64,
    pub bytes: u64,
    pub sha256: [u8; 32],
    pub video: Video,
    pub audio_codec: Option<String>,
    pub thumbnail: Option<([u8; 32], u64, Time)>,
    pub run: Uuid,
    pub first_fragment: u64,
    pub fragments: u64,
    pub placed_start: Time,
    pub placed_end: Time,
    pub basis: Basis,
}

#[derive(Serialize, Deserialize)]
pub struct ClockValue {
    pub source: ClockSource,
    pub sync: SyncState,
    pub offset_ms: Option<i64>,
    pub uncertainty_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub struct SpanValue {
    pub box_id: BoxId,
    pub received: Time,
    pub epoch: Epoch,
    pub sequence: u64,
    pub cause: Option<GapCause>,
    pub start: Time,
    pub upto: Time,
    pub open: bool,
    pub merkle_root: Option<[u8; 32]>,
    pub ring_from: Option<Time>,
    /// What the box said of its clock for this span: add so many milliseconds, known to so many.
    pub correction: Option<(i64, u64)>,
}

#[derive(Serialize, Deserialize, Default, PartialEq, Clone, Copy)]
pub struct DeviceValue {
    pub clip_us_max: i64,
    pub span_us_max: i64,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy)]
pub struct EpochValue {
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

/// Where the blocks of one run lie. Times are microseconds behind the run's `time_min_us`.
#[derive(Serialize, Deserialize)]
pub struct RunValue {
    /// Position behind its last record.
    pub end: u64,
    pub rows: u64,
    pub time_min_us: i64,
    pub time_max_us: i64,
    pub by_time: Vec<BlockBounds>,
    pub by_source: Vec<BlockBounds>,
}

/// What one block holds at least and at most.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockBounds {
    pub time_min_us: u64,
    pub time_max_us: u64,
    /// Zero in the order by time, which does not keep the source.
    pub source_min: u32,
    pub source_max: u32,
}
