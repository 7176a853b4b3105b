//! Commands to lamps, end to end: from the hub's API over the broker to the box, its cabinet's relay, and back.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use camnet::demo::cabinet::{Cabinet, Circuit, MAP_FILE};
use camnet::edge::config::{LampAllowed, LampConfig};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::world::{HubWorld, Process, camnet, root, run, signal, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

struct Ward {
    world: HubWorld,
    cabinet: Cabinet,
    client: reqwest::Client,
}

impl Ward {
    /// A hub, and a cabinet whose box is told these commands are allowed.
    fn new(dir: &Path, cabinet: Cabinet, commands: &[LampAllowed]) -> Self {
        let world = HubWorld::new(dir, &["box-lamp"]);
        let map = root().join("config/cabinets").join(MAP_FILE);
        let config = cabinet.config("lamp-01".parse().unwrap(), &map);
        let poll = SignedDuration::from_millis(100);
        let lamp = LampConfig { commands: commands.to_vec(), poll, ..config };
        #[derive(serde::Serialize)]
        struct Devices {
            lamp: Vec<LampConfig>,
        }
        world.box_config("box-lamp", &toml::to_string(&Devices { lamp: vec![lamp] }).unwrap());
        Self { world, cabinet, client: reqwest::Client::new() }
    }

    async fn online(&self) {
        wait_for("the box to be online", PATIENCE, || async {
            let boxes = self.world.get("/api/v1/boxes").await;
            let mut boxes = boxes["boxes"].as_array().unwrap().iter();
            boxes.any(|found| found["id"] == "box-lamp" && found["online"] == true).then_some(())
        })
        .await;
    }

    async fn post(&self, body: Value) -> (u16, Value) {
        let request = self.client.post(self.world.url("/api/v1/devices/lamp-01/lamp")).json(&body);
        let response = request.header("camnet-purpose", "th%E1%BB%AD").send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Lamp events by command, oldest first.
    async fn commanded(&self) -> Vec<Value> {
        let path = "/api/v1/events?device=lamp-01&type=camnet.lamp.v1&order=oldest&limit=100";
        let events = self.world.all(path, "events").await;
        events.into_iter().filter(|event| event["data"]["reason"] == "command").collect()
    }

    async fn results(&self, outcome: &str) -> u64 {
        let text = self.client.get(self.world.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = format!("camnet_hub_command_results_total{{outcome=\"{outcome}\"}}");
        text.lines()
            .find_map(|found| found.strip_prefix(&line))
            .map_or(0, |value| value.trim().parse().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_allows_nothing_refuses_whatever_the_hub_asks() {
    let dir = tempfile::tempdir().unwrap();
    let cabinet = Cabinet::start(0, vec![Circuit::new(4, 50.0); 2]).await.unwrap();
    let ward = Ward::new(dir.path(), cabinet, &[]);
    let hub = ward.world.start().await;
    let edge = ward.world.start_box("box-lamp");
    ward.online().await;
    for body in [json!({ "circuit": 1, "switch": "off" }), json!({ "circuit": 1, "dim_percent": 10 })] {
        let (status, problem) = ward.post(body).await;
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("is not allowed"), "{problem}");
    }
    assert_eq!((ward.cabinet.writes(), ward.results("refused").await), (0, 2));
    assert!(ward.commanded().await.is_empty());
    edge.stop();
    hub.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_command_switches_the_relay_and_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let cabinet = Cabinet::start(0, vec![Circuit::new(4, 50.0); 4]).await.unwrap();
    let ward = Ward::new(dir.path(), cabinet, &[LampAllowed::Switch]);
    let hub = ward.world.start().await;
    let mut edge = ward.world.start_box("box-lamp");
    ward.online().await;

    let (status, done) = ward.post(json!({ "circuit": 2, "switch": "off" })).await;
    assert_eq!((status, &done["on"]), (200, &json!(false)), "{done}");
    assert!(!ward.cabinet.circuit(1).on, "the relay has switched");
    let (status, problem) = ward.post(json!({ "circuit": 2, "switch": "on" })).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("too often")), (409, true), "{problem}");
    // By the command line as well.
    let told = run(camnet()
        .args(["hub", "lamp", "--hub", &ward.world.url(""), "--device", "lamp-01", "--circuit", "3"])
        .args(["--purpose", "kiểm tra", "off"]));
    assert!(told.contains("lamp-01 circuit 3 is off"), "{told}");
    assert_eq!([0, 1, 2, 3].map(|circuit| ward.cabinet.circuit(circuit).on), [true, false, false, true]);

    let events = wait_for("both events in the index", PATIENCE, || async {
        let events = ward.commanded().await;
        (events.len() >= 2).then_some(events)
    })
    .await;
    for (event, (circuit, purpose)) in events.iter().zip([(2, "thử"), (3, "kiểm tra")]) {
        let (data, command) = (&event["data"], &event["data"]["command"]);
        assert_eq!((&data["circuit"], &data["on"]), (&json!(circuit), &json!(false)), "{event}");
        assert_eq!((&command["actor"], &command["purpose"]), (&json!("demo"), &json!(purpose)), "{event}");
        assert_eq!((&command["act"], &command["done"]), (&json!("switch"), &json!(true)), "{event}");
    }
    assert_eq!(events[0]["data"]["command"]["correlation"], done["correlation"]);
    let log = ward.world.get("/api/v1/access?limit=1000").await;
    let acts = log["access"].as_array().unwrap().iter().filter(|record| record["action"] == "lamp");
    assert!(acts.clone().any(|record| record["subject"]["correlation"] == done["correlation"]), "{log}");
    assert_eq!(acts.count(), 3, "the refused one too");

    // What the box's file does not allow, and what it does not have.
    let writes = ward.cabinet.writes();
    let table = [
        (json!({ "circuit": 1, "dim_percent": 40 }), "dim is not allowed"),
        (json!({ "circuit": 9, "switch": "off" }), "no circuit 9"),
    ];
    for (body, why) in table {
        let (status, problem) = ward.post(body).await;
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{why}: {problem}");
    }
    assert_eq!(ward.cabinet.writes(), writes);

    // A command that reaches the box when nobody waits for it any more: the box stands still meanwhile.
    signal(edge.pid(), "STOP");
    let (status, problem) = ward.post(json!({ "circuit": 4, "switch": "off", "valid_s": 1 })).await;
    assert_eq!(status, 504, "{problem}");
    signal(edge.pid(), "CONT");
    wait_for("the late refusal", PATIENCE, || async { (ward.results("late").await == 1).then_some(()) })
        .await;
    assert!(edge.log().contains("expired"), "{}", edge.log());
    assert!(ward.cabinet.circuit(3).on, "the lamps stay as they are");
    assert_eq!(ward.cabinet.writes(), writes);
    assert_eq!(edge.ended(), None);
    edge.stop();
    hub.stop();
}

const CIRCUITS: usize = 8;

/// What others see on the wire, here with Mosquitto: a question with response topic and correlation data, and its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_an_mqtt_request_and_its_result_the_response() {
    let dir = tempfile::tempdir().unwrap();
    let cabinet = Cabinet::start(0, vec![Circuit::new(4, 50.0); CIRCUITS]).await.unwrap();
    let mut ward = Ward::new(dir.path(), cabinet, &[LampAllowed::Switch]);
    ward.world = ward.world.with_external_broker();
    let mosquitto = ward.world.start_mosquitto(false);
    let hub = ward.world.start().await;
    let edge = ward.world.start_box("box-lamp");
    ward.online().await;
    // Each ends with the first message that it hears, and says it then.
    let listen = |identity: &str, kind: &str| {
        let file = |name: String| dir.path().join(name);
        let topic = format!("camnet/1/box-lamp/{kind}");
        let mut command = Command::new("mosquitto_sub");
        command.args(["-V", "mqttv5", "-C", "1", "-h", "127.0.0.1", "-F", "%R|%D|%C|%p", "-t", &topic]);
        command.args(["-p", &ward.world.mqtt.to_string()]).arg("--cafile").arg(file("ca.pem".into()));
        command.arg("--cert").arg(file(format!("{identity}.pem")));
        command.arg("--key").arg(file(format!("{identity}.key")));
        Process::start(dir.path(), &format!("{kind}-listener"), &mut command)
    };
    let mut listeners = [listen("box-lamp", "command"), listen("camnet-hub", "result")];
    // Nobody tells when both have subscribed: circuit after circuit is switched until both have heard something.
    let mut ids = Vec::new();
    for circuit in 1..=CIRCUITS {
        let (status, done) = ward.post(json!({ "circuit": circuit, "switch": "off" })).await;
        assert_eq!(status, 200, "{done}");
        ids.push(done["correlation"].as_str().unwrap().to_owned());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) && listeners.iter_mut().any(|l| l.ended().is_none()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if listeners.iter_mut().all(|l| l.ended().is_some()) {
            break;
        }
    }
    let [mut command, mut result] = listeners.map(|mut listener| {
        assert!(listener.wait_exit(Duration::from_secs(1)).success(), "{}", listener.log());
        listener.log()
    });
    let heard = |text: &mut String| {
        let body = text.split_off(text.find('{').unwrap());
        let body: Value = serde_json::from_str(&body).unwrap();
        let id = body["correlation"].as_str().unwrap().to_owned();
        assert!(ids.contains(&id), "{ids:?} has no {id}");
        (id, body)
    };
    let (id, body) = heard(&mut command);
    assert_eq!(command, format!("camnet/1/box-lamp/result|{id}|application/json|"));
    assert_eq!(
        (&body["command"], &body["act"], &body["on"]),
        (&json!("lamp"), &json!("switch"), &json!(false))
    );
    let (id, body) = heard(&mut result);
    assert_eq!(result, format!("|{id}|application/json|"));
    assert_eq!(body, json!({ "correlation": id, "outcome": "ok", "on": false }));
    edge.stop();
    hub.stop();
    mosquitto.stop();
}
