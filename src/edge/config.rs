//! The box's configuration file: one TOML, every key typed, a typo stops the start.

use std::path::PathBuf;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_DISK_RESERVE_BYTES, OUTBOX_SEGMENT_BYTES_MAX};
use crate::model::{BoxId, DeviceId};
use crate::toml_file::ConfigFile;

/// `config/edge.toml`. Relative paths are relative to the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// Id of this box; its client certificate must carry the same.
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// Folder for outbox, ring and clips.
    pub data_dir: PathBuf,
    pub hub: HubLink,
    #[serde(default)]
    pub outbox: OutboxConfig,
    #[serde(default)]
    pub ring: RingConfig,
    #[serde(default, rename = "camera")]
    pub cameras: Vec<CameraConfig>,
    #[serde(default, rename = "lamp")]
    pub lamps: Vec<LampConfig>,
    /// File for this box's own metrics, rewritten every 15 s, for the textfile collector of Prometheus' node
    /// exporter. Absent: none.
    #[serde(default)]
    pub metrics_file: Option<PathBuf>,
}

impl ConfigFile for EdgeConfig {
    fn check(&self) -> Result<(), String> {
        let mut ids: Vec<&DeviceId> =
            self.cameras.iter().map(|c| &c.id).chain(self.lamps.iter().map(|l| &l.id)).collect();
        ids.sort();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("device {} stands twice in the file", pair[0]));
        }
        if self.outbox.bytes < 4 * OUTBOX_SEGMENT_BYTES_MAX {
            let least = 4 * OUTBOX_SEGMENT_BYTES_MAX;
            return Err(format!("outbox.bytes = {}: give it at least {least}", self.outbox.bytes));
        }
        let hub = url::Url::parse(&self.hub.url).map_err(|e| format!("hub.url: {e}"))?;
        if hub.scheme() != "https" {
            return Err("hub.url must begin with https://".into());
        }
        for camera in &self.cameras {
            let url = url::Url::parse(&camera.url).map_err(|e| format!("camera {}: url: {e}", camera.id))?;
            if url.scheme() != "rtsp" {
                return Err(format!("camera {}: url must begin with rtsp://", camera.id));
            }
            if url.password().is_some() || !url.username().is_empty() {
                let what = "take user and password out of the url: use `user` and `password_file`";
                return Err(format!("camera {}: {what}", camera.id));
            }
            if camera.user.is_some() != camera.password_file.is_some() {
                return Err(format!("camera {}: `user` and `password_file` go together", camera.id));
            }
            if !(0.0..1.0).contains(&camera.motion.start_score) {
                return Err(format!("camera {}: motion.start_score must lie between 0 and 1", camera.id));
            }
        }
        Ok(())
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let HubLink { ca, certificate, key, .. } = &mut self.hub;
        let mut paths = vec![&mut self.data_dir, ca, certificate, key];
        paths.extend(self.metrics_file.as_mut());
        paths.extend(self.cameras.iter_mut().filter_map(|camera| camera.password_file.as_mut()));
        paths
    }
}

/// How the box reaches the hub. The box connects out; the hub never connects to a box.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubLink {
    /// `host:port` of the MQTT broker (TLS).
    pub mqtt: String,
    /// Base URL of the hub's listener for boxes, `https://host:port`.
    pub url: String,
    /// The CA that signed the hub's and broker's certificates (PEM).
    pub ca: PathBuf,
    /// This box's certificate (PEM); its subject's common name is the box id.
    pub certificate: PathBuf,
    /// Its private key (PEM); only the owner may read the file.
    pub key: PathBuf,
}

/// The outbox's place on the disk. Above it footage makes way for events: thumbnails, clips, then the ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Its share of the disk.
    pub bytes: u64,
    /// Bytes that stay free on the disk; a fiftieth of the disk where that is less.
    pub disk_reserve_bytes: u64,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self { bytes: OUTBOX_BYTES_MAX, disk_reserve_bytes: OUTBOX_DISK_RESERVE_BYTES }
    }
}

/// The ring of original video on the box's disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RingConfig {
    /// Most days that are kept, for each camera.
    pub days: u32,
    /// Most bytes that are kept, for each camera.
    pub bytes_per_camera: u64,
    /// A new segment file begins at the first key frame after this long.
    pub segment: SignedDuration,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { days: 30, bytes_per_camera: 64 << 30, segment: SignedDuration::from_secs(60) }
    }
}

/// One camera.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraConfig {
    pub id: DeviceId,
    /// `rtsp://host:port/path`, without user and password.
    pub url: String,
    /// User name for Digest (or Basic) authentication.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; only the owner may read it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A stream that sends no frame for this long is broken.
    #[serde(default = "default_stall")]
    pub stall: SignedDuration,
    /// Record the camera's audio as well, where it sends AAC or G.711. Off unless someone decided otherwise: what people
    /// say in the street and at their doors is more of their life than what a picture of the street shows, and a
    /// community that agreed to cameras has not thereby agreed to microphones. Cameras commonly send audio unasked.
    #[serde(default)]
    pub audio: bool,
    #[serde(default)]
    pub motion: MotionConfig,
}

/// The motion detector of a camera.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MotionConfig {
    pub enabled: bool,
    /// Share of the picture that must change to start an event, 0 to 1.
    pub start_score: f64,
    /// Motion that pauses for less than this goes on as the same event.
    pub quiet: SignedDuration,
    /// Footage before the start that goes into the clip.
    pub pre_roll: SignedDuration,
    /// Footage after the end that goes into the clip.
    pub post_roll: SignedDuration,
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            start_score: 0.002,
            quiet: SignedDuration::from_secs(2),
            pre_roll: SignedDuration::from_secs(2),
            post_roll: SignedDuration::from_secs(2),
        }
    }
}

/// One lighting cabinet, read over Modbus TCP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LampConfig {
    pub id: DeviceId,
    /// `host:port` of the Modbus TCP server.
    pub address: String,
    #[serde(default = "default_unit")]
    pub unit: u8,
    /// How often the cabinet is read.
    #[serde(default = "default_poll")]
    pub poll: SignedDuration,
    /// How often a circuit is reported although nothing changed.
    #[serde(default = "default_heartbeat")]
    pub heartbeat: SignedDuration,
    #[serde(rename = "circuit")]
    pub circuits: Vec<CircuitConfig>,
}

/// Where one circuit stands in the cabinet's registers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CircuitConfig {
    pub circuit: u16,
    /// Coil (function 1): commanded on.
    pub on_coil: u16,
    /// Input register (function 4): current, in steps of 0.01 A.
    pub current_register: u16,
    /// Input register (function 4): power, in steps of 1 W.
    pub power_register: u16,
    /// Discrete input (function 2): the cabinet's own fault contact.
    #[serde(default)]
    pub fault_input: Option<u16>,
    /// Power that all lamps of the circuit draw together when lit, watts.
    pub nominal_power_w: f64,
    /// How many lamps those are. Given, a single failed lamp is a fault: the meter must be exact enough to show it.
    /// Absent, a fault is more than 7 % of the power missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lamps: Option<u32>,
}

fn default_stall() -> SignedDuration {
    SignedDuration::from_secs(10)
}
fn default_unit() -> u8 {
    1
}
fn default_poll() -> SignedDuration {
    SignedDuration::from_secs(1)
}
fn default_heartbeat() -> SignedDuration {
    SignedDuration::from_secs(900)
}
