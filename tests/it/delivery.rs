//! Nothing that a box accepted is lost, whatever is killed; with the embedded broker and with Mosquitto.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use camnet::demo::StreetPictures;
use camnet::media::rtsp_server::RtspServer;
use jiff::Timestamp;
use serde_json::Value;

use crate::world::{HubWorld, accepted, run, wait_for};

/// How often each event stands in the index.
async fn indexed(world: &HubWorld, box_id: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let from = Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let path = format!("/api/v1/events?box={box_id}&from={from}&limit=1000");
    for event in world.all(&path, "events").await {
        assert_eq!(event["conflict"], false, "{event}");
        *counts.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// Every accepted event is in the index exactly once, and nothing else is.
async fn all_arrive(world: &HubWorld, box_id: &str) {
    let box_dir = world.dir.join(box_id);
    wait_for("every accepted event in the index", Duration::from_secs(240), || async {
        let counts = indexed(world, box_id).await;
        accepted(&box_dir).keys().all(|id| counts.contains_key(id)).then_some(())
    })
    .await;
    // The box goes on meanwhile: what is indexed now was accepted by the time the outbox is read.
    let counts = indexed(world, box_id).await;
    let accepted = accepted(&box_dir);
    let invented: Vec<_> = counts.keys().filter(|id| !accepted.contains_key(*id)).collect();
    assert!(invented.is_empty(), "in the index, but never accepted by the box: {invented:?}");
    assert!(counts.values().all(|&count| count == 1), "exactly once");
}

async fn clips(world: &HubWorld, from: Timestamp) -> Vec<Value> {
    world.all(&format!("/api/v1/clips?from={from}&device=cam-01&limit=100"), "clips").await
}

/// Spans of the camera follow each other without hole and overlap.
async fn check_account(world: &HubWorld, from: Timestamp) -> Vec<Value> {
    let answer = world.get(&format!("/api/v1/clips?from={from}&device=cam-01&limit=1")).await;
    let spans = answer["coverage"][0]["spans"].as_array().unwrap().clone();
    for pair in spans.windows(2) {
        assert_eq!(pair[0]["end"], pair[1]["start"], "{spans:#?}");
    }
    spans
}

/// Which segment files of the ring are looked at.
#[derive(PartialEq)]
enum Segments {
    All,
    /// The newest is being written.
    AllButNewest,
}

/// They decode to their last picture without a complaint.
fn check_ring(world: &HubWorld, which: Segments) {
    let ring = world.dir.join("box-01/ring/cam-01");
    let files = std::fs::read_dir(ring).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "mp4")).collect();
    segments.sort();
    if which == Segments::AllButNewest {
        segments.pop();
    }
    assert!(!segments.is_empty(), "the ring has no closed segment");
    for path in segments {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "warning", "-i"]).arg(&path).args(["-f", "null", "-"]);
        let output = ffmpeg.output().unwrap();
        assert!(output.status.success(), "{}", path.display());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
    }
}

/// A world with one camera on a drawn street, and its box configured.
struct Street {
    world: HubWorld,
    began: Timestamp,
    _server: RtspServer,
    _dir: tempfile::TempDir,
}

impl Street {
    fn new(boxes: &[&str], finish: impl FnOnce(HubWorld) -> HubWorld) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = finish(HubWorld::new(dir.path(), boxes));
        let server = RtspServer::start(0, None).unwrap();
        server.mount_drawn("street", StreetPictures::new(7, None)).unwrap();
        world.box_config(
            "box-01",
            &format!("[[camera]]\nid = \"cam-01\"\nurl = \"{}\"\n", server.url("street")),
        );
        Self { world, began: Timestamp::now(), _server: server, _dir: dir }
    }

    async fn first_clip(&self) {
        wait_for("a first clip", Duration::from_secs(180), || async {
            (!clips(&self.world, self.began).await.is_empty()).then_some(())
        })
        .await;
    }

    fn accepted(&self) -> usize {
        accepted(&self.world.dir.join("box-01")).len()
    }

    /// The box goes on making events whatever is dead.
    async fn further_events(&self, while_what: &str) {
        let before = self.accepted();
        wait_for(&format!("events {while_what}"), Duration::from_secs(180), || async {
            (self.accepted() > before).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_box_and_the_hub_loses_nothing() {
    let street = Street::new(&["box-01"], |world| world);
    let (world, began) = (&street.world, street.began);
    let hub = world.start().await;
    let edge = world.start_box("box-01");
    street.first_clip().await;

    edge.kill9();
    let edge = world.start_box("box-01");
    wait_for("the box's gap to be told", Duration::from_secs(180), || async {
        let spans = check_account(world, began).await;
        let told = spans.iter().position(|span| span["cause"] == "box_off")?;
        spans[told..].iter().any(|span| span["state"] == "recorded").then_some(())
    })
    .await;
    check_ring(world, Segments::AllButNewest);

    let before = clips(world, began).await.len();
    hub.kill9();
    street.further_events("while the hub is dead").await;
    let hub = world.start().await;
    wait_for("clips after the hub's death", Duration::from_secs(240), || async {
        let clips = clips(world, began).await;
        (clips.len() > before && clips.iter().all(|clip| clip["where"] == "hub")).then_some(())
    })
    .await;

    edge.stop();
    check_ring(world, Segments::All);
    let events_before = street.accepted();
    let edge = world.start_box("box-01");
    wait_for("the box to be back", Duration::from_secs(60), || async {
        let answer = world.get("/api/v1/boxes").await;
        let online = answer["boxes"][0]["online"] == true;
        (online && street.accepted() > events_before).then_some(())
    })
    .await;
    all_arrive(world, "box-01").await;
    check_account(world, began).await;
    edge.stop();
    hub.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_serves_as_well_and_may_forget_everything() {
    let street = Street::new(&["box-01", "box-02"], HubWorld::with_external_broker);
    let world = &street.world;
    let broker = world.start_mosquitto(true);
    let hub = world.start().await;
    let edge = world.start_box("box-01");
    street.first_clip().await;

    // The broker dies with what it had in memory; box and hub find each other again.
    broker.kill9();
    street.further_events("without a broker").await;
    let _ = std::fs::remove_file(world.dir.join("mosquitto.db"));
    let broker = world.start_mosquitto(true);
    all_arrive(world, "box-01").await;

    // A box that speaks as another one is stopped by the broker, and the hub would refuse it again.
    let event = r#"{"specversion":"1.0","id":"00000000-0000-7000-8000-000000000001","source":"/box-01/cam-01","type":"camnet.status.v1","time":"2026-11-20T00:00:00Z","sequence":"00000000000000000001","epoch":"00000000000000ff","data":{"working":true}}"#;
    publish_as(world, "box-02", "camnet/1/box-01/event", event);
    publish_as(world, "box-02", "camnet/1/box-02/event", event);
    let refused = wait_for("the forged event set aside", Duration::from_secs(90), || async {
        let answer = world.get("/api/v1/refused?box=box-02").await;
        answer["refused"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(refused["reason"], "wrong_box", "{refused}");
    let counts = indexed(world, "box-01").await;
    assert!(!counts.contains_key("00000000-0000-7000-8000-000000000001"));
    edge.stop();
    hub.stop();
    drop(broker);
}

fn publish_as(world: &HubWorld, box_id: &str, topic: &str, body: &str) {
    let file = |name: String| world.dir.join(name);
    run(Command::new("mosquitto_pub")
        .args([
            "-V",
            "5",
            "-h",
            "127.0.0.1",
            "-p",
            &world.mqtt.to_string(),
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            body,
        ])
        .arg("--cafile")
        .arg(file("ca.pem".into()))
        .arg("--cert")
        .arg(file(format!("{box_id}.pem")))
        .arg("--key")
        .arg(file(format!("{box_id}.key"))));
}
