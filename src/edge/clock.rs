//! stub until merged
use crate::model::{ClockQuality, ClockSource, SyncState};
pub fn quality() -> ClockQuality {
    ClockQuality { source: ClockSource::Box, sync: SyncState::Unknown, offset_ms: None, uncertainty_ms: None }
}
