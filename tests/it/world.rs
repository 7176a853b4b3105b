//! What every test needs: a folder, processes that end with the test, and waiting on a condition.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camnet::journal::{Item, Reader};
use serde_json::Value;

/// The binary under test.
pub fn camnet() -> Command {
    Command::new(env!("CARGO_BIN_EXE_camnet"))
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What lies beside the checkout, or where `CAMNET_SHARED` says.
pub fn shared(name: &str) -> PathBuf {
    let folder = std::env::var_os("CAMNET_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: the tests need ../shared", path.display());
    path
}

/// Real footage.
pub fn video(name: &str) -> PathBuf {
    shared("videos").join(name)
}

/// Held by tests in which an unoptimised build draws, encodes, decodes and looks at several streams in real time: two of
/// them at once are slower than that on two cores, and then nothing finds what moves.
pub static BOTH_CORES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process of this test; it is killed when the test is done with it. Its standard error goes to a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// SIGKILL: no last word, no flush.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, then waits for a clean end.
    pub fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let status = self.wait_exit(Duration::from_secs(40));
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
    }

    pub fn wait_exit(&mut self, within: Duration) -> std::process::ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// The JSON of every event that the box's outbox ever accepted, by id, read from its files.
pub fn accepted(box_dir: &Path) -> BTreeMap<String, Value> {
    let mut events = BTreeMap::new();
    for item in Reader::of_dir(&box_dir.join("outbox"), 0).unwrap() {
        let Item::Record(record) = item.unwrap() else { panic!("the outbox is damaged") };
        if record.payload[0] == b'E' {
            let event: Value = serde_json::from_slice(&record.payload[17..]).unwrap();
            events.insert(event["id"].as_str().unwrap().to_owned(), event);
        }
    }
    events
}

/// Asks again until there is an answer, at most `within`.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs a command to its end; its output if it succeeded.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// A hub's folder: certificates and configuration by `camnet hub init`, ports of its own.
pub struct HubWorld {
    pub dir: PathBuf,
    pub officers: u16,
    pub boxes: u16,
    /// Where the broker listens.
    pub mqtt: u16,
    /// Where boxes and hub connect to it: the same, unless a proxy stands between.
    pub box_link: u16,
    pub hub_link: u16,
    /// Further lines of `[boxes]`.
    pub of_boxes: String,
    client: reqwest::Client,
}

impl HubWorld {
    /// Makes the folder for a hub with its embedded broker.
    pub fn new(dir: &Path, boxes: &[&str]) -> Self {
        camnet::tls::install_crypto();
        let mut init = camnet();
        init.args(["hub", "init", "--dir"]).arg(dir);
        for id in boxes {
            init.args(["--box", id]);
        }
        run(&mut init);
        let mqtt = free_port();
        let world = Self {
            dir: dir.to_owned(),
            officers: free_port(),
            boxes: free_port(),
            mqtt,
            box_link: mqtt,
            hub_link: mqtt,
            of_boxes: String::new(),
            client: reqwest::Client::new(),
        };
        world.with_embedded_broker()
    }

    /// Writes the configuration anew, for a hub with its own broker.
    pub fn with_embedded_broker(self) -> Self {
        self.write_config(&format!(
            "[broker.embedded]\nlisten = \"127.0.0.1:{}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\nca = \"ca.pem\"\n\
             client_certificate = \"camnet-hub.pem\"\nclient_key = \"camnet-hub.key\"\n",
            self.mqtt
        ));
        self
    }

    /// With further lines in `[boxes]`: then choose the broker again.
    pub fn with_boxes(self, lines: &str) -> Self {
        Self { of_boxes: lines.to_owned(), ..self }
    }

    /// Uses a broker that stands elsewhere on this machine.
    pub fn with_external_broker(self) -> Self {
        self.write_config(&format!(
            "[broker.external]\naddress = \"127.0.0.1:{}\"\nca = \"ca.pem\"\n\
             client_certificate = \"camnet-hub.pem\"\nclient_key = \"camnet-hub.key\"\n",
            self.hub_link
        ));
        self
    }

    fn write_config(&self, broker: &str) {
        let text = format!(
            "data_dir = \"data\"\nregistry = \"ward.toml\"\n[officers]\nlisten = \"127.0.0.1:{}\"\n\
             [boxes]\nlisten = \"127.0.0.1:{}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\nca = \"ca.pem\"\n\
             ca_key = \"ca.key\"\nname = \"127.0.0.1\"\n{}\n{broker}",
            self.officers, self.boxes, self.of_boxes
        );
        std::fs::write(self.dir.join("hub.toml"), text).unwrap();
    }

    /// Starts the hub and waits until it is ready.
    pub async fn start(&self) -> Process {
        let process = self.start_soon();
        self.ready().await;
        process
    }

    /// Starts the hub and does not wait.
    pub fn start_soon(&self) -> Process {
        let config = self.dir.join("hub.toml");
        Process::start(&self.dir, "hub", camnet().args(["hub", "--config"]).arg(config))
    }

    pub async fn ready(&self) {
        let url = self.url("/readyz");
        wait_for("the hub to be ready", Duration::from_secs(60), || async {
            let response = self.client.get(&url).send().await.ok()?;
            response.status().is_success().then_some(())
        })
        .await;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.officers)
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.bytes().await.unwrap().to_vec()
    }

    /// Every page of a list.
    pub async fn all(&self, path: &str, list: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut page = String::new();
        for _ in 0..1000 {
            let answer = self.get(&format!("{path}{page}")).await;
            items.extend(answer[list].as_array().unwrap().iter().cloned());
            match answer["next"].as_str() {
                Some(token) => page = format!("&page={token}"),
                None => return items,
            }
        }
        panic!("{path} never ends");
    }

    /// Writes a box's configuration: `devices` is TOML with its cameras and lamps.
    pub fn box_config(&self, id: &str, devices: &str) -> PathBuf {
        let text = format!(
            "box = \"{id}\"\ndata_dir = \"{id}\"\n[hub]\nmqtt = \"127.0.0.1:{}\"\nurl = \"https://127.0.0.1:{}\"\n\
             ca = \"ca.pem\"\ncertificate = \"{id}.pem\"\nkey = \"{id}.key\"\n{devices}",
            self.box_link, self.boxes
        );
        let path = self.dir.join(format!("{id}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Mosquitto with our configuration, on this world's certificates and port.
    pub fn start_mosquitto(&self, persistence: bool) -> Process {
        self.start_mosquitto_as(persistence, |text| text)
    }

    /// As [`HubWorld::start_mosquitto`], with the configuration changed.
    pub fn start_mosquitto_as(&self, persistence: bool, change: impl FnOnce(String) -> String) -> Process {
        let dir = self.dir.display();
        let text = std::fs::read_to_string(root().join("deploy/mosquitto.conf")).unwrap();
        let kept = format!("persistence true\npersistence_location {dir}/\nuser root");
        let text = text
            .replace("listener 8883", &format!("listener {} 127.0.0.1", self.mqtt))
            .replace("/etc/mosquitto/certs/hub.key", &format!("{dir}/hub.key"))
            .replace("/etc/camnet/", &format!("{dir}/"))
            .replace("/etc/mosquitto/conf.d/mosquitto.acl", &format!("{dir}/mosquitto.acl"))
            .replace("persistence true", if persistence { &kept } else { "persistence false\nuser root" });
        std::fs::copy(root().join("deploy/mosquitto.acl"), self.dir.join("mosquitto.acl")).unwrap();
        let config = self.dir.join("mosquitto.conf");
        std::fs::write(&config, change(text)).unwrap();
        let debian = "/usr/sbin/mosquitto";
        let mosquitto = if Path::new(debian).exists() { debian } else { "mosquitto" };
        Process::start(&self.dir, "mosquitto", Command::new(mosquitto).arg("-c").arg(config))
    }

    /// Sends a message as the box would: one event, or a batch of them.
    pub fn publish(&self, id: &str, body: &[u8]) {
        let file = self.dir.join("message.json");
        std::fs::write(&file, body).unwrap();
        let topic = format!("camnet/1/{id}/event");
        run(Command::new("mosquitto_pub")
            .args(["-V", "5", "-i", id, "-h", "127.0.0.1", "-q", "1", "-t", &topic, "-p"])
            .arg(self.mqtt.to_string())
            .arg("-f")
            .arg(&file)
            .arg("--cafile")
            .arg(self.dir.join("ca.pem"))
            .arg("--cert")
            .arg(self.dir.join(format!("{id}.pem")))
            .arg("--key")
            .arg(self.dir.join(format!("{id}.key"))));
    }

    pub fn start_box(&self, id: &str) -> Process {
        let config = self.dir.join(format!("{id}.toml"));
        Process::start(&self.dir, id, camnet().args(["edge", "--config"]).arg(config))
    }
}

/// A file system of a few megabytes on a folder; unmounted when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// None where we may not mount.
    pub fn mount(at: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0755"), "camnet-test"]).arg(&at);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self { at })
    }

    /// Takes all room that is left.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let block = vec![0; 64 << 10];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// A card with a file system of its own that can be made to fail; unmounted when dropped.
pub struct Card {
    at: PathBuf,
    /// The kernel's name of the loop device.
    device: String,
}

impl Card {
    /// None where we may not mount. Takes 64 MB beside `at`.
    pub fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let image = at.with_extension("img");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let is_done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let mounted = is_done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))
            && is_done(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(&image).arg(&at));
        if !mounted {
            return None;
        }
        let source = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&at));
        let device = source.trim().rsplit('/').next().unwrap().to_owned();
        Some(Self { at, device })
    }

    /// The file system finds an error and becomes read-only under those who write, as a card that wore out.
    pub fn fail(&self) {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device);
        std::fs::write(&trigger, "the test").unwrap_or_else(|error| panic!("{trigger}: {error}"));
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
