//! `[[webhook]]` in `hub.toml`: who is told of incidents, and of which.
//!
//! Owns what may stand there. Reads and checks; opens nothing.

use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::hub::fleet::cause::CauseKind;
use crate::hub::fleet::severity::Severity;
use crate::limits::{WEBHOOK_NAME_CHARS_MAX, WEBHOOKS_MAX};
use crate::model::AreaId;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Names it in the log, in figures, and in the file that says how far it is.
    pub name: String,
    pub url: String,
    /// Signs each message; only the owner may read the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Without TLS to another machine: whoever listens reads along.
    #[serde(default)]
    pub allow_http: bool,
    #[serde(default = "all_causes")]
    pub causes: Vec<CauseKind>,
    /// The least that is told.
    #[serde(default)]
    pub severity: Severity,
    /// Only incidents from which devices of this area, or below it, suffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaId>,
}

fn all_causes() -> Vec<CauseKind> {
    CauseKind::ALL.into()
}

impl WebhookConfig {
    /// Where messages go, or what is wrong with the address.
    pub fn address(&self) -> Result<Url, String> {
        let name = &self.name;
        // The address itself may be a secret: an error does not repeat it.
        let url = Url::parse(&self.url).map_err(|error| format!("webhook {name}: url: {error}"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http || is_loopback(&url) => {}
            "http" => {
                return Err(format!(
                    "webhook {name}: url: http:// sends messages readable to other machines; use https://, or set \
                     allow_http = true"
                ));
            }
            _ => return Err(format!("webhook {name}: url: it must begin with https://")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!(
                "webhook {name}: url: a password has no place in an address; secret_file signs each message"
            ));
        }
        Ok(url)
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let form = (1..=WEBHOOK_NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !form {
            return Err(format!(
                "webhook: name = {name:?}: 1 to {WEBHOOK_NAME_CHARS_MAX} characters of a-z, 0-9 and -"
            ));
        }
        if self.causes.is_empty() {
            return Err(format!("webhook {name}: causes is empty: then it is told nothing"));
        }
        self.address().map(drop)
    }
}

/// Whether these webhooks can be together.
pub fn check_all(webhooks: &[WebhookConfig]) -> Result<(), String> {
    if webhooks.len() > WEBHOOKS_MAX {
        return Err(format!("there are {} webhooks; at most {WEBHOOKS_MAX}", webhooks.len()));
    }
    for (n, webhook) in webhooks.iter().enumerate() {
        webhook.check()?;
        if webhooks[..n].iter().any(|other| other.name == webhook.name) {
            return Err(format!("webhook {}: the name is there twice", webhook.name));
        }
    }
    Ok(())
}

pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
