//! Figures, rules and webhooks: a real hub, scraped by a real Prometheus, and promtool's word on all that it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use camnet::hub::fleet::cause::CauseKind;
use camnet::model::*;
use camnet::wire;
use serde_json::Value;
use uuid::Uuid;

use crate::dashboard::figures;
use crate::world::{HubWorld, Process, free_port, root, run, wait_for};

const RULES: &str = "deploy/prometheus/camnet.rules.yml";
const TESTS: &str = "deploy/prometheus/camnet.rules.test.yml";

/// Three cameras at one point, whose box never speaks, and one at another, whose box does.
const WARD: &str = r#"
[[area]]
id = "phuong"
name = "Phường"
kind = "ward"

[[site]]
id = "cho"
name = "Chợ"
address = "1 đường Chợ"
area = "phuong"
owner = "Ban quản lý chợ"
point = { lat = 10.74, lon = 106.69 }

[[site]]
id = "truong"
name = "Trường"
address = "2 đường Trường"
area = "phuong"
owner = "Trường"
point = { lat = 10.75, lon = 106.70 }
"#;

fn ward() -> String {
    let device = |id: &str, site: &str, box_id: &str| {
        format!(
            "\n[[device]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"camera\"\nsite = \"{site}\"\nbox = \"{box_id}\"\n"
        )
    };
    let silent = ["cam-01", "cam-02", "cam-03"].map(|id| device(id, "cho", "box-01"));
    WARD.to_owned() + &silent.concat() + &device("cam-04", "truong", "box-02")
}

/// A hub of that ward; `more` stands at the end of its configuration.
fn world(dir: &Path, more: &str) -> HubWorld {
    let world = HubWorld::new(dir, &["box-01", "box-02"]);
    std::fs::write(dir.join("ward.toml"), ward()).unwrap();
    let config = dir.join("hub.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n{more}")).unwrap();
    world
}

/// Box 2 says that its camera records, and how both are doing.
fn speak(world: &HubWorld) {
    let (now, box_id) = (Time::now(), BoxId::new("box-02").unwrap());
    let camera = DeviceId::new("cam-04").unwrap();
    let clock = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Synced,
        offset_ms: None,
        uncertainty_ms: Some(9),
    };
    let span = Coverage {
        span: Uuid::now_v7(),
        state: SpanState::Recorded,
        start: now,
        upto: now,
        open: true,
        run: None,
        ring_from: None,
        detail: None,
    };
    let health = CameraHealth {
        reachable: true,
        recording: true,
        fps: 24.5,
        fps_expected: Some(25.0),
        kbit_per_s: 2000.0,
        lost_ppm: 3,
        key_interval_s: Some(2.0),
        clock,
        camera_clock_ms: None,
        ring_days: Some(14.0),
        ring_days_due: Some(14.0),
        picture: Some(Vec::new()),
        self_test: None,
    };
    let of_box = BoxHealth {
        software: "0.1.0".into(),
        disk_free_bytes: 5 << 30,
        disk_bytes: 9 << 30,
        temperature_c: Some(51.5),
        receipt_ms: Some(40),
        ..BoxHealth::default()
    };
    let says = [
        (Some(&camera), EventData::Coverage(span)),
        (Some(&camera), EventData::Status(Status { camera: Some(health), ..Status::new(true, None) })),
        (None, EventData::Status(Status { of_box: Some(of_box), ..Status::new(true, None) })),
    ];
    let events = (1..).zip(says).map(|(sequence, (device, data))| {
        let source =
            device.map_or_else(|| Source::of_box(&box_id), |device| Source::of_device(&box_id, device));
        wire::encode(&Event { id: Uuid::now_v7(), source, epoch: Epoch(7), sequence, time: now, clock, data })
    });
    let events: Vec<Vec<u8>> = events.collect();
    world.publish("box-02", &wire::encode_batch(events.iter().map(Vec::as_slice)));
}

fn promtool() -> Command {
    let mut command = Command::new("promtool");
    command.current_dir(root());
    command
}

/// promtool's word on what `/metrics` says: nothing, or it panics.
fn lint(text: &[u8]) {
    use std::io::Write;
    let mut child = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: deploy/install-deps.sh test");
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Names of the figures in a text for Prometheus, with their kinds.
fn kinds(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

#[test]
fn the_rules_do_what_their_tests_say() {
    run(promtool().args(["check", "rules", RULES]));
    run(promtool().args(["check", "config", "deploy/prometheus/prometheus.yml"]));
    run(promtool().args(["test", "rules", TESTS]));
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (rules, tests) = (read(RULES), read(TESTS));
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    let (mut fires, mut is_quiet) = (BTreeSet::new(), BTreeSet::new());
    for case in tests.split("eval_time: ").skip(1) {
        let Some((_, rest)) = case.split_once("alertname: ") else { continue };
        let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        if case.contains("exp_alerts:") { &mut fires } else { &mut is_quiet }.insert(name);
    }
    assert_eq!(fires, alerts, "each fires in a case");
    assert_eq!(is_quiet, alerts, "and in another it does not");
    for kind in CauseKind::ALL {
        let series = format!("camnet_fleet_incident_devices{{cause=\"{}\"}}", kind.name());
        assert!(rules.contains(&series), "there is an alert of the cause {}", kind.name());
    }
    for key in ["summary", "description", "summary_en", "description_en"] {
        let count = rules.lines().filter(|line| line.trim().starts_with(&format!("{key}: "))).count();
        assert_eq!(count, alerts.len(), "each alert has {key}");
    }
}

#[test]
fn each_expression_of_the_dashboard_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (n, expression) in figures().flat_map(|figure| figure.expressions()).enumerate() {
        rules += &format!("      - record: dashboard:panel:{n}\n        expr: {expression}\n");
    }
    let path = dir.path().join("dashboard.yml");
    std::fs::write(&path, rules).unwrap();
    run(promtool().args(["check", "rules"]).arg(path));
}

#[tokio::test]
async fn the_hubs_figures_follow_the_conventions_and_name_no_device() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), "[metrics]\ndevices = \"off\"\n");
    let _hub = world.start().await;
    let text = world.bytes("/metrics").await;
    lint(&text);
    let text = String::from_utf8(text).unwrap();
    let of_one = ["device", "box"].map(|label| [format!("{{{label}=\""), format!(",{label}=\"")]).concat();
    let found: Vec<&str> =
        text.lines().filter(|line| of_one.iter().any(|label| line.contains(label))).collect();
    assert!(found.is_empty(), "{found:?}");
    let answer = reqwest::get(world.url("/metrics/devices")).await.unwrap();
    assert_eq!(answer.status(), 404);
    let said = answer.text().await.unwrap();
    assert!(said.contains("[metrics] devices ="), "{said}");
}

#[tokio::test]
async fn a_boxs_figures_follow_the_conventions() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &["box-01"]);
    // Nobody answers there: a camera that is away has its figures too.
    let nowhere = free_port();
    let config = world.box_config(
        "box-01",
        &format!("[[camera]]\nid = \"cam-01\"\nurl = \"rtsp://127.0.0.1:{nowhere}/\"\n"),
    );
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("metrics_file = \"box.prom\"\n{text}")).unwrap();
    let _box = world.start_box("box-01");
    let text = wait_for("the camera's figures", Duration::from_secs(60), || async {
        let text = std::fs::read(dir.path().join("box.prom")).ok()?;
        String::from_utf8_lossy(&text).contains("camnet_edge_camera_").then_some(text)
    });
    lint(&text.await);
}

/// Prometheus with the example's configuration and the rules, all of it quick: what is scraped and judged every 15 or 30
/// seconds, and waits some minutes, does so each second. How long alerts really wait, promtool tests.
struct Prometheus {
    url: String,
    process: Process,
}

impl Prometheus {
    fn start(dir: &Path, hub: &HubWorld) -> Self {
        let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
        let quick = |text: String| -> String {
            let keys = ["scrape_interval:", "evaluation_interval:", "interval:", "for:"];
            let line = |line: &str| {
                let key = keys.iter().find(|key| line.trim_start().starts_with(*key));
                key.map_or(line.to_owned(), |key| format!("{}{key} 1s", &line[..line.find(key).unwrap()]))
            };
            text.lines().map(line).collect::<Vec<_>>().join("\n")
        };
        let config = quick(read("deploy/prometheus/prometheus.yml"))
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", hub.officers));
        let config_path = dir.join("prometheus.yml");
        std::fs::write(&config_path, config).unwrap();
        std::fs::write(dir.join("camnet.rules.yml"), quick(read(RULES))).unwrap();
        run(promtool().args(["check", "config"]).arg(&config_path));
        let address = format!("127.0.0.1:{}", free_port());
        let process = Process::start(
            dir,
            "prometheus",
            Command::new("prometheus")
                .arg(format!("--config.file={}", config_path.display()))
                .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
                .arg(format!("--web.listen-address={address}"))
                .arg("--log.level=warn"),
        );
        Self { url: format!("http://{address}"), process }
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let request = reqwest::Client::new().get(format!("{}/api/v1/{path}", self.url)).query(query);
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{path} {query:?}: {answer}");
        Some(answer["data"].clone())
    }

    /// Causes of which an alert is firing: its name, the cause, the id of it.
    async fn firing(&self) -> Option<Vec<[String; 3]>> {
        let data = self.ask("alerts", &[]).await?;
        let firing = data["alerts"].as_array()?.iter().filter(|alert| alert["state"] == "firing");
        let of_causes = firing.filter(|alert| alert["labels"]["cause"].is_string());
        let label = |alert: &Value, key: &str| alert["labels"][key].as_str().unwrap_or_default().to_owned();
        Some(of_causes.map(|alert| ["alertname", "cause", "id"].map(|key| label(alert, key))).collect())
    }
}

/// A receiver of webhooks that keeps what it is told.
async fn receiver() -> (String, Arc<Mutex<Vec<Value>>>) {
    let came: Arc<Mutex<Vec<Value>>> = Arc::default();
    let take = async |State(came): State<Arc<Mutex<Vec<Value>>>>, axum::Json(said): axum::Json<Value>| {
        came.lock().unwrap().push(said);
    };
    let routes = Router::new().route("/", post(take)).with_state(came.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, came)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_falls_silent_is_one_alert_and_one_message_though_three_cameras_suffer() {
    let (dir, (url, came)) = (tempfile::tempdir().unwrap(), receiver().await);
    let world = world(dir.path(), &format!("[[webhook]]\nname = \"duty\"\nurl = \"{url}\"\n"));
    let _hub = world.start().await;
    speak(&world);
    let prometheus = Prometheus::start(dir.path(), &world);

    let within = Duration::from_secs(150);
    let site = vec![["CamnetSiteSilent", "site", "cho"].map(str::to_owned)];
    wait_for("the alert of the site", within, || async {
        let causes = prometheus.firing().await?;
        assert!(causes.is_empty() || causes == site, "{causes:?}");
        (causes == site).then_some(())
    })
    .await;
    let silent = r#"sum(camnet_fleet_devices{state="unreachable"})"#;
    let data = prometheus.ask("query", &[("query", silent)]).await.unwrap();
    assert_eq!(data["result"][0]["value"][1], "3", "several devices suffer: {data}");

    wait_for("the message", within, || async { (!came.lock().unwrap().is_empty()).then_some(()) }).await;
    let told = came.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["type"], "camnet.incident.began");
    let data = &told[0]["data"];
    assert_eq!(
        (&data["cause"], &data["id"], &data["device_count"]),
        (&"site".into(), &"cho".into(), &3.into())
    );

    // What the dashboard is made from is what the hub has, and each panel finds something.
    let (all, of_each) = (world.bytes("/metrics").await, world.bytes("/metrics/devices").await);
    lint(&all);
    lint(&of_each);
    let mut has = kinds(&String::from_utf8(all).unwrap());
    has.extend(kinds(&String::from_utf8(of_each).unwrap()));
    let listed: BTreeMap<String, String> =
        figures().map(|figure| (figure.metric.to_owned(), figure.kind().to_owned())).collect();
    for (name, kind) in &has {
        assert_eq!(
            listed.get(name),
            Some(kind),
            "{name} is in tests/it/dashboard.rs, as the {kind} that it is"
        );
    }
    for figure in figures() {
        assert!(has.contains_key(figure.metric) || figure.is_rare, "the hub has {}", figure.metric);
        for expression in figure.expressions() {
            let answer = |data: &Value| data["result"].as_array().is_some_and(|all| !all.is_empty());
            wait_for(&expression, Duration::from_secs(20), || async {
                let data = prometheus.ask("query", &[("query", &expression)]).await?;
                (answer(&data) || figure.is_rare).then_some(())
            })
            .await;
        }
    }
    let rules = prometheus.ask("rules", &[]).await.unwrap();
    for rule in
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
    {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    prometheus.process.stop();
}
