//! The gate: no look at footage or at a search result leaves the hub unseen.
//!
//! Owns the access journal. A look is recorded durably, with actor, action, purpose and subject, before
//! anything leaves; only the gate can make a [`Pass`], and whoever reads footage asks for one. May not
//! let anybody through when the record can't be written.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::{Item, Journal, JournalError, Writer};
use crate::limits::{JOURNAL_RECORD_BYTES_MAX, PAGE_LIST_MAX};
use crate::model::Time;

/// What somebody does when he looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Search,
    Clip,
    View,
    Thumbnail,
    Events,
    /// Where to look next, from a clip or a point.
    Follow,
    Refused,
    /// What was set aside is offered again.
    Replay,
    AccessLog,
    /// The index is thrown away and built anew: no look, but an act.
    Reindex,
    /// A lamp is switched or dimmed: no look, but an act.
    Lamp,
    /// A box is enrolled, invited, revoked or configured: no look, but an act.
    Box,
    /// What a camera sees right now is asked of its box.
    Still,
    /// A photo of a work order: it may show people.
    Photo,
    /// A work order is written to, or a device taken out of service: no look, but an act.
    Work,
}

/// Who asks, as far as the hub knows. Until login exists there is only the demo's actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor(pub String);

/// What is asked of the gate.
#[derive(Debug, Clone)]
pub struct Look {
    pub actor: Actor,
    pub action: Action,
    /// Why, in the actor's own words.
    pub purpose: Option<String>,
    /// The question as it was understood, the clip's id, the byte range.
    pub subject: Value,
    pub remote: Option<SocketAddr>,
}

/// One record of the access journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AccessRecord {
    pub version: u32,
    /// Number in the access journal; stands in the file's framing, not in the record.
    #[serde(default)]
    pub number: u64,
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    pub actor: String,
    pub action: Action,
    pub purpose: Option<String>,
    #[schema(value_type = Object)]
    pub subject: Value,
    pub decision: Decision,
    pub remote: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Allowed,
    Refused,
}

/// Proof that a look was recorded. Only the gate makes one.
#[derive(Debug)]
pub struct Pass {
    number: u64,
    action: Action,
}

impl Pass {
    /// Number of the record in the access journal.
    pub fn number(&self) -> u64 {
        self.number
    }
    pub fn action(&self) -> Action {
        self.action
    }
}

/// Why the gate did not open.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("{actor} may not do this")]
    NotAllowed { actor: String },
    #[error("the access log can't be written, so nothing may be shown")]
    NotRecorded(#[source] Arc<JournalError>),
}

const RECORD_VERSION: u32 = 1;

/// The one way to footage and search results.
pub struct Gate {
    writer: Writer,
    actors: Vec<String>,
    /// The newest records, oldest first.
    newest: Mutex<VecDeque<AccessRecord>>,
}

impl Gate {
    /// Opens the access journal in `dir`. `actors` are those who may look. Blocking.
    pub fn open(dir: &Path, actors: &[&str]) -> Result<Self, JournalError> {
        let (journal, recovery) = Journal::open(dir)?;
        for damage in &recovery.damage {
            tracing::error!(%damage, "access journal is damaged");
        }
        Self::with_journal(journal, actors)
    }

    /// As [`Gate::open`], on a journal that is already open.
    pub fn with_journal(journal: Journal, actors: &[&str]) -> Result<Self, JournalError> {
        let mut newest = VecDeque::new();
        let from = journal.next().saturating_sub(PAGE_LIST_MAX as u64).max(journal.first());
        for item in journal.read(from) {
            let Item::Record(record) = item? else { continue };
            match serde_json::from_slice::<AccessRecord>(&record.payload) {
                Ok(entry) => newest.push_back(AccessRecord { number: record.number, ..entry }),
                Err(error) => tracing::error!(number = record.number, %error, "access record unreadable"),
            }
        }
        let path = journal.dir().to_owned();
        let (writer, _thread) = Writer::start(journal, "access").map_err(|source| JournalError::Io {
            what: "start the thread of",
            path,
            source,
        })?;
        let actors = actors.iter().map(|&a| a.to_owned()).collect();
        Ok(Self { writer, actors, newest: Mutex::new(newest) })
    }

    /// Records the look and lets it through, or says why not. Refused looks are recorded too.
    pub async fn pass(&self, look: Look) -> Result<Pass, Denied> {
        let allowed = self.actors.contains(&look.actor.0);
        let mut record = AccessRecord {
            version: RECORD_VERSION,
            number: 0,
            time: Time::now(),
            actor: look.actor.0,
            action: look.action,
            purpose: look.purpose,
            subject: look.subject,
            decision: if allowed { Decision::Allowed } else { Decision::Refused },
            remote: look.remote.map(|r| r.to_string()),
        };
        let json = serde_json::to_vec(&record).expect("an access record has only text keys");
        debug_assert!(json.len() <= JOURNAL_RECORD_BYTES_MAX, "questions are bounded");
        let numbers = self.writer.commit(vec![json]).await.map_err(Denied::NotRecorded)?;
        record.number = numbers.start;
        let actor = record.actor.clone();
        self.remember(record);
        if !allowed {
            return Err(Denied::NotAllowed { actor });
        }
        Ok(Pass { number: numbers.start, action: look.action })
    }

    /// The newest records, newest first.
    pub fn list(&self, _pass: &Pass, limit: usize) -> Vec<AccessRecord> {
        let newest = self.newest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        newest.iter().rev().take(limit).cloned().collect()
    }

    fn remember(&self, record: AccessRecord) {
        let mut newest = self.newest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Commits can return in another order than their numbers.
        let place = newest.partition_point(|known| known.number < record.number);
        newest.insert(place, record);
        while newest.len() > PAGE_LIST_MAX {
            newest.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(actor: &str, n: u64) -> Look {
        Look {
            actor: Actor(actor.into()),
            action: Action::Search,
            purpose: Some("vụ trộm xe".into()),
            subject: serde_json::json!({ "n": n }),
            remote: None,
        }
    }

    #[tokio::test]
    async fn looks_are_on_disk_and_listed_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(dir.path(), &["demo"]).unwrap();
        for n in 0..3 {
            assert_eq!(gate.pass(look("demo", n)).await.unwrap().number(), n);
        }
        assert!(matches!(gate.pass(look("mallory", 3)).await, Err(Denied::NotAllowed { .. })));
        let durable = crate::journal::Reader::of_dir(dir.path(), 0).unwrap().count();
        assert_eq!(durable, 4);
        let pass = gate.pass(look("demo", 4)).await.unwrap();
        let listed: Vec<_> = gate.list(&pass, 3).iter().map(|r| (r.number, r.decision.clone())).collect();
        assert_eq!(listed, [(4, Decision::Allowed), (3, Decision::Refused), (2, Decision::Allowed)]);
    }

    #[tokio::test]
    async fn nothing_passes_when_the_record_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open_with(&dir.path().join("access"), 1).unwrap();
        let gate = Gate::with_journal(journal, &["demo"]).unwrap();
        gate.pass(look("demo", 0)).await.unwrap();
        // The next record needs a new segment, and its folder is gone.
        std::fs::remove_dir_all(dir.path().join("access")).unwrap();
        assert!(matches!(gate.pass(look("demo", 1)).await, Err(Denied::NotRecorded(_))));
    }
}
