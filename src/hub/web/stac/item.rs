//! A clip as a STAC item.
//!
//! Owns the form of items, and which of their fields are shown. An item without the hub's file has no `video` asset:
//! the footage is on its box.

use serde_json::{Map, Value, json};

use super::{COLLECTION, GEOJSON, STAC_VERSION, link};
use crate::hub::search::answer::{ClipView, Held};

pub fn item(clip: &ClipView, base: &str) -> Value {
    let collection = format!("{base}/collections/{COLLECTION}");
    let root = base.strip_suffix("/stac").unwrap_or(base);
    let mut properties = json!({
        "title": clip.device.name, "datetime": clip.start, "start_datetime": clip.start, "end_datetime": clip.end,
        "camnet:device": clip.device.id, "camnet:site": clip.site, "camnet:clock": clip.clock,
        "camnet:where": if clip.held == Held::Hub { "hub" } else { "box" },
        "camnet:peak_score": clip.peak_score, "camnet:bytes": clip.bytes, "camnet:sha256": clip.sha256,
        "camnet:codec": clip.video.codec,
    });
    if let Some(recorded) = &clip.recorded {
        properties["camnet:recorded"] = json!(recorded);
    }
    let mut assets = Map::new();
    let mut asset = |name: &str, path: &Option<String>, kind: &str, role: &str, title: &str| {
        if let Some(path) = path {
            let asset =
                json!({ "href": format!("{root}{path}"), "type": kind, "roles": [role], "title": title });
            assets.insert(name.into(), asset);
        }
    };
    asset("video", &clip.links.video, "video/mp4", "data", "Original video");
    asset("thumbnail", &clip.links.thumbnail, "image/jpeg", "thumbnail", "Still at the peak");
    let mut item = json!({
        "type": "Feature", "stac_version": STAC_VERSION, "stac_extensions": [], "id": clip.id,
        "geometry": null, "properties": properties, "collection": COLLECTION, "assets": assets,
        "links": [
            link("root", base, "application/json"),
            link("parent", &collection, "application/json"),
            link("collection", &collection, "application/json"),
            link("self", format!("{collection}/items/{}", clip.id), GEOJSON),
        ],
    });
    if let Some(at) = clip.point {
        item["geometry"] = json!({ "type": "Point", "coordinates": [at.lon, at.lat] });
        item["bbox"] = json!([at.lon, at.lat, at.lon, at.lat]);
    }
    item
}

/// Which fields are shown (STAC API fields extension 1.0.0): names with dots.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

/// What is shown whenever somebody names fields to include.
const ALWAYS: [&str; 8] =
    ["type", "stac_version", "id", "geometry", "bbox", "links", "assets", "properties.datetime"];

/// The item with the fields that are asked for.
pub fn only(item: Value, fields: &Fields) -> Value {
    let mut shown = item.clone();
    if !fields.include.is_empty() || fields.exclude.is_empty() {
        shown = json!({});
        for path in ALWAYS.into_iter().chain(fields.include.iter().map(String::as_str)) {
            if !fields.exclude.iter().any(|out| out == path) {
                copy(&item, &mut shown, path);
            }
        }
    }
    for path in &fields.exclude {
        remove(&mut shown, path);
    }
    shown
}

fn copy(from: &Value, to: &mut Value, path: &str) {
    let Some(object) = to.as_object_mut() else { return };
    match path.split_once('.') {
        Some((first, rest)) => {
            if let Some(value) = from.get(first).filter(|value| value.is_object()) {
                copy(value, object.entry(first).or_insert_with(|| json!({})), rest);
            }
        }
        None => {
            if let Some(value) = from.get(path) {
                object.insert(path.to_owned(), value.clone());
            }
        }
    }
}

fn remove(from: &mut Value, path: &str) {
    match path.split_once('.') {
        Some((first, rest)) => {
            if let Some(value) = from.get_mut(first) {
                remove(value, rest);
            }
        }
        None => {
            if let Some(object) = from.as_object_mut() {
                object.remove(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_shown_as_asked() {
        let item = json!({ "id": "a", "type": "Feature", "collection": "clips",
            "properties": { "datetime": "t", "title": "x", "deep": { "er": 1 } } });
        let fields = |include: &[&str], exclude: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            only(item.clone(), &Fields { include: owned(include), exclude: owned(exclude) })
        };
        assert_eq!(
            fields(&[], &[]),
            json!({ "id": "a", "type": "Feature", "properties": { "datetime": "t" } })
        );
        assert_eq!(fields(&["collection"], &["properties"])["collection"], "clips");
        assert_eq!(
            fields(&["properties.deep.er"], &[])["properties"],
            json!({ "datetime": "t", "deep": { "er": 1 } })
        );
        let without = fields(&[], &["properties.title", "nothing.there"]);
        assert_eq!(without["properties"], json!({ "datetime": "t", "deep": { "er": 1 } }));
        assert_eq!(without["collection"], "clips");
    }
}
