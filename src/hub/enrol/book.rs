//! What the hub knows of its boxes' certificates and configurations, in a journal.
//!
//! Owns its records, which never expire, and what they come to. What it holds is written before it is believed, but for
//! what a box says it runs with: that is heard at once and noted now and then. Decides whether a certificate is good beside
//! what the CA says. Who reads ([`Knowledge`]) never waits for the disk. May not sign, and may not open connections.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use crate::journal::disk::{Disk, RealDisk};
use crate::journal::{Damage, Item, Journal, JournalError, Options};
use crate::limits::{BOX_CERTIFICATES_PER_DAY_MAX, BOX_RUNS_NOTED_EVERY, ENROL_UNUSED_MAX};
use crate::model::{BoxId, Sha256Hash, Time};
use crate::wire::enrol::{Hello, SetConfig};

const VERSION: u32 = 1;
const DAY: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
/// Who acts where nobody does.
pub const HUB: &str = "hub";

/// A certificate's serial number: hexadecimal digits, without zeros in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Serial(String);

impl Serial {
    /// From the bytes of the certificate.
    pub fn of(bytes: &[u8]) -> Self {
        Self::read(&hex::encode(bytes))
    }

    /// From hexadecimal digits, as others write them.
    pub fn read(text: &str) -> Self {
        Self(text.trim_start_matches('0').to_ascii_lowercase())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn bytes(&self) -> Vec<u8> {
        let even = if self.0.len() % 2 == 1 { format!("0{}", self.0) } else { self.0.clone() };
        hex::decode(even).unwrap_or_default()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a box came by a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// In a file that somebody carried.
    File,
    /// With an invitation.
    Invitation,
    /// The box renewed the one it had.
    Renewal,
    /// By `camnet hub init`, or by hand: the hub heard of it when it was used.
    Elsewhere,
}

/// Why, when and by whom something was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Revoked {
    pub by: String,
    pub why: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Entry {
    Issued {
        serial: Serial,
        #[serde(rename = "box")]
        box_id: BoxId,
        issued: Time,
        expires: Time,
        how: How,
        actor: String,
    },
    /// The box showed it for the first time.
    Used {
        serial: Serial,
        at: Time,
    },
    Revoked {
        serial: Serial,
        revoked: Revoked,
    },
    /// All that the box has, whether the hub heard of it or not.
    BoxRevoked {
        #[serde(rename = "box")]
        box_id: BoxId,
        revoked: Revoked,
    },
    /// Whoever says the secret with this SHA-256 first gets a certificate of this box.
    Invited {
        secret: Sha256Hash,
        #[serde(rename = "box")]
        box_id: BoxId,
        expires: Time,
        config: String,
        actor: String,
    },
    Accepted {
        secret: Sha256Hash,
    },
    /// Something is set for a box.
    Set {
        #[serde(rename = "box")]
        box_id: BoxId,
        config: SetConfig,
        actor: String,
        why: String,
        at: Time,
    },
    /// A box said with what it runs.
    Runs {
        #[serde(rename = "box")]
        box_id: BoxId,
        hello: Hello,
        at: Time,
    },
}

/// A certificate, from its beginning to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    pub box_id: BoxId,
    pub issued: Time,
    pub expires: Time,
    pub how: How,
    pub first_used: Option<Time>,
    pub revoked: Option<Revoked>,
}

/// What is known of one box.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KnownBox {
    /// In the order in which they were issued.
    pub serials: Vec<Serial>,
    pub revoked: Option<Revoked>,
    pub wanted: Option<Wanted>,
    /// What it said last, whether it is noted yet or not.
    pub runs: Hello,
    noted: Noted,
}

/// What the journal has of [`KnownBox::runs`].
#[derive(Debug, Clone, Default, PartialEq)]
struct Noted {
    runs: Hello,
    at: Option<Time>,
}

/// The newest that was set for a box.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub config: SetConfig,
    pub actor: String,
    pub why: String,
    pub at: Time,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Invited {
    pub box_id: BoxId,
    pub expires: Time,
    pub config: String,
    pub actor: String,
}

/// Why a certificate that the CA signed is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    #[error("certificate {serial} is revoked: {why}")]
    Revoked { serial: Serial, why: String },
    #[error("certificate {serial} was issued to another box")]
    OtherBox { serial: Serial },
    #[error("certificate {serial} is unknown, and box {box_id} has had another since")]
    Unknown { serial: Serial, box_id: BoxId },
    #[error("certificate {serial} bears the hub's name, and is not the hub's own")]
    NotTheHub { serial: Serial },
}

/// What the records come to.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    pub certificates: BTreeMap<Serial, Certificate>,
    pub boxes: BTreeMap<BoxId, KnownBox>,
    /// Those that nobody accepted yet, by the SHA-256 of their secrets.
    pub invitations: BTreeMap<Sha256Hash, Invited>,
}

/// Why the book can't be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error("the journal of the boxes' certificates has failed")]
    Journal(#[from] JournalError),
    #[error(
        "record {number} of the journal of the boxes' certificates can't be read: {why}; restore it from a backup"
    )]
    Record { number: u64, why: String },
}

impl From<Damage> for BookError {
    fn from(damage: Damage) -> Self {
        Self::Journal(damage.into())
    }
}

/// What is known, for who only reads: they wait for no write to disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Knowledge(Arc<RwLock<Known>>);

impl Knowledge {
    pub fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for as long as memory takes, never for the disk.
    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The journal, open.
pub struct Book {
    journal: Journal,
    /// A write failed, and the journal could not be opened anew since.
    is_broken: bool,
    known: Knowledge,
}

impl Book {
    /// Opens the journal and reads all of it. Blocking.
    pub fn open(dir: &Path) -> Result<Self, BookError> {
        Self::open_on(Arc::new(RealDisk), dir)
    }

    /// As [`Book::open`], on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, BookError> {
        let (journal, _) = Journal::open_on(disk, dir, Options::default())?;
        let mut known = Known::default();
        for item in journal.read(journal.first()) {
            // What can't be read may have revoked a box: the hub does not start on a guess.
            let record = match item? {
                Item::Record(record) => record,
                Item::Damage(damage) => return Err(damage.into()),
            };
            let read = serde_json::from_slice::<Record>(&record.payload);
            let Record { entry, .. } =
                read.map_err(|error| BookError::Record { number: record.number, why: error.to_string() })?;
            known.take(entry);
        }
        Ok(Self { journal, is_broken: false, known: Knowledge(Arc::new(RwLock::new(known))) })
    }

    /// What is known now. Nothing can be written while somebody holds it.
    pub fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read()
    }

    /// For those who only read.
    pub fn knowledge(&self) -> Knowledge {
        self.known.clone()
    }

    /// Writes entries, durable on return, and takes them in. If it fails nothing of them is in the journal or in memory,
    /// and the next write is a new try. Blocking.
    pub fn write(&mut self, entries: Vec<Entry>) -> Result<(), BookError> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.is_broken {
            self.reopen()?;
        }
        if let Err(error) = self.append(&entries) {
            if let Err(still) = self.reopen() {
                tracing::error!(
                    error = &still as &dyn std::error::Error,
                    "the boxes' journal can't be opened anew yet"
                );
            }
            return Err(error.into());
        }
        let mut known = self.known.write();
        entries.into_iter().for_each(|entry| known.take(entry));
        Ok(())
    }

    /// A box says with what it runs: known at once, noted by [`Known::unnoted`]. True if it is news.
    pub fn hear(&mut self, box_id: &BoxId, hello: Hello) -> bool {
        if self.known().runs(box_id) == hello {
            return false;
        }
        self.known.write().boxes.entry(box_id.clone()).or_default().runs = hello;
        true
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        for entry in entries {
            let record = Record { version: VERSION, entry: entry.clone() };
            self.journal.append(&serde_json::to_vec(&record).expect("records have only text keys"))?;
        }
        self.journal.sync()?;
        Ok(())
    }

    /// Back to what was durable before the write that failed.
    fn reopen(&mut self) -> Result<(), JournalError> {
        self.is_broken = true;
        self.journal.reopen()?;
        self.is_broken = false;
        Ok(())
    }
}

impl Known {
    /// Whether the box may connect with this certificate, which the CA signed and time has not outrun.
    pub fn check(&self, box_id: &BoxId, serial: &Serial) -> Result<(), Unwelcome> {
        let known = self.boxes.get(box_id);
        let Some(certificate) = self.certificates.get(serial) else {
            // Made by `hub init`, or before the hub kept this book: good until the box is revoked or enrolled.
            let has_other = known.is_some_and(|known| {
                known.revoked.is_some() || known.serials.iter().any(|serial| self.is_enrolled(serial))
            });
            if has_other {
                return Err(Unwelcome::Unknown { serial: serial.clone(), box_id: box_id.clone() });
            }
            return Ok(());
        };
        if certificate.box_id != *box_id {
            return Err(Unwelcome::OtherBox { serial: serial.clone() });
        }
        match &certificate.revoked {
            Some(Revoked { why, .. }) => Err(Unwelcome::Revoked { serial: serial.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// It was issued with the book's knowledge, and its box has it.
    fn is_enrolled(&self, serial: &Serial) -> bool {
        let certificate = self.certificates.get(serial);
        certificate.is_some_and(|known| known.how != How::Elsewhere && known.first_used.is_some())
    }

    /// The box was revoked and has no good certificate since.
    pub fn is_out(&self, box_id: &BoxId) -> bool {
        let Some(known) = self.boxes.get(box_id).filter(|known| known.revoked.is_some()) else {
            return false;
        };
        !known.serials.iter().any(|serial| self.is_good(serial))
    }

    pub fn is_good(&self, serial: &Serial) -> bool {
        self.certificates.get(serial).is_some_and(|certificate| certificate.revoked.is_none())
    }

    /// What is to be noted when a box shows a certificate: nothing, but for the first time. Then whatever it had used
    /// before is revoked: a box has one certificate in force. Those that are prepared and not used yet stay.
    pub fn used(&self, box_id: &BoxId, serial: &Serial, expires: Time, now: Time) -> Vec<Entry> {
        let mut entries = Vec::new();
        match self.certificates.get(serial) {
            Some(certificate) if certificate.first_used.is_some() => return entries,
            Some(_) => {}
            None => entries.push(Entry::Issued {
                serial: serial.clone(),
                box_id: box_id.clone(),
                issued: now,
                expires,
                how: How::Elsewhere,
                actor: HUB.into(),
            }),
        }
        entries.push(Entry::Used { serial: serial.clone(), at: now });
        let others = self.boxes.get(box_id).map_or(&[][..], |known| &known.serials);
        let is_past = |other: &&Serial| {
            let certificate = self.certificates.get(*other);
            *other != serial
                && certificate.is_some_and(|known| known.first_used.is_some() && known.revoked.is_none())
        };
        entries.extend(others.iter().filter(is_past).map(|other| {
            let revoked = Revoked { by: HUB.into(), why: format!("the box uses {serial} now"), at: now };
            Entry::Revoked { serial: other.clone(), revoked }
        }));
        entries
    }

    /// What is to be noted because time has passed: enrolments that nobody used end.
    pub fn outdated(&self, now: Time) -> Vec<Entry> {
        let is_unused = |certificate: &Certificate| {
            certificate.first_used.is_none()
                && certificate.revoked.is_none()
                && now.duration_since(certificate.issued)
                    >= ENROL_UNUSED_MAX.try_into().unwrap_or(jiff::SignedDuration::MAX)
        };
        let unused = self.certificates.iter().filter(|(_, certificate)| is_unused(certificate));
        let why = format!("not used within {} days", ENROL_UNUSED_MAX.as_secs() / 86_400);
        let revoked = Revoked { by: HUB.into(), why, at: now };
        unused
            .map(|(serial, _)| Entry::Revoked { serial: serial.clone(), revoked: revoked.clone() })
            .collect()
    }

    /// With what the box says it runs.
    pub fn runs(&self, box_id: &BoxId) -> Hello {
        self.boxes.get(box_id).map(|known| known.runs.clone()).unwrap_or_default()
    }

    /// What boxes said and the journal does not have yet: the newest of each, and each at most once in
    /// [`BOX_RUNS_NOTED_EVERY`].
    pub fn unnoted(&self, now: Time) -> Vec<Entry> {
        let is_due = |noted: &Noted| {
            // A clock that was set back must not hold it up.
            noted.at.is_none_or(|at| now.duration_since(at).unsigned_abs() >= BOX_RUNS_NOTED_EVERY)
        };
        let unnoted =
            self.boxes.iter().filter(|(_, known)| known.runs != known.noted.runs && is_due(&known.noted));
        unnoted
            .map(|(box_id, known)| Entry::Runs { box_id: box_id.clone(), hello: known.runs.clone(), at: now })
            .collect()
    }

    /// A box that was given too many within a day gets no more.
    pub fn has_had_enough(&self, box_id: &BoxId, now: Time) -> bool {
        let known = self.boxes.get(box_id).map_or(&[][..], |known| &known.serials);
        let is_recent = |serial: &&Serial| {
            self.certificates.get(*serial).is_some_and(|c| now.duration_since(c.issued) < DAY)
        };
        known.iter().rev().take_while(is_recent).count() >= BOX_CERTIFICATES_PER_DAY_MAX
    }

    /// Version that the next thing set for a box gets.
    pub fn next_version(&self, box_id: &BoxId) -> u64 {
        let wanted = self.boxes.get(box_id).and_then(|known| known.wanted.as_ref());
        wanted.map_or(1, |wanted| wanted.config.version + 1)
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Issued { serial, box_id, issued, expires, how, .. } => {
                let known = self.boxes.entry(box_id.clone()).or_default();
                known.serials.push(serial.clone());
                let certificate =
                    Certificate { box_id, issued, expires, how, first_used: None, revoked: None };
                self.certificates.insert(serial, certificate);
            }
            Entry::Used { serial, at } => {
                if let Some(certificate) = self.certificates.get_mut(&serial) {
                    certificate.first_used.get_or_insert(at);
                }
            }
            Entry::Revoked { serial, revoked } => {
                if let Some(certificate) = self.certificates.get_mut(&serial) {
                    certificate.revoked.get_or_insert(revoked);
                }
            }
            Entry::BoxRevoked { box_id, revoked } => {
                self.invitations.retain(|_, invited| invited.box_id != box_id);
                let known = self.boxes.entry(box_id).or_default();
                for serial in &known.serials {
                    if let Some(certificate) = self.certificates.get_mut(serial) {
                        certificate.revoked.get_or_insert(revoked.clone());
                    }
                }
                known.revoked = Some(revoked);
            }
            Entry::Invited { secret, box_id, expires, config, actor } => {
                // The newest invitation of a box is the only one.
                self.invitations.retain(|_, invited| invited.box_id != box_id);
                self.invitations.insert(secret, Invited { box_id, expires, config, actor });
            }
            Entry::Accepted { secret } => drop(self.invitations.remove(&secret)),
            Entry::Set { box_id, config, actor, why, at } => {
                self.boxes.entry(box_id).or_default().wanted = Some(Wanted { config, actor, why, at });
            }
            Entry::Runs { box_id, hello, at } => {
                let known = self.boxes.entry(box_id).or_default();
                known.runs = hello.clone();
                known.noted = Noted { runs: hello, at: Some(at) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::sim_disk::{AfterFailedSync, Fault, SimDisk};

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn box_id(id: &str) -> BoxId {
        BoxId::new(id).unwrap()
    }

    fn issued(serial: &str, id: &str, seconds: i64) -> Entry {
        Entry::Issued {
            serial: Serial::read(serial),
            box_id: box_id(id),
            issued: at(seconds),
            expires: at(seconds + 1000),
            how: How::File,
            actor: "demo".into(),
        }
    }

    fn revoked(seconds: i64) -> Revoked {
        Revoked { by: "demo".into(), why: "stolen".into(), at: at(seconds) }
    }

    /// One box with these entries; who may come in afterwards.
    fn check(entries: Vec<Entry>, expected: &[(&str, &str, bool)]) {
        let dir = tempfile::tempdir().unwrap();
        Book::open(dir.path()).unwrap().write(entries.clone()).unwrap();
        // As it stands after a restart.
        let book = Book::open(dir.path()).unwrap();
        for (id, serial, is_good) in expected {
            let found = book.known().check(&box_id(id), &Serial::read(serial));
            assert_eq!(found.is_ok(), *is_good, "{id} {serial} after {entries:?}: {found:?}");
        }
    }

    #[test]
    fn who_may_connect() {
        let used = |serial: &str| Entry::Used { serial: Serial::read(serial), at: at(5) };
        let out = |seconds| Entry::BoxRevoked { box_id: box_id("box-01"), revoked: revoked(seconds) };
        let one = Entry::Revoked { serial: Serial::read("a1"), revoked: revoked(9) };
        check(vec![], &[("box-01", "ff", true)]);
        check(
            vec![issued("a1", "box-01", 0)],
            &[
                ("box-01", "a1", true),
                ("box-01", "00A1", true),
                ("box-02", "a1", false),
                // Prepared, not used: what the box has had so far still works.
                ("box-01", "ff", true),
            ],
        );
        check(
            vec![issued("a1", "box-01", 0), used("a1")],
            &[("box-01", "a1", true), ("box-01", "ff", false)],
        );
        check(vec![issued("a1", "box-01", 0), one], &[("box-01", "a1", false), ("box-01", "ff", true)]);
        check(
            vec![issued("a1", "box-01", 0), out(9), issued("b2", "box-01", 10)],
            &[
                ("box-01", "a1", false),
                ("box-01", "b2", true),
                ("box-01", "ff", false),
                ("box-02", "ff", true),
            ],
        );
        check(vec![out(9)], &[("box-01", "ff", false), ("box-02", "ff", true)]);
    }

    #[test]
    fn the_first_use_of_a_certificate_ends_those_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        let id = box_id("box-01");
        let show = |book: &mut Book, serial: &str, seconds| {
            let entries = book.known().used(&id, &Serial::read(serial), at(500), at(seconds));
            let count = entries.len();
            book.write(entries).unwrap();
            count
        };
        // Made elsewhere, adopted when it comes.
        assert_eq!((show(&mut book, "e0", 1), show(&mut book, "e0", 2)), (2, 0));
        assert_eq!(book.known().certificates[&Serial::read("e0")].how, How::Elsewhere);
        book.write(vec![issued("a1", "box-01", 3), issued("b2", "box-01", 4)]).unwrap();
        assert_eq!(show(&mut book, "a1", 5), 2);
        let good: Vec<&str> =
            ["e0", "a1", "b2"].into_iter().filter(|s| book.known().is_good(&Serial::read(s))).collect();
        assert_eq!(good, ["a1", "b2"], "what is prepared stays");
        assert_eq!(show(&mut book, "b2", 6), 2);
        assert!(!book.known().is_good(&Serial::read("a1")));
    }

    #[test]
    fn what_nobody_uses_ends_by_itself() {
        let mut known = Known::default();
        known.take(issued("a1", "box-01", 0));
        known.take(issued("b2", "box-02", 0));
        known.take(Entry::Used { serial: Serial::read("b2"), at: at(1) });
        let days = ENROL_UNUSED_MAX.as_secs() as i64;
        assert!(known.outdated(at(days - 1)).is_empty());
        let ended = known.outdated(at(days));
        assert!(
            matches!(&ended[..], [Entry::Revoked { serial, .. }] if serial.as_str() == "a1"),
            "{ended:?}"
        );
    }

    #[test]
    fn a_box_gets_only_so_many_certificates_in_a_day() {
        let mut known = Known::default();
        for n in 0..BOX_CERTIFICATES_PER_DAY_MAX as i64 {
            assert!(!known.has_had_enough(&box_id("box-01"), at(n)));
            known.take(issued(&format!("a{n}"), "box-01", n));
        }
        assert!(known.has_had_enough(&box_id("box-01"), at(100)));
        assert!(!known.has_had_enough(&box_id("box-02"), at(100)));
        assert!(!known.has_had_enough(&box_id("box-01"), at(2 * 86_400)));
    }

    /// A disk with a book that knows one box; its operations so far.
    fn book_on(disk: &SimDisk) -> Book {
        let mut book = Book::open_on(disk.disk(), Path::new("boxes")).unwrap();
        book.write(vec![issued("a1", "box-01", 0)]).unwrap();
        book
    }

    #[test]
    fn after_a_failed_write_memory_and_journal_are_the_same_and_the_next_write_is_taken() {
        let out = |id: &str| Entry::BoxRevoked { box_id: box_id(id), revoked: revoked(9) };
        let faults = [
            Fault::Error,
            Fault::Short,
            Fault::Sync(AfterFailedSync::Retries),
            Fault::Sync(AfterFailedSync::Forgets),
            Fault::Sync(AfterFailedSync::Drops),
        ];
        // The second one fails the journal's opening anew as well.
        for (fault, failures) in faults.into_iter().flat_map(|fault| [(fault, 1), (fault, 2)]) {
            for n in 0..2 {
                let disk = SimDisk::new(7);
                let mut book = book_on(&disk);
                (0..failures).for_each(|more| disk.fail(n + more, fault));
                let what = format!("{fault:?} at {n}, {failures} times");
                let failed = book.write(vec![out("box-02"), issued("b2", "box-03", 1)]);
                assert!(failed.is_err(), "{what}");
                assert!(!book.known().is_out(&box_id("box-02")), "{what}: nothing of it is believed");
                disk.heal();
                book.write(vec![out("box-01")]).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert!(book.known().is_out(&box_id("box-01")), "{what}");
                let known = book.knowledge();
                drop(book);
                let again = Book::open_on(disk.disk(), Path::new("boxes")).unwrap();
                assert_eq!(*again.known(), *known.read(), "{what}");
            }
        }
    }

    #[test]
    fn of_what_a_box_says_the_newest_is_noted_once_in_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        let id = box_id("box-01");
        let runs = |version| Hello { running: Some(version), failed: None };
        let minute = BOX_RUNS_NOTED_EVERY.as_secs() as i64;
        let mut noted = Vec::new();
        // Something else in every second of three minutes.
        for second in 0..=3 * minute {
            assert!(book.hear(&id, runs(second as u64)));
            let entries = book.known().unnoted(at(second));
            noted.extend(entries.iter().map(|_| second));
            book.write(entries).unwrap();
            assert_eq!(book.known().runs(&id), runs(second as u64), "known at once");
        }
        assert_eq!(noted, [0, minute, 2 * minute, 3 * minute]);
        assert!(!book.hear(&id, runs(3 * minute as u64)), "no news");
        assert!(book.known().unnoted(at(9 * minute)).is_empty());
        // What it says between is noted later, though it says no more; a clock that was set back holds nothing up.
        book.hear(&id, runs(1000));
        assert!(book.known().unnoted(at(3 * minute + 1)).is_empty());
        assert_eq!(book.known().unnoted(at(4 * minute)).len(), 1);
        assert_eq!(book.known().unnoted(at(0)).len(), 1);
        let entries = book.known().unnoted(at(4 * minute));
        book.write(entries).unwrap();
        drop(book);
        assert_eq!(Book::open(dir.path()).unwrap().known().runs(&id), runs(1000));
    }

    #[test]
    fn a_book_that_cannot_be_read_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.append(br#"{"version":1,"record":"revokd"}"#).unwrap();
        journal.sync().unwrap();
        drop(journal);
        assert!(matches!(Book::open(dir.path()), Err(BookError::Record { number: 0, .. })));
    }
}
