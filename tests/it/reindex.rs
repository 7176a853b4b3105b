//! `camnet hub reindex` with the real binary, while the hub runs and while it stands still.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::world::{HubWorld, camnet, run, wait_for};

const EVENTS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_rebuilt_while_the_hub_runs_and_while_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &["box-01"]);
    let hub = world.start().await;
    for batch in 0..EVENTS / 100 {
        publish(&world, batch);
    }
    wait_for("every event in the index", Duration::from_secs(60), || async {
        (events(&world).await.len() == EVENTS).then_some(())
    })
    .await;
    let before = events(&world).await;

    let said = reindex(&world);
    assert!(said.contains("the hub is running"), "{said}");
    assert!(said.contains(&format!("index rebuilt from {EVENTS} records")), "{said}");
    assert_eq!(events(&world).await, before);
    let report = world.get("/api/v1/index").await;
    assert_eq!((&report["state"], &report["applied"]), (&json!("rebuilt"), &json!(EVENTS)));
    let log = world.get("/api/v1/access?limit=10").await;
    assert!(log["access"].as_array().unwrap().iter().any(|a| a["action"] == "reindex"), "{log}");

    hub.stop();
    let said = reindex(&world);
    assert!(said.contains(&format!("index rebuilt from {EVENTS} records")), "{said}");
    assert!(!said.contains("the hub is running"), "{said}");
    let hub = world.start().await;
    assert_eq!(events(&world).await, before);
    hub.stop();
}

fn reindex(world: &HubWorld) -> String {
    run(camnet().args(["hub", "reindex", "--config"]).arg(world.dir.join("hub.toml")))
}

async fn events(world: &HubWorld) -> Vec<Value> {
    let from = Timestamp::now() - SignedDuration::from_hours(1);
    world.all(&format!("/api/v1/events?box=box-01&from={from}&limit=50"), "events").await
}

/// A batch of a hundred events, as the box would send it.
fn publish(world: &HubWorld, batch: usize) {
    let events: Vec<Value> = (1..=100)
        .map(|n| {
            let sequence = batch * 100 + n;
            json!({
                "specversion": "1.0",
                "id": format!("00000000-0000-7000-8000-{sequence:012}"),
                "source": "/box-01/cam-01",
                "type": "camnet.status.v1",
                "time": Timestamp::now(),
                "sequence": format!("{sequence:020}"),
                "epoch": "00000000000000aa",
                "data": { "working": true },
            })
        })
        .collect();
    world.publish("box-01", &serde_json::to_vec(&events).unwrap());
}
