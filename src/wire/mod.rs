//! The wire between box and hub: topics, payloads, versions.
//!
//! Owns the translation between [`crate::model`] and bytes: CloudEvents 1.0 JSON for events, our own
//! JSON for receipts and commands. May not do I/O. `config/asyncapi.yaml` is the contract; a test
//! compares it with this module.

mod cloudevents;
mod receipt;
mod topic;

pub use cloudevents::{
    CONTENT_TYPE_BATCH, CONTENT_TYPE_EVENT, Decoded, Refusal, RefusalReason, decode, encode, encode_batch,
    event_type, event_types,
};
pub use receipt::{BoxStatus, Command, Receipt, Refused};
pub use topic::{Topic, TopicKind};

/// Version of the topics and of what they carry.
pub const VERSION: &str = "1";
/// User property of a publish with the epoch of its events.
pub const PROPERTY_EPOCH: &str = "epoch";
/// User property of a publish with its first and last sequence, `first-last`.
pub const PROPERTY_SEQUENCES: &str = "sequences";
