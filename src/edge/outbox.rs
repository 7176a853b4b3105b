//! What the box still owes the hub.

use crate::model::{ClockQuality, DeviceId, EventData, Time};

/// An event on its way into the outbox, which gives it id, epoch and sequence.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// None for what concerns the box itself.
    pub device: Option<DeviceId>,
    pub time: Time,
    pub clock: ClockQuality,
    pub data: EventData,
}

/// Why the outbox did not take an event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    #[error("the outbox is full: {bytes} bytes wait for the hub")]
    Full { bytes: u64 },
    #[error("the outbox can't be written: {0}")]
    Disk(String),
    #[error("the outbox is closed")]
    Closed,
}

/// A handle to the outbox, for those who make events.
#[derive(Clone)]
pub struct Outbox {}

impl Outbox {
    /// Takes an event. When this returns, the event is durable on the box and will be delivered.
    pub async fn accept(&self, _event: NewEvent) -> Result<(), OutboxError> {
        todo!("written on main")
    }
}
