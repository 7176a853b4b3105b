//! The STAC API over real HTTP: its documents, and a search by each of its keys.

use std::collections::BTreeSet;

use super::*;

fn ago(seconds: i64) -> Time {
    Time::now() - SignedDuration::from_secs(seconds)
}

fn features(page: &Value) -> Vec<String> {
    let features = page["features"].as_array().unwrap_or_else(|| panic!("no features: {page}"));
    features.iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect()
}

fn link<'a>(document: &'a Value, rel: &str) -> Option<&'a Value> {
    document["links"].as_array().unwrap().iter().find(|link| link["rel"] == rel)
}

/// The query of a body, as clients write it.
fn query_of(body: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Array(list) => {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            list.iter().map(text).collect::<Vec<_>>().join(",")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let pairs = body.as_object().unwrap().iter().map(|(key, value)| (key.clone(), text(value)));
    let url = reqwest::Url::parse_with_params("http://x/", pairs).unwrap();
    url.query().unwrap_or_default().to_owned()
}

impl Hub {
    /// The path of an absolute address of this hub.
    fn path<'a>(&self, address: &'a Value) -> &'a str {
        let address = address.as_str().unwrap();
        address.strip_prefix(&self.url).unwrap_or_else(|| panic!("{address} is not at {}", self.url))
    }

    /// All items, page by page. `between` runs after each page.
    async fn all_items(&self, search: &Value, is_post: bool, mut between: impl FnMut()) -> Vec<String> {
        let (mut path, mut body) = ("/stac/search".to_owned(), search.clone());
        if !is_post {
            path = format!("{path}?{}", query_of(search));
        }
        let mut all = Vec::new();
        for _ in 0..100 {
            let (status, page) = if is_post { self.post(&path, &body).await } else { self.get(&path).await };
            assert_eq!(status, 200, "{path} {body}: {page}");
            all.extend(features(&page));
            between();
            let Some(next) = link(&page, "next") else { return all };
            path = self.path(&next["href"]).to_owned();
            assert_eq!(next["method"], if is_post { "POST" } else { "GET" });
            if is_post {
                assert_eq!(next["merge"], true);
                body["token"] = next["body"]["token"].clone();
            }
        }
        panic!("the pages never end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_agree_with_each_other_and_their_links_lead_somewhere() {
    let hub = Hub::start().await;
    let clip = hub.say_clip("cam-01", "box-01", 1, 600, b"one");
    let (status, landing) = hub.get("/stac").await;
    assert_eq!(
        (status, &landing["type"], &landing["stac_version"]),
        (200, &json!("Catalog"), &json!("1.1.0"))
    );
    assert_eq!(hub.get("/stac/").await, (200, landing.clone()), "however it is typed");
    assert_eq!(hub.get("/stac/conformance").await.1["conformsTo"], landing["conformsTo"]);
    let (_, collections) = hub.get("/stac/collections").await;
    let (_, collection) = hub.get("/stac/collections/clips").await;
    assert_eq!(collections["collections"], json!([collection]));
    let bbox = &collection["extent"]["spatial"]["bbox"][0];
    assert_eq!(bbox, &json!([106.69531, 10.73664, 106.69847, 10.74061]));
    let (_, item) = hub.get(&format!("/stac/collections/clips/items/{clip}")).await;
    assert_eq!((&item["id"], &item["collection"]), (&json!(clip), &json!("clips")));
    assert_eq!(item["geometry"], json!({ "type": "Point", "coordinates": [106.69531, 10.74048] }));
    assert_eq!(item["assets"], json!({}), "the footage is on the box");
    hub.store(clip, b"one").await;
    let (_, item) = hub.get(&format!("/stac/collections/clips/items/{clip}")).await;
    let video = hub.client.get(item["assets"]["video"]["href"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(video.bytes().await.unwrap().as_ref(), b"one");
    let (_, items) = hub.get("/stac/collections/clips/items").await;
    for document in [&landing, &collections, &collection, &item, &items] {
        for link in document["links"].as_array().unwrap() {
            let response = hub.client.get(link["href"].as_str().unwrap()).send().await.unwrap();
            assert_eq!(response.status(), 200, "{link}");
            let kind = response.headers()["content-type"].to_str().unwrap();
            assert!(kind.starts_with(link["type"].as_str().unwrap()), "{link}: {kind}");
        }
    }
    for path in [
        "/stac/nothing",
        "/stac/collections/moon",
        "/stac/collections/moon/items",
        "/stac/collections/clips/items/x",
    ] {
        let (status, problem) = hub.get(path).await;
        assert_eq!((status, &problem["status"]), (404, &json!(404)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_by_each_key_finds_the_same_by_query_and_by_body() {
    let hub = Hub::start().await;
    let gate = hub.say_clip("cam-01", "box-01", 1, 3000, b"gate");
    let fork = hub.say_clip("cam-02", "box-02", 1, 2000, b"fork");
    let market = hub.say_clip("cam-08", "box-06", 1, 1000, b"market");
    let all = vec![market, fork, gate];
    let start =
        &hub.get(&format!("/stac/collections/clips/items/{fork}")).await.1["properties"]["start_datetime"];
    let polygon = |w: f64, s: f64, e: f64, n: f64| json!({ "type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]] });
    let street =
        json!({ "type": "LineString", "coordinates": [[106.69531, 10.74048], [106.69642, 10.740515]] });
    let between = |from: i64, to: i64| format!("{}/{}", ago(from), ago(to));
    let table: Vec<(Value, Vec<Uuid>)> = vec![
        (json!({}), all.clone()),
        (json!({ "limit": 1_000_000 }), all.clone()),
        (json!({ "datetime": start.as_str().unwrap() }), vec![fork]),
        (json!({ "bbox": [106.6945, 10.740, 106.6957, 10.741] }), vec![gate]),
        (json!({ "bbox": [106.6945, 10.740, 0.0, 106.6957, 10.741, 50.0] }), vec![gate]),
        (json!({ "bbox": [106.69531, 10.74048, 106.69531, 10.74048] }), vec![gate]),
        // Across the antimeridian, the long way round.
        (json!({ "bbox": [106.696, -90.0, 106.69531, 90.0] }), vec![market, fork, gate]),
        (json!({ "bbox": [170.0, -90.0, -170.0, 90.0] }), vec![]),
        (json!({ "datetime": between(2100, 1900) }), vec![fork]),
        (json!({ "datetime": format!("{}/..", ago(2100)) }), vec![market, fork]),
        (json!({ "datetime": format!("/{}", ago(1900)) }), vec![fork, gate]),
        (json!({ "datetime": ago(1995).to_string() }), vec![fork]),
        (json!({ "datetime": between(2100, 1900), "bbox": [106.6945, 10.740, 106.6957, 10.741] }), vec![]),
        (json!({ "intersects": polygon(106.695, 10.740, 106.697, 10.741) }), vec![fork, gate]),
        (json!({ "intersects": street }), vec![fork, gate]),
        (json!({ "intersects": { "type": "Point", "coordinates": [106.69619, 10.73798] } }), vec![market]),
        (json!({ "ids": [gate, market] }), vec![market, gate]),
        (json!({ "ids": [Uuid::nil(), "no uuid", fork] }), vec![fork]),
        (json!({ "ids": [gate, gate] }), vec![gate]),
        (
            json!({ "ids": [gate, market], "sortby": [{ "field": "datetime", "direction": "asc" }] }),
            vec![gate, market],
        ),
        (json!({ "ids": [gate, fork], "limit": 1 }), vec![fork]),
        (json!({ "ids": [gate], "datetime": between(2100, 1900) }), vec![]),
        (json!({ "ids": [gate], "bbox": [0.0, 0.0, 1.0, 1.0] }), vec![]),
        (json!({ "collections": ["clips"] }), all.clone()),
        (json!({ "collections": ["moon", "clips"] }), all.clone()),
        (json!({ "collections": ["moon"] }), vec![]),
        (json!({ "collections": ["moon"], "ids": [gate] }), vec![]),
        (json!({ "limit": 2 }), vec![market, fork]),
        (
            json!({ "sortby": [{ "field": "properties.datetime", "direction": "asc" }] }),
            vec![gate, fork, market],
        ),
        (json!({ "sortby": [{ "field": "start_datetime", "direction": "desc" }] }), all.clone()),
    ];
    for (body, expected) in table {
        let expected: Vec<String> = expected.iter().map(Uuid::to_string).collect();
        let (status, posted) = hub.post("/stac/search", &body).await;
        assert_eq!((status, features(&posted)), (200, expected.clone()), "{body}: {posted}");
        assert_eq!(posted["numberReturned"], expected.len());
        let mut query = body.clone();
        if let Some(sort) = body.get("sortby") {
            let sign = if sort[0]["direction"] == "asc" { "+" } else { "-" };
            query["sortby"] = json!(format!("{sign}{}", sort[0]["field"].as_str().unwrap()));
        }
        let (status, got) = hub.get(&format!("/stac/search?{}", query_of(&query))).await;
        assert_eq!((status, features(&got)), (200, expected.clone()), "{query}: {got}");
        assert_eq!(got["features"], posted["features"]);
        let (_, items) = hub.get(&format!("/stac/collections/clips/items?{}", query_of(&query))).await;
        assert_eq!(features(&items), expected, "{query}: {items}");
    }
    // Every search is on record, with what was asked.
    let (_, log) = hub.get("/api/v1/access?limit=1000").await;
    let looks = log["access"].as_array().unwrap().iter().filter(|r| r["action"] == "search");
    let looks: Vec<&Value> = looks.collect();
    assert!(looks.len() > 50 && looks.iter().all(|look| look["subject"]["form"] == "stac"), "{log}");
    assert!(looks.iter().any(|look| look["subject"]["ids"] == json!([gate])), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_each_clip_once_while_others_arrive() {
    let hub = Hub::start().await;
    let mut oldest: Vec<String> = Vec::new();
    for n in 0..40u64 {
        let camera = ["cam-02", "cam-03"][n as usize % 2];
        let seconds_ago = 3000 - 20 * n as i64;
        oldest.push(hub.say_clip(camera, "box-02", 1 + n, seconds_ago, &[n as u8]).to_string());
    }
    let newest: Vec<String> = oldest.iter().rev().cloned().collect();
    let by =
        |sign: &str| json!([{ "field": "datetime", "direction": if sign == "+" { "asc" } else { "desc" } }]);
    let place = json!([106.6, 10.7, 106.8, 10.8]);
    // So many come after each page, newer than all before: pages from the newest on never reach them.
    let mut sequence = 100;
    for (sign, is_post) in [("-", false), ("-", true), ("+", false), ("+", true)] {
        let sort = if is_post { by(sign) } else { json!(format!("{sign}datetime")) };
        let until = ago(2000);
        let search = json!({ "limit": 7, "sortby": sort, "bbox": place, "fields": if is_post {
            json!({ "include": ["properties.title"] }) } else { json!("properties.title") },
            "datetime": format!("../{until}") });
        let all = hub
            .all_items(&search, is_post, || {
                sequence += 1;
                hub.say_clip("cam-01", "box-01", sequence, 1, &sequence.to_be_bytes());
            })
            .await;
        assert_eq!(all, if sign == "+" { oldest.clone() } else { newest.clone() }, "{search}");
    }
    // Without an end in time the newest first still tell what was there when they were asked for.
    let before: BTreeSet<String> =
        hub.all_items(&json!({ "limit": 50 }), true, || {}).await.into_iter().collect();
    let all = hub
        .all_items(&json!({ "limit": 7 }), true, || {
            sequence += 1;
            hub.say_clip("cam-01", "box-01", sequence, 0, &sequence.to_be_bytes());
        })
        .await;
    assert_eq!((all.len(), all.into_iter().collect::<BTreeSet<_>>()), (before.len(), before));
    // A token belongs to its search.
    let (_, page) = hub.get("/stac/search?limit=7").await;
    let next = hub.path(&link(&page, "next").unwrap()["href"]).to_owned();
    for other in [format!("{next}&ids=x"), format!("{next}&sortby=datetime"), format!("{next}&bbox=0,0,1,1")]
    {
        let (status, problem) = hub.get(&other).await;
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("another question"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_show_the_fields_that_are_asked_for() {
    let hub = Hub::start().await;
    hub.say_clip("cam-01", "box-01", 1, 600, b"one");
    let usual = ["assets", "bbox", "geometry", "id", "links", "properties", "stac_version", "type"];
    let table = [
        ("", json!({}), usual.to_vec(), vec!["datetime"]),
        (
            "properties.title",
            json!({ "include": ["properties.title"] }),
            vec!["collection", "id", "properties", "stac_version", "type"],
            vec!["title"],
        ),
        (
            "geometry,properties.title,-properties",
            json!({ "include": ["geometry", "properties.title"], "exclude": ["properties"] }),
            vec!["collection", "geometry", "id", "properties", "stac_version", "type"],
            vec!["title"],
        ),
        (
            "-properties",
            json!({ "exclude": ["properties"] }),
            vec![
                "assets",
                "bbox",
                "collection",
                "geometry",
                "id",
                "links",
                "stac_extensions",
                "stac_version",
                "type",
            ],
            vec![],
        ),
    ];
    for (text, fields, keys, properties) in table {
        let (_, posted) = hub.post("/stac/search", &json!({ "fields": fields })).await;
        let (_, got) = hub.get(&format!("/stac/search?fields={text}")).await;
        let keys_of = |value: &Value| -> Vec<String> {
            value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
        };
        for page in [posted, got] {
            let item = &page["features"][0];
            let mut told = keys_of(item);
            told.sort();
            assert_eq!(told, keys, "{text}: {item}");
            let mut told = keys_of(&item["properties"]);
            told.sort();
            assert_eq!(told, properties, "{text}: {item}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_searches_are_told_which_key_is_wrong() {
    let hub = Hub::start().await;
    let queries = [
        ("bbox=1,2,3", "bbox"),
        ("bbox=a,b,c,d", "bbox"),
        ("bbox=0,10,1,5", "bbox"),
        ("bbox=0,0,1,91", "bbox"),
        ("bbox=NaN,0,1,1", "bbox"),
        ("bbox=0,0,1,1&intersects=%7B%7D", "intersects"),
        ("datetime=yesterday", "datetime"),
        ("datetime=../..", "datetime"),
        ("datetime=2026-01-02T00:00:00Z/2026-01-01T00:00:00Z", "datetime"),
        ("intersects=%7B", "intersects"),
        ("intersects=%7B%22type%22:%22Moon%22%7D", "intersects"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("datetime=2026-01-02T00:00:00%2B0700", "datetime"),
        ("limit=many", "limit"),
        ("sortby=size", "sortby"),
        ("sortby=datetime,id", "sortby"),
        ("token=x", "token"),
        ("offset=5", "offset"),
    ];
    for (query, key) in queries {
        let (status, problem) = hub.get(&format!("/stac/search?{query}")).await;
        assert_eq!(status, 400, "{query}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(key), "{query}: {problem}");
    }
    let (status, problem) = hub.get("/stac/collections/clips/items?offset=5").await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("offset"), "{problem}");
    let too_many = vec![Uuid::nil(); crate::limits::PAGE_CLIPS_MAX + 1];
    let far = vec![json!([0.0, 0.0]); crate::limits::SEARCH_POLYGON_POINTS_MAX];
    let bodies = [
        (json!({ "bbox": "1,2,3,4" }), "bbox"),
        (json!({ "bbox": [1, 2, 3] }), "bbox"),
        (json!({ "limit": "10" }), "limit"),
        (json!({ "fields": null }), "fields"),
        (json!({ "ids": "one" }), "ids"),
        (json!({ "ids": too_many }), "ids"),
        (json!({ "sortby": [{ "field": "datetime", "direction": "up" }] }), "sortby"),
        (json!({ "intersects": { "type": "MultiPoint", "coordinates": far } }), "intersects"),
        (json!({ "intersects": [] }), "intersects"),
        (json!({ "query": {} }), "query"),
    ];
    for (body, key) in bodies {
        let (status, problem) = hub.post("/stac/search", &body).await;
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(key), "{key}: {problem}");
    }
    let long = hub.client.post(format!("{}/stac/search", hub.url)).body(" ".repeat(100_000));
    assert_eq!(long.send().await.unwrap().status(), 413);
}
