//! The hub's small certificate authority.
//!
//! Owns the files of one folder: `ca.pem`, `ca.key`, `hub.pem`, `hub.key`, `camnet-hub.pem`/`.key` (the
//! hub's own link to the broker), and `<box>.pem`, `<box>.key`. Keys are ECDSA P-256 and readable by the
//! owner only. May not overwrite a file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::certificate::X509Certificate;

use crate::model::{BoxId, Time};
use crate::mqtt::HUB_NAME;
use crate::tls::{TlsError, check_secret_file};

const CA_NAME: &str = "camnet CA";

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{path}: exists already and is not overwritten; move it away first")]
    Exists { path: PathBuf },
    #[error("{path}: can't be {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the key of the CA can't be used")]
    Secret(#[from] TlsError),
    #[error("{path}: is not what it should be")]
    Content { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{name:?} can't be put into a certificate")]
    Name { name: String, source: rcgen::Error },
    #[error("{HUB_NAME} is the hub itself: no box can have that name")]
    HubName,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What `camnet hub init` makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub ca: PathBuf,
    /// Server certificate of the hub's and the embedded broker's listeners.
    pub hub: Pair,
    /// The hub's client certificate for its link to the broker.
    pub hub_client: Pair,
}

/// Makes the CA and the hub's certificates in `dir`. `hub_names` are the names and addresses under which
/// boxes reach the hub.
pub fn init(dir: &Path, hub_names: &[String]) -> Result<Made, CertificateError> {
    std::fs::create_dir_all(dir).map_err(|e| io_error("created", dir, e))?;
    let ca = pair(dir, "ca");
    let made = Made { ca: ca.certificate.clone(), hub: pair(dir, "hub"), hub_client: pair(dir, HUB_NAME) };
    for files in [&ca, &made.hub, &made.hub_client] {
        refuse_existing(files)?;
    }
    let key = new_key()?;
    let params = ca_params()?;
    let certificate = params.self_signed(&key).map_err(|e| name_error(CA_NAME, e))?;
    write_pair(&ca, &certificate.pem(), &key)?;
    let issuer = Issuer::new(params, key);
    issue(&issuer, &made.hub, "hub", hub_names, ExtendedKeyUsagePurpose::ServerAuth)?;
    issue(&issuer, &made.hub_client, HUB_NAME, &[HUB_NAME.into()], ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok(made)
}

/// Makes a box's client certificate: common name and alternative name are its id.
pub fn issue_box(dir: &Path, box_id: &BoxId) -> Result<Pair, CertificateError> {
    if box_id.as_str() == HUB_NAME {
        return Err(CertificateError::HubName);
    }
    let files = pair(dir, box_id.as_str());
    refuse_existing(&files)?;
    let ca = pair(dir, "ca");
    check_secret_file(&ca.key)?;
    let content =
        |path: &Path, e: rcgen::Error| CertificateError::Content { path: path.into(), source: e.into() };
    let key = KeyPair::from_pem(&read(&ca.key)?).map_err(|e| content(&ca.key, e))?;
    check_is_ours(&ca.certificate)?;
    let issuer = Issuer::new(ca_params()?, key);
    let name = box_id.as_str();
    issue(&issuer, &files, name, &[name.to_owned()], ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok(files)
}

/// The serial number of a certificate (PEM), as bytes.
pub(super) fn serial_of(path: &Path) -> Result<Vec<u8>, CertificateError> {
    parse(path, |certificate| Ok(certificate.raw_serial().to_vec()))
}

pub(super) fn ca_params() -> Result<CertificateParams, CertificateError> {
    let mut params = new_params(CA_NAME, &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What we issue names [`CA_NAME`] as its issuer, so another CA's certificate would not verify it.
pub(super) fn check_is_ours(path: &Path) -> Result<(), CertificateError> {
    parse(path, |certificate| {
        let subject = certificate.subject().to_string();
        if subject == format!("CN={CA_NAME}") {
            return Ok(());
        }
        Err(format!("its subject is {subject}, not CN={CA_NAME}: camnet did not make it"))
    })
}

fn parse<T>(
    path: &Path,
    look: impl FnOnce(&X509Certificate<'_>) -> Result<T, String>,
) -> Result<T, CertificateError> {
    let content = |source: String| CertificateError::Content { path: path.to_owned(), source: source.into() };
    let text = read(path)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|e| content(e.to_string()))?;
    let certificate = pem.parse_x509().map_err(|e| content(e.to_string()))?;
    look(&certificate).map_err(content)
}

/// `alternatives` are host names and IP addresses, as text.
pub(super) fn new_params(name: &str, alternatives: &[String]) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(alternatives.to_vec()).map_err(|e| name_error(name, e))?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    let year = i32::from(Time::now().to_zoned(jiff::tz::TimeZone::UTC).year());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    files: &Pair,
    name: &str,
    alternatives: &[String],
    usage: ExtendedKeyUsagePurpose,
) -> Result<(), CertificateError> {
    let mut params = new_params(name, alternatives)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let key = new_key()?;
    let certificate = params.signed_by(&key, issuer).map_err(|e| name_error(name, e))?;
    write_pair(files, &certificate.pem(), &key)
}

fn new_key() -> Result<KeyPair, CertificateError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| name_error("a new key", e))
}

fn pair(dir: &Path, name: &str) -> Pair {
    Pair { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
}

fn refuse_existing(files: &Pair) -> Result<(), CertificateError> {
    for path in [&files.certificate, &files.key] {
        if path.exists() {
            return Err(CertificateError::Exists { path: path.clone() });
        }
    }
    Ok(())
}

fn write_pair(files: &Pair, certificate: &str, key: &KeyPair) -> Result<(), CertificateError> {
    write_new(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&files.certificate, certificate.as_bytes(), 0o644)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), CertificateError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertificateError::Exists { path: path.to_owned() },
        _ => io_error("written", path, source),
    })
}

pub(super) fn read(path: &Path) -> Result<String, CertificateError> {
    std::fs::read_to_string(path).map_err(|e| io_error("read", path, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> CertificateError {
    CertificateError::Io { what, path: path.to_owned(), source }
}

pub(super) fn name_error(name: &str, source: rcgen::Error) -> CertificateError {
    CertificateError::Name { name: name.to_owned(), source }
}

/// The names of a hub that is reached on this machine only.
pub fn loopback_names() -> Vec<String> {
    let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    std::iter::once("localhost".to_owned()).chain(addresses.iter().map(|a| a.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_secret_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(dir.path(), &loopback_names()).unwrap();
        let issued = issue_box(dir.path(), &BoxId::new("box-01").unwrap()).unwrap();
        for key in [&made.hub.key, &made.hub_client.key, &issued.key, &dir.path().join("ca.key")] {
            check_secret_file(key).unwrap();
        }
        let before = std::fs::read(&made.hub.key).unwrap();
        assert!(matches!(init(dir.path(), &loopback_names()), Err(CertificateError::Exists { .. })));
        let again = issue_box(dir.path(), &BoxId::new("box-01").unwrap());
        assert!(matches!(again, Err(CertificateError::Exists { .. })));
        assert_eq!(std::fs::read(&made.hub.key).unwrap(), before);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "x").unwrap();
        for (mode, is_secret) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_secret_file(&path).is_ok(), is_secret, "{mode:o}");
        }
    }

    #[test]
    fn no_box_gets_the_hubs_name() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(dir.path(), &loopback_names()).unwrap();
        // Also where the hub's own files were moved away.
        std::fs::remove_file(&made.hub_client.certificate).unwrap();
        std::fs::remove_file(&made.hub_client.key).unwrap();
        let issued = issue_box(dir.path(), &BoxId::new(HUB_NAME).unwrap());
        assert!(matches!(issued, Err(CertificateError::HubName)), "{issued:?}");
    }

    #[test]
    fn a_certificate_carries_the_box_id_and_its_issuer() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &loopback_names()).unwrap();
        let issued = issue_box(dir.path(), &BoxId::new("box-01").unwrap()).unwrap();
        let pem = std::fs::read(issued.certificate).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=box-01");
        assert_eq!(certificate.issuer().to_string(), "CN=camnet CA");
        let san = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(format!("{:?}", san.value).contains("box-01"));
    }
}
