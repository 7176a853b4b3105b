//! How a box becomes one: unpacks an enrolment, or comes to the hub with an invitation and a key of its own.
//!
//! Owns the files that an enrolment makes: the CA, certificate and key in one file, and `edge.toml`. That comes last and
//! whole: until then nothing of the enrolment is in force. May not start anything.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use reqwest::{Client, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::config::EdgeConfig;
use crate::limits::{BOX_ANSWER_BYTES_MAX, BOX_REQUEST_MAX, ENROL_FILE_BYTES_MAX};
use crate::model::{BoxId, Sha256Hash};
use crate::tls::{self, Identity, NewKey, NoKey, TlsError};
use crate::toml_file::{ConfigError, ConfigFile};
use crate::wire::enrol::{Accepted, ENROL_CA_PATH, ENROL_PATH, EnrolError, Enrolment, Invitation};

/// Why a box was not enrolled. Nothing of it is in force then.
#[derive(Debug, thiserror::Error)]
pub enum EnrolFailed {
    #[error("{path}: can't be {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is there already; say --replace to enrol this box anew")]
    Exists { path: PathBuf },
    #[error(transparent)]
    Form(#[from] EnrolError),
    #[error("the enrolment's configuration is not good")]
    Config(#[from] ConfigError),
    #[error("the enrolment's configuration: {0}")]
    Paths(&'static str),
    #[error("the enrolment has no private key, and this box made none for it")]
    NoPrivateKey,
    #[error(transparent)]
    NoKey(#[from] NoKey),
    #[error("certificate, key and CA of the enrolment can't be used together")]
    Tls(#[from] TlsError),
    #[error("the hub can't be reached at {url}")]
    Http { url: String, source: reqwest::Error },
    #[error("the hub at {url} is not the one that invited this box: its CA has another SHA-256")]
    OtherHub { url: String },
    #[error("the hub refuses: {0}")]
    Refused(String),
    #[error("the hub's answer can't be read: {0}")]
    Answer(String),
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    pub box_id: BoxId,
    /// `edge.toml`.
    pub config: PathBuf,
}

/// What `text` is: an enrolment or an invitation.
#[derive(Debug)]
pub enum Brought {
    File(Box<Enrolment>),
    Invitation(Invitation),
}

impl Brought {
    pub fn read(text: &str) -> Result<Self, EnrolError> {
        if text.trim_start().starts_with("https://") {
            return Ok(Self::Invitation(text.parse()?));
        }
        Ok(Self::File(Box::new(Enrolment::from_toml(text)?)))
    }
}

/// Reads what somebody brought: at most as much as an enrolment has.
pub fn read_brought(path: &Path) -> Result<Brought, EnrolFailed> {
    use std::io::Read;
    let io_error = |source| EnrolFailed::Io { what: "read", path: path.to_owned(), source };
    let mut text = String::new();
    let from: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path).map_err(io_error)?),
    };
    from.take(ENROL_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io_error)?;
    Ok(Brought::read(&text)?)
}

/// Writes an enrolment into `dir`. `key` is the private key where the box made it itself. Existing files stay as they
/// are, but for `edge.toml` where `replace` says so. Blocking.
pub fn unpack(
    enrolment: Enrolment,
    key: Option<String>,
    dir: &Path,
    data_dir: Option<&Path>,
    replace: bool,
) -> Result<Enrolled, EnrolFailed> {
    let enrolment = enrolment.checked()?;
    let key = enrolment.key.clone().or(key).ok_or(EnrolFailed::NoPrivateKey)?;
    let text = match data_dir {
        Some(data_dir) => with_data_dir(&enrolment.config, data_dir)?,
        None => enrolment.config.clone(),
    };
    let path = dir.join("edge.toml");
    if path.exists() && !replace {
        return Err(EnrolFailed::Exists { path });
    }
    // Strictly, with the same code as every start: what it would refuse is not written.
    let config = EdgeConfig::parse(&path, &text)?;
    if config.box_id != enrolment.box_id {
        return Err(EnrolFailed::Paths("it is for another box than the enrolment"));
    }
    if config.hub.certificate != config.hub.key {
        return Err(EnrolFailed::Paths("certificate and key must be one file: they are renewed together"));
    }
    for file in [&config.hub.ca, &config.hub.key] {
        if file.parent() != Some(dir) || *file == path {
            return Err(EnrolFailed::Paths("ca, certificate and key must be files beside edge.toml"));
        }
    }
    let io_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| EnrolFailed::Io { what, path, source }
    };
    std::fs::create_dir_all(dir).map_err(io_error("created", dir))?;
    write_new(&config.hub.ca, enrolment.ca.as_bytes(), 0o644).map_err(io_error("written", &config.hub.ca))?;
    let both = format!("{}{key}", enrolment.certificate);
    write_new(&config.hub.key, both.as_bytes(), 0o600).map_err(io_error("written", &config.hub.key))?;
    let identity = identity(&config);
    tls::client_config(&identity)?;
    let part = dir.join("edge.toml.part");
    let _ = std::fs::remove_file(&part);
    write_new(&part, text.as_bytes(), 0o644).map_err(io_error("written", &part))?;
    std::fs::rename(&part, &path)
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(io_error("written", &path))?;
    Ok(Enrolled { box_id: config.box_id, config: path })
}

/// The files that say who a box is.
pub fn identity(config: &EdgeConfig) -> Identity {
    Identity {
        ca: config.hub.ca.clone(),
        certificate: config.hub.certificate.clone(),
        key: config.hub.key.clone(),
    }
}

/// The same enrolment, on a disk of the box's own choice.
fn with_data_dir(config: &str, data_dir: &Path) -> Result<String, EnrolFailed> {
    let wrong = |_| EnrolFailed::Paths("it is no TOML");
    let mut table: toml::Table = toml::from_str(config).map_err(wrong)?;
    table.insert("data_dir".into(), data_dir.display().to_string().into());
    toml::to_string(&table).map_err(|_| EnrolFailed::Paths("its data_dir can't be written"))
}

/// A file that is there already is right if it has the same bytes: an enrolment that broke off is taken up again.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => {
            file.write_all(bytes)?;
            file.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::read(path)? == bytes {
                Ok(())
            } else {
                Err(error)
            }
        }
        Err(error) => Err(error),
    }
}

/// Comes to the hub with an invitation. The private key stays here; it is given back with the enrolment.
///
/// First the CA is fetched, from anybody: it must have the SHA-256 that the invitation names. All that follows trusts
/// that CA only, so the secret is told to nobody but the hub that gave it.
pub async fn come(invitation: &Invitation) -> Result<(Enrolment, String), EnrolFailed> {
    let url = &invitation.url;
    let http = |source| EnrolFailed::Http { url: url.clone(), source };
    let builder = || Client::builder().no_proxy().timeout(BOX_REQUEST_MAX);
    let anybody = builder().tls_danger_accept_invalid_certs(true).build().map_err(http)?;
    let answer = anybody.get(format!("{url}{ENROL_CA_PATH}")).send().await.map_err(http)?;
    let ca = text_of(answer).await?;
    let der = CertificateDer::from_pem_slice(ca.as_bytes())
        .map_err(|error| EnrolFailed::Answer(format!("its CA is no certificate: {error}")))?;
    if Sha256Hash::of(&der) != invitation.ca {
        return Err(EnrolFailed::OtherHub { url: url.clone() });
    }
    let root = reqwest::Certificate::from_der(&der).map_err(http)?;
    let hub = builder().tls_certs_only([root]).build().map_err(http)?;
    let key = NewKey::make()?;
    let accepted = Accepted {
        box_id: invitation.box_id.clone(),
        secret: invitation.secret.clone(),
        key: key.proof(invitation.box_id.as_str())?,
    };
    let answer = hub.post(format!("{url}{ENROL_PATH}")).json(&accepted).send().await.map_err(http)?;
    let text = text_of(answer).await?;
    let enrolment: Enrolment =
        serde_json::from_str(&text).map_err(|error| EnrolFailed::Answer(error.to_string()))?;
    if enrolment.box_id != invitation.box_id {
        return Err(EnrolFailed::Answer("it is for another box".into()));
    }
    Ok((enrolment.checked()?, key.to_pem()))
}

async fn text_of(answer: Response) -> Result<String, EnrolFailed> {
    let status = answer.status();
    let bytes = super::care::body(answer).await.map_err(EnrolFailed::Answer)?;
    let text = String::from_utf8(bytes).map_err(|_| EnrolFailed::Answer("it is no text".into()))?;
    if status.is_success() {
        return Ok(text);
    }
    let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let detail = problem["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Err(EnrolFailed::Refused(detail.chars().take(BOX_ANSWER_BYTES_MAX).collect()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CONFIG: &str = "box = \"box-01\"\ndata_dir = \"/var/lib/camnet-edge\"\n[hub]\nmqtt = \"hub:8883\"\n\
        url = \"https://hub:8443\"\nca = \"b-ca.pem\"\ncertificate = \"b.pem\"\nkey = \"b.pem\"\n";

    fn enrolment(config: &str) -> Enrolment {
        let text = |text: &str| text.to_owned();
        Enrolment::new(
            BoxId::new("box-01").unwrap(),
            text("ca"),
            text("certificate"),
            Some(text("key")),
            text(config),
        )
    }

    #[test]
    fn what_a_start_would_refuse_is_not_written() {
        for (from, to, why) in [
            ("[hub]", "[hub", "edge.toml"),
            ("box-01", "box-02", "another box"),
            ("key = \"b.pem\"", "key = \"c.pem\"", "one file"),
            ("\"b.pem\"", "\"../b.pem\"", "beside edge.toml"),
            ("\"b.pem\"", "\"/etc/passwd\"", "beside edge.toml"),
            ("\"b-ca.pem\"", "\"x/../ca.pem\"", "beside edge.toml"),
            ("\"b.pem\"", "\"edge.toml\"", "beside edge.toml"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let bad = enrolment(&CONFIG.replace(from, to));
            let error = unpack(bad, None, dir.path(), None, false).unwrap_err();
            let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains(why), "{to}: {text}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{to}: nothing is written");
        }
    }

    #[test]
    fn damage_is_told_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = Enrolment { ca: "another".into(), ..enrolment(CONFIG) };
        let result = unpack(damaged, None, dir.path(), None, false);
        assert!(matches!(result, Err(EnrolFailed::Form(EnrolError::Damaged))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn until_edge_toml_is_written_nothing_is_in_force() {
        // Certificate and key are no PEM: the last check before edge.toml fails.
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(unpack(enrolment(CONFIG), None, dir.path(), None, false), Err(EnrolFailed::Tls(_))));
        assert!(!dir.path().join("edge.toml").exists());
        let mode = std::fs::metadata(dir.path().join("b.pem")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn what_was_brought_is_told_apart() {
        let invitation =
            format!("https://hub:8444/enrol/v1#box-01.{}.{}\n", Sha256Hash([0; 32]), "s".repeat(43));
        assert!(matches!(Brought::read(&invitation), Ok(Brought::Invitation(_))));
        assert!(matches!(Brought::read(&enrolment(CONFIG).to_toml()), Ok(Brought::File(_))));
        assert!(Brought::read("rubbish").is_err());
    }

    #[test]
    fn the_box_says_on_which_disk_its_data_lies() {
        let text = with_data_dir(CONFIG, Path::new("/mnt/ssd")).unwrap();
        let config = EdgeConfig::parse(Path::new("/etc/camnet/edge.toml"), &text).unwrap();
        assert_eq!(config.data_dir, Path::new("/mnt/ssd"));
    }
}
