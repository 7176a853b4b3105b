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
    if let Some(certainty) = clip.certainty {
        properties["camnet:certainty"] = json!(certainty);
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
    /// Some without a name is not None: then fields are excluded from the usual ones, else from all.
    pub include: Option<Vec<String>>,
    pub exclude: Vec<String>,
}

/// What is shown where nobody names a field to include.
const USUAL: [&str; 8] =
    ["type", "stac_version", "id", "geometry", "bbox", "links", "assets", "properties.datetime"];
/// What every item tells, whatever is included.
const IDENTITY: [&str; 4] = ["type", "stac_version", "id", "collection"];

/// The item with the fields that are asked for.
pub fn only(item: &Value, fields: &Fields) -> Value {
    let include = fields.include.as_deref().unwrap_or_default();
    let mut shown = json!({});
    if !include.is_empty() {
        IDENTITY.iter().for_each(|path| copy(item, &mut shown, path));
        include.iter().for_each(|path| copy(item, &mut shown, path));
    } else if fields.include.is_some() || fields.exclude.is_empty() {
        USUAL.iter().for_each(|path| copy(item, &mut shown, path));
    } else {
        shown = item.clone();
    }
    // What is included too stays.
    for path in fields.exclude.iter().filter(|path| !include.contains(path)) {
        remove(&mut shown, path);
        let is_below = |name: &&String| name.strip_prefix(path.as_str()).is_some_and(|n| n.starts_with('.'));
        include.iter().filter(is_below).for_each(|path| copy(item, &mut shown, path));
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
        let item = json!({ "id": "a", "type": "Feature", "collection": "clips", "geometry": 1,
            "properties": { "datetime": "t", "title": "x", "deep": { "er": 1 } } });
        let usual = json!({ "id": "a", "type": "Feature", "geometry": 1, "properties": { "datetime": "t" } });
        let identity = json!({ "id": "a", "type": "Feature", "collection": "clips" });
        let with = |value: &Value, key: &str, more: Value| {
            let mut value = value.clone();
            value[key] = more;
            value
        };
        let without = |value: &Value, key: &str| {
            let mut value = value.clone();
            remove(&mut value, key);
            value
        };
        type Row<'a> = (Option<&'a [&'a str]>, &'a [&'a str], Value);
        let table: [Row; 12] = [
            (None, &[], usual.clone()),
            (Some(&[]), &[], usual.clone()),
            (Some(&[]), &["geometry"], without(&usual, "geometry")),
            (None, &["geometry"], without(&item, "geometry")),
            (None, &["properties.title", "nothing.there"], without(&item, "properties.title")),
            (Some(&["id"]), &[], identity.clone()),
            (Some(&["geometry"]), &["geometry"], with(&identity, "geometry", json!(1))),
            (
                Some(&["properties.deep.er"]),
                &[],
                with(&identity, "properties", json!({ "deep": { "er": 1 } })),
            ),
            (
                Some(&["properties.title"]),
                &["properties"],
                with(&identity, "properties", json!({ "title": "x" })),
            ),
            (
                Some(&["properties"]),
                &["properties.deep", "properties.datetime"],
                with(&identity, "properties", json!({ "title": "x" })),
            ),
            (Some(&["nothing"]), &["collection"], without(&identity, "collection")),
            (
                Some(&["properties.deep.er.and.more"]),
                &[],
                with(&identity, "properties", json!({ "deep": {} })),
            ),
        ];
        for (include, exclude, expected) in table {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
            let fields = Fields { include: include.map(owned), exclude: owned(exclude) };
            assert_eq!(only(&item, &fields), expected, "{fields:?}");
        }
    }
}
