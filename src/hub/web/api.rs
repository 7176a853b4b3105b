//! The officers' API, `/api/v1`. Each handler parses, passes the gate, calls, renders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ask;
use super::enrol::{CertificateView, SettingView, certificates_of};
use super::video::{self, Wanted};
use super::{Problem, Web, blocking};
use crate::hub::access::{AccessRecord, Action, Actor, Look, Pass};
use crate::hub::catalog::{self, RefusedRow, TimeRange};
use crate::hub::reindex::{IndexReport, RebuildError};
use crate::hub::replay::{Filter, Replayed};
use crate::hub::search::answer::{Answer, ClipView};
use crate::hub::search::atlas::Atlas;
use crate::hub::search::question::{Asked, Question};
use crate::hub::search::token::{Token, digest_of};
use crate::limits::{API_BODY_BYTES_MAX, PAGE_LIST, PAGE_LIST_MAX, PURPOSE_CHARS_MAX};
use crate::model::{BoxId, PURPOSE_HEADER, Sha256Hash, Time, purpose_from_header};

pub type App = State<Arc<Web>>;
pub type Answered<T> = Result<Json<T>, Problem>;

pub fn router() -> Router<Arc<Web>> {
    Router::new()
        .route("/session", get(session))
        .route("/places", get(super::places::places))
        .route("/clips", get(clips_get).post(clips_post))
        .route("/clips.csv", get(super::stream::csv))
        .route("/clips.geojson", get(super::stream::geojson))
        .route("/timeline", get(super::timeline::timeline))
        .route("/coverage", get(super::timeline::coverage))
        .route("/clips/{id}", get(clip))
        .route("/clips/{id}/video.mp4", get(clip_video))
        .route("/clips/{id}/copy.mp4", get(super::copies::clip_copy))
        .route("/clips/{id}/thumbnail.jpg", get(clip_thumbnail))
        .route("/understand", get(ask::understand))
        .route("/suggest", get(ask::suggest))
        .route("/cameras", get(ask::cameras))
        .route("/follow", post(ask::follow))
        .route("/footage-requests", post(ask::footage_request))
        .route("/events", get(super::events::events))
        .route("/boxes", get(boxes))
        .route("/lighting", get(super::lighting::lighting))
        .route("/boxes/{id}/enrol", post(super::enrol::enrol))
        .route("/boxes/{id}/invitation", post(super::enrol::invite))
        .route("/boxes/{id}/revoke", post(super::enrol::revoke))
        .route("/boxes/{id}/config", get(super::enrol::config).put(super::enrol::set_config))
        .route("/fleet", get(super::fleet::fleet))
        .route("/fleet/rollup", get(super::fleet::rollup::rollup))
        .route("/fleet/report", get(super::fleet::report))
        .route("/fleet/report.csv", get(super::fleet::report_csv))
        .route("/devices/{id}", get(super::fleet::device))
        .route("/devices/{id}/service", post(super::fleet::service))
        .route("/devices/{id}/still", post(super::fleet::still::still))
        .route("/devices/{id}/view", post(super::fleet::still::view))
        .route("/devices/{id}/lamp", post(super::lamp::lamp))
        .route("/work-orders", get(super::fleet::orders).post(super::fleet::open_order))
        .route("/work-orders/{id}", get(super::fleet::order).post(super::fleet::act))
        .route("/work-orders/{id}/photos", post(super::fleet::photo::take))
        .route("/work-orders/{id}/photos/{sha256}", get(super::fleet::photo::show))
        .route("/refused", get(refused))
        .route("/refused/replay", post(replay))
        .route("/access", get(access))
        .route("/index", get(index))
        .route("/index/rebuild", post(index_rebuild))
}

/// Who asks, and why: the header says it, or the query's `purpose`.
pub struct Looker {
    purpose: Option<String>,
    remote: Option<SocketAddr>,
}

impl FromRequestParts<Arc<Web>> for Looker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _web: &Arc<Web>) -> Result<Self, Problem> {
        let header = parts.headers.get(PURPOSE_HEADER).map(|v| purpose_from_header(v.as_bytes()));
        let remote = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|c| c.0);
        Ok(Self { purpose: header, remote })
    }
}

impl Looker {
    /// What the header says.
    pub fn purpose(&self) -> Option<String> {
        self.purpose.clone().filter(|purpose| !purpose.trim().is_empty())
    }

    pub async fn pass(
        self,
        web: &Web,
        action: Action,
        purpose: Option<String>,
        subject: Value,
    ) -> Result<Pass, Problem> {
        let purpose = purpose.or(self.purpose).filter(|p| !p.trim().is_empty());
        if purpose.as_ref().is_some_and(|p| p.chars().count() > PURPOSE_CHARS_MAX) {
            return Err(Problem::bad_request(format!("purpose: at most {PURPOSE_CHARS_MAX} characters")));
        }
        let actor = Actor(web.actor.clone());
        let label = serde_json::to_value(action).ok();
        let label = label.as_ref().and_then(Value::as_str).unwrap_or_default();
        let result = web.gate.pass(Look { actor, action, purpose, subject, remote: self.remote }).await;
        let decision = if result.is_ok() { "allowed" } else { "refused" };
        web.metrics.looks.with_label_values(&[label, decision]).inc();
        result.map_err(Problem::from)
    }
}

pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    Query::<T>::try_from_uri(uri).map(|q| q.0).map_err(|error| {
        // axum's own text says no more than "failed", and the cause does not name the key.
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let key = wrong_key::<T>(uri).map_or(String::new(), |key| format!("{key}: "));
        Problem::bad_request(format!("query: {key}{cause}"))
    })
}

/// What stands in the path; an address that can't be read is one that does not exist.
pub struct InPath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Web>> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, web).await;
        path.map(|Path(value)| Self(value)).map_err(|e| Problem::not_found(format!("path: {e}")))
    }
}

/// The query's keys, told apart: those of `own`, and the others.
pub fn query_parts<A: DeserializeOwned, B: DeserializeOwned>(
    uri: &Uri,
    own: &[&str],
) -> Result<(A, B), Problem> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let is_own = |pair: &&str| pair.split('=').next().is_some_and(|key| own.contains(&key));
    let (own, rest): (Vec<&str>, Vec<&str>) = pairs.partition(is_own);
    let part = |pairs: Vec<&str>| {
        let uri = format!("/?{}", pairs.join("&")).parse::<Uri>();
        uri.map_err(|error| Problem::bad_request(format!("query: {error}")))
    };
    Ok((query(&part(own)?)?, query(&part(rest)?)?))
}

/// The first key that can't be read even alone.
fn wrong_key<T: DeserializeOwned>(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| {
        let alone: Uri = format!("/?{pair}").parse().ok()?;
        let key = pair.split('=').next().filter(|key| !key.is_empty())?;
        Query::<T>::try_from_uri(&alone).is_err().then_some(key)
    })
}

/// The JSON body of a request, at most [`API_BODY_BYTES_MAX`] long.
pub async fn json_body<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = to_bytes(body, API_BODY_BYTES_MAX).await.map_err(|_| {
        let detail = format!("a question has at most {API_BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let mut reader = serde_json::Deserializer::from_slice(&body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // Where the cause is the whole body, the path says nothing.
        let key = Some(error.path().to_string()).filter(|path| path != ".");
        let key = key.map_or(String::new(), |key| format!("{key}: "));
        Problem::bad_request(format!("body: {key}{}", error.inner()))
    })?;
    reader.end().map_err(|e| Problem::bad_request(format!("body: {e}")))?;
    Ok(value)
}

pub fn clip_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::not_found("there is no such clip: its id is no UUID"))
}

pub fn page_limit(asked: Option<usize>, usual: usize, most: usize) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(usual);
    if (1..=most).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::bad_request(format!("limit: 1 to {most}")))
    }
}

// --- session ---

#[derive(Serialize, ToSchema)]
pub struct Session {
    actor: String,
    demo: bool,
    version: &'static str,
    #[schema(value_type = String, format = DateTime)]
    time: Time,
}

/// Who is looking, and the hub's time.
#[utoipa::path(get, path = "/api/v1/session", responses((status = 200, body = Session)))]
pub async fn session(State(web): App) -> Json<Session> {
    let version = env!("CARGO_PKG_VERSION");
    Json(Session { actor: web.actor.clone(), demo: web.demo, version, time: Time::now() })
}

// --- clips ---

/// Clips by time and place, with the account of every camera there. With `Accept: application/x-ndjson` it is told as it
/// comes, one JSON object a line.
#[utoipa::path(get, path = "/api/v1/clips", params(Asked),
    responses((status = 200, content((Answer = "application/json"), (String = "application/x-ndjson"))),
        (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn clips_get(
    State(web): App,
    looker: Looker,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    search(web, looker, &headers, query(&uri)?).await
}

/// As GET, with the question as a body.
#[utoipa::path(post, path = "/api/v1/clips", request_body = Asked,
    responses((status = 200, content((Answer = "application/json"), (String = "application/x-ndjson"))),
        (status = 400, body = Problem), (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn clips_post(
    State(web): App,
    looker: Looker,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    search(web, looker, &headers, json_body(body).await?).await
}

/// A question about clips that passed the gate.
pub struct Allowed {
    pub pass: Pass,
    pub question: Question,
    pub atlas: Arc<Atlas>,
    pub now: Time,
}

impl Allowed {
    /// `form` is what the answer is, where it is not the plain one.
    pub async fn of(web: &Web, looker: Looker, asked: Asked, form: Option<&str>) -> Result<Self, Problem> {
        let (now, atlas) = (Time::now(), web.atlas().await);
        let question = Question::understand(&asked, &atlas, now)?;
        let mut subject = question.subject();
        if let Some(form) = form {
            subject["form"] = json!(form);
        }
        let pass = looker.pass(web, Action::Search, asked.purpose, subject).await?;
        Ok(Self { pass, question, atlas, now })
    }
}

async fn search(
    web: Arc<Web>,
    looker: Looker,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Response, Problem> {
    if super::stream::wants_lines(headers) {
        return super::stream::lines(web, looker, asked).await;
    }
    let Allowed { pass, question, atlas, now } = Allowed::of(&web, looker, asked, None).await?;
    let answer = blocking(move || web.search().answer(&pass, &question, &atlas, now)).await?;
    Ok(Json(answer).into_response())
}

/// Why somebody looks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PurposeQuery {
    pub purpose: Option<String>,
}

/// One clip.
#[utoipa::path(get, path = "/api/v1/clips/{id}", params(("id" = Uuid, Path), PurposeQuery),
    responses((status = 200, body = ClipView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn clip(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    uri: Uri,
) -> Answered<ClipView> {
    let (id, purpose) = (clip_id(&id)?, query::<PurposeQuery>(&uri)?.purpose);
    let pass = looker.pass(&web, Action::Clip, purpose, json!({ "clip": id })).await?;
    let (web, atlas) = (web.clone(), web.atlas().await);
    let clip = blocking(move || web.search().clip(&pass, id, &atlas)).await?;
    clip.map(Json).ok_or_else(|| Problem::not_found("there is no such clip"))
}

/// The clip's footage, as recorded. Takes one byte range.
#[utoipa::path(get, path = "/api/v1/clips/{id}/video.mp4", params(("id" = Uuid, Path), PurposeQuery),
    responses((status = 200, content_type = "video/mp4"), (status = 206, content_type = "video/mp4"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 416, body = Problem),
        (status = 503, body = Problem)))]
pub async fn clip_video(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    footage(web, looker, &id, headers, uri, Action::View).await
}

/// The clip's still picture.
#[utoipa::path(get, path = "/api/v1/clips/{id}/thumbnail.jpg", params(("id" = Uuid, Path), PurposeQuery),
    responses((status = 200, content_type = "image/jpeg"), (status = 206, content_type = "image/jpeg"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 416, body = Problem),
        (status = 503, body = Problem)))]
pub async fn clip_thumbnail(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    footage(web, looker, &id, headers, uri, Action::Thumbnail).await
}

async fn footage(
    web: Arc<Web>,
    looker: Looker,
    id: &str,
    headers: HeaderMap,
    uri: Uri,
    action: Action,
) -> Result<Response, Problem> {
    let (id, purpose) = (clip_id(id)?, query::<PurposeQuery>(&uri)?.purpose);
    let catalog = web.catalog.clone();
    let found = blocking(move || catalog.clip(id)).await?;
    let file: Option<(Sha256Hash, u64)> = match (&found, action) {
        (Some(row), Action::Thumbnail) => {
            row.thumbnail.as_ref().filter(|_| row.thumbnail_stored).map(|t| (t.sha256, t.bytes))
        }
        (Some(row), _) => row.stored.then_some((row.sha256, row.bytes)),
        (None, _) => None,
    };
    let wanted = file.map_or(Wanted::All, |(sha256, bytes)| video::wanted(&headers, &sha256, bytes));
    let range = match wanted {
        Wanted::Part(first, last) => json!([first, last]),
        Wanted::All | Wanted::None => Value::Null,
    };
    let pass = looker.pass(&web, action, purpose, json!({ "clip": id, "range": range })).await?;
    let Some((sha256, bytes)) = file else {
        let detail = match found {
            Some(_) => "the hub does not have this file; it is on the box",
            None => "there is no such clip",
        };
        return Err(Problem::not_found(detail));
    };
    let kind = if action == Action::Thumbnail { "image/jpeg" } else { "video/mp4" };
    video::answer(&pass, &web.clips, &sha256, bytes, kind, wanted).await
}

// --- for the technician ---

#[derive(Serialize, ToSchema)]
pub struct Boxes {
    boxes: Vec<BoxView>,
}

#[derive(Serialize, ToSchema)]
pub struct BoxView {
    id: String,
    /// When the hub last took something from it; null if never.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<bool>,
    /// Newest first.
    certificates: Vec<CertificateView>,
    /// What the hub set for it; absent if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    setting: Option<SettingView>,
    epochs: Vec<EpochView>,
}

#[derive(Serialize, ToSchema)]
pub struct EpochView {
    epoch: String,
    /// Highest sequence that came.
    upto: u64,
    /// Sequences below it that did not come.
    missing: u64,
    refused: u64,
    conflicts: u64,
}

/// Every box of the registry, and every other one that ever spoke or was enrolled: its certificates, what it runs with,
/// and what came of it.
#[utoipa::path(get, path = "/api/v1/boxes", responses((status = 200, body = Boxes), (status = 503, body = Problem)))]
pub async fn boxes(State(web): App) -> Answered<Boxes> {
    let catalog = web.catalog.clone();
    let rows = blocking(move || catalog.boxes()).await?;
    let mut boxes: BTreeMap<BoxId, BoxView> = BTreeMap::new();
    let view = |id: &BoxId, last_seen| {
        let (certificates, setting) = certificates_of(&web, id);
        let online = web.status.online(id);
        BoxView { id: id.to_string(), last_seen, online, certificates, setting, epochs: Vec::new() }
    };
    let enrolled = web.enrol.look(|known| known.boxes.keys().cloned().collect::<Vec<_>>());
    for id in web.registry.history().boxes().into_iter().chain(enrolled) {
        boxes.insert(id.clone(), view(&id, None));
    }
    for row in rows {
        let epochs = row.epochs.iter().map(|e| EpochView {
            epoch: e.epoch.to_string(),
            upto: e.upto,
            missing: e.missing,
            refused: e.refused,
            conflicts: e.conflicts,
        });
        let epochs = epochs.collect();
        boxes.insert(row.box_id.clone(), BoxView { epochs, ..view(&row.box_id, Some(row.last_seen)) });
    }
    Ok(Json(Boxes { boxes: boxes.into_values().collect() }))
}

#[derive(Debug, Clone, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RefusedQuery {
    #[param(value_type = Option<String>)]
    r#box: Option<BoxId>,
    /// For instance `bad_time`.
    reason: Option<String>,
    /// Arrived at this time or later.
    #[param(value_type = Option<String>)]
    from: Option<Time>,
    /// Arrived at this time or earlier.
    #[param(value_type = Option<String>)]
    to: Option<Time>,
    limit: Option<usize>,
    page: Option<String>,
    purpose: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct RefusedList {
    refused: Vec<RefusedView>,
    /// All that was ever set aside for these boxes and reasons.
    counts: Vec<RefusedCountView>,
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct RefusedView {
    #[serde(rename = "box")]
    box_id: String,
    #[schema(value_type = String, format = DateTime)]
    received: Time,
    reason: String,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// Its beginning: as text if it is text, else in hexadecimal digits.
    body: String,
    /// `text` or `hex`.
    #[schema(value_type = String)]
    body_as: &'static str,
    body_bytes: u64,
}

impl From<RefusedRow> for RefusedView {
    fn from(row: RefusedRow) -> Self {
        let (body, body_as) = match text_of(&row.body, row.body_bytes) {
            Some(text) => (text.to_owned(), "text"),
            None => (hex::encode(&row.body), "hex"),
        };
        Self {
            box_id: row.box_id.to_string(),
            received: row.received,
            reason: row.reason,
            detail: row.detail,
            epoch: row.epoch.map(|e| e.to_string()),
            sequence: row.sequence,
            body,
            body_as,
            body_bytes: row.body_bytes,
        }
    }
}

/// The body as text, if it is that. The index keeps only its beginning, which may end within a character.
fn text_of(body: &[u8], body_bytes: u64) -> Option<&str> {
    match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && body_bytes > body.len() as u64 => {
            std::str::from_utf8(&body[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

#[derive(Serialize, ToSchema)]
pub struct RefusedCountView {
    #[serde(rename = "box")]
    box_id: String,
    reason: String,
    count: u64,
}

/// What was set aside, newest first, and how much of it there is.
#[utoipa::path(get, path = "/api/v1/refused", params(RefusedQuery),
    responses((status = 200, body = RefusedList), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn refused(State(web): App, looker: Looker, uri: Uri) -> Answered<RefusedList> {
    let asked: RefusedQuery = query(&uri)?;
    let limit = page_limit(asked.limit, PAGE_LIST, PAGE_LIST_MAX)?;
    let digest = digest_of(&RefusedQuery { page: None, limit: None, purpose: None, ..asked.clone() });
    let token = asked.page.as_deref().map(|text| Token::<u64>::read(text, digest)).transpose()?;
    let range = TimeRange { from: asked.from.unwrap_or(Time::MIN), to: asked.to.unwrap_or(Time::MAX) };
    let subject = json!({ "box": asked.r#box, "reason": asked.reason, "from": asked.from, "to": asked.to,
        "limit": limit });
    let pass = looker.pass(&web, Action::Refused, asked.purpose, subject).await?;
    let query = catalog::RefusedQuery {
        box_id: asked.r#box,
        reason: asked.reason,
        range,
        before: token.map(|t| t.after),
        limit,
    };
    let (page, counts) = blocking(move || web.search().refused(&pass, &query)).await?;
    let next = page.next.map(|before| Token::new(digest, Time::now(), before).write());
    let counts = counts.into_iter().map(|c| RefusedCountView {
        box_id: c.box_id.to_string(),
        reason: c.reason,
        count: c.count,
    });
    let refused = page.rows.into_iter().map(RefusedView::from).collect();
    Ok(Json(RefusedList { refused, counts: counts.collect(), next }))
}

/// Offers again what was set aside, after an update or a change of the registry: what can be taken now becomes events.
#[utoipa::path(post, path = "/api/v1/refused/replay", request_body = Filter,
    responses((status = 200, body = Replayed), (status = 400, body = Problem), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 503, body = Problem)))]
pub async fn replay(State(web): App, looker: Looker, headers: HeaderMap, body: Body) -> Answered<Replayed> {
    // Not a type that a page elsewhere could send from an officer's browser without asking first.
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        let detail = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let body = to_bytes(body, API_BODY_BYTES_MAX).await.map_err(|_| {
        let detail = format!("a filter has at most {API_BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let filter: Filter =
        serde_json::from_slice(&body).map_err(|e| Problem::bad_request(format!("body: {e}")))?;
    looker.pass(&web, Action::Replay, None, json!(filter)).await?;
    Ok(Json(blocking(move || (web.replay)(&filter)).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessQuery {
    limit: Option<usize>,
    purpose: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct AccessList {
    access: Vec<AccessRecord>,
}

/// Who looked at what, newest first; this look is the first.
#[utoipa::path(get, path = "/api/v1/access", params(AccessQuery),
    responses((status = 200, body = AccessList), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn access(State(web): App, looker: Looker, uri: Uri) -> Result<Response, Problem> {
    let asked: AccessQuery = query(&uri)?;
    let limit = page_limit(asked.limit, PAGE_LIST, PAGE_LIST_MAX)?;
    let pass = looker.pass(&web, Action::AccessLog, asked.purpose, json!({ "limit": limit })).await?;
    Ok(Json(AccessList { access: web.gate.list(&pass, limit) }).into_response())
}

/// How the index is, and how far a rebuild of it.
#[utoipa::path(get, path = "/api/v1/index", responses((status = 200, body = IndexReport)))]
pub async fn index(State(web): App) -> Json<IndexReport> {
    let rebuilder = web.rebuilder.clone();
    Json(blocking(move || rebuilder.report()).await)
}

/// What is said with a rebuild: so far nothing but `{}`. Asking for JSON keeps other sites' forms out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebuildAsked {}

/// Builds the index anew from the journal, beside the one in use, and puts it in its place.
#[utoipa::path(
    post,
    path = "/api/v1/index/rebuild",
    request_body = RebuildAsked,
    responses((status = 202, body = IndexReport), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 503, body = Problem))
)]
pub async fn index_rebuild(
    State(web): App,
    looker: Looker,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send {} as application/json"));
    }
    let body = to_bytes(body, API_BODY_BYTES_MAX)
        .await
        .map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a body of {} is enough"))?;
    let RebuildAsked {} =
        serde_json::from_slice(&body).map_err(|e| Problem::bad_request(format!("body: {e}")))?;
    looker.pass(&web, Action::Reindex, None, json!({})).await?;
    let rebuilder = web.rebuilder.clone();
    let report = blocking(move || rebuilder.start().map(|()| rebuilder.report())).await?;
    Ok((StatusCode::ACCEPTED, Json(report)).into_response())
}

impl From<RebuildError> for Problem {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Running => Self::new(StatusCode::CONFLICT, error.to_string()),
            RebuildError::Thread(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}
