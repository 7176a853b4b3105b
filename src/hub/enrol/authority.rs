//! The CA at work: certificates for boxes from their public keys, and the list of those that are revoked.
//!
//! Owns the CA's private key while the hub runs. Takes nothing from who asks but a public key: name, times and uses are
//! said here.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, ExtendedKeyUsagePurpose, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

use super::book::Serial;
use crate::hub::certificates::{CertificateError, ca_params, check_is_ours, name_error, new_params, read};
use crate::limits::BOX_CERTIFICATE_BACKDATED;
use crate::model::{BoxId, Sha256Hash, Time};
use crate::tls::check_secret_file;

/// The list of revoked certificates says that a new one comes by then. Mosquitto lets nobody in after that moment, so it
/// is far away; the list is written anew at every start of the hub and with every revocation.
const LIST_HOLDS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// See the module.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    ca_digest: Sha256Hash,
}

/// A certificate that was just signed.
pub struct Signed {
    pub serial: Serial,
    pub issued: Time,
    pub expires: Time,
    pub pem: String,
}

/// A point of P-256, as it stands in a certificate.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// Reads the CA's certificate and its key, which only its owner may read.
    pub fn open(ca: &Path, key: &Path) -> Result<Self, CertificateError> {
        check_secret_file(key)?;
        let content =
            |path: &Path, e: rcgen::Error| CertificateError::Content { path: path.into(), source: e.into() };
        let pair = KeyPair::from_pem(&read(key)?).map_err(|e| content(key, e))?;
        check_is_ours(ca)?;
        let text = read(ca)?;
        let der = x509_parser::pem::parse_x509_pem(text.as_bytes());
        let (_, der) =
            der.map_err(|e| CertificateError::Content { path: ca.into(), source: e.to_string().into() })?;
        let ca_digest = Sha256Hash::of(&der.contents);
        Ok(Self { issuer: Issuer::new(ca_params()?, pair), ca: text, ca_digest })
    }

    /// The CA's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// SHA-256 of the CA's certificate, DER.
    pub fn ca_digest(&self) -> Sha256Hash {
        self.ca_digest
    }

    /// A client certificate for the box: common name and alternative name are its id.
    pub fn sign(
        &self,
        box_id: &BoxId,
        point: Vec<u8>,
        now: Time,
        valid: Duration,
    ) -> Result<Signed, CertificateError> {
        let name = box_id.as_str();
        let mut params = new_params(name, &[name.to_owned()])?;
        let expires = now + valid;
        // Positive, and never with a zero in front: all write it the same way.
        let mut serial = *uuid::Uuid::new_v4().as_bytes();
        serial[0] = serial[0] & 0x3f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - BOX_CERTIFICATE_BACKDATED);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(expires);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&Point(point), &self.issuer).map_err(|e| name_error(name, e))?;
        Ok(Signed { serial: Serial::of(&serial), issued: now, expires, pem: certificate.pem() })
    }

    /// The list of revoked certificates (RFC 5280, 5), PEM. `number` grows with each.
    pub fn list(
        &self,
        revoked: impl Iterator<Item = (Serial, Time)>,
        number: u64,
        now: Time,
    ) -> Result<String, CertificateError> {
        let revoked_certs = revoked.map(|(serial, time)| RevokedCertParams {
            serial_number: SerialNumber::from(serial.bytes()),
            revocation_time: date_time_ymd(1970, 1, 1) + since_1970(time),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + since_1970(now - BOX_CERTIFICATE_BACKDATED),
            next_update: date_time_ymd(1970, 1, 1) + since_1970(now + LIST_HOLDS),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list =
            list.signed_by(&self.issuer).map_err(|e| name_error("the list of revoked certificates", e))?;
        list.pem().map_err(|e| name_error("the list of revoked certificates", e))
    }
}

/// rcgen's times count from here: the library that they come from is not named otherwise.
fn since_1970(time: Time) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::hub::certificates::{init, loopback_names};
    use crate::tls::{NewKey, check_proof};

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &loopback_names()).unwrap();
        let authority = Authority::open(&dir.path().join("ca.pem"), &dir.path().join("ca.key")).unwrap();
        (dir, authority)
    }

    #[test]
    fn a_certificate_says_what_the_hub_says_and_no_more() {
        let (_dir, authority) = authority();
        let box_id = BoxId::new("box-01").unwrap();
        let point = check_proof(&NewKey::make().unwrap().proof("box-01").unwrap(), "box-01").unwrap();
        let now = Time::now();
        let signed = authority.sign(&box_id, point.clone(), now, Duration::from_secs(3600)).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=box-01");
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), point);
        assert_eq!(Serial::of(certificate.raw_serial()), signed.serial);
        assert_eq!(certificate.validity().not_after.timestamp(), now.as_second() + 3600);
        assert!(!certificate.is_ca());
        let again = authority.sign(&box_id, point, now, Duration::from_secs(3600)).unwrap();
        assert_ne!(again.serial, signed.serial, "each has its own number, the key may be the same");
    }

    #[test]
    fn the_list_names_what_is_revoked() {
        let (_dir, authority) = authority();
        let serial = Serial::read("40ff");
        let now = Time::now();
        for (revoked, count) in [(vec![], 0), (vec![(serial, now)], 1)] {
            let list = authority.list(revoked.into_iter(), 7, now).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(list.as_bytes()).unwrap();
            let (_, list) =
                x509_parser::revocation_list::CertificateRevocationList::from_der(&pem.contents).unwrap();
            assert_eq!(list.issuer().to_string(), "CN=camnet CA");
            assert_eq!(list.iter_revoked_certificates().count(), count);
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, _) = authority();
        let key = dir.path().join("ca.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Authority::open(&dir.path().join("ca.pem"), &key).is_err());
    }
}
