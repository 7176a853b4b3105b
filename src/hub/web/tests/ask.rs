//! Asking by place and time over real HTTP: every key, and what is asked beside a search.

use super::*;
use crate::model::{Lamp, LampReason};

impl Hub {
    async fn devices(&self, path: &str, list: &str) -> Vec<String> {
        let (status, answer) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let name = |c: &Value| c["device"]["id"].as_str().unwrap().to_owned();
        answer[list].as_array().unwrap().iter().map(name).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_and_a_body_ask_the_same() {
    let hub = Hub::start().await;
    let polygon = json!({ "type": "Polygon", "coordinates":
        [[[106.694, 10.740], [106.6957, 10.740], [106.6957, 10.741], [106.694, 10.741], [106.694, 10.740]]] });
    let route = json!({ "type": "LineString", "coordinates": [[106.6953, 10.7406], [106.6976, 10.7406]] });
    let table = [
        (json!({ "polygon": polygon }), vec!["cam-01"]),
        (json!({ "route": route, "width_m": 30.0 }), vec!["cam-01", "cam-02", "cam-03", "cam-04", "cam-05"]),
        (json!({ "route": route, "polygon": polygon }), vec!["cam-01"]),
        (json!({ "area": "KP 1", "site": ["hoa-phuong-52", "tru-so"] }), vec!["cam-02", "cam-03"]),
        (json!({ "area": "tân quy đông", "device": ["cam-10", "cam-01"] }), vec!["cam-01", "cam-10"]),
        (json!({ "near": "chợ bờ kênh" }), vec!["cam-08", "cam-09", "cam-07", "cam-10", "cam-11"]),
        (json!({ "near": "10,74048; 106,69531", "radius_m": 20.0 }), vec!["cam-01"]),
        // 20 m in front of the gate of 14 Hoa Phượng.
        (json!({ "sees": "10.740478, 106.695490" }), vec!["cam-01"]),
        // Drawn by hand, south-west of the market.
        (json!({ "sees": "10.737850, 106.696050" }), vec!["cam-09"]),
        (json!({ "sees": "10.7300, 106.6900" }), vec![]),
    ];
    for (mut body, expected) in table {
        body["when"] = json!("1 giờ qua");
        let text = |value: &Value| match value {
            Value::Array(list) => list.iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>().join(","),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let pairs: Vec<(String, String)> =
            body.as_object().unwrap().iter().map(|(key, value)| (key.clone(), text(value))).collect();
        let url = reqwest::Url::parse_with_params("http://x/", &pairs).unwrap();
        let query = url.query().unwrap();
        assert_eq!(hub.devices(&format!("/api/v1/cameras?{query}"), "cameras").await, expected, "{body}");
        let (status, asked) = hub.post("/api/v1/clips", &body).await;
        let (_, got) = hub.get(&format!("/api/v1/clips?{query}")).await;
        assert_eq!(
            (status, asked["coverage"].as_array().map(Vec::len)),
            (200, Some(expected.len())),
            "{asked}"
        );
        assert_eq!(asked["understood"]["place"], got["understood"]["place"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_understood_and_suggested_is_told_before_a_search() {
    let hub = Hub::start().await;
    let (status, told) =
        hub.get("/api/v1/understand?when=20/11/2025%2021-23h&near=106.6953,%2010.7405").await;
    assert_eq!(status, 200, "{told}");
    let understood = &told["understood"];
    assert_eq!(
        understood["windows"],
        json!([{ "from": "2025-11-20T14:00:00Z", "to": "2025-11-20T16:00:00Z" }])
    );
    assert_eq!(understood["words"]["vi"], "từ 21:00 đến 23:00 ngày 20/11/2025");
    assert_eq!((&understood["zone"], &understood["offset"]), (&json!("Asia/Ho_Chi_Minh"), &json!("+07:00")));
    let condition = &understood["place"]["conditions"][0];
    assert_eq!((&condition["point"]["lat"], &condition["radius_m"]), (&json!(10.7405), &json!(200.0)));
    assert!(condition["note"]["vi"].as_str().unwrap().contains("đổi chỗ"), "{condition}");
    let (_, told) =
        hub.get("/api/v1/understand?when=m%E1%BB%97i%20%C4%91%C3%AAm%2022-4h&hours=23:00-01:00").await;
    assert_eq!(told["understood"]["windows"].as_array().unwrap().len(), 7, "{told}");
    let (_, told) = hub.get("/api/v1/suggest?q=p%20tan%20quy&limit=3").await;
    let first = &told["suggestions"][0];
    assert_eq!((&first["kind"], &first["id"]), (&json!("area"), &json!("tan-hung")), "{told}");
    assert_eq!(first["former_name"], "Phường Tân Quy Đông");
    let (_, told) = hub.get("/api/v1/suggest?q=hoa%20phuong").await;
    assert_eq!(told["suggestions"][0]["kind"], "street", "{told}");
    // Nothing of this is a look at footage.
    let (_, log) = hub.get("/api/v1/access").await;
    assert_eq!(log["access"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_tells_its_view_its_lamps_and_what_lies_on_the_box() {
    let hub = Hub::start().await;
    let clip = hub.say_clip("cam-01", "box-01", 1, 600, b"here");
    hub.store(clip, b"here").await;
    hub.say_coverage("cam-01", 2, SpanState::Recorded, 1800, 300, false);
    let mut lamp = Lamp::new(2, LampReason::Change, true, 7.0, 1600.0);
    hub.say("lamp-01", "box-lamp", 1, EventData::Lamp(lamp.clone()));
    lamp.circuit = 1;
    lamp.on = false;
    hub.say("lamp-01", "box-lamp", 2, EventData::Lamp(lamp));
    let (_, answer) = hub.get("/api/v1/clips?device=cam-01&sees=10.740478,%20106.695490").await;
    let camera = &answer["coverage"][0];
    assert_eq!(camera["view"], json!({ "heading_deg": 92.0, "angle_deg": 84.0, "reach_m": 35.0 }));
    assert!(camera["sees"]["distance_m"].as_f64().is_some_and(|m| (m - 19.7).abs() < 0.5), "{camera}");
    assert!(camera["sees"]["off_axis_deg"].as_f64().is_some_and(|deg| deg < 3.0), "{camera}");
    let spans = camera["at_box"].as_array().unwrap();
    let seconds = |s: &Value| {
        let time = |key: &str| s[key].as_str().unwrap().parse::<Time>().unwrap();
        time("end").duration_since(time("start")).as_secs_f64().round()
    };
    // 25 minutes recorded; the ten seconds of the clip lie at the hub.
    assert_eq!(spans.iter().map(seconds).collect::<Vec<_>>(), [1200.0, 290.0], "{camera}");
    assert_eq!((&camera["fetch"]["available"], &camera["at_box_truncated"]), (&json!(false), &json!(false)));
    assert_eq!(camera["overwritten_s"], 0.0);
    let lamps = camera["lamps"].as_array().unwrap();
    let names: Vec<_> =
        lamps.iter().map(|l| (l["circuit"].as_u64().unwrap(), l["distance_m"].as_f64().unwrap())).collect();
    assert_eq!(names, [(1, 0.0), (2, 0.0)], "{camera}");
    let states = |n: usize| {
        lamps[n]["spans"].as_array().unwrap().iter().map(|s| s["state"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (states(0), states(1)),
        (vec![json!("unknown"), json!("dark")], vec![json!("unknown"), json!("lit")])
    );
    let (_, market) = hub.get("/api/v1/clips?device=cam-09").await;
    assert_eq!(market["coverage"][0]["view"]["polygon"].as_array().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ring_of_a_box_has_overwritten_is_told_and_not_offered() {
    let hub = Hub::start().await;
    hub.say_coverage("cam-01", 1, SpanState::Recorded, RING_S + 400, RING_S - 600, false);
    let (_, answer) = hub.get("/api/v1/clips?device=cam-01").await;
    let camera = &answer["coverage"][0];
    let at_box = camera["at_box"].as_array().unwrap();
    let time = |key: &str| at_box[0][key].as_str().unwrap().parse::<Time>().unwrap();
    let seconds = time("end").duration_since(time("start")).as_secs_f64();
    assert_eq!((at_box.len(), seconds.round()), (1, 600.0), "{camera}");
    assert_eq!(camera["overwritten_s"].as_f64().map(f64::round), Some(400.0), "{camera}");
    assert_eq!(camera["recorded_s"].as_f64().map(f64::round), Some(1000.0), "what was recorded stays told");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_seen_is_followed_and_the_look_is_on_record() {
    let hub = Hub::start().await;
    let clip = hub.say_clip("cam-01", "box-01", 1, 600, b"seen");
    let body = json!({ "clip": clip, "heading_deg": 90.0, "speed": "walking", "minutes": 10.0, "purpose": "vụ trộm xe" });
    let (status, told) = hub.post("/api/v1/follow", &body).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["from"]["device"], "cam-01");
    assert_eq!(told["cameras"][0]["site"]["id"], "hoa-phuong-52", "{told}");
    let url = told["cameras"][0]["clips_url"].as_str().unwrap();
    assert_eq!(hub.get(url).await.0, 200, "{url}");
    let (_, log) = hub.get("/api/v1/access").await;
    let follow = log["access"].as_array().unwrap().iter().find(|r| r["action"] == "follow").unwrap();
    assert_eq!(
        (&follow["purpose"], &follow["subject"]["follow"]["clip"]),
        (&json!("vụ trộm xe"), &json!(clip))
    );
    let table = [
        ("/api/v1/follow", json!({ "clip": Uuid::nil() }), 404, "no such clip"),
        ("/api/v1/follow", json!({}), 400, "from a clip"),
        ("/api/v1/follow", json!({ "clip": clip, "speed": "flying" }), 400, "body"),
        (
            "/api/v1/footage-requests",
            json!({ "device": "cam-01", "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T01:00:00Z" }),
            501,
            "hộp biên",
        ),
        (
            "/api/v1/footage-requests",
            json!({ "device": "cam-99", "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T01:00:00Z" }),
            404,
            "no such device",
        ),
        (
            "/api/v1/footage-requests",
            json!({ "device": "cam-01", "from": "2026-01-01T02:00:00Z", "to": "2026-01-01T01:00:00Z" }),
            400,
            "before",
        ),
    ];
    for (path, body, status, text) in table {
        let (got, problem) = hub.post(path, &body).await;
        assert_eq!(got, status, "{path} {body}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(text)), "{path} {body}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_found_by_place_and_several_types() {
    let hub = Hub::start().await;
    hub.say_clip("cam-01", "box-01", 1, 600, b"a");
    hub.say_coverage("cam-01", 2, SpanState::Recorded, 1800, 300, false);
    hub.say_clip("cam-11", "box-07", 1, 600, b"b");
    hub.say("lamp-01", "box-lamp", 1, EventData::Lamp(Lamp::new(1, LampReason::Change, true, 7.0, 1600.0)));
    let table = [
        ("", vec!["lamp-01", "cam-11", "cam-01", "cam-01"]),
        ("type=camnet.clip.v1", vec!["cam-11", "cam-01"]),
        ("type=camnet.clip.v1,camnet.lamp.v1", vec!["lamp-01", "cam-11", "cam-01"]),
        ("area=kp1", vec!["cam-01", "cam-01"]),
        ("near=tru-so&type=camnet.lamp.v1", vec!["lamp-01"]),
        ("site=tru-so,bo-kenh-60", vec!["lamp-01", "cam-11"]),
        ("site=tru-so,bo-kenh-60&type=camnet.clip.v1", vec!["cam-11"]),
        ("device=cam-01", vec!["cam-01", "cam-01"]),
        ("device=cam-01&box=box-07", vec![]),
        ("when=1%20gi%E1%BB%9D%20qua&box=box-07", vec!["cam-11"]),
    ];
    for (query, expected) in table {
        // A page holds one: each event comes once.
        let mut page = String::new();
        let mut devices = Vec::new();
        loop {
            let (status, answer) = hub.get(&format!("/api/v1/events?{query}&limit=1{page}")).await;
            assert_eq!(status, 200, "{query}: {answer}");
            devices.extend(
                answer["events"].as_array().unwrap().iter().map(|e| e["device"].as_str().unwrap().to_owned()),
            );
            let Some(next) = answer["next"].as_str() else { break };
            page = format!("&page={next}");
        }
        assert_eq!(devices, expected, "{query}");
    }
}
