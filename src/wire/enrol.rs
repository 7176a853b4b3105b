//! What a box and the hub say to each other about the box itself: its enrolment, its certificate, its configuration.
//!
//! An enrolment is one TOML file: who the box is, whom it trusts, its certificate, its private key (unless the box made
//! that itself), its configuration, and a SHA-256 of these. An invitation is one line, short enough for a QR code: with
//! it a box makes its own key and fetches the rest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{BOX_CONFIG_BYTES_MAX, ENROL_FILE_BYTES_MAX};
use crate::model::{BoxId, Sha256Hash, Time};

/// Version of the enrolment file.
const FORMAT: u32 = 1;
/// Where a box asks about itself, below the hub's listener for boxes.
pub const HELLO_PATH: &str = "/box/v1/hello";
pub const CERTIFICATE_PATH: &str = "/box/v1/certificate";
pub const CONFIG_PATH: &str = "/box/v1/config";
/// Where an invited box asks for its enrolment, and for the CA, below the hub's enrolment listener.
pub const ENROL_PATH: &str = "/enrol/v1";
pub const ENROL_CA_PATH: &str = "/enrol/v1/ca";

/// All that a box needs to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    pub format: u32,
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// Of all that follows, and of the box's id; see [`Enrolment::digest`].
    pub sha256: Sha256Hash,
    /// PEM of the CA that signed the certificates of hub, broker and box.
    pub ca: String,
    /// PEM.
    pub certificate: String,
    /// PEM; absent where the box made its key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The box's `edge.toml`.
    pub config: String,
}

/// What is wrong with an enrolment or an invitation.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("this is no enrolment: {0}")]
    Syntax(Box<toml::de::Error>),
    #[error("an enrolment has at most {ENROL_FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(
        "this enrolment has format {0}, this camnet knows {FORMAT}: bring the older of the two up to date"
    )]
    Format(u32),
    #[error("the enrolment is damaged: its contents do not have the SHA-256 that it names")]
    Damaged,
    #[error("this is no invitation: {0}")]
    Invitation(&'static str),
}

impl Enrolment {
    pub fn new(box_id: BoxId, ca: String, certificate: String, key: Option<String>, config: String) -> Self {
        let sha256 = Sha256Hash([0; 32]);
        let unsealed = Self { format: FORMAT, box_id, sha256, ca, certificate, key, config };
        Self { sha256: unsealed.digest(), ..unsealed }
    }

    /// SHA-256 over box, ca, certificate, key (empty if absent) and config, each before its length in bytes, 8 of them,
    /// big end first.
    pub fn digest(&self) -> Sha256Hash {
        let mut bytes = Vec::new();
        let key = self.key.as_deref().unwrap_or_default();
        for part in [self.box_id.as_str(), &self.ca, &self.certificate, key, &self.config] {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        Sha256Hash::of(&bytes)
    }

    pub fn to_toml(&self) -> String {
        let body = toml::to_string_pretty(self).expect("an enrolment has only text");
        let secret =
            if self.key.is_some() { " It holds the private key: delete it when the box runs." } else { "" };
        format!("# Enrolment of {}: camnet edge enroll FILE --dir /etc/camnet.{secret}\n{body}", self.box_id)
    }

    pub fn from_toml(text: &str) -> Result<Self, EnrolError> {
        if text.len() as u64 > ENROL_FILE_BYTES_MAX {
            return Err(EnrolError::TooLarge);
        }
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let syntax = |error| EnrolError::Syntax(Box::new(error));
        let Versioned { format } = toml::from_str(text).map_err(syntax)?;
        if format != FORMAT {
            return Err(EnrolError::Format(format));
        }
        toml::from_str::<Self>(text).map_err(syntax)?.checked()
    }

    /// Only if its contents are what was sealed.
    pub fn checked(self) -> Result<Self, EnrolError> {
        if self.digest() == self.sha256 { Ok(self) } else { Err(EnrolError::Damaged) }
    }
}

/// What the QR code says: `https://hub:8444/enrol/v1#box-01.<sha-256 of the CA>.<secret>`. What stands behind the `#` is
/// sent nowhere by those who only open an address.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// `https://host:port`.
    pub url: String,
    pub box_id: BoxId,
    /// Of the CA's certificate, as DER.
    pub ca: Sha256Hash,
    pub secret: String,
}

/// Characters of an invitation, and of its secret.
const INVITATION_CHARS_MAX: usize = 600;
const SECRET_CHARS: usize = 43;

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{ENROL_PATH}#{}.{}.{}", self.url, self.box_id, self.ca, self.secret)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation of {} to {}", self.box_id, self.url)
    }
}

impl FromStr for Invitation {
    type Err = EnrolError;
    fn from_str(text: &str) -> Result<Self, EnrolError> {
        let bad = EnrolError::Invitation;
        let text = text.trim();
        if text.len() > INVITATION_CHARS_MAX {
            return Err(bad("it is too long"));
        }
        let (address, rest) = text.split_once('#').ok_or_else(|| bad("it has no #"))?;
        let url =
            address.strip_suffix(ENROL_PATH).ok_or_else(|| bad("its address does not end in /enrol/v1"))?;
        let host = url.strip_prefix("https://").ok_or_else(|| bad("it does not begin with https://"))?;
        if host.is_empty() || host.contains(['/', '?', '@', ' ']) {
            return Err(bad("its address is not https://host:port"));
        }
        let parts: Vec<&str> = rest.split('.').collect();
        let [box_id, ca, secret] = parts[..] else { return Err(bad("behind # it has not three parts")) };
        let is_secret = secret.len() == SECRET_CHARS
            && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !is_secret {
            return Err(bad("its secret is cut"));
        }
        Ok(Self {
            url: url.to_owned(),
            box_id: BoxId::new(box_id).map_err(|_| bad("it names no box"))?,
            ca: ca.parse().map_err(|_| bad("it names no CA"))?,
            secret: secret.to_owned(),
        })
    }
}

/// A public key, and a signature with its private one over the name of who shall get the certificate. Asks for no more
/// than a key: names and times are the hub's to say. See [`crate::tls::NewKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyProof {
    /// Base64 of the uncompressed point of P-256.
    pub public_key: String,
    /// Base64 of the DER signature (ECDSA with SHA-256).
    pub signature: String,
}

/// What an invited box says; it is answered by an [`Enrolment`] without a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    #[serde(rename = "box")]
    pub box_id: BoxId,
    pub secret: String,
    pub key: KeyProof,
}

/// What a box says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of what the hub set that it runs with; absent: its own file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// The last that it gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<ConfigFailed>,
}

/// A version that a box did not take, or went back from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFailed {
    pub version: u64,
    pub why: String,
}

/// What the hub knows of the box that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Of the certificate that the box showed.
    pub serial: String,
    pub expires: Time,
    /// In so many seconds the box shall ask for the next certificate: 0 is now. Said by the hub's clock, for a box's own
    /// may be wrong. Absent where the hub can't sign one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_in_s: Option<u64>,
    /// Version of what is set for the box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u64>,
}

/// The next certificate, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    pub certificate: String,
}

/// What the hub sets for a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetConfig {
    /// Each is larger than the one before.
    pub version: u64,
    /// Some of the tables of `edge.toml`: `hub` (`mqtt` and `url` only), `outbox`, `ring`, `camera`, `lamp`.
    pub toml: String,
}

/// The tables that the hub may set.
pub const SET_TABLES: [&str; 6] = ["hub", "outbox", "ring", "camera", "lamp", "gateway"];

/// What is wrong with a text as something to set, as far as one can say without knowing boxes; with its line.
pub fn check_set_tables(text: &str) -> Result<(), String> {
    if text.len() > BOX_CONFIG_BYTES_MAX {
        return Err(format!("at most {BOX_CONFIG_BYTES_MAX} bytes"));
    }
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    match table.keys().find(|key| !SET_TABLES.contains(&key.as_str())) {
        Some(key) => Err(format!("{key}: the hub may set {} only", SET_TABLES.join(", "))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment() -> Enrolment {
        let text = |text: &str| text.to_owned();
        let pem = "-----BEGIN X-----\nAA==\n-----END X-----\n";
        Enrolment::new(
            BoxId::new("box-01").unwrap(),
            text(pem),
            text(pem),
            Some(text(pem)),
            text("box = \"box-01\"\n# \"\"\" '''\n"),
        )
    }

    #[test]
    fn an_enrolment_reads_back_and_tells_damage() {
        let enrolment = enrolment();
        let text = enrolment.to_toml();
        assert_eq!(Enrolment::from_toml(&text).unwrap(), enrolment);
        for (from, to, why) in [
            ("AA==", "AB==", "damaged"),
            ("box-01", "box-02", "damaged"),
            ("format = 1", "format = 2", "format 2"),
            ("ca = ", "cert = ", "no enrolment"),
        ] {
            let error = Enrolment::from_toml(&text.replacen(from, to, 2)).unwrap_err().to_string();
            assert!(error.contains(why), "{from}: {error}");
        }
        let huge = "#".repeat(ENROL_FILE_BYTES_MAX as usize + 1);
        assert!(matches!(Enrolment::from_toml(&huge), Err(EnrolError::TooLarge)));
        // Where one part ends and the next begins belongs to what is sealed.
        let moved = Enrolment { ca: String::new(), certificate: enrolment.ca.clone(), ..enrolment.clone() };
        assert!(matches!(moved.checked(), Err(EnrolError::Damaged)));
    }

    #[test]
    fn an_invitation_reads_back_and_is_not_told_by_debug() {
        let invitation = Invitation {
            url: "https://hub.example:8444".into(),
            box_id: BoxId::new("box-01").unwrap(),
            ca: Sha256Hash::of(b"ca"),
            secret: "s".repeat(SECRET_CHARS),
        };
        let text = invitation.to_string();
        assert_eq!(text.parse::<Invitation>().unwrap(), invitation);
        assert!(!format!("{invitation:?}").contains(&invitation.secret));
        for bad in [
            "",
            "https://hub.example:8444/enrol/v1",
            &text.replace("https", "http"),
            &text.replace("hub.example", "user@hub.example"),
            &text[..text.len() - 1],
            &text.replace("box-01", "Box"),
            &text.replace("/enrol/v1", "/"),
            &"x".repeat(10_000),
        ] {
            assert!(bad.parse::<Invitation>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_some_tables_can_be_set() {
        for (text, is_good) in [
            ("", true),
            ("[ring]\ndays = 3\n[[camera]]\nid = \"cam-01\"", true),
            ("[hub]\nmqtt = \"hub:8883\"", true),
            ("data_dir = \"/\"", false),
            ("box = \"box-02\"", false),
            ("metrics_file = \"/etc/passwd\"", false),
            ("[ring", false),
        ] {
            assert_eq!(check_set_tables(text).is_ok(), is_good, "{text}");
        }
        assert!(check_set_tables("[ring]\ndays 3").unwrap_err().contains("line 2"));
    }
}
