//! What the hub has set for this box: tried, confirmed by the hub's receipt and its answer, or given up.
//!
//! Owns the folder `set` in the box's data: `state.json`, and each version as `<version>.toml`. The box's own file stays
//! as it is and has the last word on what the hub may do (see [`merge`]). May not talk to the hub.
//!
//! [`State`] decides and does no I/O. A power cut at any step leaves the version that was in force, or the one that is
//! tried: `state.json` is replaced whole, after the version's file is durable, and files go away after it names them no
//! more.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;

use super::config::{CameraConfig, EdgeConfig, GatewayConfig, LampConfig, OutboxConfig, RingConfig};
use crate::journal::disk::{Access, Disk, RealDisk};
use crate::limits::{BOX_CONFIG_BYTES_MAX, BOX_WHY_CHARS_MAX, CONFIG_TRIES_MAX};
use crate::toml_file::ConfigFile;
use crate::wire::enrol::{ConfigFailed, Hello, SetConfig, check_set_tables};

const FOLDER: &str = "set";
const STATE: &str = "state.json";

/// How far what the hub set has come on this box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The hub has heard the box with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<u64>,
    /// To be tried, or being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<Pending>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<ConfigFailed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    version: u64,
    /// Starts with it.
    tried: u32,
}

/// With what a start begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The box's own file alone.
    Own,
    Confirmed(u64),
    Trial(u64),
}

impl State {
    /// True if the box does not have this one yet, and has not given it up.
    pub fn wants(&self, version: u64) -> bool {
        self.confirmed != Some(version)
            && self.pending.as_ref().is_none_or(|pending| pending.version != version)
            && self.failed.as_ref().is_none_or(|failed| failed.version != version)
    }

    /// A version that is durable is to be tried at the next start.
    pub fn offer(&mut self, version: u64) {
        self.pending = Some(Pending { version, tried: 0 });
    }

    /// A start. What was begun with too often and never reached the hub is given up.
    pub fn begin(&mut self) -> Begin {
        match &mut self.pending {
            Some(pending) if pending.tried < CONFIG_TRIES_MAX => {
                pending.tried += 1;
                return Begin::Trial(pending.version);
            }
            Some(Pending { version, tried }) => {
                let why = format!("the box stopped {tried} times before the hub had heard it");
                let version = *version;
                self.fail(version, &why);
            }
            None => {}
        }
        self.confirmed.map_or(Begin::Own, Begin::Confirmed)
    }

    /// The hub has heard the box with this version.
    pub fn confirm(&mut self, version: u64) {
        if self.pending.as_ref().is_some_and(|pending| pending.version == version) {
            self.pending = None;
            self.confirmed = Some(version);
            self.failed = None;
        }
    }

    /// The version is not good: what was confirmed before stays, unless it is that one.
    pub fn fail(&mut self, version: u64, why: &str) {
        self.pending.take_if(|pending| pending.version == version);
        self.confirmed.take_if(|confirmed| *confirmed == version);
        let why = why.chars().take(BOX_WHY_CHARS_MAX).collect();
        self.failed = Some(ConfigFailed { version, why });
    }

    /// The versions whose files are needed.
    fn needs(&self, version: u64) -> bool {
        self.confirmed == Some(version)
            || self.pending.as_ref().is_some_and(|pending| pending.version == version)
    }
}

/// The folder.
pub struct Set {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: State,
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Set in {}: {:?}", self.dir.display(), self.state)
    }
}

impl Set {
    /// Opens the folder in the box's data. A state that can't be read is none: the box's own file is in force.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        Self::open_on(Arc::new(RealDisk), data_dir)
    }

    /// As [`Set::open`], on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join(FOLDER);
        disk.create_dir_all(&dir)?;
        let state = match read_whole(disk.as_ref(), &dir.join(STATE)) {
            Ok(json) => serde_json::from_slice(&json).unwrap_or_else(|error| {
                tracing::error!(%error, "what the hub had set can't be read; the box's own file is in force");
                State::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { disk, dir, state })
    }

    /// See [`State::wants`].
    pub fn wants(&self, version: u64) -> bool {
        self.state.wants(version)
    }

    /// What the box says of itself, running with what `begin` said.
    pub fn hello(&self, begin: Begin) -> Hello {
        let running = match begin {
            Begin::Own => None,
            Begin::Confirmed(version) | Begin::Trial(version) => Some(version),
        };
        Hello { running, failed: self.state.failed.clone() }
    }

    /// A start; durable on return.
    pub fn begin(&mut self) -> io::Result<Begin> {
        let mut state = self.state.clone();
        let begin = state.begin();
        self.put(state)?;
        Ok(begin)
    }

    /// Takes a version that was checked; durable on return.
    pub fn offer(&mut self, set: &SetConfig) -> io::Result<()> {
        self.write_whole(&self.file(set.version), set.toml.as_bytes())?;
        let mut state = self.state.clone();
        state.offer(set.version);
        self.put(state)
    }

    pub fn confirm(&mut self, version: u64) -> io::Result<()> {
        let mut state = self.state.clone();
        state.confirm(version);
        self.put(state)
    }

    pub fn fail(&mut self, version: u64, why: &str) -> io::Result<()> {
        let mut state = self.state.clone();
        state.fail(version, why);
        self.put(state)
    }

    /// What the hub set as this version.
    pub fn read(&self, version: u64) -> io::Result<String> {
        let bytes = read_whole(self.disk.as_ref(), &self.file(version))?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn put(&mut self, state: State) -> io::Result<()> {
        if state != self.state {
            let json = serde_json::to_vec(&state).expect("a state has only text keys");
            self.write_whole(&self.dir.join(STATE), &json)?;
            self.state = state;
        }
        self.tidy();
        Ok(())
    }

    /// Removes versions that nothing names. What stays by mistake costs only its bytes.
    fn tidy(&self) {
        for name in self.disk.list(&self.dir).unwrap_or_default() {
            let version = name.strip_suffix(".toml").and_then(|version| version.parse().ok());
            if version.is_some_and(|version| !self.state.needs(version)) {
                let _ = self.disk.remove(&self.dir.join(name));
            }
        }
    }

    fn file(&self, version: u64) -> PathBuf {
        self.dir.join(format!("{version}.toml"))
    }

    /// Durable and whole, or as it was before.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let part = path.with_extension("part");
        match self.disk.remove(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&part)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.disk.rename(&part, path)?;
        self.disk.sync_dir(&self.dir)
    }
}

fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Access::Read)?;
    let bytes = file.size()?;
    if bytes > 2 * BOX_CONFIG_BYTES_MAX as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut content = vec![0; bytes as usize];
    let read = file.read_at(0, &mut content)?;
    content.truncate(read);
    Ok(content)
}

/// The tables that the hub may set.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tables {
    hub: Option<HubAddresses>,
    outbox: Option<OutboxConfig>,
    ring: Option<RingConfig>,
    camera: Option<Vec<CameraConfig>>,
    lamp: Option<Vec<LampConfig>>,
    gateway: Option<Vec<GatewayConfig>>,
}

/// Where the hub is; whom the box trusts and who it is are its own file's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HubAddresses {
    mqtt: Option<String>,
    url: Option<String>,
}

/// The box's own configuration (read from `path`) with what the hub set in it; the error names line or key.
///
/// The own file has the last word: the hub can't switch on a camera's audio, let itself command a lamp, send a password to
/// another host, or name files outside the folder of the box's file, whatever it sets.
pub fn merge(own: &EdgeConfig, path: &Path, toml: &str) -> Result<EdgeConfig, String> {
    check_set_tables(toml)?;
    let tables: Tables = toml::from_str(toml).map_err(|error| error.to_string())?;
    let mut merged = own.clone();
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(HubAddresses { mqtt, url }) = tables.hub {
        merged.hub.mqtt = mqtt.unwrap_or(merged.hub.mqtt);
        merged.hub.url = url.unwrap_or(merged.hub.url);
    }
    merged.outbox = tables.outbox.unwrap_or(merged.outbox);
    merged.ring = tables.ring.unwrap_or(merged.ring);
    if let Some(mut cameras) = tables.camera {
        for camera in &mut cameras {
            allow_camera(own, folder, camera).map_err(|what| format!("camera {}: {what}", camera.id))?;
        }
        merged.cameras = cameras;
    }
    if let Some(mut lamps) = tables.lamp {
        for lamp in &mut lamps {
            allow_lamp(own, folder, lamp).map_err(|what| format!("lamp {}: {what}", lamp.id))?;
        }
        merged.lamps = lamps;
    }
    if let Some(mut gateways) = tables.gateway {
        for gateway in &mut gateways {
            allow_gateway(own, folder, gateway)
                .map_err(|what| format!("gateway {}: {what}", gateway.mqtt))?;
        }
        merged.gateways = gateways;
    }
    merged.check()?;
    Ok(merged)
}

fn allow_camera(own: &EdgeConfig, folder: &Path, camera: &mut CameraConfig) -> Result<(), String> {
    let of_own = own.cameras.iter().find(|own| own.id == camera.id);
    if camera.audio && !of_own.is_some_and(|own| own.audio) {
        return Err("audio: only the box's own file can switch it on".into());
    }
    let hosts = camera_hosts(camera);
    allow_password(own, folder, &mut camera.password_file, &hosts, of_own.is_some())
}

fn allow_gateway(own: &EdgeConfig, folder: &Path, gateway: &mut GatewayConfig) -> Result<(), String> {
    let host = gateway_host(gateway);
    let has_device = |other: &GatewayConfig| {
        other.devices.iter().any(|device| gateway.devices.iter().any(|set| set.id == device.id))
    };
    let is_own = own.gateways.iter().any(|other| gateway_host(other) == host || has_device(other));
    allow_password(own, folder, &mut gateway.password_file, &[host], is_own)
}

/// A password goes only to hosts to which the own file sends it. One that the own file does not use may go with a device
/// that it does not have.
fn allow_password(
    own: &EdgeConfig,
    folder: &Path,
    password_file: &mut Option<PathBuf>,
    hosts: &[Option<String>],
    is_own: bool,
) -> Result<(), String> {
    let Some(file) = password_file else { return Ok(()) };
    if file.extension().is_none_or(|extension| extension != "password") {
        return Err("password_file: its name must end in .password".into());
    }
    *file = beside(folder, file).map_err(|what| format!("password_file: {what}"))?;
    let paired = hosts_of_password(own, file);
    if paired.is_empty() && !is_own {
        return Ok(());
    }
    // What has no host is told by its key later, and has no pair here.
    match hosts.iter().find(|host| host.is_none() || !paired.contains(host)) {
        None => Ok(()),
        Some(host) => {
            let host = host.as_deref().unwrap_or("an address without a host");
            Err(format!("password_file: the box's own file does not use it for {host}"))
        }
    }
}

/// The hosts that the own file sends this password to.
fn hosts_of_password(own: &EdgeConfig, file: &Path) -> Vec<Option<String>> {
    let uses = |other: &Option<PathBuf>| other.as_deref().is_some_and(|other| is_same_file(other, file));
    let cameras = own.cameras.iter().filter(|camera| uses(&camera.password_file));
    let gateways = own.gateways.iter().filter(|gateway| uses(&gateway.password_file));
    cameras.flat_map(camera_hosts).chain(gateways.map(gateway_host)).collect()
}

fn camera_hosts(camera: &CameraConfig) -> Vec<Option<String>> {
    let host = |text: &String| Url::parse(text).ok()?.host_str().map(str::to_ascii_lowercase);
    std::iter::once(&camera.url).chain(&camera.sub_url).map(host).collect()
}

fn gateway_host(gateway: &GatewayConfig) -> Option<String> {
    gateway.mqtt.rsplit_once(':').map(|(host, _)| host.to_ascii_lowercase())
}

/// By whatever name: also by another way through folders, or by a link.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    one == other || place(one).is_some_and(|of_one| place(other) == Some(of_one))
}

fn allow_lamp(own: &EdgeConfig, folder: &Path, lamp: &mut LampConfig) -> Result<(), String> {
    lamp.map = beside(folder, &lamp.map).map_err(|what| format!("map: {what}"))?;
    let Some(of_own) = own.lamps.iter().find(|own| own.id == lamp.id) else {
        return match lamp.commands.first() {
            Some(more) => Err(format!("commands: only the box's own file can allow {more:?}")),
            None => Ok(()),
        };
    };
    if let Some(more) = lamp.commands.iter().find(|command| !of_own.commands.contains(command)) {
        return Err(format!("commands: only the box's own file can allow {more:?}"));
    }
    // What was allowed was allowed for that cabinet.
    let is_same =
        lamp.address == of_own.address && is_same_file(&lamp.map, &of_own.map) && lamp.units == of_own.units;
    if !lamp.commands.is_empty() && !is_same {
        return Err("commands: the box's own file allows them for another address, map or units".into());
    }
    Ok(())
}

/// A file in the folder of the box's own file, or below it.
fn beside(folder: &Path, file: &Path) -> Result<PathBuf, String> {
    if file.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(folder.join(file));
    }
    Err(format!("{} must lie in the folder of the box's own file: no / in front, no ..", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::sim_disk::{Fault, SimDisk};

    fn own() -> (PathBuf, EdgeConfig) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/edge.toml");
        let own = EdgeConfig::load(&path).unwrap();
        (path, own)
    }

    #[test]
    fn what_is_set_replaces_whole_tables_and_leaves_the_rest() {
        let (path, own) = own();
        let merged =
            merge(&own, &path, "[ring]\ndays = 3\n[hub]\nurl = \"https://new.example:8443\"").unwrap();
        assert_eq!((merged.ring.days, merged.hub.url.as_str()), (3, "https://new.example:8443"));
        assert_eq!((&merged.hub.mqtt, merged.cameras.len()), (&own.hub.mqtt, own.cameras.len()));
        let set = "[[camera]]\nid = \"cam-09\"\nurl = \"rtsp://192.0.2.9/1\"\nuser = \"u\"\npassword_file = \"cam-09.password\"";
        let merged = merge(&own, &path, set).unwrap();
        assert_eq!(merged.cameras.len(), 1);
        assert_eq!(merged.cameras[0].password_file, Some(path.with_file_name("cam-09.password")));
        assert!(merge(&own, &path, "camera = []").unwrap().cameras.is_empty());
    }

    #[test]
    fn what_is_wrong_or_not_the_hubs_to_set_is_refused_by_line_or_key() {
        let (path, own) = own();
        let camera =
            |more: &str| format!("[[camera]]\nid = \"cam-01\"\nurl = \"rtsp://192.0.2.9/1\"\n{more}");
        let lamp = |more: &str| {
            format!(
                "[[lamp]]\nid = \"lamp-01\"\naddress = \"192.0.2.20:502\"\n{more}\n[[lamp.circuit]]\ncircuit = 1\nnominal_power_w = 9.0"
            )
        };
        for (set, expected) in [
            ("[ring]\ndays = \"x\"".to_owned(), "line 2"),
            ("[rings]\ndays = 3".into(), "rings"),
            ("[ring]\ndayz = 3".into(), "dayz"),
            ("data_dir = \"/\"".into(), "data_dir"),
            ("[hub]\nkey = \"other.key\"".into(), "key"),
            ("[hub]\nurl = \"http://x\"".into(), "https://"),
            ("[outbox]\nbytes = 1".into(), "outbox.bytes"),
            (camera("audio = true"), "audio"),
            (camera("user = \"u\"\npassword_file = \"/etc/shadow.password\""), "password_file"),
            (camera("user = \"u\"\npassword_file = \"../x.password\""), "password_file"),
            (camera("user = \"u\"\npassword_file = \"box-01.key\""), ".password"),
            (
                "[[gateway]]\nmqtt = \"127.0.0.1:1883\"\ndialect = \"tasmota\"\nuser = \"u\"\npassword_file = \"box-01.key\"\n\
                 [[gateway.device]]\nid = \"lamp-09\"\nname = \"den\"".to_owned(),
                ".password",
            ),
            (camera("sub_url = \"http://x\""), "sub_url"),
            (lamp("map = \"cabinets/x.toml\"\ncommands = [\"switch\"]"), "commands"),
            (lamp("map = \"/etc/x.toml\""), "map"),
        ] {
            let error = merge(&own, &path, &set).unwrap_err();
            assert!(error.contains(expected), "{set}: {error}");
        }
    }

    #[test]
    fn the_own_file_allows_what_the_hub_then_may_set() {
        let (path, mut own) = own();
        own.cameras[0].audio = true;
        let set = "[[camera]]\nid = \"cam-01\"\nurl = \"rtsp://192.0.2.9/1\"\naudio = true";
        assert!(merge(&own, &path, set).unwrap().cameras[0].audio);
    }

    /// An own file in a folder with its passwords, whose text it is.
    fn own_of(dir: &Path, text: &str) -> (PathBuf, EdgeConfig) {
        let path = dir.join("edge.toml");
        let head = "box = \"box-01\"\ndata_dir = \"data\"\n[hub]\nmqtt = \"hub:8883\"\nurl = \"https://hub:8443\"\n\
            ca = \"ca.pem\"\ncertificate = \"b.pem\"\nkey = \"b.pem\"\n";
        std::fs::write(&path, format!("{head}{text}")).unwrap();
        let own = EdgeConfig::load(&path).unwrap();
        (path, own)
    }

    #[test]
    fn commands_stay_allowed_only_for_the_cabinet_of_the_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let lamp = |id: &str, address: &str, map: &str, more: &str| {
            format!(
                "[[lamp]]\nid = \"{id}\"\naddress = \"{address}\"\nmap = \"{map}\"\n{more}\n\
                 [[lamp.circuit]]\ncircuit = 1\nrelay = 1\nnominal_power_w = 9.0\n"
            )
        };
        let here = "192.0.2.20:502";
        let may = "commands = [\"switch\"]\nunits = { relays = 3 }";
        let (path, own) = own_of(dir.path(), &lamp("lamp-01", here, "maps/a.toml", may));
        for (set, is_allowed, what) in [
            (lamp("lamp-01", here, "maps/a.toml", may), true, "the same"),
            (lamp("lamp-01", here, "maps/./a.toml", may), true, "the same, written otherwise"),
            (lamp("lamp-01", "192.0.2.21:502", "maps/a.toml", may), false, "another address"),
            (lamp("lamp-01", "192.0.2.20:503", "maps/a.toml", may), false, "another port"),
            (lamp("lamp-01", here, "maps/b.toml", may), false, "another map"),
            (lamp("lamp-01", here, "maps/a.toml", &may.replace('3', "4")), false, "another unit"),
            (lamp("lamp-01", here, "maps/a.toml", "commands = [\"switch\"]"), false, "the map's units"),
            (lamp("lamp-02", here, "maps/a.toml", may), false, "another lamp"),
            (lamp("lamp-01", here, "maps/a.toml", &may.replace("switch", "dim")), false, "another command"),
            (lamp("lamp-01", "192.0.2.21:502", "maps/b.toml", ""), true, "without commands"),
        ] {
            let merged = merge(&own, &path, &set);
            assert_eq!(merged.is_ok(), is_allowed, "{what}: {merged:?}");
            assert!(merged.is_ok() || merged.is_err_and(|error| error.contains("commands")), "{what}");
        }
    }

    #[test]
    fn a_password_goes_only_where_the_own_file_sends_it() {
        let dir = tempfile::tempdir().unwrap();
        let camera = |id: &str, host: &str, sub: &str, file: &str| {
            format!(
                "[[camera]]\nid = \"{id}\"\nurl = \"rtsp://{host}/1\"\nsub_url = \"rtsp://{sub}/2\"\n\
                 user = \"u\"\npassword_file = \"{file}\"\n"
            )
        };
        let gateway = |id: &str, host: &str, file: &str| {
            format!(
                "[[gateway]]\nmqtt = \"{host}:1883\"\ndialect = \"tasmota\"\nuser = \"u\"\n\
                 password_file = \"{file}\"\n[[gateway.device]]\nid = \"{id}\"\nname = \"den\"\n"
            )
        };
        std::fs::write(dir.path().join("a.password"), "a").unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::os::unix::fs::symlink("../a.password", dir.path().join("below/link.password")).unwrap();
        std::fs::hard_link(dir.path().join("a.password"), dir.path().join("hard.password")).unwrap();
        let text = camera("cam-01", "cam.example", "sub.example", "below/../a.password");
        let (path, own) = own_of(dir.path(), &(text + &gateway("den-01", "127.0.0.1", "g.password")));
        for (set, is_allowed, what) in [
            (camera("cam-01", "cam.example:554", "SUB.example", "a.password"), true, "where it goes now"),
            (camera("cam-09", "cam.example", "cam.example", "a.password"), true, "one more at the same host"),
            (camera("cam-01", "evil.example", "sub.example", "a.password"), false, "another url"),
            (camera("cam-01", "cam.example", "evil.example", "a.password"), false, "another sub_url"),
            (camera("cam-01", "cam.example@evil.example", "sub.example", "a.password"), false, "a trick"),
            (camera("cam-09", "evil.example", "evil.example", "a.password"), false, "by a new camera"),
            (camera("cam-09", "evil.example", "evil.example", "below/link.password"), false, "by a link"),
            (camera("cam-09", "evil.example", "evil.example", "hard.password"), false, "by its other name"),
            (camera("cam-01", "127.0.0.1", "127.0.0.1", "g.password"), true, "to the gateway's host"),
            (camera("cam-01", "cam.example", "cam.example", "g.password"), false, "the gateway's"),
            (camera("cam-01", "cam.example", "cam.example", "new.password"), false, "not of this camera"),
            (camera("cam-09", "new.example", "new.example", "new.password"), true, "a new one with its own"),
            (gateway("den-01", "127.0.0.1", "g.password"), true, "the gateway as it is"),
            (gateway("den-01", "192.0.2.66", "g.password"), false, "another gateway"),
            (gateway("den-09", "192.0.2.66", "a.password"), false, "the camera's to a gateway"),
            (gateway("den-01", "192.0.2.66", "new.password"), false, "not of this gateway's device"),
            (gateway("den-09", "192.0.2.66", "new.password"), true, "a new gateway with its own"),
        ] {
            let merged = merge(&own, &path, &set);
            assert_eq!(merged.is_ok(), is_allowed, "{what}: {:?}", merged.err());
            assert!(merged.is_ok() || merged.is_err_and(|error| error.contains("password_file")), "{what}");
        }
    }

    #[test]
    fn a_version_is_tried_confirmed_or_given_up() {
        let mut state = State::default();
        assert_eq!(state.begin(), Begin::Own);
        state.offer(1);
        assert_eq!(state.begin(), Begin::Trial(1));
        state.confirm(1);
        assert_eq!((state.begin(), state.wants(1), state.wants(2)), (Begin::Confirmed(1), false, true));
        state.offer(2);
        assert_eq!(state.begin(), Begin::Trial(2));
        state.fail(2, "no receipt");
        assert_eq!((state.begin(), state.wants(2), state.wants(3)), (Begin::Confirmed(1), false, true));
        // Nobody heard anything, again and again: power that comes and goes, or a crash.
        state.offer(3);
        for _ in 0..CONFIG_TRIES_MAX {
            assert_eq!(state.begin(), Begin::Trial(3));
        }
        assert_eq!((state.begin(), state.failed.as_ref().unwrap().version), (Begin::Confirmed(1), 3));
        // A late word about another version changes nothing.
        state.confirm(3);
        assert_eq!(state.begin(), Begin::Confirmed(1));
        // One that had worked and can't be used any more: the box's own file.
        state.fail(1, "its map is gone");
        assert_eq!(state.begin(), Begin::Own);
    }

    type Act = fn(&mut Set) -> io::Result<()>;

    /// Version 1 is confirmed, and 2 is being tried if `is_tried`; then `act`, with the power cut in its `n`th operation.
    /// False if it has no such operation.
    fn cut(seed: u64, is_tried: bool, n: u64, name: &str, act: Act) -> bool {
        let set = |version| SetConfig { version, toml: format!("[ring]\ndays = {version}") };
        let world = SimDisk::new(seed);
        let open = || Set::open_on(world.disk(), Path::new("/data"));
        let mut before = open().unwrap();
        before.offer(&set(1)).unwrap();
        before.begin().unwrap();
        before.confirm(1).unwrap();
        if is_tried {
            before.offer(&set(2)).unwrap();
            before.begin().unwrap();
        }
        world.fail(n, Fault::Dead);
        let is_whole = act(&mut before).is_ok() && !world.is_dead();
        world.power_cut();
        world.heal();
        let mut after = open().unwrap();
        let begin = after.begin().unwrap();
        let (Begin::Confirmed(version) | Begin::Trial(version)) = begin else {
            panic!("{name}, seed {seed}, operation {n}: nothing that the hub set is in force");
        };
        let text = after.read(version);
        let text = text.unwrap_or_else(|e| panic!("{name}, seed {seed}, operation {n}: {begin:?}: {e}"));
        assert_eq!(
            text,
            format!("[ring]\ndays = {version}"),
            "{name}, seed {seed}, operation {n}: {begin:?}"
        );
        if begin == Begin::Trial(2) {
            // What was confirmed is there to go back to.
            after.fail(2, "no receipt").unwrap();
            assert_eq!(after.begin().unwrap(), Begin::Confirmed(1), "{name}, seed {seed}, operation {n}");
            assert_eq!(after.read(1).unwrap(), "[ring]\ndays = 1");
        }
        // What was said to be done is done.
        let expected = match name {
            "offer" | "begin" => Begin::Trial(2),
            "confirm" => Begin::Confirmed(2),
            _ => Begin::Confirmed(1),
        };
        assert!(!is_whole || begin == expected, "{name}, seed {seed}, operation {n}: {begin:?}");
        !is_whole
    }

    #[test]
    fn a_power_cut_at_any_step_leaves_the_old_or_the_new_in_force() {
        let steps: [(&str, bool, Act); 4] = [
            ("offer", false, |s| s.offer(&SetConfig { version: 2, toml: "[ring]\ndays = 2".into() })),
            ("begin", true, |s| s.begin().map(|_| ())),
            ("confirm", true, |s| s.confirm(2)),
            ("fail", true, |s| s.fail(2, "no receipt")),
        ];
        for (name, is_tried, act) in steps {
            for seed in 0..40 {
                let operations = (0..100).take_while(|&n| cut(seed, is_tried, n, name, act)).count();
                assert!((3..50).contains(&operations), "{name} has {operations} operations");
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_read_leaves_the_own_file_in_force() {
        let dir = tempfile::tempdir().unwrap();
        drop(Set::open(dir.path()).unwrap());
        std::fs::write(dir.path().join(FOLDER).join(STATE), b"rubbish").unwrap();
        assert_eq!(Set::open(dir.path()).unwrap().begin().unwrap(), Begin::Own);
    }
}
