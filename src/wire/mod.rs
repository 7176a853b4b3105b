//! The wire between box and hub: topics, payloads, versions.
//!
//! Owns the translation between [`crate::model`] and bytes: CloudEvents 1.0 JSON for events, our own
//! JSON for receipts and commands. May not do I/O. `config/asyncapi.json` is the contract; a test
//! compares it with this module.

mod cloudevents;
pub mod enrol;
mod receipt;
mod topic;

pub use cloudevents::{
    CONTENT_TYPE_BATCH, CONTENT_TYPE_EVENT, Decoded, Refusal, RefusalReason, decode, encode, encode_batch,
    event_type, event_types,
};
pub use receipt::{
    BoxStatus, Command, CommandOutcome, CommandResult, DiskTrouble, LampCommand, Receipt, Refused,
    StillCommand,
};
pub use topic::{Topic, TopicKind};

use crate::limits::{BATCH_EVENTS_MAX, SEQUENCE_MAX};
use crate::model::Epoch;

/// Version of the topics and of what they carry.
pub const VERSION: &str = "1";
/// User property of a publish with the epoch of its events.
pub const PROPERTY_EPOCH: &str = "epoch";
/// User property of a publish with its first and last sequence, `first-last`.
pub const PROPERTY_SEQUENCES: &str = "sequences";

/// Epoch, first and last sequence of a message, from its user properties: so that a body that can't be read still
/// has its place. None if they are not there or claim more than a message may carry.
pub fn read_places(properties: &[(String, String)]) -> Option<(Epoch, u64, u64)> {
    let property =
        |name: &str| properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let epoch = property(PROPERTY_EPOCH)?.parse().ok()?;
    let (first, last) = property(PROPERTY_SEQUENCES)?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let is_sane =
        first >= 1 && last >= first && last <= SEQUENCE_MAX && last - first < BATCH_EVENTS_MAX as u64;
    is_sane.then_some((epoch, first, last))
}
