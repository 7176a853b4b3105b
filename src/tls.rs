//! TLS as boxes and hub use it: one CA of our own, certificates on both ends, keys in owner-only files.
//!
//! Owns the loading of certificates and keys. May not open connections.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

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

/// For an HTTPS listener that only boxes may reach: a client without a certificate of our CA gets nowhere.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = Arc::new(read_roots(&identity.ca)?);
    let verifier = WebPkiClientVerifier::builder(roots).build().map_err(|error| TlsError::Content {
        path: identity.ca.clone(),
        what: "CA",
        why: error.to_string(),
    })?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
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
