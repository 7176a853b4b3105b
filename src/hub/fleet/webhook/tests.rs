//! Webhooks against a real HTTP server on port 0, with a real fleet and its journal.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Redirect;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::hub::fleet::cause::CauseKind;
use crate::hub::fleet::severity::Severity;
use crate::hub::registry::{Registry, RegistryFile};
use crate::hub::status::HubStatus;
use crate::hub::truth::{Arrived, HubRecord};
use crate::model::{
    ClockQuality, ClockSource, Coverage, DeviceId, DeviceKind, Epoch, Event, EventData, GapCause, Source,
    SpanState, SyncState,
};

const SECRET: &str = "a secret of twenty-four bytes or more";

/// One request as it came.
#[derive(Debug, Clone)]
struct Came {
    headers: HeaderMap,
    body: Bytes,
}

impl Came {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// What happened, and to which device, box, …
    fn what(&self) -> (String, String) {
        let json = self.json();
        let kind = json["type"].as_str().unwrap().trim_start_matches("camnet.incident.").to_owned();
        (kind, json["data"]["id"].as_str().unwrap_or("-").to_owned())
    }
}

/// A receiver: what came, and what it answers next (200, if nothing else).
#[derive(Clone, Default)]
struct Inbox {
    came: Arc<Mutex<Vec<Came>>>,
    answers: Arc<Mutex<Vec<StatusCode>>>,
    url: String,
}

impl Inbox {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let inbox = Self { url, ..Self::default() };
        let routes = Router::new()
            .route("/in", post(take))
            .route("/elsewhere", post(|| async { Redirect::temporary("/in") }))
            .with_state(inbox.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        inbox
    }

    fn answer(&self, statuses: &[u16]) {
        let statuses = statuses.iter().rev().map(|&status| StatusCode::from_u16(status).unwrap());
        *self.answers.lock().unwrap() = statuses.collect();
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// Waits until so many requests came; all of them.
    async fn wait(&self, count: usize) -> Vec<Came> {
        until(&format!("{count} requests"), || self.came().len() >= count).await;
        self.came()
    }
}

async fn take(State(inbox): State<Inbox>, headers: HeaderMap, body: Bytes) -> StatusCode {
    inbox.came.lock().unwrap().push(Came { headers, body });
    inbox.answers.lock().unwrap().pop().unwrap_or(StatusCode::OK)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A fleet of the example's ward, with a clock that the test turns.
struct Ward {
    dir: TempDir,
    keeper: Keeper,
    metrics: Metrics,
    now: Time,
}

impl Ward {
    fn new() -> Self {
        crate::tls::install_crypto();
        Self::open(tempfile::tempdir().unwrap(), Time::now())
    }

    fn open(dir: TempDir, now: Time) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ward.toml");
        let registry = Registry::open(&dir.path().join("acts")).unwrap();
        registry.import(&RegistryFile::load(&path).unwrap(), now).unwrap();
        let status = Arc::new(HubStatus::default());
        status.broker_up.store(true, Ordering::Release);
        let metrics = Metrics::new();
        let keeper = Keeper::open(&dir.path().join("fleet"), Arc::new(registry), status, &metrics).unwrap();
        Self { dir, keeper, metrics, now }
    }

    /// Ends everything that is open, and opens it again.
    fn restart(self) -> Self {
        let Self { dir, keeper, metrics, now } = self;
        drop((keeper, metrics));
        Self::open(dir, now)
    }

    fn cameras(&self) -> Vec<(String, String)> {
        self.keeper.look(|inner| {
            let devices = inner.roster.devices.values().map(|member| &member.device);
            let cameras = devices.filter(|device| device.kind == DeviceKind::Camera);
            cameras.map(|device| (device.id.to_string(), device.box_id.to_string())).collect()
        })
    }

    /// Plays some minutes in which the cameras `away` can't be reached and the others record.
    fn play(&mut self, minutes: i64, away: &[&str]) {
        let begin = self.now;
        for _ in 0..minutes {
            let now = self.now;
            let said = self.cameras().into_iter().map(|(device, box_id)| {
                let state = match away.contains(&device.as_str()) {
                    true => SpanState::Gap { cause: GapCause::CameraUnreachable },
                    false => SpanState::Recorded,
                };
                said(&device, &box_id, state, begin, now)
            });
            self.keeper.hear(&said.collect::<Vec<_>>());
            for second in [0, 20, 40] {
                self.keeper.judge(now + SignedDuration::from_secs(second)).unwrap();
            }
            self.now = now + SignedDuration::from_mins(1);
        }
    }

    fn start(&self, configs: &[WebhookConfig]) -> Running {
        let dir = self.dir.path().join("webhooks");
        let metrics = Metrics::new();
        let webhooks = Webhooks::open(configs, &dir, &self.keeper, &metrics).unwrap();
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        webhooks.start(&mut tasks, &stop);
        Running { tasks, stop, metrics }
    }
}

struct Running {
    tasks: JoinSet<(&'static str, io::Result<()>)>,
    stop: CancellationToken,
    metrics: Metrics,
}

impl Running {
    /// Ends it at once, as a SIGKILL would.
    async fn kill(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    fn figures(&self) -> String {
        String::from_utf8(crate::hub::metrics::render(&self.metrics)).unwrap()
    }
}

fn said(device: &str, box_id: &str, state: SpanState, start: Time, at: Time) -> HubRecord {
    let box_id = box_id.parse().unwrap();
    let data = EventData::Coverage(Coverage {
        span: Uuid::nil(),
        state,
        start,
        upto: at,
        open: true,
        run: None,
        ring_from: None,
        detail: None,
    });
    let clock = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Synced,
        offset_ms: None,
        uncertainty_ms: None,
    };
    let source = Source::of_device(&box_id, &DeviceId::new(device).unwrap());
    let event = Event { id: Uuid::now_v7(), source, epoch: Epoch(7), sequence: 1, time: at, clock, data };
    HubRecord::Event(Arrived::of(event, at))
}

fn webhook(name: &str, url: &str) -> WebhookConfig {
    WebhookConfig {
        name: name.to_owned(),
        url: url.to_owned(),
        secret_file: None,
        allow_http: false,
        causes: CauseKind::ALL.into(),
        severity: Severity::Info,
        area: None,
    }
}

fn secret_file(dir: &Path) -> PathBuf {
    let path = dir.join("duty.secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What a receiver does with a message by Standard Webhooks, with another library's HMAC.
fn is_signed(came: &Came, secret: &str) -> bool {
    let (id, timestamp) = (came.header("webhook-id"), came.header("webhook-timestamp"));
    let content = [format!("{id}.{timestamp}.").as_bytes(), &came.body].concat();
    let sent = came.header("webhook-signature").strip_prefix("v1,").unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    ring::hmac::verify(&key, &content, &STANDARD.decode(sent).unwrap()).is_ok()
}

fn whats(came: &[Came]) -> Vec<(String, String)> {
    came.iter().map(Came::what).collect()
}

fn what(kind: &str, id: &str) -> (String, String) {
    (kind.to_owned(), id.to_owned())
}

#[tokio::test]
async fn an_incident_is_told_signed_from_its_beginning_to_its_end() {
    let (mut ward, inbox) = (Ward::new(), Inbox::open().await);
    ward.play(5, &[]);
    let secret_file = Some(secret_file(ward.dir.path()));
    let running = ward.start(&[WebhookConfig { secret_file, ..webhook("duty", &inbox.url) }]);
    let (away, box_id) = ward.cameras()[0].clone();
    ward.play(3, &[&away]);
    let came = inbox.wait(1).await;
    let (began, json) = (&came[0], came[0].json());
    assert_eq!(began.what(), what("began", &away));
    assert_eq!(
        (&json["data"]["cause"], &json["data"]["trouble"], &json["data"]["severity"]),
        (&json!("device"), &json!("camera_unreachable"), &json!("warning")),
        "{box_id}: {json}"
    );
    assert_eq!(json["data"]["device_count"], json!(1));
    assert_eq!(json["data"]["devices"][0]["id"], json!(away));
    let text = json["data"]["text"]["vi"].as_str().unwrap();
    assert!(text.starts_with("Bắt đầu: thiết bị ") && text.contains("mất kết nối camera"), "{text}");
    assert!(is_signed(began, SECRET));
    assert!(!is_signed(began, "a secret that the hub does not have"));
    ward.play(4, &[]);
    let came = inbox.wait(2).await;
    assert_eq!(whats(&came), [what("began", &away), what("ended", &away)]);
    let end = came[1].json();
    assert_eq!(end["data"]["incident"], json["data"]["incident"]);
    assert!(end["data"]["ended"].is_string(), "{end}");
    assert_ne!(came[0].header("webhook-id"), came[1].header("webhook-id"));
    let figures = running.figures();
    assert!(figures.contains(r#"camnet_webhook_posts_total{result="taken",webhook="duty"} 2"#), "{figures}");
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_taken_comes_again_under_the_same_id_and_in_order() {
    let (mut ward, inbox) = (Ward::new(), Inbox::open().await);
    ward.play(5, &[]);
    inbox.answer(&[500, 503, 404]);
    let running = ward.start(&[webhook("duty", &inbox.url)]);
    let away = ward.cameras()[0].0.clone();
    ward.play(3, &[&away]);
    ward.play(4, &[]);
    let came = inbox.wait(5).await;
    let began = what("began", &away);
    let expected = [began.clone(), began.clone(), began.clone(), began, what("ended", &away)];
    assert_eq!(whats(&came), expected, "the end waits for the beginning");
    let ids: BTreeSet<&str> = came.iter().map(|came| came.header("webhook-id")).collect();
    assert_eq!(ids.len(), 2, "who keeps the ids does each thing once");
    assert!(came[..4].windows(2).all(|pair| pair[0].body == pair[1].body));
    let figures = running.figures();
    assert!(figures.contains(r#"camnet_webhook_posts_total{result="failed",webhook="duty"} 3"#), "{figures}");
    assert!(figures.contains(r#"camnet_webhook_up{webhook="duty"} 1"#), "{figures}");
    running.stop().await;
}

#[tokio::test]
async fn a_restart_loses_nothing_and_repeats_nothing_that_was_taken() {
    let (mut ward, inbox) = (Ward::new(), Inbox::open().await);
    ward.play(5, &[]);
    let away = ward.cameras()[0].0.clone();
    let running = ward.start(&[webhook("duty", &inbox.url)]);
    ward.play(3, &[&away]);
    inbox.wait(1).await;
    let place = ward.dir.path().join("webhooks/duty.json");
    until("the place to say what was told", || {
        let place: Value = serde_json::from_slice(&std::fs::read(&place).unwrap()).unwrap();
        place["told"].as_array().unwrap().len() == 1
    })
    .await;
    running.kill().await;
    // While nobody listens to the journal another camera goes, and the first comes back.
    let other = ward.cameras()[4].0.clone();
    ward.play(4, &[&other]);
    let mut ward = ward.restart();
    let running = ward.start(&[webhook("duty", &inbox.url)]);
    let came = inbox.wait(3).await;
    let mut later = whats(&came[1..]);
    later.sort();
    assert_eq!(later, [what("began", &other), what("ended", &away)]);
    // The hub judges anew, with the same result: nothing of that is news.
    ward.play(1, &[&other]);
    ward.play(4, &[]);
    let came = inbox.wait(4).await;
    assert_eq!(came[3].what(), what("ended", &other));
    running.stop().await;
    assert_eq!(inbox.came().len(), 4);
}

#[tokio::test]
async fn each_webhook_is_told_what_it_asked_for_and_a_dead_one_holds_up_nobody() {
    let (mut ward, inbox, small) = (Ward::new(), Inbox::open().await, Inbox::open().await);
    ward.play(5, &[]);
    let cameras = ward.cameras();
    let area = |device: &str| {
        ward.keeper.look(|inner| {
            let site = inner.roster.devices[&DeviceId::new(device).unwrap()].device.site.clone();
            inner.history.site(&site).unwrap().area.clone()
        })
    };
    let here = &cameras[0].0;
    let elsewhere = &cameras.iter().find(|(device, _)| area(device) != area(here)).unwrap().0;
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    // It takes the connection and says nothing.
    let slow = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let running = ward.start(&[
        webhook("dead", &dead),
        webhook("slow", &format!("http://{}/", slow.local_addr().unwrap())),
        webhook("redirects", &inbox.url.replace("/in", "/elsewhere")),
        WebhookConfig { area: Some(area(here)), ..webhook("of-one-area", &inbox.url) },
        WebhookConfig { severity: Severity::Critical, ..webhook("grave-only", &small.url) },
        WebhookConfig { causes: vec![CauseKind::Site], ..webhook("sites-only", &small.url) },
    ]);
    ward.play(3, &[here, elsewhere]);
    ward.play(4, &[]);
    let came = inbox.wait(2).await;
    assert_eq!(whats(&came), [what("began", here), what("ended", here)], "and a redirect is not followed");
    assert!(small.came().is_empty());
    until("the dead one to be counted", || {
        let figures = running.figures();
        let failed = |name| figures.contains(&format!(r#"camnet_webhook_up{{webhook="{name}"}} 0"#));
        let waits = r#"camnet_webhook_waiting_since_timestamp_seconds{webhook="dead"}"#;
        failed("dead") && failed("redirects") && figures.contains(waits)
    })
    .await;
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "a pause does not hold up the end of the hub");
}

#[tokio::test]
async fn an_area_that_the_registry_does_not_have_stops_the_start() {
    let ward = Ward::new();
    let area = Some("no-such-area".parse().unwrap());
    let configs = [WebhookConfig { area, ..webhook("duty", "http://127.0.0.1:1/") }];
    let error = Webhooks::open(&configs, ward.dir.path(), &ward.keeper, &Metrics::new()).err().unwrap();
    assert!(error.to_string().contains("no-such-area"), "{error}");
}
