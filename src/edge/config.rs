//! The box's configuration file: one TOML, every key typed, a typo stops the start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::limits::{
    CLIP_SECONDS_MAX, CONFIG_TRIAL, GATEWAY_DEVICES_MAX, LAMP_CIRCUITS_MAX, LAMP_POLL_MAX, LAMP_POLL_MIN,
    LAMP_POWER_W_MAX, LAMP_SILENCE_MAX, MODBUS_ANSWER_MAX, MOTION_LONGEST_MIN, MOTION_POLYGON_POINTS_MAX,
    MOTION_ZONE_NAME_BYTES_MAX, MOTION_ZONES_MAX, OUTBOX_BYTES_MAX, OUTBOX_DISK_RESERVE_BYTES,
    OUTBOX_SEGMENT_BYTES_MAX, SENSOR_SILENCE_MAX,
};
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
    #[serde(default, rename = "gateway", skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewayConfig>,
    /// Where the machine's `/sys` and `/proc` are; in a container, where the host's are mounted.
    #[serde(default = "root")]
    pub machine_root: PathBuf,
    /// How long the box tries what the hub set for it before it goes back: until then a receipt of the hub must
    /// come, and an answer at `hub.url`.
    #[serde(default = "default_trial")]
    pub trial: SignedDuration,
    /// File for this box's own metrics, rewritten every 15 s, for the textfile collector of Prometheus' node
    /// exporter. Absent: none.
    #[serde(default)]
    pub metrics_file: Option<PathBuf>,
}

fn default_trial() -> SignedDuration {
    CONFIG_TRIAL
}

fn root() -> PathBuf {
    "/".into()
}

impl ConfigFile for EdgeConfig {
    fn check(&self) -> Result<(), String> {
        let mut ids: Vec<&DeviceId> =
            self.cameras.iter().map(|c| &c.id).chain(self.lamps.iter().map(|l| &l.id)).collect();
        ids.extend(self.gateways.iter().flat_map(|gateway| &gateway.devices).map(|device| &device.id));
        ids.sort();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("device {} stands twice in the file", pair[0]));
        }
        if self.outbox.bytes < 4 * OUTBOX_SEGMENT_BYTES_MAX {
            let least = 4 * OUTBOX_SEGMENT_BYTES_MAX;
            return Err(format!("outbox.bytes = {}: give it at least {least}", self.outbox.bytes));
        }
        if self.trial < SignedDuration::from_secs(1) {
            return Err("trial: at least 1s".into());
        }
        let hub = url::Url::parse(&self.hub.url).map_err(|e| format!("hub.url: {e}"))?;
        if hub.scheme() != "https" {
            return Err("hub.url must begin with https://".into());
        }
        for camera in &self.cameras {
            check_camera_url(&camera.url).map_err(|why| format!("camera {}: url {why}", camera.id))?;
            if let Some(sub_url) = &camera.sub_url {
                check_camera_url(sub_url).map_err(|why| format!("camera {}: sub_url {why}", camera.id))?;
            }
            if camera.user.is_some() != camera.password_file.is_some() {
                return Err(format!("camera {}: `user` and `password_file` go together", camera.id));
            }
            camera.motion.check().map_err(|why| format!("camera {}: {why}", camera.id))?;
        }
        for lamp in &self.lamps {
            lamp.check().map_err(|what| format!("lamp {}: {what}", lamp.id))?;
        }
        for gateway in &self.gateways {
            gateway.check().map_err(|what| format!("gateway {}: {what}", gateway.mqtt))?;
        }
        Ok(())
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let HubLink { ca, certificate, key, .. } = &mut self.hub;
        let mut paths = vec![&mut self.data_dir, ca, certificate, key];
        paths.push(&mut self.machine_root);
        paths.extend(self.metrics_file.as_mut());
        paths.extend(self.cameras.iter_mut().filter_map(|camera| camera.password_file.as_mut()));
        paths.extend(self.lamps.iter_mut().map(|lamp| &mut lamp.map));
        paths.extend(self.gateways.iter_mut().filter_map(|gateway| gateway.password_file.as_mut()));
        paths
    }
}

fn check_camera_url(url: &str) -> Result<(), String> {
    let url = url::Url::parse(url).map_err(|error| format!("can't be read: {error}"))?;
    if url.scheme() != "rtsp" {
        return Err("must begin with rtsp://".into());
    }
    if url.password().is_some() || !url.username().is_empty() {
        return Err("holds a user or password: take them out, use `user` and `password_file`".into());
    }
    Ok(())
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
    /// How the packets travel; `auto` takes TCP, and UDP where the camera refuses TCP.
    #[serde(default)]
    pub transport: Transport,
    /// A stream that sends no frame for this long is broken.
    #[serde(default = "default_stall")]
    pub stall: SignedDuration,
    /// Record the camera's audio as well, where it sends AAC or G.711. Off unless someone decided otherwise: what people
    /// say in the street and at their doors is more of their life than what a picture of the street shows, and a
    /// community that agreed to cameras has not thereby agreed to microphones. Cameras commonly send audio unasked.
    #[serde(default)]
    pub audio: bool,
    /// The camera's low-rate stream, as `url`: motion is looked for in it where it comes, else in the recorded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_url: Option<String>,
    #[serde(default)]
    pub motion: MotionConfig,
}

impl CameraConfig {
    /// A camera with all defaults, without user and password.
    pub fn new(id: DeviceId, url: String) -> Self {
        Self {
            id,
            url,
            user: None,
            password_file: None,
            transport: Transport::Auto,
            stall: default_stall(),
            audio: false,
            sub_url: None,
            motion: MotionConfig::default(),
        }
    }
}

/// How a camera's RTP packets travel (RFC 2326, 12.39).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP; UDP if the camera answers that it has no TCP (461).
    #[default]
    Auto,
    /// Inside the RTSP connection: nothing is lost on the way, nothing needs to pass a firewall.
    Tcp,
    /// Datagrams beside it: what the network drops is missing from the recording.
    Udp,
}

/// The motion detector of a camera.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MotionConfig {
    pub enabled: bool,
    /// Who looks for motion: the box in the pictures, or the camera, which tells it in its ONVIF metadata stream.
    pub source: MotionSource,
    /// From 0, which wants twice the usual contrast, to 1, which is content with half of it.
    pub sensitivity: f64,
    /// Least height of what moves, as a share of the picture's height.
    pub height_min: f64,
    /// Motion that pauses for less than this goes on as the same event.
    pub quiet: SignedDuration,
    /// An event that is longer is closed, and goes on as another that names it.
    pub longest: SignedDuration,
    /// Footage before the start that goes into the clip.
    pub pre_roll: SignedDuration,
    /// Footage after the end that goes into the clip.
    pub post_roll: SignedDuration,
    /// Decodes every picture also while nothing moves: for a camera whose key frames are seldom worth a look.
    pub every_picture: bool,
    /// Where movement counts; without zones, everywhere.
    #[serde(rename = "zone", skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<MotionZone>,
    /// Where nobody looks, zone or not.
    #[serde(rename = "mask", skip_serializing_if = "Vec::is_empty")]
    pub masks: Vec<MotionMask>,
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            source: MotionSource::Auto,
            sensitivity: 0.5,
            height_min: 0.03,
            quiet: SignedDuration::from_secs(2),
            longest: SignedDuration::from_secs(CLIP_SECONDS_MAX as i64),
            pre_roll: SignedDuration::from_secs(2),
            post_roll: SignedDuration::from_secs(2),
            every_picture: false,
            zones: Vec::new(),
            masks: Vec::new(),
        }
    }
}

/// Who looks for motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MotionSource {
    /// The box, until the camera has told of motion in a metadata stream; from then on the camera.
    #[default]
    Auto,
    /// The box, in the pictures.
    Pixels,
    /// The camera alone; no picture is decoded.
    Camera,
}

/// A part of the picture in which movement counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionZone {
    /// What events call it.
    pub name: String,
    /// Corners of a polygon: `[x, y]`, each from 0 (left, top) to 1 (right, bottom).
    pub points: Vec<[f64; 2]>,
    /// As the camera's, for this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<f64>,
    /// As the camera's, for this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height_min: Option<f64>,
    /// Only what goes this way in the picture, give or take 60 degrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<MotionDirection>,
}

/// A part of the picture in which nobody looks for movement.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionMask {
    /// Corners of a polygon, as a zone's.
    pub points: Vec<[f64; 2]>,
}

/// A way through the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MotionDirection {
    Left,
    Right,
    Up,
    Down,
}

impl MotionConfig {
    fn check(&self) -> Result<(), String> {
        let share = |what: &str, value: Option<f64>| match value {
            Some(value) if !(0.0..=1.0).contains(&value) => Err(format!("{what} must lie between 0 and 1")),
            _ => Ok(()),
        };
        share("motion.sensitivity", Some(self.sensitivity))?;
        share("motion.height_min", Some(self.height_min))?;
        if self.longest < MOTION_LONGEST_MIN
            || self.longest > SignedDuration::from_secs(CLIP_SECONDS_MAX as i64)
        {
            let least = MOTION_LONGEST_MIN.as_secs();
            return Err(format!("motion.longest must lie between {least}s and {CLIP_SECONDS_MAX}s"));
        }
        if self.zones.len() + self.masks.len() > MOTION_ZONES_MAX {
            return Err(format!("at most {MOTION_ZONES_MAX} zones and masks"));
        }
        for (n, mask) in self.masks.iter().enumerate() {
            check_polygon(&mask.points).map_err(|why| format!("motion.mask {}: {why}", n + 1))?;
        }
        for (n, zone) in self.zones.iter().enumerate() {
            let named = |why: String| format!("motion.zone {:?}: {why}", zone.name);
            if zone.name.is_empty() || zone.name.len() > MOTION_ZONE_NAME_BYTES_MAX {
                return Err(named(format!("a name has 1 to {MOTION_ZONE_NAME_BYTES_MAX} bytes")));
            }
            if self.zones[..n].iter().any(|other| other.name == zone.name) {
                return Err(named("there are two of that name".into()));
            }
            check_polygon(&zone.points).map_err(named)?;
            share("sensitivity", zone.sensitivity).map_err(named)?;
            share("height_min", zone.height_min).map_err(named)?;
        }
        Ok(())
    }
}

fn check_polygon(points: &[[f64; 2]]) -> Result<(), String> {
    if !(3..=MOTION_POLYGON_POINTS_MAX).contains(&points.len()) {
        return Err(format!("a polygon has 3 to {MOTION_POLYGON_POINTS_MAX} points, not {}", points.len()));
    }
    match points.iter().flatten().find(|at| !(0.0..=1.0).contains(*at)) {
        Some(at) => Err(format!("points are shares of the picture, from 0 to 1, not {at}")),
        None => Ok(()),
    }
}

/// One lighting cabinet, read over Modbus TCP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LampConfig {
    pub id: DeviceId,
    /// `host:port` of the Modbus TCP server.
    pub address: String,
    /// The register map of its make, a file like `config/cabinets/sdm630-relays.toml`.
    pub map: PathBuf,
    /// How often the cabinet is read. A slow one is read less often: it rests as long as a reading took.
    #[serde(default = "default_poll")]
    pub poll: SignedDuration,
    /// How often a circuit is reported although nothing changed.
    #[serde(default = "default_heartbeat")]
    pub heartbeat: SignedDuration,
    /// How long one answer may take before the connection is given up.
    #[serde(default = "default_answer")]
    pub answer: SignedDuration,
    /// What the hub may tell this cabinet to do: `switch`, `dim`. Nothing, if absent.
    #[serde(default)]
    pub commands: Vec<LampAllowed>,
    /// Modbus units of the map's parts, where they are not the map's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, u8>,
    #[serde(rename = "circuit")]
    pub circuits: Vec<CircuitConfig>,
}

/// A kind of command that a cabinet may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LampAllowed {
    Switch,
    Dim,
}

/// One circuit of a cabinet: where it hangs, and what it should draw.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CircuitConfig {
    pub circuit: u16,
    /// Phase of the meter that measures it, from 1; where the map counts by phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<u16>,
    /// Relay that switches it, from 1; where the map counts by relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<u16>,
    /// Power that all lamps of the circuit draw together when lit, watts.
    pub nominal_power_w: f64,
    /// How many lamps those are. Given, a single failed lamp is a fault: the meter must be exact enough to show it.
    /// Absent, a fault is more than 7 % of the power missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lamps: Option<u32>,
    /// Modbus units of the map's parts, where this circuit has its own: a second meter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, u8>,
}

impl LampConfig {
    fn check(&self) -> Result<(), String> {
        let numbers: BTreeSet<u16> = self.circuits.iter().map(|circuit| circuit.circuit).collect();
        if numbers.len() != self.circuits.len() {
            return Err("a circuit stands twice".into());
        }
        if !(1..=LAMP_CIRCUITS_MAX).contains(&numbers.len()) {
            return Err(format!("1 to {LAMP_CIRCUITS_MAX} circuits"));
        }
        if let Some(circuit) = self.circuits.iter().find(|circuit| !is_power(circuit.nominal_power_w)) {
            let number = circuit.circuit;
            return Err(format!("circuit {number}: nominal_power_w: above 0, to {LAMP_POWER_W_MAX} W"));
        }
        let is_between = |value: SignedDuration, least: Duration, most: Duration| {
            Duration::try_from(value).is_ok_and(|value| (least..=most).contains(&value))
        };
        if !is_between(self.poll, LAMP_POLL_MIN, LAMP_POLL_MAX) {
            return Err(format!("poll: {LAMP_POLL_MIN:?} to {LAMP_POLL_MAX:?}"));
        }
        if !is_between(self.answer, LAMP_POLL_MIN, MODBUS_ANSWER_MAX) {
            return Err(format!("answer: {LAMP_POLL_MIN:?} to {MODBUS_ANSWER_MAX:?}"));
        }
        if !self.heartbeat.is_positive() {
            return Err("heartbeat: more than 0 s".into());
        }
        Ok(())
    }
}

/// A broker on the box or its own network, to which devices of other makers speak.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// `host:port` of the MQTT broker; without TLS, so on this box or a network of its own.
    pub mqtt: String,
    pub dialect: Dialect,
    /// First part of the topics; of Zigbee2MQTT only.
    #[serde(default = "zigbee2mqtt_base")]
    pub base: String,
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; only the owner may read it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(rename = "device")]
    pub devices: Vec<GatewayDevice>,
}

/// Whose topics and payloads these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    Zigbee2mqtt,
    Tasmota,
}

/// A device behind a gateway: a lamp, a gate's contact, a motion sensor, or several of them in one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayDevice {
    pub id: DeviceId,
    /// What the gateway calls it: Zigbee2MQTT's friendly name, Tasmota's topic.
    pub name: String,
    /// How often it is reported although nothing changed.
    #[serde(default = "default_heartbeat")]
    pub heartbeat: SignedDuration,
    /// After this long without a word it is out of reach: 1 hour if it has lamps, else 25 hours, for what runs on a
    /// battery speaks seldom.
    #[serde(default)]
    pub silence: Option<SignedDuration>,
    /// Its lamps; `nominal_power_w = 0` where it is not known.
    #[serde(default, rename = "circuit", skip_serializing_if = "Vec::is_empty")]
    pub circuits: Vec<CircuitConfig>,
    /// What hangs on its inputs, by their number from 1; of Tasmota's switches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputMeaning>,
    /// Hours in which its gate is to be closed, where people are: `22:00-05:00`. Opened then, it is forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Hours>,
}

/// What an input that is on means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputMeaning {
    GateOpen,
    GateClosed,
    Motion,
    Tampered,
}

/// Hours of each day, by the clock of the ward; the end may lie on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    pub from: jiff::civil::Time,
    pub to: jiff::civil::Time,
}

impl Hours {
    pub fn contain(&self, time: jiff::civil::Time) -> bool {
        match self.from <= self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time = |text: &str| jiff::civil::Time::strptime("%H:%M", text.trim()).ok();
        let hours =
            text.split_once('-').and_then(|(from, to)| Some(Self { from: time(from)?, to: time(to)? }));
        hours.filter(|hours| hours.from != hours.to).ok_or(format!("{text:?}: write hours as 22:00-05:00"))
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        format!("{}-{}", hours.from.strftime("%H:%M"), hours.to.strftime("%H:%M"))
    }
}

impl GatewayConfig {
    fn check(&self) -> Result<(), String> {
        if self.user.is_some() != self.password_file.is_some() {
            return Err("`user` and `password_file` go together".into());
        }
        if !(1..=GATEWAY_DEVICES_MAX).contains(&self.devices.len()) {
            return Err(format!("1 to {GATEWAY_DEVICES_MAX} devices"));
        }
        let mut names = BTreeSet::new();
        for device in &self.devices {
            let named = |what: String| format!("device {}: {what}", device.id);
            // A name with a wildcard would hear others.
            if device.name.is_empty() || device.name.contains(['+', '#', '\0']) {
                return Err(named("name: as the gateway has it, without + and #".into()));
            }
            if !names.insert(&device.name) {
                return Err(named(format!("another device is called {:?} too", device.name)));
            }
            if !device.heartbeat.is_positive() || device.silence.is_some_and(|silence| !silence.is_positive())
            {
                return Err(named("heartbeat, silence: more than 0 s".into()));
            }
            device.check_circuits().map_err(named)?;
            if let Some(input) = device.inputs.keys().find(|input| input.parse::<u16>().is_err()) {
                return Err(named(format!("inputs.{input}: a number from 1")));
            }
        }
        Ok(())
    }
}

impl GatewayDevice {
    fn check_circuits(&self) -> Result<(), String> {
        let numbers: BTreeSet<u16> = self.circuits.iter().map(|circuit| circuit.circuit).collect();
        if numbers.len() != self.circuits.len() || numbers.len() > LAMP_CIRCUITS_MAX {
            return Err(format!("each circuit once, at most {LAMP_CIRCUITS_MAX}"));
        }
        let is_power = |watts: f64| watts == 0.0 || is_power(watts);
        match self.circuits.iter().find(|circuit| !is_power(circuit.nominal_power_w)) {
            Some(circuit) => {
                Err(format!("circuit {}: nominal_power_w: 0 to {LAMP_POWER_W_MAX} W", circuit.circuit))
            }
            None => Ok(()),
        }
    }

    /// How long it may say nothing.
    pub fn silence(&self) -> SignedDuration {
        let usual = if self.circuits.is_empty() { SENSOR_SILENCE_MAX } else { LAMP_SILENCE_MAX };
        self.silence.unwrap_or(usual)
    }
}

fn zigbee2mqtt_base() -> String {
    "zigbee2mqtt".into()
}

fn is_power(watts: f64) -> bool {
    watts > 0.0 && watts <= LAMP_POWER_W_MAX
}

fn default_stall() -> SignedDuration {
    SignedDuration::from_secs(10)
}
fn default_answer() -> SignedDuration {
    SignedDuration::from_secs(10)
}
fn default_poll() -> SignedDuration {
    SignedDuration::from_secs(1)
}
fn default_heartbeat() -> SignedDuration {
    SignedDuration::from_secs(900)
}
