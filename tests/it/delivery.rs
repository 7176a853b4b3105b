//! Nothing that a box accepted is lost, whatever is killed; with the embedded broker and with Mosquitto.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use camnet::demo::StreetPictures;
use camnet::journal::{Item, Reader};
use camnet::media::rtsp_server::RtspServer;
use jiff::Timestamp;
use serde_json::Value;

use crate::world::{HubWorld, Process, root, run, wait_for};

/// Ids of all events that the box's outbox ever accepted, read from its files.
fn accepted(box_dir: &Path) -> BTreeMap<String, Value> {
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

fn street(server: &RtspServer) -> String {
    server.mount_drawn("street", StreetPictures::new(7, None)).unwrap();
    format!("[[camera]]\nid = \"cam-01\"\nurl = \"{}\"\n", server.url("street"))
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

/// All segment files of the ring decode to their last picture without a complaint.
fn check_ring(world: &HubWorld) {
    let ring = world.dir.join("box-01/ring/cam-01");
    let mut played = 0;
    for entry in std::fs::read_dir(ring).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "mp4") {
            let output = Command::new("ffmpeg")
                .args(["-v", "warning", "-i"])
                .arg(&path)
                .args(["-f", "null", "-"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", path.display());
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
            played += 1;
        }
    }
    assert!(played > 0, "the ring is empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_box_and_the_hub_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &["box-01"]);
    let server = RtspServer::start(0, None).unwrap();
    world.box_config("box-01", &street(&server));
    let began = Timestamp::now();
    let hub = world.start().await;
    let edge = world.start_box("box-01");
    wait_for("a first clip", Duration::from_secs(180), || async {
        (!clips(&world, began).await.is_empty()).then_some(())
    })
    .await;

    edge.kill9();
    let edge = world.start_box("box-01");
    wait_for("the box's gap to be told", Duration::from_secs(180), || async {
        let spans = check_account(&world, began).await;
        let told = spans.iter().position(|span| span["cause"] == "box_off")?;
        spans[told..].iter().any(|span| span["state"] == "recorded").then_some(())
    })
    .await;
    check_ring_once_closed(&world);

    let before = clips(&world, began).await.len();
    hub.kill9();
    let events_before = accepted(&world.dir.join("box-01")).len();
    wait_for("events while the hub is dead", Duration::from_secs(180), || async {
        (accepted(&world.dir.join("box-01")).len() > events_before).then_some(())
    })
    .await;
    let hub = world.start().await;
    wait_for("clips after the hub's death", Duration::from_secs(240), || async {
        let clips = clips(&world, began).await;
        (clips.len() > before && clips.iter().all(|clip| clip["where"] == "hub")).then_some(())
    })
    .await;

    edge.stop();
    check_ring(&world);
    let events_before = accepted(&world.dir.join("box-01")).len();
    let edge = world.start_box("box-01");
    wait_for("the box to be back", Duration::from_secs(60), || async {
        let answer = world.get("/api/v1/boxes").await;
        let online = answer["boxes"][0]["online"] == true;
        (online && accepted(&world.dir.join("box-01")).len() > events_before).then_some(())
    })
    .await;
    all_arrive(&world, "box-01").await;
    check_account(&world, began).await;
    edge.stop();
    hub.stop();
}

/// Right after a kill and restart: every segment but the one being written plays to its end.
fn check_ring_once_closed(world: &HubWorld) {
    let ring = world.dir.join("box-01/ring/cam-01");
    let mut segments: Vec<_> = std::fs::read_dir(ring)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "mp4"))
        .collect();
    segments.sort();
    segments.pop();
    assert!(!segments.is_empty(), "the killed run left a segment");
    for path in segments {
        let output = Command::new("ffmpeg")
            .args(["-v", "warning", "-i"])
            .arg(&path)
            .args(["-f", "null", "-"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
    }
}

/// Mosquitto with our configuration, on the world's certificates and port.
fn start_mosquitto(world: &HubWorld) -> Process {
    let dir = world.dir.display();
    let text = std::fs::read_to_string(root().join("deploy/mosquitto.conf")).unwrap();
    let text = text
        .replace("listener 8883", &format!("listener {} 127.0.0.1", world.mqtt))
        .replace("/etc/mosquitto/certs/hub.key", &format!("{dir}/hub.key"))
        .replace("/etc/camnet/", &format!("{dir}/"))
        .replace("/etc/mosquitto/conf.d/mosquitto.acl", &format!("{dir}/mosquitto.acl"))
        .replace("persistence true", &format!("persistence true\npersistence_location {dir}/\nuser root"));
    std::fs::copy(root().join("deploy/mosquitto.acl"), world.dir.join("mosquitto.acl")).unwrap();
    let config = world.dir.join("mosquitto.conf");
    std::fs::write(&config, text).unwrap();
    let mosquitto =
        if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
    Process::start(&world.dir, "mosquitto", Command::new(mosquitto).arg("-c").arg(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_serves_as_well_and_may_forget_everything() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &["box-01", "box-02"]).with_external_broker();
    let server = RtspServer::start(0, None).unwrap();
    world.box_config("box-01", &street(&server));
    let broker = start_mosquitto(&world);
    let began = Timestamp::now();
    let hub = world.start().await;
    let edge = world.start_box("box-01");
    wait_for("a first clip", Duration::from_secs(180), || async {
        (!clips(&world, began).await.is_empty()).then_some(())
    })
    .await;

    // The broker dies with what it had in memory; box and hub find each other again.
    broker.kill9();
    let events_before = accepted(&world.dir.join("box-01")).len();
    wait_for("events without a broker", Duration::from_secs(180), || async {
        (accepted(&world.dir.join("box-01")).len() > events_before).then_some(())
    })
    .await;
    let _ = std::fs::remove_file(world.dir.join("mosquitto.db"));
    let broker = start_mosquitto(&world);
    all_arrive(&world, "box-01").await;

    // A box that speaks as another one is stopped by the broker, and the hub would refuse it again.
    let event = r#"{"specversion":"1.0","id":"00000000-0000-7000-8000-000000000001","source":"/box-01/cam-01","type":"camnet.status.v1","time":"2026-11-20T00:00:00Z","sequence":"00000000000000000001","epoch":"00000000000000ff","data":{"working":true}}"#;
    publish_as(&world, "box-02", "camnet/1/box-01/event", event);
    publish_as(&world, "box-02", "camnet/1/box-02/event", event);
    let refused = wait_for("the forged event set aside", Duration::from_secs(90), || async {
        let answer = world.get("/api/v1/refused?box=box-02").await;
        answer["refused"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(refused["reason"], "wrong_box", "{refused}");
    let counts = indexed(&world, "box-01").await;
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
