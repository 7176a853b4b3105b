//! STAC API 1.0.0 (core, collections, features, item search, sort, fields) over the clips, so that existing clients
//! (pystac-client, QGIS) find footage unchanged. Items are STAC 1.1.0; each clip is one, in the collection `clips`.
//!
//! Owns the routes and documents. Pages go by opaque tokens; there are no offsets and no totals. What a search means is
//! understood in `query.rs`, a clip becomes an item in `item.rs`. Every look passes the gate as `/api/v1` does.
//! Source: <https://api.stacspec.org/v1.0.0>, <https://github.com/radiantearth/stac-spec/tree/v1.1.0>.

mod item;
mod query;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use uuid::Uuid;

use super::api::{App, InPath, Looker, json_body, query as read_query};
use super::{Problem, Web, blocking, openapi};
use crate::hub::access::{Action, Pass};
use crate::hub::catalog::{ClipKey, Order};
use crate::hub::registry::History;
use crate::hub::search::answer::ClipView;
use crate::hub::search::atlas::Atlas;
use crate::hub::search::question::Question;
use crate::hub::search::{Pages, SearchError, cameras_of, next_page};
use crate::model::Time;
use item::{item, only};
use query::{Search, SearchBody, SearchQuery};

const STAC_VERSION: &str = "1.1.0";
const COLLECTION: &str = "clips";
const GEOJSON: &str = "application/geo+json";
const CONFORMS_TO: [&str; 9] = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#sort",
    "https://api.stacspec.org/v1.0.0/item-search#fields",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/oas30",
];

pub fn router() -> Router<Arc<Web>> {
    Router::new()
        .route("/", get(landing))
        .route("/conformance", get(conformance))
        .route("/api", get(description))
        .route("/doc", get(document))
        .route("/collections", get(collections))
        .route("/collections/{id}", get(collection))
        .route("/collections/{id}/items", get(items))
        .route("/collections/{id}/items/{item}", get(one_item))
        .route("/search", get(search_get).post(search_post))
}

/// The address by which the client reached the hub: links are absolute.
fn base(headers: &HeaderMap, uri: &Uri) -> String {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).map(str::to_owned);
    let host = host.or_else(|| uri.authority().map(ToString::to_string)).unwrap_or_default();
    format!("http://{host}/stac")
}

fn link(rel: &str, href: impl Into<String>, kind: &str) -> Value {
    json!({ "rel": rel, "href": href.into(), "type": kind })
}

/// The landing page.
#[utoipa::path(get, path = "/stac", responses((status = 200, body = Object)))]
pub async fn landing(headers: HeaderMap, uri: Uri) -> Json<Value> {
    let base = base(&headers, &uri);
    let mut links = vec![
        link("root", &base, "application/json"),
        link("self", &base, "application/json"),
        link("service-desc", format!("{base}/api"), openapi::MEDIA_TYPE),
        link("service-doc", format!("{base}/doc"), "text/html"),
        link("conformance", format!("{base}/conformance"), "application/json"),
        link("data", format!("{base}/collections"), "application/json"),
        link("child", format!("{base}/collections/{COLLECTION}"), "application/json"),
    ];
    for method in ["GET", "POST"] {
        let mut search = link("search", format!("{base}/search"), GEOJSON);
        search["method"] = json!(method);
        links.push(search);
    }
    Json(json!({
        "type": "Catalog", "stac_version": STAC_VERSION, "id": "camnet", "title": "camnet",
        "description": "Footage of community cameras, by place and time.",
        "conformsTo": CONFORMS_TO, "links": links,
    }))
}

#[utoipa::path(get, path = "/stac/conformance", responses((status = 200, body = Object)))]
pub async fn conformance() -> Json<Value> {
    Json(json!({ "conformsTo": CONFORMS_TO }))
}

/// The contract of this API.
#[utoipa::path(get, path = "/stac/api",
    responses((status = 200, body = Object, content_type = "application/vnd.oai.openapi+json;version=3.1")))]
pub async fn description() -> Response {
    ([(header::CONTENT_TYPE, openapi::MEDIA_TYPE)], openapi::contract()).into_response()
}

/// A page for people.
#[utoipa::path(get, path = "/stac/doc", responses((status = 200, body = String, content_type = "text/html")))]
pub async fn document() -> Html<&'static str> {
    Html(
        "<!doctype html><html lang=\"vi\"><meta charset=\"utf-8\"><title>camnet STAC</title>\
        <h1>camnet STAC API</h1>\
        <p>Mỗi đoạn hình là một mục (item) của bộ sưu tập <a href=\"/stac/collections/clips\">clips</a>. \
        Dùng với pystac-client hoặc QGIS: địa chỉ là <code>/stac</code> của máy chủ này.</p>\
        <p lang=\"en\">Each clip is an item of the collection <a href=\"/stac/collections/clips\">clips</a>. \
        Point pystac-client or QGIS at <code>/stac</code> of this hub. \
        The contract: <a href=\"/stac/api\">/stac/api</a>.</p></html>",
    )
}

#[utoipa::path(get, path = "/stac/collections", responses((status = 200, body = Object)))]
pub async fn collections(State(web): App, headers: HeaderMap, uri: Uri) -> Json<Value> {
    let base = base(&headers, &uri);
    let links = json!([
        link("root", &base, "application/json"),
        link("self", format!("{base}/collections"), "application/json"),
    ]);
    Json(json!({ "collections": [the_collection(&base, &web.registry.history())], "links": links }))
}

#[utoipa::path(get, path = "/stac/collections/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub async fn collection(
    State(web): App,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    check_collection(&id)?;
    Ok(Json(the_collection(&base(&headers, &uri), &web.registry.history())))
}

fn check_collection(id: &str) -> Result<(), Problem> {
    if id == COLLECTION { Ok(()) } else { Err(Problem::not_found("there is one collection: clips")) }
}

/// The whole archive as one collection; its extent is that of the registry.
fn the_collection(base: &str, history: &History) -> Value {
    let sites = history.current().sites;
    let mut bbox = [180.0f64, 90.0, -180.0, -90.0];
    for point in sites.iter().map(|site| site.point) {
        bbox =
            [bbox[0].min(point.lon), bbox[1].min(point.lat), bbox[2].max(point.lon), bbox[3].max(point.lat)];
    }
    if sites.is_empty() {
        bbox = [-180.0, -90.0, 180.0, 90.0];
    }
    let here = format!("{base}/collections/{COLLECTION}");
    json!({
        "type": "Collection", "stac_version": STAC_VERSION, "id": COLLECTION, "title": "Đoạn hình / Clips",
        "description": "Spans of original video of community cameras, cut where something moved.",
        "license": "other", "keywords": ["camera an ninh", "cctv"],
        "extent": { "spatial": { "bbox": [bbox] }, "temporal": { "interval": [["2020-01-01T00:00:00Z", null]] } },
        "links": [
            link("root", base, "application/json"), link("parent", base, "application/json"),
            link("self", &here, "application/json"), link("items", format!("{here}/items"), GEOJSON),
        ],
    })
}

/// Items of the collection, newest first.
#[utoipa::path(get, path = "/stac/collections/{id}/items", params(("id" = String, Path), SearchQuery),
    responses((status = 200, body = Object, content_type = "application/geo+json"), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn items(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    check_collection(&id)?;
    let search = Search::of_query(read_query(&uri)?)?;
    let base = base(&headers, &uri);
    let here = format!("{base}/collections/{COLLECTION}/items");
    searched(web, looker, &base, &here, &uri, search, false).await
}

/// One clip as an item.
#[utoipa::path(get, path = "/stac/collections/{id}/items/{item}", params(("id" = String, Path), ("item" = String, Path)),
    responses((status = 200, body = Object, content_type = "application/geo+json"), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn one_item(
    State(web): App,
    looker: Looker,
    InPath((id, clip)): InPath<(String, String)>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    check_collection(&id)?;
    let missing = || Problem::not_found("there is no such item");
    let clip = Uuid::parse_str(&clip).map_err(|_| missing())?;
    let pass = looker.pass(&web, Action::Clip, None, json!({ "clip": clip, "form": "stac" })).await?;
    let atlas = web.atlas().await;
    let found = blocking(move || web.search().clip(&pass, clip, &atlas)).await?;
    Ok(as_geojson(item(&found.ok_or_else(missing)?, &base(&headers, &uri))))
}

/// Item search.
#[utoipa::path(get, path = "/stac/search", params(SearchQuery),
    responses((status = 200, body = Object, content_type = "application/geo+json"), (status = 400, body = Problem),
        (status = 503, body = Problem)))]
pub async fn search_get(
    State(web): App,
    looker: Looker,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let search = Search::of_query(read_query(&uri)?)?;
    let base = base(&headers, &uri);
    searched(web, looker, &base, &format!("{base}/search"), &uri, search, false).await
}

/// Item search with a body.
#[utoipa::path(post, path = "/stac/search", request_body = SearchBody,
    responses((status = 200, body = Object, content_type = "application/geo+json"), (status = 400, body = Problem),
        (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn search_post(
    State(web): App,
    looker: Looker,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Problem> {
    let search = Search::of_body(json_body(body).await?)?;
    let base = base(&headers, &uri);
    searched(web, looker, &base, &format!("{base}/search"), &uri, search, true).await
}

/// The answer of a search at the address `here`.
async fn searched(
    web: Arc<Web>,
    looker: Looker,
    base: &str,
    here: &str,
    uri: &Uri,
    search: Search,
    is_post: bool,
) -> Result<Response, Problem> {
    let (mut page, token) = run(&web, looker, &search, base).await?;
    let next = token.map(|token| search.next_link(here, &token, is_post));
    page["links"] = json!([link("root", base, "application/json"), self_link(here, uri)]);
    add_link(&mut page, next);
    Ok(as_geojson(page))
}

/// A page of items, and the token of the next one.
async fn run(
    web: &Arc<Web>,
    looker: Looker,
    search: &Search,
    base: &str,
) -> Result<(Value, Option<String>), Problem> {
    let (now, atlas, web) = (Time::now(), web.atlas().await, web.clone());
    let question = search.question(now)?;
    let mut subject = question.subject();
    (subject["form"], subject["ids"]) = (json!("stac"), json!(search.ids));
    let pass = looker.pass(&web, Action::Search, None, subject).await?;
    let (search, base) = (search.clone(), base.to_owned());
    blocking(move || {
        let found = match &search.ids {
            // Other collections hold nothing here.
            _ if !search.has_collection() => Page::default(),
            Some(ids) => by_id(&web, &pass, &question, &atlas, ids)?,
            None => by_place(&web, &pass, &question, &atlas)?,
        };
        let shown = |clip: &ClipView| {
            let item = item(clip, &base);
            match &search.fields {
                Some(fields) => only(&item, fields),
                None => item,
            }
        };
        let items: Vec<Value> = found.clips.iter().map(shown).collect();
        let page = json!({ "type": "FeatureCollection", "features": items, "numberReturned": items.len() });
        Ok((page, found.after.map(|after| next_page(&question, after))))
    })
    .await
}

/// Clips, and where the next page goes on.
#[derive(Default)]
struct Page {
    clips: Vec<ClipView>,
    after: Option<ClipKey>,
}

/// The clips with these ids, as far as they lie in the question's time and place.
fn by_id(
    web: &Web,
    pass: &Pass,
    question: &Question,
    atlas: &Atlas,
    ids: &BTreeSet<Uuid>,
) -> Result<Page, SearchError> {
    let key = |clip: &ClipView| ClipKey { start_us: clip.start.as_microsecond(), clip: clip.id };
    let is_behind = |clip: &ClipView| match (question.after, question.order) {
        (None, _) => true,
        (Some(after), Order::Newest) => key(clip) < after,
        (Some(after), Order::Oldest) => key(clip) > after,
    };
    let mut clips = Vec::new();
    for id in ids {
        let found = web.search().clip(pass, *id, atlas)?;
        clips.extend(found.filter(|clip| query::is_asked(clip, question) && is_behind(clip)));
    }
    clips.sort_by_key(key);
    if question.order == Order::Newest {
        clips.reverse();
    }
    let is_all = clips.len() <= question.limit;
    clips.truncate(question.limit);
    let after = clips.last().filter(|_| !is_all).map(key);
    Ok(Page { clips, after })
}

fn by_place(web: &Web, pass: &Pass, question: &Question, atlas: &Atlas) -> Result<Page, SearchError> {
    let found = cameras_of(question, atlas)?;
    let pages = Pages { most: question.limit, step: question.limit };
    let mut clips = Vec::new();
    let after = web.search().clips(pass, question, &found, atlas, pages, |clip| {
        clips.push(clip);
        true
    })?;
    Ok(Page { clips, after })
}

fn self_link(here: &str, uri: &Uri) -> Value {
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    link("self", format!("{here}{query}"), GEOJSON)
}

fn add_link(page: &mut Value, link: Option<Value>) {
    if let (Some(links), Some(link)) = (page["links"].as_array_mut(), link) {
        links.push(link);
    }
}

fn as_geojson(page: Value) -> Response {
    let kind = HeaderValue::from_static(GEOJSON);
    ([(header::CONTENT_TYPE, kind)], page.to_string()).into_response()
}
