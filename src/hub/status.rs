//! What the parts of a running hub tell each other about how it is doing.
//!
//! Owns a few flags and counters in memory. Nothing here survives a restart or decides anything.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::model::BoxId;

/// Ingest writes it; the listeners read it.
#[derive(Default)]
pub struct HubStatus {
    /// Number that the journal's next record gets.
    pub journal_next: AtomicU64,
    /// The link to the broker is up.
    pub broker_up: AtomicBool,
    online: RwLock<BTreeMap<BoxId, bool>>,
}

impl HubStatus {
    /// Notes a box's retained status message or last will.
    pub fn set_online(&self, box_id: &BoxId, online: bool) {
        let mut boxes = self.online.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        boxes.insert(box_id.clone(), online);
    }

    /// None if the box never said.
    pub fn online(&self, box_id: &BoxId) -> Option<bool> {
        self.online.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(box_id).copied()
    }
}
