//! The hub's configuration file: one TOML, every key typed, a typo stops the start.
//!
//! Owns what `config/hub.toml` may say. Reads and checks; opens nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::fleet::device_figures::DeviceSeries;
use super::fleet::webhook::{WebhookConfig, check_all};
use crate::limits::{BOX_CERTIFICATE_VALID, BOX_CERTIFICATE_VALID_MIN};
use crate::toml_file::ConfigFile;

/// `config/hub.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Folder for journals, index and clips. Relative paths are relative to this file.
    pub data_dir: PathBuf,
    /// The registry of areas, sites and devices (TOML).
    pub registry: PathBuf,
    /// The console's base map, a PMTiles file; without it the map draws areas, streets and sites alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_map: Option<PathBuf>,
    #[serde(default)]
    pub officers: OfficersConfig,
    pub boxes: BoxesConfig,
    pub broker: BrokerConfig,
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Who is told of incidents by HTTP.
    #[serde(default, rename = "webhook", skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<WebhookConfig>,
}

/// `[metrics]`: what Prometheus is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Figures of each device at `/metrics/devices`.
    pub devices: DeviceSeries,
}

/// The listener of console and API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfficersConfig {
    /// Loopback only, until login exists.
    pub listen: SocketAddr,
}

impl Default for OfficersConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

/// The listener to which boxes upload clips (HTTPS, client certificates).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxesConfig {
    #[serde(default = "default_boxes_listen")]
    pub listen: SocketAddr,
    /// The hub's server certificate (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM); only the owner may read the file.
    pub key: PathBuf,
    /// The CA that signed the boxes' certificates (PEM).
    pub ca: PathBuf,
    /// Its private key (PEM); only the owner may read the file. With it the hub enrols boxes and renews their
    /// certificates, and writes the list of those that are revoked; without it, it does none of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_key: Option<PathBuf>,
    /// Name or address under which boxes reach this hub: it goes into their configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where boxes that come with an invitation (a QR code) fetch their certificate: HTTPS, without one of theirs yet.
    /// Absent: boxes are enrolled by file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrol_listen: Option<SocketAddr>,
    /// How long a box's certificate is valid; the box renews it after two thirds of that. Default: 9600 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_valid: Option<SignedDuration>,
}

impl BoxesConfig {
    pub fn certificate_valid(&self) -> Duration {
        let said = self.certificate_valid.and_then(|valid| Duration::try_from(valid).ok());
        said.unwrap_or(BOX_CERTIFICATE_VALID)
    }
}

/// Either the broker inside the hub, or another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerConfig {
    Embedded(EmbeddedBrokerConfig),
    External(ExternalBrokerConfig),
}

/// `[broker.embedded]`: rmqtt in the hub's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedBrokerConfig {
    /// Where boxes connect (MQTT over TLS, client certificates).
    #[serde(default = "default_broker_listen")]
    pub listen: SocketAddr,
    /// The broker's server certificate (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM); only the owner may read the file.
    pub key: PathBuf,
    /// The CA that signed the boxes' and the hub's client certificates, and the broker's own (PEM).
    pub ca: PathBuf,
    /// The hub's own client certificate (PEM), common name `camnet-hub`.
    pub client_certificate: PathBuf,
    /// Its private key (PEM); only the owner may read the file.
    pub client_key: PathBuf,
}

/// `[broker.external]`: Mosquitto, NATS, …
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalBrokerConfig {
    /// `host:port` of the broker (TLS).
    pub address: String,
    /// The CA that signed the broker's certificate (PEM).
    pub ca: PathBuf,
    /// The hub's own client certificate (PEM), common name `camnet-hub`.
    pub client_certificate: PathBuf,
    /// Its private key (PEM); only the owner may read the file.
    pub client_key: PathBuf,
}

fn default_boxes_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}
fn default_broker_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8883))
}

impl HubConfig {
    /// Files that only the owner may read; see [`crate::tls::check_secret_file`].
    pub fn secret_files(&self) -> Vec<&Path> {
        let broker = match &self.broker {
            BrokerConfig::Embedded(b) => vec![b.key.as_path(), b.client_key.as_path()],
            BrokerConfig::External(b) => vec![b.client_key.as_path()],
        };
        let webhooks = self.webhooks.iter().filter_map(|webhook| webhook.secret_file.as_deref());
        let boxes = std::iter::once(self.boxes.key.as_path()).chain(self.boxes.ca_key.as_deref());
        boxes.chain(broker).chain(webhooks).collect()
    }
}

impl ConfigFile for HubConfig {
    fn check(&self) -> Result<(), String> {
        check_all(&self.webhooks)?;
        if self.boxes.certificate_valid() < BOX_CERTIFICATE_VALID_MIN {
            return Err(format!("boxes.certificate_valid: at least {BOX_CERTIFICATE_VALID_MIN:?}"));
        }
        let listen = self.officers.listen;
        if listen.ip().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "officers.listen = \"{listen}\": the hub listens on loopback only (127.0.0.1 or [::1]) until login exists"
        ))
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let Self { data_dir, registry, base_map, boxes, broker, webhooks, .. } = self;
        let mut paths = vec![data_dir, registry, &mut boxes.certificate, &mut boxes.key, &mut boxes.ca];
        paths.extend(base_map);
        paths.extend(webhooks.iter_mut().filter_map(|webhook| webhook.secret_file.as_mut()));
        paths.extend(&mut boxes.ca_key);
        match broker {
            BrokerConfig::Embedded(b) => paths.extend([
                &mut b.certificate,
                &mut b.key,
                &mut b.ca,
                &mut b.client_certificate,
                &mut b.client_key,
            ]),
            BrokerConfig::External(b) => {
                paths.extend([&mut b.ca, &mut b.client_certificate, &mut b.client_key])
            }
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::fleet::severity::Severity;

    fn example() -> (PathBuf, String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/hub.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    }

    #[test]
    fn the_example_is_valid_and_its_paths_are_relative_to_it() {
        let (path, _) = example();
        let config = HubConfig::load(&path).unwrap();
        assert_eq!(config.registry, path.with_file_name("ward.toml"));
        assert!(matches!(config.broker, BrokerConfig::Embedded(_)));
        assert_eq!(config.secret_files().len(), 4);
    }

    #[test]
    fn a_webhook_is_named_goes_by_https_and_keeps_its_secret_in_a_file() {
        let (path, text) = example();
        let parse = |more: &str| HubConfig::parse(&path, &format!("{text}\n{more}"));
        let webhook = |url: &str| {
            format!("[[webhook]]\nname = \"duty\"\nurl = \"{url}\"\nsecret_file = \"duty.secret\"\n")
        };
        let config = parse(&webhook("https://duty.example/camnet")).unwrap();
        assert_eq!(config.secret_files().last(), Some(&path.with_file_name("duty.secret").as_path()));
        assert_eq!(config.webhooks[0].severity, Severity::Info);
        parse(&webhook("http://127.0.0.1:9000/")).unwrap();
        parse(&(webhook("http://duty.example/") + "allow_http = true\n")).unwrap();
        let twice = webhook("https://a.example/") + &webhook("https://b.example/");
        let typo = webhook("https://a.example/") + "severety = \"warning\"\n";
        let table = [
            (webhook("http://duty.example/"), "allow_http"),
            (webhook("ftp://duty.example/"), "https://"),
            (webhook("duty.example"), "duty"),
            (webhook("https://me:secret@duty.example/"), "secret_file"),
            (webhook("https://a.example/").replace("\"duty\"", "\"Trực ban\""), "a-z"),
            (twice, "twice"),
            (typo, "severety"),
            (webhook("https://a.example/") + "causes = [\"siet\"]\n", "siet"),
        ];
        for (more, expected) in table {
            let error = parse(&more).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_typo_or_an_open_listener_stops_the_start() {
        let (path, text) = example();
        let table = [
            (text.replace("registry =", "registri ="), "registri"),
            (text.replace("[broker.embedded]", "[broker.embeded]"), "embeded"),
            (text.replace("127.0.0.1:8080", "0.0.0.0:8080"), "until login exists"),
            (text.replace("client_key", "clientkey"), "clientkey"),
            (
                text.replace("certificate_valid = \"9600h\"", "certificate_valid = \"1s\""),
                "certificate_valid",
            ),
        ];
        for (text, expected) in table {
            let error = HubConfig::parse(&path, &text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("hub.toml"), "{error}");
        }
    }
}
