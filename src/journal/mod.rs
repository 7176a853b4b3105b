//! Append-only, checksummed record files with real fsync: the outbox, the hub's truth and the access
//! log are journals.
//!
//! Owns framing, segments, recovery after a torn write, and group commit. May not know what a record
//! means. `docs` of the byte format: [`segment`].
//!
//! **What is durable.** A record is durable when [`Journal::sync`] (or [`Writer::commit`]) has
//! returned without error, and not before. After a failed write or sync the journal refuses everything
//! until it is opened anew: what the kernel dropped can't be known.
//!
//! **What recovery does.** A torn tail of the last segment is cut off and reported. Damage in the middle
//! is never repaired or hidden: the reader reports it as [`Damage`] with file and offset, and goes on
//! behind it at the next segment.

pub mod segment;
mod store;
mod writer;

pub use store::{Damage, Item, Journal, JournalError, Reader, Record, Recovery};
pub use writer::Writer;
