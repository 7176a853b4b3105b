//! What the parts of a running hub tell each other about how it is doing.
//!
//! Owns a few flags and counters in memory. Nothing here survives a restart or decides anything.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::model::{BoxId, Time};
use crate::wire::DiskTrouble;

/// Ingest writes it; the listeners read it.
#[derive(Default)]
pub struct HubStatus {
    /// Number that the journal's next record gets.
    pub journal_next: AtomicU64,
    /// The link to the broker is up.
    pub broker_up: AtomicBool,
    online: RwLock<BTreeMap<BoxId, (bool, Time)>>,
    /// Boxes whose disk takes nothing, and when they said so.
    disks: RwLock<BTreeMap<BoxId, (DiskTrouble, Time)>>,
}

impl HubStatus {
    /// Notes a box's retained status message or last will.
    pub fn set_online(&self, box_id: &BoxId, online: bool) {
        let mut boxes = self.online.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        boxes.insert(box_id.clone(), (online, Time::now()));
    }

    /// What every box last said, and when that came.
    pub fn all_online(&self) -> BTreeMap<BoxId, (bool, Time)> {
        self.online.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Notes whether a box's disk takes anything.
    pub fn set_disk(&self, box_id: &BoxId, disk: Option<DiskTrouble>) {
        let mut disks = self.disks.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        match disk {
            Some(disk) => {
                let since = disks.get(box_id).map_or_else(Time::now, |(_, since)| *since);
                disks.insert(box_id.clone(), (disk, since));
            }
            None => {
                disks.remove(box_id);
            }
        }
    }

    /// Boxes whose disk takes nothing, and since when.
    pub fn disks(&self) -> BTreeMap<BoxId, (DiskTrouble, Time)> {
        self.disks.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// None if the box never said.
    pub fn online(&self, box_id: &BoxId) -> Option<bool> {
        self.online
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .get(box_id)
            .map(|&(online, _)| online)
    }
}
