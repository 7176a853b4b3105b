//! How far a webhook is in the fleet's journal, in a file: `<data>/webhooks/<name>.json`.
//!
//! Owns the file. It is written whole or not at all, after a message was taken: a hub that dies between sends the message
//! again under the same id.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Number of the record that is looked at next.
    next: u64,
    /// Incidents that the receiver knows to go on.
    told: BTreeSet<Uuid>,
}

#[derive(Debug)]
pub struct Place {
    file: PathBuf,
    content: Content,
    /// What stands in the file is looked at up to here.
    saved: u64,
}

impl Place {
    /// Reads the file in `dir`. A webhook without one begins at `end`: what was before is not told. Blocking.
    pub fn open(dir: &Path, name: &str, end: u64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join(format!("{name}.json"));
        let fresh = Content { version: VERSION, next: end, told: BTreeSet::new() };
        let mut content = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(file = %file.display(), %error, "unreadable; the webhook begins with what comes");
                fresh.clone()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fresh.clone(),
            Err(error) => return Err(error),
        };
        if content.next > end {
            let next = content.next;
            tracing::warn!(
                webhook = name,
                next,
                end,
                "the fleet's journal is older than the webhook's place"
            );
            content.next = end;
        }
        write(&file, &content)?;
        Ok(Self { file, saved: content.next, content })
    }

    pub fn next(&self) -> u64 {
        self.content.next
    }

    /// Records that were looked at since the file was written.
    pub fn unsaved(&self) -> u64 {
        self.content.next - self.saved
    }

    pub fn is_told(&self, incident: Uuid) -> bool {
        self.content.told.contains(&incident)
    }

    pub fn told(&mut self, incident: Uuid) {
        self.content.told.insert(incident);
    }

    pub fn ended(&mut self, incident: Uuid) {
        self.content.told.remove(&incident);
    }

    pub fn go_on(&mut self, next: u64) {
        self.content.next = next;
    }

    /// Durable on return.
    pub async fn save(&mut self) -> io::Result<()> {
        let (file, content) = (self.file.clone(), self.content.clone());
        let next = content.next;
        let written = tokio::task::spawn_blocking(move || write(&file, &content));
        written.await.expect("writing does not panic")?;
        self.saved = next;
        Ok(())
    }
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(&serde_json::to_vec(content).expect("a place has only text keys"))?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_known_again_after_a_restart_and_never_beyond_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let open = |end| Place::open(dir.path(), "duty", end).unwrap();
        let incident = Uuid::from_u128(7);
        let mut place = open(40);
        assert_eq!((place.next(), place.is_told(incident)), (40, false), "a new one begins at the end");
        place.told(incident);
        place.go_on(45);
        place.save().await.unwrap();
        drop(place);
        let place = open(90);
        assert_eq!((place.next(), place.is_told(incident)), (45, true));
        drop(place);
        assert_eq!(open(30).next(), 30, "a journal from a backup");
    }

    #[test]
    fn a_place_that_cannot_be_read_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("duty.json"), b"{\"version\"").unwrap();
        assert_eq!(Place::open(dir.path(), "duty", 12).unwrap().next(), 12);
    }
}
