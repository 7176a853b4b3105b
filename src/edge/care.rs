//! The box looks after itself: it shows the hub its certificate, renews it in time, and takes what the hub sets for it.
//!
//! Owns the questions to the hub's listener for boxes (`/box/v1`), and the file with certificate and key. Every question
//! has a connection of its own, so that it shows the certificate of now. May not change the box's own configuration file,
//! nor stop anything: it asks for a new start.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::config::EdgeConfig;
use super::set::{Begin, Set, merge};
use super::uplink::Signs;
use crate::limits::{BACKOFF_MAX, BOX_ANSWER_BYTES_MAX, BOX_HELLO_EVERY, BOX_REQUEST_MAX};
use crate::model::BoxId;
use crate::outage::Outage;
use crate::tls::{self, Identity, NewKey, NoKey, OwnCertificate, TlsError};
use crate::wire::enrol::{CERTIFICATE_PATH, CONFIG_PATH, HELLO_PATH, Hello, Renewed, SetConfig, Welcome};

/// Why the hub could not be asked, or what it wants not be done. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    #[error("the hub can't be reached: {0}")]
    Http(String),
    #[error("the hub answers {status} to {path}: {detail}")]
    Status { path: &'static str, status: u16, detail: String },
    #[error("the hub's answer to {path} can't be read: {why}")]
    Answer { path: &'static str, why: String },
    #[error(transparent)]
    NoKey(#[from] NoKey),
    #[error("certificate and key can't be written to {path}: {source}; the old ones stay")]
    Write { path: PathBuf, source: io::Error },
    #[error("what the hub set can't be kept: {0}")]
    Set(io::Error),
    #[error("the new certificate can't be used")]
    Tls(#[from] TlsError),
}

/// What the box takes from the hub, if it can: only one that runs from a file can start anew.
pub struct Settable {
    /// The box's own file, and what stands in it.
    pub path: PathBuf,
    pub own: EdgeConfig,
    pub set: Set,
    /// With what this start began.
    pub begin: Begin,
    /// Asks for a new start.
    pub again: CancellationToken,
}

/// See the module.
pub struct Care {
    pub box_id: BoxId,
    pub client: Client,
    pub url: Url,
    pub identity: Identity,
    pub certificate: OwnCertificate,
    pub signs: Signs,
    /// How long a trial may take.
    pub trial: Duration,
    pub settable: Option<Settable>,
}

/// What a version on trial has shown since this start. It stays only if the hub can also be asked with it: else nobody
/// could take it back.
#[derive(Debug, Default)]
struct Proof {
    /// A hello was answered over HTTPS.
    is_answered: bool,
    /// Why the last question was not.
    failure: Option<String>,
}

impl Proof {
    /// What is missing when the trial is over.
    fn missing(&self, is_receipted: bool, trial: Duration) -> String {
        let within = trial.as_secs();
        if !is_receipted {
            return format!("no receipt of the hub within {within} s");
        }
        let failure = self.failure.as_deref().unwrap_or("it does not answer");
        format!("receipts came, but no answer at hub.url within {within} s: {failure}")
    }
}

/// A client whose questions each have a connection of their own.
pub fn client(tls: &Arc<rustls::ClientConfig>) -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .tls_backend_preconfigured((**tls).clone())
        .pool_max_idle_per_host(0)
        .timeout(BOX_REQUEST_MAX)
        .build()
}

impl Care {
    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut outage = Outage::default();
        let mut proof = Proof::default();
        let over = tokio::time::sleep(self.trial);
        tokio::pin!(over);
        let mut next = tokio::time::Instant::now();
        loop {
            let is_trial = self.trial_version().is_some();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.signs.receipted.cancelled(), if is_trial && proof.is_answered => self.confirm(),
                () = &mut over, if is_trial => self.give_up(&proof),
                () = self.signs.ask.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                // A hub that does not answer must not hold up the end of a trial.
                () = &mut over, if self.trial_version().is_some() => {
                    self.give_up(&proof);
                    continue;
                }
                asked = self.ask(&mut proof) => asked,
            };
            let pause = match asked {
                Ok(pause) => {
                    if let Some(failures) = outage.ended() {
                        tracing::info!(failures, "the hub answers this box again");
                    }
                    pause
                }
                Err(error) => {
                    let (failures, error) = (outage.failures(), error.to_string());
                    proof.failure = Some(error.clone());
                    if outage.failed(&error) {
                        tracing::warn!(error, failures, "the box can't ask the hub about itself yet");
                    }
                    // A trial asks more often: its end must not come between two questions to a hub that is there.
                    if self.trial_version().is_some() { BACKOFF_MAX.min(self.trial / 8) } else { BACKOFF_MAX }
                }
            };
            next = tokio::time::Instant::now() + pause;
        }
    }

    /// One question; how long until the next.
    async fn ask(&mut self, proof: &mut Proof) -> Result<Duration, CareError> {
        let hello = self.settable.as_ref().map_or_else(Hello::default, |s| s.set.hello(s.begin));
        let welcome: Welcome = self.post(HELLO_PATH, &hello).await?;
        proof.is_answered = true;
        let mut pause = BOX_HELLO_EVERY;
        if !self.can_renew() && welcome.renew_in_s == Some(0) {
            tracing::warn!(expires = %welcome.expires, "the certificate ends, and can't be renewed: it lies apart from its key; enrol this box again");
        }
        match welcome.renew_in_s.filter(|_| self.can_renew()) {
            Some(0) => {
                self.renew().await?;
                // Shown at once: then the old one is of no use any more.
                return Ok(Duration::ZERO);
            }
            Some(left) => pause = pause.min(Duration::from_secs(left)),
            None => {}
        }
        if let Some(version) = welcome.wanted {
            self.take(version).await?;
        }
        Ok(pause)
    }

    /// Certificate and key that lie in two files can't be replaced at once.
    fn can_renew(&self) -> bool {
        self.identity.certificate == self.identity.key
    }

    async fn renew(&mut self) -> Result<(), CareError> {
        let key = NewKey::make()?;
        let renewed: Renewed = self.post(CERTIFICATE_PATH, &key.proof(self.box_id.as_str())?).await?;
        let both = format!("{}{}", renewed.certificate, key.to_pem());
        let path = self.identity.key.clone();
        let part = path.with_extension("new");
        let write = || {
            let _ = std::fs::remove_file(&part);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(both.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| CareError::Write { path: part.clone(), source })?;
        // What can't be used never takes the place of what can.
        let fresh = Identity { certificate: part.clone(), key: part.clone(), ..self.identity.clone() };
        tls::client_config(&fresh)?;
        let folder = path.parent().map_or_else(|| PathBuf::from("."), PathBuf::from);
        std::fs::rename(&part, &path)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|source| CareError::Write { path: path.clone(), source })?;
        self.certificate.replace(&self.identity)?;
        tracing::info!(file = %path.display(), "the box has a new certificate");
        Ok(())
    }

    /// Takes a version that the hub wants, if it is news and good; a bad one is told with the next question.
    async fn take(&mut self, version: u64) -> Result<(), CareError> {
        let is_trial = self.trial_version().is_some();
        if !self.settable.as_ref().is_some_and(|settable| !is_trial && settable.set.wants(version)) {
            return Ok(());
        }
        let wanted: SetConfig = self.get(CONFIG_PATH).await?;
        let Some(settable) = &mut self.settable else { return Ok(()) };
        if !settable.set.wants(wanted.version) {
            return Ok(());
        }
        match check(settable, &wanted.toml) {
            Ok(()) => {
                tracing::info!(
                    version = wanted.version,
                    "the hub's configuration is good; the box starts anew to try it"
                );
                settable.set.offer(&wanted).map_err(CareError::Set)?;
                settable.again.cancel();
            }
            Err(why) => {
                tracing::error!(
                    version = wanted.version,
                    why,
                    "the hub's configuration is not good; nothing changes"
                );
                settable.set.fail(wanted.version, &why).map_err(CareError::Set)?;
                self.signs.ask.notify_one();
            }
        }
        Ok(())
    }

    fn trial_version(&self) -> Option<u64> {
        match self.settable.as_ref()?.begin {
            Begin::Trial(version) => Some(version),
            Begin::Own | Begin::Confirmed(_) => None,
        }
    }

    /// The hub has heard this box with the new configuration, and answered it.
    fn confirm(&mut self) {
        let (Some(version), Some(settable)) = (self.trial_version(), &mut self.settable) else { return };
        match settable.set.confirm(version) {
            Ok(()) => {
                tracing::info!(version, "the hub has heard the box with its new configuration: it stays");
                settable.begin = Begin::Confirmed(version);
            }
            Err(error) => {
                tracing::error!(version, %error, "the new configuration can't be confirmed; the box starts anew");
                settable.again.cancel();
            }
        }
    }

    fn give_up(&mut self, proof: &Proof) {
        let (Some(version), Some(settable)) = (self.trial_version(), &mut self.settable) else { return };
        let why = proof.missing(self.signs.receipted.is_cancelled(), self.trial);
        tracing::error!(
            version,
            why,
            "the new configuration is given up; the box goes back to the one before"
        );
        if let Err(error) = settable.set.fail(version, &why) {
            tracing::error!(version, %error, "it can't be noted; the next starts count towards it");
        }
        settable.begin = Begin::Own;
        settable.again.cancel();
    }

    async fn post<A: Serialize, T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: &A,
    ) -> Result<T, CareError> {
        answer(path, self.client.post(self.at(path)).json(body).send().await).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, CareError> {
        answer(path, self.client.get(self.at(path)).send().await).await
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }
}

/// As far as one can say before it runs.
fn check(settable: &Settable, toml: &str) -> Result<(), String> {
    let merged = merge(&settable.own, &settable.path, toml)?;
    super::lamp_plans(&merged).map_err(|error| error.to_string())?;
    super::check_secrets(&merged).map_err(|error| error.to_string())
}

async fn answer<T: DeserializeOwned>(
    path: &'static str,
    sent: reqwest::Result<Response>,
) -> Result<T, CareError> {
    let response = sent.map_err(|error| CareError::Http(causes(&error)))?;
    let status = response.status();
    let bytes = body(response).await.map_err(|why| CareError::Answer { path, why })?;
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
        return Err(CareError::Status { path, status: status.as_u16(), detail });
    }
    serde_json::from_slice(&bytes).map_err(|error| CareError::Answer { path, why: error.to_string() })
}

/// An answer's body, at most [`BOX_ANSWER_BYTES_MAX`] long.
pub(super) async fn body(response: Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| causes(&error))?;
        if bytes.len() + chunk.len() > BOX_ANSWER_BYTES_MAX {
            return Err(format!("it has more than {BOX_ANSWER_BYTES_MAX} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
