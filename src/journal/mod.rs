//! Append-only, checksummed record files with real fsync: the outbox, the hub's truth and the access
//! log are journals.
//!
//! Owns framing, segments, recovery after a torn write, and group commit. May not know what a record means.
//! The byte format: [`segment`].
//!
//! **What is durable.** A record is durable when [`Journal::sync`] (or [`Writer::commit`]) has
//! returned without error, and not before. After a failed write or sync the journal refuses everything
//! until it is opened anew: what the kernel dropped can't be known.
//!
//! **What recovery does.** A torn tail of the last segment is cut off and reported. Damage in the middle is never
//! repaired or hidden: the reader reports it as [`Damage`] with file, offset and the lost records' numbers, and goes
//! on at the next good frame. Opening reads only the last segment; [`check`] reads all.
//!
//! Reading in the order of the code: [`disk`] (the world), [`segment`] (the bytes), `scan` (one file, frame by
//! frame), `read` (the journal, for readers), `store` (the one writer), `writer` (group commit), [`check`] (looking
//! after it).

pub mod check;
pub mod counted_disk;
pub mod disk;
mod read;
mod scan;
pub mod segment;
pub mod sim_disk;
mod store;
mod writer;

pub use read::{Item, ItemRef, Reader, Record, Records};
pub use store::{Damage, Journal, JournalError, Options, Recovery};
pub use writer::Writer;
