//! A small ward on loopback, made of the real parts: `camnet demo`.
//!
//! Owns the demo's world: certificates, cameras that are RTSP servers, a lighting cabinet that is a Modbus server,
//! and the configuration files of hub and boxes, which it runs as they would run for real. Used by no other module
//! but the command line and the tests. Listens on loopback only.

pub mod cabinet;
pub mod street;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::edge::config::{CameraConfig, EdgeConfig, HubLink, LampAllowed, LampConfig, RingConfig};
use crate::hub::config::{BoxesConfig, BrokerConfig, EmbeddedBrokerConfig, HubConfig, OfficersConfig};
use crate::hub::registry::RegistryFile;
use crate::hub::{self, Hub};
use crate::media::rtsp_server::{Pictures, Repeat, RtspServer};
use crate::model::{BoxId, DeviceId};
use cabinet::{Cabinet, Circuit};
use street::Street;

/// Two camera boxes and a lamp box, as the ward's registry knows them.
const CAMERA_BOXES: [&str; 2] = ["box-01", "box-02"];
const LAMP_BOX: &str = "box-lamp";
const LAMP: &str = "lamp-01";
/// A camera that is enrolled and configured but does not answer: what a dead one looks like.
const DEAD_CAMERA: &str = "cam-03";
/// 320 lamps of 40 W on 8 circuits.
const CIRCUITS: usize = 8;
const LAMPS_PER_CIRCUIT: u32 = 40;
const LAMP_POWER_W: f64 = 40.0;
const READY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Port of console and API on 127.0.0.1.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Play this file (H.264 or H.265) in a loop instead of the drawn street; may be given several times.
    #[arg(long, value_name = "FILE", conflicts_with = "rtsp")]
    video: Vec<PathBuf>,
    /// Take this camera (rtsp://…, user and password in it are kept in a file) instead of the drawn street; may be
    /// given several times.
    #[arg(long, value_name = "URL")]
    rtsp: Vec<String>,
    /// Stop after so many minutes; default: at Ctrl-C.
    #[arg(long)]
    minutes: Option<f64>,
    /// Folder for everything the demo writes, kept afterwards; default: a temporary one, removed at the end.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Builds the ward, says where to look, and stays until `shutdown`.
pub async fn run(args: DemoArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder = Folder::make(args.data.clone())?;
    log_to(&folder.path.join("camnet.log"))?;
    let started = Instant::now();
    let progress = |what: &str| eprintln!("[{:5.1} s] {what}", started.elapsed().as_secs_f64());
    progress(&format!("everything goes to {}", folder.path.display()));

    let mut world = tokio::select! {
        world = World::start(&args, &folder.path, &progress) => world?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let officer = world.officer.clone();
    let ready = tokio::select! {
        ready = officer.wait_ready(&progress) => ready,
        () = shutdown.cancelled() => Ok(()),
        ended = world.ended() => Err(ended),
    };
    if ready.is_ok() && !shutdown.is_cancelled() {
        progress("ready; Ctrl-C stops");
        world.say_where()?;
        let minutes = async {
            match args.minutes {
                Some(minutes) => tokio::time::sleep(Duration::from_secs_f64(minutes.max(0.0) * 60.0)).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = minutes => Ok(()),
            ended = world.ended() => Err(ended),
        };
        progress("stopping");
        world.stop().await;
        return ended;
    }
    world.stop().await;
    ready
}

/// Pictures of a drawn street, for an RTSP mount.
pub struct StreetPictures(Street);

impl StreetPictures {
    /// 640 × 360 at 10 fps; the seed decides the view. A lamp fails after so many seconds.
    pub fn new(seed: u64, lamp_fails_s: Option<f64>) -> Self {
        Self(Street::new(seed, 640, 360, 10).with_lamp_failure(lamp_fails_s))
    }
}

impl Pictures for StreetPictures {
    fn width(&self) -> u32 {
        self.0.width()
    }
    fn height(&self) -> u32 {
        self.0.height()
    }
    fn fps(&self) -> u32 {
        self.0.fps()
    }
    fn picture(&mut self, n: u64) -> Vec<u8> {
        self.0.frame(n)
    }
}

/// When one of the street's lamps fails, in the picture and in the cabinet.
const LAMP_FAILS_S: f64 = 75.0;

/// Everything that runs.
struct World {
    officer: Officer,
    registry: RegistryFile,
    sources_stop: CancellationToken,
    hub_stop: CancellationToken,
    boxes: JoinSet<(String, anyhow::Result<()>)>,
    hub: JoinSet<(String, anyhow::Result<()>)>,
    _rtsp: RtspServer,
}

/// Looks at the ward as an officer would, over the API.
#[derive(Clone)]
struct Officer {
    port: u16,
    /// Cameras that deliver.
    live: Vec<DeviceId>,
    client: reqwest::Client,
}

impl World {
    async fn start(args: &DemoArgs, dir: &Path, progress: &impl Fn(&str)) -> anyhow::Result<Self> {
        let rtsp = RtspServer::start(0, None)?;
        let sources = sources(args, dir, &rtsp)?;
        progress(&format!("cameras: {} on RTSP", sources.len()));
        let cabinet =
            Cabinet::start(0, vec![Circuit::new(LAMPS_PER_CIRCUIT, LAMP_POWER_W); CIRCUITS]).await?;
        progress(&format!("lighting cabinet: Modbus TCP on {}", cabinet.address()));

        let registry = registry_for(sources.len())?;
        std::fs::write(dir.join("ward.toml"), toml::to_string(&registry)?)?;
        let box_ids: Vec<BoxId> =
            CAMERA_BOXES.iter().chain([&LAMP_BOX]).map(|id| BoxId::new(*id)).collect::<Result<_, _>>()?;
        hub::make_certificates(dir, &[], &box_ids)?;
        progress("a CA of its own, certificates for hub and boxes");

        let config = hub_config(dir, args.port);
        std::fs::write(dir.join("hub.toml"), toml::to_string(&config)?)?;
        let hub = Hub::build(config).await?;
        let addresses = hub.addresses();
        progress(&format!(
            "hub: console and API on {}, boxes on {}, MQTT broker on {}",
            addresses.officers,
            addresses.boxes,
            addresses.broker.map_or("none".into(), |address| address.to_string())
        ));
        let mut world = Self {
            officer: Officer {
                port: addresses.officers.port(),
                live: sources.iter().map(|camera| camera.id.clone()).collect(),
                client: reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?,
            },
            registry,
            sources_stop: CancellationToken::new(),
            hub_stop: CancellationToken::new(),
            boxes: JoinSet::new(),
            hub: JoinSet::new(),
            _rtsp: rtsp,
        };
        let stop = world.hub_stop.clone();
        world.hub.spawn(async move { ("the hub".to_owned(), hub.run(stop).await) });
        let broker = addresses.broker.context("the demo's hub has its own broker")?;
        for config in box_configs(
            dir,
            sources,
            &cabinet,
            &format!("localhost:{}", broker.port()),
            addresses.boxes.port(),
        )? {
            std::fs::write(dir.join(format!("{}.toml", config.box_id)), toml::to_string(&config)?)?;
            let (name, stop) = (format!("box {}", config.box_id), world.sources_stop.clone());
            let edge = Edge::build(config)?;
            world.boxes.spawn(async move { (name, edge.run(stop).await) });
        }
        progress("boxes: two with cameras, one with lamps");
        let stop = world.sources_stop.clone();
        world.boxes.spawn(async move {
            live_night(cabinet, stop).await;
            ("the cabinet".to_owned(), Ok(()))
        });
        Ok(world)
    }

    /// The two lines on standard output.
    fn say_where(&self) -> anyhow::Result<()> {
        let first = self.officer.live.first().context("there is a camera")?;
        let device = self.registry.devices.iter().find(|device| device.id == *first);
        let site = device.and_then(|device| self.registry.sites.iter().find(|site| site.id == device.site));
        let point = site.context("the demo's cameras stand in its registry")?.point;
        let mut out = std::io::stdout().lock();
        writeln!(out, "console: http://127.0.0.1:{}/", self.officer.port)?;
        writeln!(
            out,
            "search: {} search --hub http://127.0.0.1:{} --near {},{} --radius 400 --from 10m",
            command_name(),
            self.officer.port,
            point.lat,
            point.lon
        )?;
        out.flush()?;
        Ok(())
    }

    /// Resolves when something ended that should not have.
    async fn ended(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.boxes.join_next() => ended,
            Some(ended) = self.hub.join_next() => ended,
            else => return anyhow::anyhow!("nothing runs any more"),
        };
        match ended {
            Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended although nobody asked it to"),
            Ok((name, Err(error))) => error.context(format!("{name} failed")),
            Err(error) => anyhow::anyhow!("a part of the demo panicked: {error}"),
        }
    }

    /// First the boxes, so that their last events still find a hub.
    async fn stop(mut self) {
        self.sources_stop.cancel();
        while self.boxes.join_next().await.is_some() {}
        self.hub_stop.cancel();
        while self.hub.join_next().await.is_some() {}
    }
}

impl Officer {
    /// Ready means: an officer's search sees every live camera recording.
    async fn wait_ready(&self, progress: &impl Fn(&str)) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut seen = 0;
        loop {
            let recording = self.recording().await;
            if recording > seen {
                progress(&format!("{recording} of {} cameras are recording", self.live.len()));
                seen = recording;
            }
            if recording == self.live.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                if seen > 0 {
                    progress("some cameras do not deliver; the console says which");
                    return Ok(());
                }
                bail!(
                    "no camera delivered a picture within {READY_WITHIN:?}; see camnet.log in the demo's folder"
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Live cameras whose account says that they record.
    async fn recording(&self) -> usize {
        let devices: Vec<&str> = self.live.iter().map(DeviceId::as_str).collect();
        let url = format!("http://127.0.0.1:{}/api/v1/clips?limit=1&device={}", self.port, devices.join(","));
        let answer = async { self.client.get(url).send().await?.json::<Value>().await };
        let Ok(answer) = answer.await else { return 0 };
        let cameras = answer["coverage"].as_array().cloned().unwrap_or_default();
        let is_recording = |camera: &&Value| {
            camera["spans"].as_array().is_some_and(|s| s.iter().any(|s| s["state"] == "recorded"))
        };
        cameras.iter().filter(is_recording).count()
    }
}

/// The program's name as a shell finds it: `camnet` if that is this very file, else its path.
fn command_name() -> String {
    let Ok(own) = std::env::current_exe().and_then(|path| path.canonicalize()) else {
        return "camnet".into();
    };
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        let first = std::env::split_paths(&path).map(|dir| dir.join("camnet")).find(|file| file.is_file());
        first.and_then(|file| file.canonicalize().ok()).is_some_and(|file| file == own)
    });
    let text = own.display().to_string();
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    match (on_path, is_plain) {
        (true, _) => "camnet".into(),
        (false, true) => text,
        (false, false) => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The cameras that deliver, as a box's configuration names them.
fn sources(args: &DemoArgs, dir: &Path, server: &RtspServer) -> anyhow::Result<Vec<CameraConfig>> {
    let mut cameras = Vec::new();
    // cam-03 is the dead one.
    let ids = (1..).filter(|n| *n != 3).map(|n| format!("cam-{n:02}"));
    let count = args.video.len().max(args.rtsp.len()).max(2);
    if count > 10 {
        bail!("the demo's ward has room for 10 cameras");
    }
    for (n, id) in ids.take(count).enumerate() {
        let id = DeviceId::new(id)?;
        let mut camera = CameraConfig::new(id.clone(), server.url(id.as_str()));
        if let Some(url) = args.rtsp.get(n) {
            split_credentials(&mut camera, url, dir)?;
        } else if let Some(file) = args.video.get(n) {
            let file = file.canonicalize().with_context(|| format!("video {}", file.display()))?;
            server.mount_file(id.as_str(), &file, Repeat::Loop)?;
        } else if args.rtsp.is_empty() && args.video.is_empty() {
            // Of the two streets only the first loses a lamp.
            let lamp_fails_s = (n == 0).then_some(LAMP_FAILS_S);
            server.mount_drawn(id.as_str(), StreetPictures::new(10 + n as u64, lamp_fails_s))?;
        } else {
            break;
        }
        cameras.push(camera);
    }
    Ok(cameras)
}

/// Takes user and password out of an address; the password goes into a file of its own.
fn split_credentials(camera: &mut CameraConfig, address: &str, dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let Some((login, host)) = address.strip_prefix("rtsp://").and_then(|rest| rest.rsplit_once('@')) else {
        camera.url = address.to_owned();
        return Ok(());
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let file = dir.join(format!("{}.password", camera.id));
    let mut secret =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&file)?;
    secret.write_all(password.as_bytes())?;
    camera.url = format!("rtsp://{host}");
    camera.user = Some(user.to_owned());
    camera.password_file = Some(file);
    Ok(())
}

/// The ward of config/ward.toml, with its first cameras on the demo's two boxes.
fn registry_for(live: usize) -> anyhow::Result<RegistryFile> {
    let mut registry =
        RegistryFile::parse(Path::new("config/ward.toml"), include_str!("../../config/ward.toml"))?;
    let cameras = registry.devices.iter_mut().filter(|device| device.id.as_str().starts_with("cam-"));
    for (n, device) in cameras.enumerate().take(live.max(2) + 1) {
        device.box_id = BoxId::new(CAMERA_BOXES[n.min(1)])?;
    }
    Ok(registry)
}

fn hub_config(dir: &Path, port: u16) -> HubConfig {
    let loopback = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let file = |name: &str| dir.join(name);
    HubConfig {
        data_dir: file("hub"),
        registry: file("ward.toml"),
        base_map: None,
        officers: OfficersConfig { listen: loopback(port) },
        boxes: BoxesConfig {
            listen: loopback(0),
            certificate: file("hub.pem"),
            key: file("hub.key"),
            ca: file("ca.pem"),
            ca_key: Some(file("ca.key")),
            name: Some("localhost".into()),
            enrol_listen: None,
            certificate_valid: None,
        },
        broker: BrokerConfig::Embedded(EmbeddedBrokerConfig {
            listen: loopback(0),
            certificate: file("hub.pem"),
            key: file("hub.key"),
            ca: file("ca.pem"),
            client_certificate: file("camnet-hub.pem"),
            client_key: file("camnet-hub.key"),
        }),
        metrics: Default::default(),
        webhooks: Vec::new(),
    }
}

/// One configuration per box: the first camera on the first box, the others and the dead one on the second.
fn box_configs(
    dir: &Path,
    cameras: Vec<CameraConfig>,
    cabinet: &Cabinet,
    mqtt: &str,
    boxes_port: u16,
) -> anyhow::Result<Vec<EdgeConfig>> {
    let mut per_box: BTreeMap<&str, Vec<CameraConfig>> = BTreeMap::new();
    let dead = CameraConfig {
        id: DeviceId::new(DEAD_CAMERA)?,
        // Nothing listens on the discard port.
        url: "rtsp://127.0.0.1:9/dead".into(),
        ..cameras.first().context("there is a camera")?.clone()
    };
    for (n, camera) in cameras.into_iter().enumerate() {
        per_box.entry(CAMERA_BOXES[n.min(1)]).or_default().push(camera);
    }
    let dead = CameraConfig { user: None, password_file: None, ..dead };
    per_box.entry(CAMERA_BOXES[1]).or_default().push(dead);
    per_box.insert(LAMP_BOX, Vec::new());
    let mut configs = Vec::new();
    for (id, cameras) in per_box {
        let lamps = if id == LAMP_BOX { vec![lamp(cabinet, dir)?] } else { Vec::new() };
        configs.push(EdgeConfig {
            trial: crate::limits::CONFIG_TRIAL,
            box_id: BoxId::new(id)?,
            data_dir: dir.join(id),
            hub: HubLink {
                mqtt: mqtt.to_owned(),
                url: format!("https://localhost:{boxes_port}"),
                ca: dir.join("ca.pem"),
                certificate: dir.join(format!("{id}.pem")),
                key: dir.join(format!("{id}.key")),
            },
            outbox: Default::default(),
            ring: RingConfig { days: 1, bytes_per_camera: 2 << 30, ..RingConfig::default() },
            cameras,
            lamps,
            gateways: Vec::new(),
            machine_root: "/".into(),
            metrics_file: None,
        });
    }
    Ok(configs)
}

/// The cabinet as its box knows it: by the shipped map, written beside the configuration; the demo may switch it.
fn lamp(cabinet: &Cabinet, dir: &Path) -> anyhow::Result<LampConfig> {
    let maps = dir.join("cabinets");
    std::fs::create_dir_all(&maps).with_context(|| format!("folder {}", maps.display()))?;
    let map = maps.join(cabinet::MAP_FILE);
    std::fs::write(&map, cabinet::MAP).with_context(|| format!("file {}", map.display()))?;
    let config = cabinet.config(DeviceId::new(LAMP)?, &map);
    Ok(LampConfig { commands: vec![LampAllowed::Switch], ..config })
}

/// The street lamps burn; after a while one of the first circuit fails, as the picture shows.
async fn live_night(cabinet: Cabinet, stop: CancellationToken) {
    for circuit in 0..CIRCUITS {
        cabinet.switch(circuit, true);
    }
    tokio::select! {
        () = stop.cancelled() => return,
        () = tokio::time::sleep(Duration::from_secs_f64(LAMP_FAILS_S)) => {}
    }
    cabinet.fail_lamps(0, 1);
    stop.cancelled().await;
}

/// The demo's folder: the caller's, or a temporary one that goes with it.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    fn make(wanted: Option<PathBuf>) -> anyhow::Result<Self> {
        let is_temporary = wanted.is_none();
        let path = wanted
            .unwrap_or_else(|| std::env::temp_dir().join(format!("camnet-demo-{}", uuid::Uuid::now_v7())));
        if path.join("ca.key").exists() {
            bail!("{} already holds a demo; name another folder or remove it", path.display());
        }
        std::fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(Self { path: path.canonicalize()?, is_temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What stays in the temporary folder harms nobody.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The parts' logs go to a file: the terminal is for the demo's own words.
fn log_to(file: &Path) -> anyhow::Result<()> {
    let log = std::fs::File::create(file)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CAMNET_LOG")
                .unwrap_or_else(|_| "warn,camnet=info".into()),
        )
        .with_ansi(false);
    // It fails only where logging was set up before.
    let _ = builder.with_writer(std::sync::Mutex::new(log)).try_init();
    Ok(())
}
