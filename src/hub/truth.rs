//! The truth: what the hub has durably, in order. Everything else is derived from it.
//!
//! Owns the journal of events and uploads, and the knowledge of which sequences of which epoch have
//! arrived, which comes from the journal alone.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{BoxId, Epoch, Sha256Hash, Time};

/// One record of the hub's journal, in the order of its number (the *position*).
#[derive(Debug, Clone, PartialEq)]
pub enum HubRecord {
    /// An event as it came. `conflict` if the same (box, epoch, sequence) was known with another id.
    Event { box_id: BoxId, received: Time, conflict: bool, json: Vec<u8> },
    /// Something that was set aside, with its reason.
    Refused {
        box_id: BoxId,
        received: Time,
        reason: String,
        detail: String,
        epoch: Option<Epoch>,
        sequence: Option<u64>,
        body: Vec<u8>,
    },
    /// An upload that is complete, whose hash was checked and whose file is durable.
    Stored(StoredFile),
}

/// A file that a box uploaded: a clip or a thumbnail, named by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    pub sha256: Sha256Hash,
    pub bytes: u64,
    pub box_id: BoxId,
    pub clip: Uuid,
    pub received: Time,
}
