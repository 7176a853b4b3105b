//! A new private key, and the proof that whoever asks for a certificate has it.
//!
//! Owns the making of keys (ECDSA P-256). The private key leaves it only as PEM, for an owner-only file.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

use crate::wire::enrol::KeyProof;

/// What is signed stands under this name, so that the signature proves nothing else.
const PURPOSE: &str = "camnet new key 1";
/// An uncompressed point of P-256 (SEC 1, 2.3.3).
const POINT_BYTES: usize = 65;

/// A private key that nobody else has seen.
pub struct NewKey {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

/// The machine gives no random numbers, or no key came of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key can be made on this machine: it gives no random numbers")]
pub struct NoKey;

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key is no point of P-256, or its signature is not over this box's name")]
pub struct BadProof;

impl NewKey {
    pub fn make() -> Result<Self, NoKey> {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(|_| NoKey)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random);
        Ok(Self { pair: pair.map_err(|_| NoKey)?, pkcs8: pkcs8.as_ref().to_vec() })
    }

    /// For an owner-only file.
    pub fn to_pem(&self) -> String {
        let body = STANDARD.encode(&self.pkcs8);
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for line in body.as_bytes().chunks(64) {
            pem += std::str::from_utf8(line).expect("base64 is ASCII");
            pem.push('\n');
        }
        pem + "-----END PRIVATE KEY-----\n"
    }

    /// Proves to have the key, for a certificate of `name`.
    pub fn proof(&self, name: &str) -> Result<KeyProof, NoKey> {
        let signature = self.pair.sign(&SystemRandom::new(), &signed_text(name)).map_err(|_| NoKey)?;
        Ok(KeyProof {
            public_key: STANDARD.encode(self.pair.public_key()),
            signature: STANDARD.encode(signature),
        })
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey")
    }
}

/// The public key, as an uncompressed point, if its owner asks for a certificate of `name`.
pub fn check_proof(proof: &KeyProof, name: &str) -> Result<Vec<u8>, BadProof> {
    let point = STANDARD.decode(&proof.public_key).map_err(|_| BadProof)?;
    let signature = STANDARD.decode(&proof.signature).map_err(|_| BadProof)?;
    if point.len() != POINT_BYTES {
        return Err(BadProof);
    }
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point);
    key.verify(&signed_text(name), &signature).map_err(|_| BadProof)?;
    Ok(point)
}

fn signed_text(name: &str) -> Vec<u8> {
    format!("{PURPOSE}\0{name}").into_bytes()
}

/// Random bytes that nobody can guess, as text that fits into an address: 43 characters.
pub fn new_secret() -> Result<String, NoKey> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoKey)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_own_key_and_name_only() {
        let (key, other) = (NewKey::make().unwrap(), NewKey::make().unwrap());
        let proof = key.proof("box-01").unwrap();
        assert_eq!(check_proof(&proof, "box-01").unwrap().len(), POINT_BYTES);
        let swapped = KeyProof { public_key: other.proof("box-01").unwrap().public_key, ..proof.clone() };
        let cut = KeyProof { signature: proof.signature[..20].to_owned(), ..proof.clone() };
        let long = KeyProof { public_key: STANDARD.encode([4; 66]), ..proof.clone() };
        let garbled = KeyProof { public_key: "?".into(), ..proof.clone() };
        for bad in [swapped, cut, long, garbled] {
            assert_eq!(check_proof(&bad, "box-01"), Err(BadProof), "{bad:?}");
        }
        assert_eq!(check_proof(&proof, "box-02"), Err(BadProof));
    }

    #[test]
    fn a_key_is_not_told_by_debug_and_reads_back_from_its_pem() {
        use rustls::pki_types::PrivateKeyDer;
        use rustls::pki_types::pem::PemObject;
        let key = NewKey::make().unwrap();
        assert_eq!(format!("{key:?}"), "NewKey");
        let read = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
        assert_eq!(read.secret_der(), key.pkcs8);
    }
}
