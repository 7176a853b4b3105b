//! What the box still owes the hub.

use tokio::sync::{mpsc, oneshot};

use crate::limits::OUTBOX_QUEUE_MAX;
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

/// A handle to the outbox, for those who make events. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    accepts: mpsc::Sender<Accept>,
}

/// One event on its way to the outbox's owner.
pub struct Accept {
    pub event: NewEvent,
    /// Answered when the event is durable, or was not taken.
    pub done: oneshot::Sender<Result<(), OutboxError>>,
}

impl Outbox {
    /// A handle and the queue that the outbox's owner serves.
    pub fn new() -> (Self, mpsc::Receiver<Accept>) {
        let (accepts, queue) = mpsc::channel(OUTBOX_QUEUE_MAX);
        (Self { accepts }, queue)
    }

    /// Takes an event. When this returns, the event is durable on the box and will be delivered.
    pub async fn accept(&self, event: NewEvent) -> Result<(), OutboxError> {
        let (done, answer) = oneshot::channel();
        self.accepts.send(Accept { event, done }).await.map_err(|_| OutboxError::Closed)?;
        answer.await.map_err(|_| OutboxError::Closed)?
    }
}
