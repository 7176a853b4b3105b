//! TLS as boxes and hub use it: one CA of our own, certificates on both ends, keys in owner-only files.
//!
//! Owns the loading of certificates and keys, and the making of keys. May not open connections.

mod new_key;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};

pub use new_key::{BadProof, NewKey, NoKey, check_proof, new_secret};

/// Why certificates could not be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} may be read by others (mode {mode:o}); a secret belongs to its owner alone: chmod 600 {path}"
    )]
    SecretIsOpen { path: PathBuf, mode: u32 },
    #[error("{path} holds no usable {what}: {why}")]
    Content { path: PathBuf, what: &'static str, why: String },
    #[error("certificate {certificate} and key {key} do not work together: {why}")]
    Pair { certificate: PathBuf, key: PathBuf, why: String },
}

/// The files that say who we are and whom we trust.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The CA that signed the other side's certificate.
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Makes ring the process's cryptography. Call first in `main` and in tests; later calls do nothing.
pub fn install_crypto() {
    // An error only says that it was already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// For a box that connects out, or for the hub towards its broker: we show our certificate and trust
/// only our CA.
pub fn client_config(identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let certificates = read_certificates(&identity.certificate)?;
    let key = read_key(&identity.key)?;
    let config = ClientConfig::builder()
        .with_root_certificates(read_roots(&identity.ca)?)
        .with_client_auth_cert(certificates, key)
        .map_err(|error| pair_error(identity, error))?;
    Ok(Arc::new(config))
}

/// As [`client_config`], for a box, whose certificate is renewed while it runs: connections that are opened after
/// [`OwnCertificate::replace`] show the new one. Sessions are not resumed: a resumed one shows the certificate with
/// which it began.
pub fn renewable_client_config(identity: &Identity) -> Result<(Arc<ClientConfig>, OwnCertificate), TlsError> {
    let own = OwnCertificate(Arc::new(RwLock::new(certified_key(identity)?)));
    let mut config = ClientConfig::builder()
        .with_root_certificates(read_roots(&identity.ca)?)
        .with_client_cert_resolver(Arc::new(own.clone()));
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), own))
}

/// The certificate that new connections show. Clones share it.
#[derive(Debug, Clone)]
pub struct OwnCertificate(Arc<RwLock<Arc<CertifiedKey>>>);

impl OwnCertificate {
    /// Reads the identity's files anew.
    pub fn replace(&self, identity: &Identity) -> Result<(), TlsError> {
        let fresh = certified_key(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified_key(identity: &Identity) -> Result<Arc<CertifiedKey>, TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    let (certificates, key) = (read_certificates(&identity.certificate)?, read_key(&identity.key)?);
    let made = CertifiedKey::from_der(certificates, key, &provider);
    made.map(Arc::new).map_err(|error| pair_error(identity, error))
}

/// For an HTTPS listener that only boxes may reach: a client without a certificate of our CA gets nowhere. `guard`
/// stands before the check by the CA, and may refuse more. Sessions are not resumed: a resumed one is not checked.
pub fn server_config(
    identity: &Identity,
    guard: impl FnOnce(Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = Arc::new(read_roots(&identity.ca)?);
    let verifier = WebPkiClientVerifier::builder(roots).build().map_err(|error| TlsError::Content {
        path: identity.ca.clone(),
        what: "CA",
        why: error.to_string(),
    })?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(guard(verifier))
        .with_single_cert(read_certificates(&identity.certificate)?, read_key(&identity.key)?)
        .map_err(|error| pair_error(identity, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For an HTTPS listener that a machine without a certificate may reach.
pub fn open_server_config(identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(read_certificates(&identity.certificate)?, read_key(&identity.key)?)
        .map_err(|error| pair_error(identity, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Refuses a secret that others than its owner may read.
pub fn check_secret_file(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::SecretIsOpen { path: path.to_owned(), mode });
    }
    Ok(())
}

/// A secret of one line from a file that only its owner may read. Blocking.
pub fn read_secret(path: &Path) -> Result<String, TlsError> {
    use std::io::Read;
    const SECRET_BYTES_MAX: u64 = 4096;
    check_secret_file(path)?;
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Content {
            path: path.to_owned(),
            what: "CA certificate",
            why: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let bad = |why: String| TlsError::Content { path: path.to_owned(), what: "certificate (PEM)", why };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() { Err(bad("there is none in it".into())) } else { Ok(certificates) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    check_secret_file(path)?;
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| TlsError::Content {
        path: path.to_owned(),
        what: "private key (PEM)",
        why: error.to_string(),
    })
}

fn pair_error(identity: &Identity, error: rustls::Error) -> TlsError {
    TlsError::Pair {
        certificate: identity.certificate.clone(),
        key: identity.key.clone(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "mật khẩu\n").unwrap();
        for (mode, taken) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read_secret(&path);
            assert_eq!(read.is_ok(), taken, "{mode:o}: {read:?}");
            assert!(read.is_err() || read.is_ok_and(|secret| secret == "mật khẩu"));
        }
    }
}
