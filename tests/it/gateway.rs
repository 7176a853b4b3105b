//! Lamps, gates and sensors that speak MQTT themselves: a real broker, a real box, a real hub.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::world::{HubWorld, Process, free_port, run, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway's broker, as its owner would set it up: plain MQTT, a name and a password.
struct Gateway {
    port: u16,
    process: Option<Process>,
    config: std::path::PathBuf,
}

impl Gateway {
    fn start(dir: &Path) -> Self {
        let port = free_port();
        let passwords = dir.join("gateway.passwords");
        run(Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["camnet", "bí mật"]));
        let config = dir.join("gateway.conf");
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\n",
            passwords.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut gateway = Self { port, process: None, config };
        gateway.turn_on(dir);
        gateway
    }

    fn turn_on(&mut self, dir: &Path) {
        let mut command = Command::new("/usr/sbin/mosquitto");
        self.process = Some(Process::start(dir, "gateway", command.arg("-c").arg(&self.config)));
    }

    fn turn_off(&mut self) {
        self.process.take().unwrap().kill9();
    }

    /// As the device itself would say it.
    async fn say(&self, topic: &str, payload: &str, retain: bool) {
        wait_for("the gateway to take a message", PATIENCE, || async {
            let mut command = Command::new("mosquitto_pub");
            command.args(["-h", "127.0.0.1", "-u", "camnet", "-P", "bí mật", "-q", "1", "-t", topic, "-p"]);
            command.arg(self.port.to_string());
            if payload.is_empty() {
                command.arg("-n")
            } else {
                command.args(["-m", payload])
            };
            if retain {
                command.arg("-r");
            }
            command.output().unwrap().status.success().then_some(())
        })
        .await;
    }
}

const WARD: &str = r#"
[[area]]
id = "ward"
name = "Phường"
kind = "ward"

[[site]]
id = "market"
name = "Chợ"
address = "1 Hoa Phượng"
area = "ward"
owner = "Tổ 5"
point = { lat = 10.776, lon = 106.701 }
"#;

fn device(id: &str, kind: &str) -> String {
    format!(
        "[[device]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"{kind}\"\nsite = \"market\"\nbox = \"box-01\"\n"
    )
}

fn of_gateway(port: u16, dialect: &str, devices: &str) -> String {
    format!(
        "[[gateway]]\nmqtt = \"127.0.0.1:{port}\"\ndialect = \"{dialect}\"\nuser = \"camnet\"\n\
         password_file = \"gateway.password\"\n{devices}"
    )
}

fn member(id: &str, name: &str, rest: &str) -> String {
    format!("[[gateway.device]]\nid = \"{id}\"\nname = \"{name}\"\n{rest}\n")
}

const LAMP: &str = "[[gateway.device.circuit]]\ncircuit = 1\nnominal_power_w = 40.0";

struct World {
    hub: HubWorld,
    gateway: Gateway,
    dir: tempfile::TempDir,
    _hub: Process,
    _box: Process,
}

impl World {
    async fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let hub = HubWorld::new(dir.path(), &["box-01"]);
        let kinds = [("lamp-01", "lamp"), ("lamp-02", "lamp"), ("gate-01", "gate")];
        let ward: String = kinds.map(|(id, kind)| device(id, kind)).concat();
        std::fs::write(dir.path().join("ward.toml"), WARD.to_owned() + &ward).unwrap();
        let gateway = Gateway::start(dir.path());
        let password = dir.path().join("gateway.password");
        std::fs::write(&password, "bí mật\n").unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
        let zigbee = member("lamp-01", "den-01", LAMP) + &member("gate-01", "cong-rao", "");
        let devices = of_gateway(gateway.port, "zigbee2mqtt", &zigbee)
            + &of_gateway(gateway.port, "tasmota", &member("lamp-02", "den-02", LAMP));
        hub.box_config("box-01", &devices);
        let hub_process = hub.start().await;
        let box_process = hub.start_box("box-01");
        Self { hub, gateway, dir, _hub: hub_process, _box: box_process }
    }

    /// The newest event of a device and type, once it is as wanted.
    async fn newest(
        &self,
        device: &str,
        kind: &str,
        what: &str,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("{device} to say {what}"), PATIENCE, || async {
            let path = format!("/api/v1/events?device={device}&type=camnet.{kind}.v1&order=newest&limit=1");
            let answer = self.hub.get(&path).await;
            let data = answer["events"][0]["data"].clone();
            is_wanted(&data).then_some(data)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_say_to_their_gateway_is_in_the_index() {
    let world = World::start().await;
    let say = |topic: &'static str, payload: &'static str| world.gateway.say(topic, payload, false);
    // Heard only while it is subscribed: the retained ones come in any case.
    world.gateway.say("zigbee2mqtt/den-01", r#"{"state":"ON","power":"39.5","linkquality":102}"#, true).await;
    let lamp = world.newest("lamp-01", "lamp", "that it is on", |lamp| lamp["on"] == true).await;
    assert_eq!((&lamp["power_w"], &lamp["current_a"]), (&Value::from(39.5), &Value::Null), "{lamp}");
    // Numbers as texts, a time without a zone, a value without a meaning, an empty message, and no loss by them.
    say(
        "zigbee2mqtt/den-01",
        r#"{"state":"OFF","power":"viel","voltage":"229","last_seen":"2026-11-22T20:15:30"}"#,
    )
    .await;
    let lamp = world.newest("lamp-01", "lamp", "that it is off", |lamp| lamp["on"] == false).await;
    assert_eq!(lamp["voltage_v"], 229.0, "{lamp}");
    let odd = world.newest("lamp-01", "fault", "what is odd", |fault| fault["phase"] == "raised").await;
    assert_eq!(odd["fault"], "payload_not_understood");
    assert!(odd["detail"].as_str().unwrap().contains("viel"), "{odd}");
    world.gateway.say("zigbee2mqtt/den-01", "", true).await;

    say("stat/den-02/POWER", "ON").await;
    world.newest("lamp-02", "lamp", "that it is on", |lamp| lamp["on"] == true).await;
    say("tele/den-02/SENSOR", r#"{"Time":"2026-11-22T20:15:30","ENERGY":{"Total":"12.5","Power":41}}"#).await;
    let lamp = world.newest("lamp-02", "lamp", "what it draws", |lamp| lamp["power_w"] == 41.0).await;
    assert_eq!(lamp["energy_kwh"], 12.5);

    say("zigbee2mqtt/cong-rao", r#"{"contact":true,"battery":97,"linkquality":51}"#).await;
    world.newest("gate-01", "gate", "that it is closed", |gate| gate["open"] == false).await;
    say("zigbee2mqtt/cong-rao", r#"{"contact":false,"tamper":true}"#).await;
    let gate = world.newest("gate-01", "gate", "that it is open", |gate| gate["open"] == true).await;
    assert_eq!((&gate["tampered"], &gate["battery_percent"]), (&Value::from(true), &Value::from(97.0)));
    // A sensor that sees somebody is a motion like a camera's.
    say("zigbee2mqtt/cong-rao", r#"{"occupancy":true}"#).await;
    let motion = world.newest("gate-01", "motion", "that something moves", |m| m["phase"] == "start").await;
    assert_eq!(motion["seen_by"], "sensor");
    say("zigbee2mqtt/cong-rao", r#"{"occupancy":false}"#).await;
    world
        .newest("gate-01", "motion", "that it stopped", |m| {
            m["phase"] == "end" && m["motion"] == motion["motion"]
        })
        .await;
    wait_for("the gate to be in trouble", PATIENCE, || async {
        let page = world.hub.get("/api/v1/devices/gate-01").await;
        (page["troubles"][0]["trouble"] == "forced").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_will_and_a_gateway_that_died_are_told_and_taken_back() {
    let mut world = World::start().await;
    world.gateway.say("tele/den-02/LWT", "Offline", true).await;
    let is = |phase: &'static str| {
        move |fault: &Value| fault["fault"] == "device_unreachable" && fault["phase"] == phase
    };
    world.newest("lamp-02", "fault", "that it is offline", is("raised")).await;
    world.gateway.say("tele/den-02/LWT", "Online", true).await;
    world.newest("lamp-02", "fault", "that it is back", is("cleared")).await;
    world.gateway.say("zigbee2mqtt/den-01/availability", r#"{"state":"offline"}"#, true).await;
    world.newest("lamp-01", "fault", "that it is offline", is("raised")).await;

    world.gateway.turn_off();
    let silent = Duration::from_secs(90);
    wait_for("all to be out of reach", silent, || async {
        let path = "/api/v1/events?device=gate-01&type=camnet.fault.v1&order=newest&limit=1";
        let fault = world.hub.get(path).await["events"][0]["data"].clone();
        is("raised")(&fault).then_some(())
    })
    .await;
    let dir = world.dir.path().to_owned();
    world.gateway.turn_on(&dir);
    world.newest("gate-01", "fault", "that its gateway is back", is("cleared")).await;
}
