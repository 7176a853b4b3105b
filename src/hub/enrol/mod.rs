//! Boxes and the hub's trust in them: who gets a certificate, whose is good, and what is set for whom.
//!
//! Owns the book (a journal) and, where the hub has it, the CA's key. Whoever lets boxes in asks [`Enrol::arrives`] with
//! the certificate that was shown, and closes what [`Enrol::revocations`] names. Questions that change nothing never wait
//! for the disk: ingest and handshakes ask them. May not listen or connect.

pub mod authority;
pub mod book;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use self::authority::{Authority, Signed};
use self::book::{Book, BookError, Entry, How, Knowledge, Known, Revoked, Serial, Unwelcome};
use super::certificates::{CertificateError, serial_of};
use super::config::{BrokerConfig, HubConfig};
use crate::limits::{BOX_WHY_CHARS_MAX, ENROL_INVITATION_VALID, ENROL_LOOKS_EVERY};
use crate::model::{BoxId, Sha256Hash, Time};
use crate::mqtt::HUB_NAME;
use crate::tls::{BadProof, NoKey, check_proof, new_secret};
use crate::wire::enrol::{
    Accepted, Enrolment, Hello, Invitation, KeyProof, Renewed, SetConfig, Welcome, check_set_tables,
};

/// The list of revoked certificates, for brokers and others that check them by themselves; below the data folder.
pub const LIST_FILE: &str = "revoked-boxes.pem";
/// Revocations that one who closes connections may lag behind.
const REVOCATIONS_WAITING_MAX: usize = 1024;

/// Why something about a box was not done.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("this hub signs no certificates: name the CA's key as `boxes.ca_key` in its configuration")]
    NoAuthority,
    #[error("this hub has no enrolment listener: set `boxes.enrol_listen` in its configuration")]
    NoListener,
    #[error("nobody said under which name boxes reach this hub: set `boxes.name`, or say --name")]
    NoName,
    #[error(transparent)]
    Unwelcome(#[from] Unwelcome),
    #[error(transparent)]
    Proof(#[from] BadProof),
    #[error("{HUB_NAME} is the hub itself: no box can have that name")]
    HubName,
    #[error("box {0} got too many certificates within a day")]
    Enough(BoxId),
    #[error("the invitation is not known: it was used, it is over, or another was made since")]
    NotInvited,
    #[error("the configuration can't be set: {0}")]
    Config(String),
    #[error("why: 1 to {BOX_WHY_CHARS_MAX} characters")]
    Why,
    #[error(transparent)]
    NoKey(#[from] NoKey),
    #[error("no certificate could be signed")]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Book(#[from] BookError),
}

/// Under which addresses boxes reach this hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub name: Option<String>,
    /// `host:port` where the name does not say it: of an external broker.
    pub broker: Option<String>,
    pub mqtt_port: u16,
    pub boxes_port: u16,
    pub enrol_port: Option<u16>,
}

impl Reach {
    pub fn of(config: &HubConfig) -> Self {
        let (broker, mqtt_port) = match &config.broker {
            BrokerConfig::Embedded(broker) => (None, broker.listen.port()),
            BrokerConfig::External(broker) => (Some(broker.address.clone()), 0),
        };
        Self {
            name: config.boxes.name.clone(),
            broker,
            mqtt_port,
            boxes_port: config.boxes.listen.port(),
            enrol_port: config.boxes.enrol_listen.map(|listen| listen.port()),
        }
    }

    fn name<'a>(&'a self, said: Option<&'a str>) -> Result<&'a str, EnrolError> {
        said.or(self.name.as_deref()).ok_or(EnrolError::NoName)
    }

    /// A box's `edge.toml`: who it is, how it reaches the hub, then what was given for it.
    fn config(
        &self,
        box_id: &BoxId,
        serial: &Serial,
        name: &str,
        tables: &str,
    ) -> Result<String, EnrolError> {
        // A quote in a name would be more than a name.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(EnrolError::Config(format!("{name:?} is no host name")));
        }
        // How the box reaches the hub is said below, once.
        if toml::from_str::<toml::Table>(tables).is_ok_and(|tables| tables.contains_key("hub")) {
            return Err(EnrolError::Config(
                "hub: an enrolment says itself how the box reaches the hub".into(),
            ));
        }
        let mqtt = self.broker.clone().unwrap_or_else(|| format!("{name}:{}", self.mqtt_port));
        // A new name for each certificate: a box that is enrolled again has all of the old files or all of the new.
        let short = &serial.as_str()[..serial.as_str().len().min(8)];
        let url = format!("https://{name}:{}", self.boxes_port);
        Ok(format!(
            "# Made by `camnet device enroll`. Paths are relative to this file.\n\
             box = \"{box_id}\"\ndata_dir = \"/var/lib/camnet-edge\"\n\n{tables}\n\
             [hub]\nmqtt = \"{mqtt}\"\nurl = \"{url}\"\nca = \"{box_id}-{short}-ca.pem\"\n\
             # Certificate and key in one file: they are renewed together.\n\
             certificate = \"{box_id}-{short}.pem\"\nkey = \"{box_id}-{short}.pem\"\n"
        ))
    }
}

/// A certificate that shall be closed out, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub box_id: BoxId,
    /// None: whatever the box shows.
    pub serial: Option<Serial>,
}

/// Who is in which connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub box_id: BoxId,
    pub serial: Serial,
    pub expires: Time,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Enrol(Arc<Shared>);

struct Shared {
    authority: Option<Authority>,
    list: PathBuf,
    reach: Reach,
    valid: Duration,
    revocations: broadcast::Sender<Revocation>,
    /// Of the hub's own client certificate, where boxes connect to its embedded broker. No other bears its name there.
    hub: Option<Serial>,
    known: Knowledge,
    book: Mutex<Book>,
}

impl std::fmt::Debug for Enrol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enrol")
    }
}

impl Enrol {
    /// Opens the book in the hub's data folder, and the CA if the configuration names its key. Blocking.
    pub fn open(config: &HubConfig) -> Result<Self, EnrolError> {
        let authority = match &config.boxes.ca_key {
            Some(key) => Some(Authority::open(&config.boxes.ca, key)?),
            None => None,
        };
        let valid = config.boxes.certificate_valid();
        let hub = match &config.broker {
            BrokerConfig::Embedded(broker) => Some(Serial::of(&serial_of(&broker.client_certificate)?)),
            BrokerConfig::External(_) => None,
        };
        Self::open_as(hub, &config.data_dir, authority, Reach::of(config), valid)
    }

    /// As [`Enrol::open`], of parts.
    pub fn open_with(
        data_dir: &Path,
        authority: Option<Authority>,
        reach: Reach,
        valid: Duration,
    ) -> Result<Self, EnrolError> {
        Self::open_as(None, data_dir, authority, reach, valid)
    }

    fn open_as(
        hub: Option<Serial>,
        data_dir: &Path,
        authority: Option<Authority>,
        reach: Reach,
        valid: Duration,
    ) -> Result<Self, EnrolError> {
        let book = Book::open(&data_dir.join("boxes"))?;
        let (revocations, _) = broadcast::channel(REVOCATIONS_WAITING_MAX);
        let (list, known) = (data_dir.join(LIST_FILE), book.knowledge());
        let book = Mutex::new(book);
        let enrol = Self(Arc::new(Shared { authority, list, reach, valid, revocations, hub, known, book }));
        enrol.write_list()?;
        Ok(enrol)
    }

    /// Each revocation from now on.
    pub fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.0.revocations.subscribe()
    }

    /// Everything that is known. Does not wait for the disk; nor may `at`, for then nobody can write.
    pub fn look<T>(&self, at: impl FnOnce(&Known) -> T) -> T {
        at(&self.0.known.read())
    }

    /// Whether this certificate is good, for who checks before anything is said. The hub's name goes with its own
    /// certificate only, whatever the CA signed and the book says.
    pub fn check(&self, box_id: &BoxId, serial: &Serial) -> Result<(), Unwelcome> {
        if box_id.as_str() != HUB_NAME {
            return self.look(|known| known.check(box_id, serial));
        }
        let is_own = self.0.hub.as_ref() == Some(serial);
        if is_own { Ok(()) } else { Err(Unwelcome::NotTheHub { serial: serial.clone() }) }
    }

    /// A box shows its certificate: lets it in, and notes the first time. Blocking, but for a moment except then.
    pub fn arrives(&self, shown: &Shown) -> Result<(), Unwelcome> {
        let Shown { box_id, serial, expires } = shown;
        self.check(box_id, serial)?;
        // The hub's own is no box's: the book has nothing to note.
        let is_noted = |known: &Known| known.used(box_id, serial, *expires, Time::now()).is_empty();
        if box_id.as_str() == HUB_NAME || self.look(is_noted) {
            return Ok(());
        }
        let mut book = self.lock();
        // Another may have come while this one waited.
        self.check(box_id, serial)?;
        let entries = book.known().used(box_id, serial, *expires, Time::now());
        if entries.is_empty() {
            return Ok(());
        }
        tracing::info!(%box_id, %serial, "a box shows its certificate for the first time");
        if let Err(error) = self.write(&mut book, entries) {
            // The box has a good certificate; it is noted when it comes again.
            tracing::error!(%box_id, error = &error as &dyn std::error::Error, "a certificate's first use can't be noted");
        }
        Ok(())
    }

    /// Every event under this name shall be set aside.
    pub fn is_out(&self, box_id: &BoxId) -> bool {
        self.look(|known| known.is_out(box_id))
    }

    /// A certificate for a box whose key was made elsewhere, with the configuration for its file. `tables`: see
    /// [`check_set_tables`]. Blocking.
    pub fn enrol(
        &self,
        box_id: &BoxId,
        key: &KeyProof,
        tables: &str,
        name: Option<&str>,
        how: How,
        actor: &str,
    ) -> Result<Enrolment, EnrolError> {
        check_set_tables(tables).map_err(EnrolError::Config)?;
        let name = self.0.reach.name(name)?.to_owned();
        let mut book = self.lock();
        let signed = self.sign(&book.known(), box_id, key)?;
        let config = self.0.reach.config(box_id, &signed.serial, &name, tables)?;
        let entry = issued(box_id, &signed, how, actor);
        self.write(&mut book, vec![entry])?;
        Ok(Enrolment::new(box_id.clone(), self.authority()?.ca().to_owned(), signed.pem, None, config))
    }

    /// Invites a box to make its own key and fetch the rest: for a QR code. The secret is told once; the book has its
    /// SHA-256. Blocking.
    pub fn invite(
        &self,
        box_id: &BoxId,
        tables: &str,
        name: Option<&str>,
        actor: &str,
    ) -> Result<Invitation, EnrolError> {
        check_is_box(box_id)?;
        check_set_tables(tables).map_err(EnrolError::Config)?;
        let ca = self.authority()?.ca_digest();
        let port = self.0.reach.enrol_port.ok_or(EnrolError::NoListener)?;
        let name = self.0.reach.name(name)?.to_owned();
        // What is wrong with the name is said now, not to the box.
        self.0.reach.config(box_id, &Serial::read("0"), &name, tables)?;
        let secret = new_secret()?;
        let entry = Entry::Invited {
            secret: Sha256Hash::of(secret.as_bytes()),
            box_id: box_id.clone(),
            expires: Time::now() + ENROL_INVITATION_VALID,
            config: tables.to_owned(),
            actor: actor.to_owned(),
        };
        self.write(&mut self.lock(), vec![entry])?;
        Ok(Invitation { url: format!("https://{name}:{port}"), box_id: box_id.clone(), ca, secret })
    }

    /// The CA's certificate, for a box that knows its SHA-256.
    pub fn ca(&self) -> Result<String, EnrolError> {
        Ok(self.authority()?.ca().to_owned())
    }

    /// A box comes with an invitation. `host` is the name under which it came. Blocking.
    pub fn accept(&self, accepted: &Accepted, host: &str) -> Result<Enrolment, EnrolError> {
        let mut book = self.lock();
        let secret = Sha256Hash::of(accepted.secret.as_bytes());
        let invited = book.known().invitations.get(&secret).cloned();
        let invited = invited
            .filter(|invited| invited.box_id == accepted.box_id && Time::now() < invited.expires)
            .ok_or(EnrolError::NotInvited)?;
        let signed = self.sign(&book.known(), &accepted.box_id, &accepted.key)?;
        let config = self.0.reach.config(&accepted.box_id, &signed.serial, host, &invited.config)?;
        let entries = vec![
            Entry::Accepted { secret },
            issued(&accepted.box_id, &signed, How::Invitation, &invited.actor),
        ];
        self.write(&mut book, entries)?;
        let ca = self.authority()?.ca().to_owned();
        Ok(Enrolment::new(accepted.box_id.clone(), ca, signed.pem, None, config))
    }

    /// The next certificate for a box that shows a good one. Blocking.
    pub fn renew(&self, shown: &Shown, key: &KeyProof) -> Result<Renewed, EnrolError> {
        let mut book = self.lock();
        self.check(&shown.box_id, &shown.serial)?;
        let signed = self.sign(&book.known(), &shown.box_id, key)?;
        let entry = issued(&shown.box_id, &signed, How::Renewal, shown.box_id.as_str());
        self.write(&mut book, vec![entry])?;
        tracing::info!(box_id = %shown.box_id, serial = %signed.serial, "a box renews its certificate");
        Ok(Renewed { certificate: signed.pem })
    }

    /// From now on nothing of this box is let in, until it is enrolled again. Blocking.
    pub fn revoke(&self, box_id: &BoxId, why: &str, actor: &str) -> Result<(), EnrolError> {
        let why = why.trim();
        if why.is_empty() || why.chars().count() > BOX_WHY_CHARS_MAX {
            return Err(EnrolError::Why);
        }
        let revoked = Revoked { by: actor.to_owned(), why: why.to_owned(), at: Time::now() };
        self.write(&mut self.lock(), vec![Entry::BoxRevoked { box_id: box_id.clone(), revoked }])?;
        tracing::warn!(%box_id, actor, why, "a box is revoked");
        Ok(())
    }

    /// Sets something for a box; its version. Blocking.
    pub fn set(&self, box_id: &BoxId, toml: &str, why: &str, actor: &str) -> Result<u64, EnrolError> {
        check_set_tables(toml).map_err(EnrolError::Config)?;
        if why.chars().count() > BOX_WHY_CHARS_MAX {
            return Err(EnrolError::Why);
        }
        let mut book = self.lock();
        let version = book.known().next_version(box_id);
        let config = SetConfig { version, toml: toml.to_owned() };
        let (actor, why) = (actor.to_owned(), why.to_owned());
        self.write(
            &mut book,
            vec![Entry::Set { box_id: box_id.clone(), config, actor, why, at: Time::now() }],
        )?;
        Ok(version)
    }

    /// What is set for a box.
    pub fn wanted(&self, box_id: &BoxId) -> Option<SetConfig> {
        self.look(|known| known.boxes.get(box_id)?.wanted.as_ref().map(|wanted| wanted.config.clone()))
    }

    /// A box says with what it runs, and hears what is wanted of it. What it says is known at once; the journal gets the
    /// newest, at most once in [`BOX_RUNS_NOTED_EVERY`](crate::limits::BOX_RUNS_NOTED_EVERY). Blocking.
    pub fn hello(&self, shown: &Shown, mut hello: Hello) -> Result<Welcome, EnrolError> {
        if let Some(failed) = &mut hello.failed {
            failed.why = failed.why.chars().take(BOX_WHY_CHARS_MAX).collect();
        }
        if self.look(|known| known.runs(&shown.box_id)) != hello {
            self.hear(&shown.box_id, hello);
        }
        let known = self.0.known.read();
        let wanted = known.boxes.get(&shown.box_id).and_then(|known| known.wanted.as_ref());
        let certificate = known.certificates.get(&shown.serial);
        // One whose beginning the hub does not know is renewed when it is known to end.
        let issued = certificate.map_or(shown.expires, |known| known.issued);
        let left = renew_from(&shown.serial, issued, shown.expires).duration_since(Time::now());
        Ok(Welcome {
            serial: shown.serial.to_string(),
            expires: shown.expires,
            renew_in_s: self.0.authority.is_some().then(|| left.as_secs().max(0).unsigned_abs()),
            wanted: wanted.map(|wanted| wanted.config.version),
        })
    }

    fn hear(&self, box_id: &BoxId, hello: Hello) {
        let mut book = self.lock();
        let (running, failed) = (hello.running, hello.failed.clone());
        if !book.hear(box_id, hello) {
            return;
        }
        let entries = book.known().unnoted(Time::now());
        if entries.iter().any(|entry| matches!(entry, Entry::Runs { box_id: of, .. } if of == box_id)) {
            tracing::info!(%box_id, running, ?failed, "a box says with what it runs");
        }
        if let Err(error) = self.write(&mut book, entries) {
            // It is known, and noted with what comes next, or within minutes.
            tracing::error!(%box_id, error = &error as &dyn std::error::Error, "with what a box runs can't be noted yet");
        }
    }

    /// Ends what nobody used, and notes what boxes said since, every minute until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut every = tokio::time::interval(ENROL_LOOKS_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            let enrol = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let mut book = enrol.lock();
                let now = Time::now();
                let mut entries = book.known().outdated(now);
                entries.extend(book.known().unnoted(now));
                enrol.write(&mut book, entries)
            });
            if let Ok(Err(error)) = looked.await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "unused enrolments can't be ended, nor what boxes said noted"
                );
            }
        }
    }

    fn authority(&self) -> Result<&Authority, EnrolError> {
        self.0.authority.as_ref().ok_or(EnrolError::NoAuthority)
    }

    fn sign(&self, known: &Known, box_id: &BoxId, key: &KeyProof) -> Result<Signed, EnrolError> {
        check_is_box(box_id)?;
        let authority = self.authority()?;
        let point = check_proof(key, box_id.as_str())?;
        let now = Time::now();
        if known.has_had_enough(box_id, now) {
            return Err(EnrolError::Enough(box_id.clone()));
        }
        Ok(authority.sign(box_id, point, now, self.0.valid)?)
    }

    /// Durable first; then the list for brokers, then those who close connections hear of it.
    fn write(&self, book: &mut Book, entries: Vec<Entry>) -> Result<(), EnrolError> {
        let revocations: Vec<Revocation> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Revoked { serial, .. } => {
                    let box_id = book.known().certificates.get(serial)?.box_id.clone();
                    Some(Revocation { box_id, serial: Some(serial.clone()) })
                }
                Entry::BoxRevoked { box_id, .. } => Some(Revocation { box_id: box_id.clone(), serial: None }),
                _ => None,
            })
            .collect();
        book.write(entries)?;
        if !revocations.is_empty() {
            if let Err(error) = self.write_list() {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the list of revoked certificates can't be written"
                );
            }
            for revocation in revocations {
                // Nobody may be there to close anything.
                let _ = self.0.revocations.send(revocation);
            }
        }
        Ok(())
    }

    /// For brokers that check certificates by themselves. Whole or not at all.
    fn write_list(&self) -> Result<(), EnrolError> {
        let Some(authority) = &self.0.authority else { return Ok(()) };
        let now = Time::now();
        let revoked = self.look(|known| {
            let lasting = known.certificates.iter().filter(|(_, certificate)| certificate.expires > now);
            let revoked = lasting.filter_map(|(serial, certificate)| {
                certificate.revoked.as_ref().map(|revoked| (serial.clone(), revoked.at))
            });
            revoked.collect::<Vec<_>>()
        });
        let number = u64::try_from(now.as_microsecond()).unwrap_or(0);
        let text = authority.list(revoked.into_iter(), number, now)?;
        let part = self.0.list.with_extension("part");
        let io = |source| CertificateError::Io { what: "written", path: self.0.list.clone(), source };
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &self.0.list)).map_err(io)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hub's own name has the form of a box's id, and is none.
fn check_is_box(box_id: &BoxId) -> Result<(), EnrolError> {
    if box_id.as_str() == HUB_NAME { Err(EnrolError::HubName) } else { Ok(()) }
}

fn issued(box_id: &BoxId, signed: &Signed, how: How, actor: &str) -> Entry {
    Entry::Issued {
        serial: signed.serial.clone(),
        box_id: box_id.clone(),
        issued: signed.issued,
        expires: signed.expires,
        how,
        actor: actor.to_owned(),
    }
}

/// After two thirds of its life, and up to a tenth later by its number: boxes that were enrolled together do not all
/// come at once.
fn renew_from(serial: &Serial, issued: Time, expires: Time) -> Time {
    let life = expires.duration_since(issued).as_secs_f64().max(0.0);
    let spread = f64::from(serial.bytes().last().copied().unwrap_or(0)) / 255.0;
    issued + Duration::from_secs_f64(life * (2.0 / 3.0 + spread / 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::certificates::{init, loopback_names};
    use crate::tls::NewKey;

    struct World {
        dir: tempfile::TempDir,
        enrol: Enrol,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            init(dir.path(), &loopback_names()).unwrap();
            let enrol = Self::open(dir.path());
            Self { dir, enrol }
        }

        fn open(dir: &Path) -> Enrol {
            let authority = Authority::open(&dir.join("ca.pem"), &dir.join("ca.key")).unwrap();
            let reach = Reach {
                name: Some("hub.example".into()),
                broker: None,
                mqtt_port: 8883,
                boxes_port: 8443,
                enrol_port: Some(8444),
            };
            Enrol::open_with(dir, Some(authority), reach, Duration::from_secs(3600)).unwrap()
        }

        /// As after a restart of the hub.
        fn again(self) -> Self {
            let Self { dir, enrol } = self;
            drop(enrol);
            let enrol = Self::open(dir.path());
            Self { dir, enrol }
        }
    }

    fn box_id(id: &str) -> BoxId {
        BoxId::new(id).unwrap()
    }

    fn proof(id: &str) -> KeyProof {
        NewKey::make().unwrap().proof(id).unwrap()
    }

    fn shown(enrolment: &Enrolment) -> Shown {
        shown_pem(&enrolment.certificate, &enrolment.box_id)
    }

    fn shown_pem(pem: &str, box_id: &BoxId) -> Shown {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let expires = Time::from_second(certificate.validity().not_after.timestamp()).unwrap();
        Shown { box_id: box_id.clone(), serial: Serial::of(certificate.raw_serial()), expires }
    }

    #[test]
    fn an_invitation_works_once_for_its_box_and_is_not_kept_in_the_clear() {
        let world = World::new();
        let id = box_id("box-01");
        let first = world.enrol.invite(&id, "[ring]\ndays = 3", None, "demo").unwrap();
        let invitation = world.enrol.invite(&id, "[ring]\ndays = 3", None, "demo").unwrap();
        let world = world.again();
        let come = |secret: &str, name: &str| {
            let accepted = Accepted { box_id: box_id(name), secret: secret.into(), key: proof(name) };
            world.enrol.accept(&accepted, "hub.example")
        };
        for (secret, name, why) in [
            (first.secret.as_str(), "box-01", "another was made since"),
            (&invitation.secret, "box-02", "of another box"),
            ("guessed", "box-01", "not the secret"),
        ] {
            assert!(matches!(come(secret, name), Err(EnrolError::NotInvited)), "{why}");
        }
        let enrolment = come(&invitation.secret, "box-01").unwrap();
        assert!(enrolment.key.is_none() && enrolment.config.contains("days = 3"), "{}", enrolment.config);
        assert!(matches!(come(&invitation.secret, "box-01"), Err(EnrolError::NotInvited)), "used");
        for file in std::fs::read_dir(world.dir.path().join("boxes")).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(20).any(|part| part == &invitation.secret.as_bytes()[..20]));
        }
    }

    #[test]
    fn a_renewed_certificate_ends_the_old_one_when_it_is_used() {
        let world = World::new();
        let id = box_id("box-01");
        let enrolment = world.enrol.enrol(&id, &proof("box-01"), "", None, How::File, "demo").unwrap();
        let old = shown(&enrolment);
        let mut revocations = world.enrol.revocations();
        world.enrol.arrives(&old).unwrap();
        let renewed = world.enrol.renew(&old, &proof("box-01")).unwrap();
        let new = shown_pem(&renewed.certificate, &id);
        world.enrol.arrives(&old).expect("the new one is not used yet");
        world.enrol.arrives(&new).unwrap();
        assert!(matches!(world.enrol.arrives(&old), Err(Unwelcome::Revoked { .. })));
        assert!(matches!(world.enrol.renew(&old, &proof("box-01")), Err(EnrolError::Unwelcome(_))));
        let heard = revocations.try_recv().unwrap();
        assert_eq!(heard, Revocation { box_id: id.clone(), serial: Some(old.serial.clone()) });
        let world = world.again();
        assert!(world.enrol.check(&id, &old.serial).is_err() && world.enrol.check(&id, &new.serial).is_ok());
    }

    #[test]
    fn a_revoked_box_is_out_until_it_is_enrolled_again() {
        let world = World::new();
        let id = box_id("box-01");
        let enrolment = world.enrol.enrol(&id, &proof("box-01"), "", None, How::File, "demo").unwrap();
        world.enrol.arrives(&shown(&enrolment)).unwrap();
        assert!(matches!(world.enrol.revoke(&id, " ", "demo"), Err(EnrolError::Why)));
        world.enrol.revoke(&id, "stolen", "demo").unwrap();
        let world = world.again();
        assert!(world.enrol.is_out(&id) && !world.enrol.is_out(&box_id("box-02")));
        let list = std::fs::read_to_string(world.dir.path().join(LIST_FILE)).unwrap();
        assert!(list.contains("X509 CRL"));
        let enrolment = world.enrol.enrol(&id, &proof("box-01"), "", None, How::File, "demo").unwrap();
        world.enrol.arrives(&shown(&enrolment)).unwrap();
        assert!(!world.enrol.is_out(&id));
    }

    #[test]
    fn a_key_is_certified_for_its_own_box_only() {
        let world = World::new();
        let result = world.enrol.enrol(&box_id("box-01"), &proof("box-02"), "", None, How::File, "demo");
        assert!(matches!(result, Err(EnrolError::Proof(_))));
    }

    #[test]
    fn what_is_set_has_a_growing_version_and_is_checked() {
        let world = World::new();
        let id = box_id("box-01");
        assert_eq!(world.enrol.set(&id, "[ring]\ndays = 3", "thử", "demo").unwrap(), 1);
        assert_eq!(world.enrol.set(&id, "[ring]\ndays = 4", "", "demo").unwrap(), 2);
        let error = world.enrol.set(&id, "data_dir = \"/\"", "", "demo").unwrap_err();
        assert!(error.to_string().contains("data_dir"), "{error}");
        assert_eq!(world.again().enrol.wanted(&id).unwrap().version, 2);
    }

    #[test]
    fn no_box_gets_the_hubs_name() {
        let world = World::new();
        let hub = box_id(HUB_NAME);
        let signed = world.enrol.enrol(&hub, &proof(HUB_NAME), "", None, How::File, "demo");
        assert!(matches!(signed, Err(EnrolError::HubName)), "{signed:?}");
        let invited = world.enrol.invite(&hub, "", None, "demo");
        assert!(matches!(invited, Err(EnrolError::HubName)), "{invited:?}");
        // Invited by a hub that did not look at that yet.
        let secret = Sha256Hash::of(b"secret");
        let (expires, config, actor) = (Time::now() + ENROL_INVITATION_VALID, String::new(), "demo".into());
        let entry = Entry::Invited { secret, box_id: hub.clone(), expires, config, actor };
        world.enrol.lock().write(vec![entry]).unwrap();
        let accepted = Accepted { box_id: hub, secret: "secret".into(), key: proof(HUB_NAME) };
        let result = world.enrol.accept(&accepted, "hub.example");
        assert!(matches!(result, Err(EnrolError::HubName)), "{result:?}");
    }

    #[test]
    fn the_hubs_name_goes_with_its_own_certificate_only() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &loopback_names()).unwrap();
        let own = Serial::of(&serial_of(&dir.path().join("camnet-hub.pem")).unwrap());
        let reach = Reach { name: None, broker: None, mqtt_port: 0, boxes_port: 0, enrol_port: None };
        let enrol = Enrol::open_as(Some(own.clone()), dir.path(), None, reach, Duration::ZERO).unwrap();
        let hub = box_id(HUB_NAME);
        let of_a_box = Serial::read("b0b0");
        let (issued, expires) = (Time::now(), Time::MAX);
        let entry = Entry::Issued {
            serial: of_a_box.clone(),
            box_id: hub.clone(),
            issued,
            expires,
            how: How::File,
            actor: "demo".into(),
        };
        enrol.lock().write(vec![entry]).unwrap();
        for (serial, is_welcome) in [(&own, true), (&of_a_box, false), (&Serial::read("ff"), false)] {
            let shown = Shown { box_id: hub.clone(), serial: serial.clone(), expires };
            assert_eq!(enrol.check(&hub, serial).is_ok(), is_welcome, "{serial}");
            assert_eq!(enrol.arrives(&shown).is_ok(), is_welcome, "{serial}");
        }
        // What such a box did can be ended; the hub itself stays.
        enrol.revoke(&hub, "a box of the hub's name", "demo").unwrap();
        assert!(enrol.check(&hub, &own).is_ok());
    }

    #[test]
    fn questions_are_answered_while_the_disk_is_slow() {
        let world = World::new();
        let id = box_id("box-01");
        let enrolment = world.enrol.enrol(&id, &proof("box-01"), "", None, How::File, "demo").unwrap();
        let shown = shown(&enrolment);
        world.enrol.arrives(&shown).unwrap();
        world.enrol.revoke(&box_id("box-02"), "stolen", "demo").unwrap();
        // Somebody writes, and the disk takes its time.
        let writing = world.enrol.lock();
        let (answer, answered) = std::sync::mpsc::channel();
        let enrol = world.enrol.clone();
        std::thread::spawn(move || {
            let is_out = enrol.is_out(&box_id("box-02")) && !enrol.is_out(&id);
            let is_good = enrol.check(&id, &shown.serial).is_ok() && enrol.arrives(&shown).is_ok();
            let hears = enrol.hello(&shown, Hello::default()).is_ok();
            answer.send((is_out, is_good, hears, enrol.wanted(&id).is_none())).unwrap();
        });
        let answered = answered.recv_timeout(Duration::from_secs(10));
        drop(writing);
        assert_eq!(answered.expect("nobody waits for the disk"), (true, true, true, true));
    }

    #[test]
    fn a_box_that_says_something_else_each_time_is_heard_and_does_not_fill_the_journal() {
        let world = World::new();
        let id = box_id("box-01");
        let enrolment = world.enrol.enrol(&id, &proof("box-01"), "", None, How::File, "demo").unwrap();
        let shown = shown(&enrolment);
        world.enrol.arrives(&shown).unwrap();
        let records = |world: &World| {
            let folder = std::fs::read_dir(world.dir.path().join("boxes")).unwrap();
            folder.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
        };
        let before = records(&world);
        world.enrol.hello(&shown, Hello { running: Some(1), failed: None }).unwrap();
        let once = records(&world);
        assert!(once > before, "the first is noted at once");
        for running in 2..200 {
            world.enrol.hello(&shown, Hello { running: Some(running), failed: None }).unwrap();
            assert_eq!(world.enrol.look(|known| known.runs(&id).running), Some(running));
        }
        assert_eq!(records(&world), once, "the others are within a minute of it");
    }

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life() {
        let at = |second| Time::from_second(second).unwrap();
        for (serial, least, most) in [("00", 666, 667), ("4000", 666, 667), ("40ff", 766, 767)] {
            let from = renew_from(&Serial::read(serial), at(0), at(1000)).as_second();
            assert!((least..=most).contains(&from), "{serial}: {from}");
        }
    }

    #[test]
    fn a_name_that_is_none_gets_into_no_file() {
        let world = World::new();
        for name in ["", "a b", "x\"\nbox = \"y", "hub;rm"] {
            let result = world.enrol.invite(&box_id("box-01"), "", Some(name), "demo");
            assert!(matches!(result, Err(EnrolError::Config(_))), "{name:?}");
        }
    }
}
