//! The account of a camera's time: recorded or gap, second by second.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Sha256Hash, Time};

/// Why a camera did not record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The box's process was not running.
    BoxOff,
    /// The camera does not answer, refuses us, or has not yet answered since the box started.
    CameraUnreachable,
    /// The camera answered, then its stream stalled or could not be read.
    StreamBroken,
    /// The ring could not be written: no room.
    DiskFull,
    /// The clock jumped: which second it was is not known.
    ClockUnsure,
    /// The owner paused the recording.
    PausedByOwner,
    /// The hub has no word about this span yet.
    NotYetReported,
    /// The ring could not be opened or written for another reason than room: a card that turned read-only, errors.
    DiskFailed,
}

/// Recorded, or a gap with its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SpanState {
    Recorded,
    Gap { cause: GapCause },
}

/// One span of a camera's account, as the hub answers it. Spans of one camera never overlap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoverageSpan {
    /// The box's name for the span; none where the hub itself filled a hole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<Uuid>,
    #[serde(flatten)]
    pub state: SpanState,
    pub start: Time,
    /// End of what is known; an open span goes on.
    pub end: Time,
    /// The box has not said yet that the span ended.
    pub open: bool,
    /// Root over the hashes of the fragments up to `end`, for a recorded span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merkle_root: Option<Sha256Hash>,
}
