//! The hub's words to its boxes, on their way to the link.
//!
//! Owns what waits there: of each epoch the latest word only, since it says all that an earlier one said. So ingest never
//! waits for the link, and what waits is bounded by the boxes, not by the time. May not decide what is said.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::model::{BoxId, Epoch};
use crate::mqtt::{LinkSender, OutMessage};
use crate::wire::{Topic, TopicKind};

/// See the module. Clones share it; it ends when it was closed and all is said.
#[derive(Clone, Default)]
pub struct Outgoing {
    waiting: Arc<Mutex<Waiting>>,
    news: Arc<Notify>,
}

#[derive(Default)]
struct Waiting {
    /// In the order in which each was first put.
    order: VecDeque<About>,
    words: HashMap<About, Vec<u8>>,
    is_closed: bool,
}

type About = (BoxId, TopicKind, Epoch);

impl Outgoing {
    /// Takes the place of what waits about the same epoch.
    pub fn put(&self, box_id: BoxId, kind: TopicKind, epoch: Epoch, word: Vec<u8>) {
        let about = (box_id, kind, epoch);
        let mut waiting = self.waiting();
        if waiting.words.insert(about.clone(), word).is_none() {
            waiting.order.push_back(about);
            self.news.notify_one();
        }
    }

    /// Nothing more will be put.
    pub fn close(&self) {
        self.waiting().is_closed = true;
        self.news.notify_one();
    }

    /// Hands what comes to the link. A word that is lost there is said again when the box sends again.
    pub async fn run(self, link: LinkSender, receipts: IntCounter) {
        loop {
            let (about, word) = match self.next() {
                Some(Ok(next)) => next,
                Some(Err(Closed)) => return,
                None => {
                    self.news.notified().await;
                    continue;
                }
            };
            let (box_id, kind, _) = about;
            receipts.inc_by(u64::from(kind == TopicKind::Receipt));
            let message = OutMessage {
                topic: Topic::new(&box_id, kind).to_string(),
                payload: word,
                content_type: Some("application/json"),
                user_properties: Vec::new(),
                retain: false,
                token: 0,
                correlation: None,
            };
            if link.publish(message).await.is_err() {
                return;
            }
        }
    }

    fn next(&self) -> Option<Result<(About, Vec<u8>), Closed>> {
        let mut waiting = self.waiting();
        let Some(about) = waiting.order.pop_front() else { return waiting.is_closed.then_some(Err(Closed)) };
        let word = waiting.words.remove(&about).expect("each in the order has a word");
        Some(Ok((about, word)))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

struct Closed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_word_about_an_epoch_is_said_and_in_turn() {
        let outgoing = Outgoing::default();
        let box_id = |n: u8| BoxId::new(format!("box-{n:02}")).unwrap();
        let put =
            |n, epoch, word: &[u8]| outgoing.put(box_id(n), TopicKind::Receipt, Epoch(epoch), word.to_vec());
        put(1, 1, b"old");
        put(2, 1, b"other");
        put(1, 2, b"later epoch");
        put(1, 1, b"new");
        outgoing.put(box_id(1), TopicKind::Command, Epoch(1), b"command".to_vec());
        outgoing.close();
        let mut said = Vec::new();
        while let Some(Ok((_, word))) = outgoing.next() {
            said.push(String::from_utf8(word).unwrap());
        }
        assert_eq!(said, ["new", "other", "later epoch", "command"]);
        assert!(matches!(outgoing.next(), Some(Err(Closed))));
    }
}
