//! Group commit: many callers, one thread that owns the journal, one fdatasync for all who wait.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::store::{Journal, JournalError};
use crate::limits::{
    JOURNAL_GROUP_MAX, JOURNAL_RECORD_BYTES_MAX, JOURNAL_REOPEN_PAUSE, JOURNAL_REQUESTS_MAX,
};

type Outcome = Result<Range<u64>, Arc<JournalError>>;
type Answer = oneshot::Sender<Outcome>;

struct Request {
    payloads: Vec<Vec<u8>>,
    answer: Answer,
}

/// A handle to a journal that a thread of its own writes. Clones share the journal.
#[derive(Clone)]
pub struct Writer {
    requests: mpsc::Sender<Request>,
}

impl Writer {
    /// Hands `journal` to a thread. It ends, and the journal is closed, when the last handle is gone.
    pub fn start(journal: Journal, name: &str) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (requests, queue) = mpsc::channel(JOURNAL_REQUESTS_MAX);
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || serve(journal, queue))?;
        Ok((Self { requests }, thread))
    }

    /// Makes `payloads` durable, in order and next to each other, and returns their record numbers.
    pub async fn commit(&self, payloads: Vec<Vec<u8>>) -> Result<Range<u64>, Arc<JournalError>> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Arc::new(thread_gone());
        self.requests.send(Request { payloads, answer }).await.map_err(|_| Arc::new(thread_gone()))?;
        answered.await.map_err(gone)?
    }

    /// As [`Writer::commit`], for callers outside the async runtime.
    pub fn commit_blocking(&self, payloads: Vec<Vec<u8>>) -> Result<Range<u64>, Arc<JournalError>> {
        let (answer, answered) = oneshot::channel();
        self.requests.blocking_send(Request { payloads, answer }).map_err(|_| Arc::new(thread_gone()))?;
        answered.blocking_recv().map_err(|_| Arc::new(thread_gone()))?
    }
}

fn thread_gone() -> JournalError {
    JournalError::Poisoned { path: Default::default(), why: "its thread has ended".into() }
}

fn serve(mut journal: Journal, mut queue: mpsc::Receiver<Request>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < JOURNAL_GROUP_MAX
            && let Ok(request) = queue.try_recv()
        {
            group.push(request);
        }
        let mut done: Vec<(Answer, Outcome)> = Vec::new();
        for request in group {
            let range = append_all(&mut journal, &request.payloads).map_err(Arc::new);
            done.push((request.answer, range));
        }
        let synced = journal.sync().map_err(Arc::new);
        for (answer, range) in done {
            let result = match (&synced, range) {
                // A segment that was closed on the way made the first ones durable before the rest failed.
                (Err(error), Ok(range)) if range.end > journal.durable() => Err(error.clone()),
                (_, range) => range,
            };
            // A caller that no longer waits does not change what is durable.
            let _ = answer.send(result);
        }
        if synced.is_err() {
            reopen(&mut journal);
        }
    }
}

fn append_all(journal: &mut Journal, payloads: &[Vec<u8>]) -> Result<Range<u64>, JournalError> {
    if let Some(bad) = payloads.iter().find(|p| !(1..=JOURNAL_RECORD_BYTES_MAX).contains(&p.len())) {
        return Err(JournalError::RecordSize { bytes: bad.len() });
    }
    let first = journal.next();
    for payload in payloads {
        journal.append(payload)?;
    }
    Ok(first..journal.next())
}

/// After a failed write: keeps refusing until the directory can be opened again.
fn reopen(journal: &mut Journal) {
    std::thread::sleep(JOURNAL_REOPEN_PAUSE);
    if let Err(error) = journal.reopen() {
        tracing::error!(dir = %journal.dir().display(), %error, "journal can't be opened anew");
    }
}
