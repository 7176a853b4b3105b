//! `/api/v1/fleet`, `/devices/{id}`, `/work-orders`: how devices are doing and what is done about it. Parses, passes the
//! gate where somebody acts, calls, renders. Reveals no footage.

pub mod photo;
pub mod rollup;
pub mod still;

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::api::{Answered, App, InPath, Looker, json_body, page_limit, query};
use super::{Problem, Web};
use crate::hub::access::Action;
use crate::hub::fleet::availability::{self, Availability, States};
use crate::hub::fleet::cause::{Cause, Incident};
use crate::hub::fleet::cover;
use crate::hub::fleet::facts::Said;
use crate::hub::fleet::keeper::{ActError, Inner, state_name};
use crate::hub::fleet::roster::Member;
use crate::hub::fleet::standing::Decided;
use crate::hub::fleet::work::{Act, Order, Stage, What, WorkError, mean_time_to_repair};
use crate::hub::registry::History;
use crate::hub::search::answer::PointView;
use crate::hub::search::atlas::Atlas;
use crate::hub::search::names::fold_marks;
use crate::hub::search::question::check_text;
use crate::hub::search::when::ZONE;
use crate::limits::{FLEET_PAGE, FLEET_PAGE_MAX, WORK_TEXT_CHARS_MAX};
use crate::model::{AreaId, DeviceId, DeviceKind, DeviceState, Time};

/// Which part of the fleet.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FleetAsked {
    /// Devices of this area and of those below it.
    area: Option<String>,
    /// `camera`, `lamp` or `gate`.
    #[param(value_type = Option<String>)]
    kind: Option<DeviceKind>,
    /// Only devices in this state; `wrong` for all that don't work as they should.
    state: Option<String>,
    /// Words that the device, its site or its address has; without marks is as good.
    q: Option<String>,
    limit: Option<usize>,
    /// The device behind which the page begins, from `next` of the page before.
    after: Option<String>,
}

/// How the fleet is doing.
#[derive(Serialize, ToSchema)]
pub struct FleetView {
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// By kind and state, how many devices; of all that were asked for.
    totals: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// One for each cause, the ones with the most devices first.
    incidents: Vec<IncidentView>,
    devices: Vec<DeviceStateView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct IncidentView {
    #[schema(value_type = Object)]
    cause: Cause,
    #[schema(value_type = String)]
    trouble: Value,
    #[schema(value_type = String, format = DateTime)]
    since: Time,
    #[schema(value_type = Vec<String>)]
    devices: Vec<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Uuid>,
}

/// A device, and how it is doing.
#[derive(Serialize, ToSchema)]
pub struct DeviceStateView {
    #[schema(value_type = String)]
    id: DeviceId,
    name: String,
    #[schema(value_type = String)]
    kind: DeviceKind,
    site: String,
    #[serde(rename = "box")]
    box_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<PointView>,
    #[schema(value_type = String)]
    state: DeviceState,
    #[schema(value_type = String, format = DateTime)]
    since: Time,
    troubles: Vec<TroubleView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_heard: Option<Time>,
}

#[derive(Serialize, ToSchema)]
pub struct TroubleView {
    #[schema(value_type = String)]
    trouble: Value,
    #[schema(value_type = String, format = DateTime)]
    since: Time,
}

/// States of the fleet, causes first.
#[utoipa::path(get, path = "/api/v1/fleet", params(FleetAsked),
    responses((status = 200, body = FleetView), (status = 400, body = Problem)))]
pub async fn fleet(State(web): App, uri: Uri) -> Answered<FleetView> {
    let asked: FleetAsked = query(&uri)?;
    let limit = page_limit(asked.limit, FLEET_PAGE, FLEET_PAGE_MAX)?;
    let area = area_of(asked.area.as_deref())?;
    let wanted = wanted_state(asked.state.as_deref())?;
    let after = asked
        .after
        .as_deref()
        .map(DeviceId::new)
        .transpose()
        .map_err(|e| Problem::bad_request(format!("after: {e}")))?;
    let (at, words) = (Time::now(), words_of(asked.q.as_deref())?);
    let history = web.registry.history();
    let view = web.fleet.look(|inner| {
        let is_asked = |id: &DeviceId, member: &Member| {
            asked.kind.is_none_or(|kind| kind == member.device.kind)
                && area.as_ref().is_none_or(|area| inner.roster.places.is_in(id, area))
                && (words.is_empty() || has_words(&history, member, &words))
        };
        let mut totals: BTreeMap<&'static str, BTreeMap<&'static str, u64>> = BTreeMap::new();
        let (mut devices, mut next) = (Vec::new(), None);
        for (id, member) in &inner.roster.devices {
            if !is_asked(id, member) {
                continue;
            }
            let state = state_of(inner, id);
            *totals
                .entry(kind_name(member.device.kind))
                .or_default()
                .entry(state_name(state))
                .or_default() += 1;
            if !wanted(state) || after.as_ref().is_some_and(|after| id <= after) {
                continue;
            }
            if devices.len() == limit {
                next = next.or(devices.last().map(|last: &DeviceStateView| last.id.to_string()));
                continue;
            }
            devices.push(device_state(inner, id, member));
        }
        let concerns = |incident: &&Incident| {
            let members = incident.devices.iter().filter_map(|id| inner.roster.devices.get_key_value(id));
            members.into_iter().any(|(id, member)| is_asked(id, member))
        };
        let mut incidents: Vec<IncidentView> =
            inner.fleet.incidents().filter(concerns).map(|incident| incident_view(inner, incident)).collect();
        incidents.sort_by_key(|incident| (std::cmp::Reverse(incident.devices.len()), incident.since));
        FleetView { at, totals, incidents, devices, next }
    });
    Ok(Json(view))
}

/// One device's page.
#[derive(Serialize, ToSchema)]
pub struct DevicePage {
    #[serde(flatten)]
    state: DeviceStateView,
    /// What its box last said of it, and of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    health: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    box_health: Option<Value>,
    /// What its box found broken about it and not mended yet, by name.
    #[schema(value_type = Object)]
    faults: BTreeMap<String, Value>,
    /// The same of the box itself.
    #[schema(value_type = Object)]
    box_faults: BTreeMap<String, Value>,
    /// A gate as it was last told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    gate: Option<Value>,
    /// Circuits of a cabinet as they were last told.
    #[schema(value_type = Vec<Object>)]
    circuits: Vec<Value>,
    /// Newest first.
    states: Vec<StateView>,
    this_month: AvailabilityView,
    #[schema(value_type = Vec<Object>)]
    orders: Vec<Order>,
}

#[derive(Serialize, ToSchema)]
pub struct StateView {
    #[schema(value_type = String)]
    state: DeviceState,
    #[schema(value_type = String, format = DateTime)]
    since: Time,
}

/// How much of the time that counts.
#[derive(Serialize, ToSchema, Default)]
pub struct AvailabilityView {
    /// Seconds in each state.
    in_state_s: BTreeMap<&'static str, u64>,
    /// Share of the time in which it worked; absent if no time counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    working: Option<f64>,
    /// And in which it worked at least in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    doing: Option<f64>,
}

/// How a device is doing: state, health, history, work.
#[utoipa::path(get, path = "/api/v1/devices/{id}", params(("id" = String, Path)),
    responses((status = 200, body = DevicePage), (status = 404, body = Problem)))]
pub async fn device(State(web): App, InPath(id): InPath<String>) -> Answered<DevicePage> {
    let id = device_id(&id)?;
    let now = Time::now();
    let page = web.fleet.look(|inner| {
        let member = inner.roster.devices.get(&id)?;
        let facts = inner.fleet.facts.devices.get(&id);
        let of_box = inner.fleet.facts.boxes.get(&member.device.box_id);
        let states = states_of(inner, &id, member);
        let month = this_month(now);
        Some(DevicePage {
            state: device_state(inner, &id, member),
            health: facts
                .and_then(|facts| facts.health.as_ref())
                .map(|said| json!({ "at": said.at, "said": said.what })),
            box_health: of_box
                .and_then(|facts| facts.health.as_ref())
                .map(|said| json!({ "at": said.at, "said": said.what })),
            faults: facts.map(|facts| raised(&facts.faults)).unwrap_or_default(),
            box_faults: of_box.map(|facts| raised(&facts.faults)).unwrap_or_default(),
            gate: facts
                .and_then(|facts| facts.gate.as_ref())
                .map(|said| json!({ "at": said.at, "said": said.what })),
            circuits: facts
                .into_iter()
                .flat_map(|facts| facts.circuits.values())
                .map(|circuit| json!({ "at": circuit.word.at, "said": circuit.word.what }))
                .collect(),
            states: states
                .iter()
                .rev()
                .take(FLEET_PAGE)
                .map(|&(since, state)| StateView { state, since })
                .collect(),
            this_month: availability_view(&of_months(inner, &id, member, month, now)),
            orders: inner
                .book
                .known
                .orders
                .all()
                .filter(|order| order.devices.contains(&id))
                .cloned()
                .collect(),
        })
    });
    page.map(Json).ok_or_else(|| Problem::not_found(format!("the registry has no device {id}")))
}

fn raised(faults: &BTreeMap<String, Said<String>>) -> BTreeMap<String, Value> {
    let view = |said: &Said<String>| json!({ "since": said.at, "detail": said.what });
    faults
        .iter()
        .filter(|(_, said)| !said.what.is_empty())
        .map(|(name, said)| (name.clone(), view(said)))
        .collect()
}

/// Which part of the fleet, in which month.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportAsked {
    area: Option<String>,
    /// `2026-11`; this month if absent. Months are those of the ward's clock.
    month: Option<String>,
}

/// A month of an area.
#[derive(Serialize, ToSchema)]
pub struct ReportView {
    month: String,
    #[schema(value_type = String, format = DateTime)]
    from: Time,
    #[schema(value_type = String, format = DateTime)]
    to: Time,
    /// By kind of device.
    all: BTreeMap<&'static str, AvailabilityView>,
    /// By owner and kind.
    owners: BTreeMap<String, BTreeMap<&'static str, AvailabilityView>>,
    devices: Vec<DeviceReport>,
    /// Mean time from the beginning of a trouble to its proved end, of orders that were closed in the month.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_time_to_repair_s: Option<u64>,
    orders_closed: usize,
    orders_open: usize,
}

#[derive(Serialize, ToSchema)]
pub struct DeviceReport {
    #[schema(value_type = String)]
    id: DeviceId,
    name: String,
    #[schema(value_type = String)]
    kind: DeviceKind,
    site: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(flatten)]
    availability: AvailabilityView,
}

/// The area report of a month: how much of the time its devices did what they are there for.
#[utoipa::path(get, path = "/api/v1/fleet/report", params(ReportAsked),
    responses((status = 200, body = ReportView), (status = 400, body = Problem)))]
pub async fn report(State(web): App, uri: Uri) -> Answered<ReportView> {
    Ok(Json(report_of(&web, &query(&uri)?)?))
}

/// The devices of the area report as CSV.
#[utoipa::path(get, path = "/api/v1/fleet/report.csv", params(ReportAsked),
    responses((status = 200, content_type = "text/csv", body = String), (status = 400, body = Problem)))]
pub async fn report_csv(State(web): App, uri: Uri) -> Result<Response, Problem> {
    let report = report_of(&web, &query(&uri)?)?;
    let mut text = String::from(
        "device,name,kind,site,owner,working_share,doing_share,working_s,degraded_s,not_recording_s,unreachable_s,maintenance_s\r\n",
    );
    for device in &report.devices {
        let share = |share: Option<f64>| share.map_or(String::new(), |share| format!("{share:.4}"));
        let seconds =
            |state: DeviceState| device.availability.in_state_s.get(state_name(state)).copied().unwrap_or(0);
        let cells = [
            device.id.to_string(),
            cell(&device.name),
            kind_name(device.kind).to_owned(),
            cell(&device.site),
            cell(device.owner.as_deref().unwrap_or_default()),
            share(device.availability.working),
            share(device.availability.doing),
            seconds(DeviceState::Working).to_string(),
            seconds(DeviceState::Degraded).to_string(),
            seconds(DeviceState::NotRecording).to_string(),
            seconds(DeviceState::Unreachable).to_string(),
            seconds(DeviceState::Maintenance).to_string(),
        ];
        text += &cells.join(",");
        text += "\r\n";
    }
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
}

/// RFC 4180; what a spreadsheet would take for a formula is a text.
fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn report_of(web: &Web, asked: &ReportAsked) -> Result<ReportView, Problem> {
    let area = area_of(asked.area.as_deref())?;
    let now = Time::now();
    let (month, (from, to)) = month_of(asked.month.as_deref(), now)?;
    Ok(web.fleet.look(|inner| {
        let (mut all, mut owners) =
            (BTreeMap::<_, Availability>::new(), BTreeMap::<String, BTreeMap<_, Availability>>::new());
        let mut devices = Vec::new();
        for (id, member) in &inner.roster.devices {
            if area.as_ref().is_some_and(|area| !inner.roster.places.is_in(id, area)) {
                continue;
            }
            let of = of_months(inner, id, member, (from, to), now);
            let kind = kind_name(member.device.kind);
            all.entry(kind).or_default().add(&of);
            if let Some(owner) = &member.owner {
                owners.entry(owner.clone()).or_default().entry(kind).or_default().add(&of);
            }
            devices.push(DeviceReport {
                id: id.clone(),
                name: member.device.name.clone(),
                kind: member.device.kind,
                site: member.device.site.to_string(),
                owner: member.owner.clone(),
                availability: availability_view(&of),
            });
        }
        let ids: BTreeSet<&DeviceId> = devices.iter().map(|device| &device.id).collect();
        let concerns = |order: &&Order| order.devices.iter().any(|id| ids.contains(id));
        let orders: Vec<&Order> = inner.book.known.orders.all().filter(concerns).collect();
        let is_closed_then =
            |order: &&&Order| order.closed.is_some_and(|closed| from <= closed && closed < to);
        let closed: Vec<&Order> = orders.iter().filter(is_closed_then).copied().collect();
        let views = |of: BTreeMap<&'static str, Availability>| {
            of.iter().map(|(kind, of)| (*kind, availability_view(of))).collect()
        };
        ReportView {
            month,
            from,
            to,
            all: views(all),
            owners: owners.into_iter().map(|(owner, of)| (owner, views(of))).collect(),
            mean_time_to_repair_s: mean_time_to_repair(closed.iter().copied())
                .map(|time| time.as_secs().max(0) as u64),
            orders_closed: closed.len(),
            orders_open: orders.iter().filter(|order| order.stage != Stage::Closed).count(),
            devices,
        }
    }))
}

/// Which work orders.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OrdersAsked {
    area: Option<String>,
    /// `open` (what is not closed; if absent), `closed` or `all`.
    stage: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub struct OrderList {
    /// What leaves most unprotected first.
    orders: Vec<OrderView>,
}

#[derive(Serialize, ToSchema)]
pub struct OrderView {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    order: Order,
    /// Cameras that are not there because of it, times the hours since then. A camera whose view another working camera
    /// covers counts half.
    unprotected_camera_hours: f64,
    /// Its cameras, and how many of them no other working camera covers.
    cameras: usize,
    uncovered_cameras: usize,
}

/// Work orders.
#[utoipa::path(get, path = "/api/v1/work-orders", params(OrdersAsked),
    responses((status = 200, body = OrderList), (status = 400, body = Problem)))]
pub async fn orders(State(web): App, uri: Uri) -> Answered<OrderList> {
    let asked: OrdersAsked = query(&uri)?;
    let limit = page_limit(asked.limit, FLEET_PAGE, FLEET_PAGE_MAX)?;
    let area = area_of(asked.area.as_deref())?;
    let wanted: fn(Stage) -> bool = match asked.stage.as_deref() {
        None | Some("open") => |stage| stage != Stage::Closed,
        Some("closed") => |stage| stage == Stage::Closed,
        Some("all") => |_| true,
        Some(_) => return Err(Problem::bad_request("stage: open, closed or all")),
    };
    let (now, atlas) = (Time::now(), web.atlas().await);
    let mut orders = web.fleet.look(|inner| {
        let is_in = |order: &&Order| {
            let area = area.as_ref();
            area.is_none_or(|area| order.devices.iter().any(|id| inner.roster.places.is_in(id, area)))
        };
        let orders = inner.book.known.orders.all().filter(|order| wanted(order.stage)).filter(is_in);
        let mut orders: Vec<&Order> = orders.collect();
        // Of what is long past, the newest.
        orders.sort_by_key(|order| (order.stage == Stage::Closed, std::cmp::Reverse(order.opened)));
        orders.truncate(FLEET_PAGE_MAX);
        orders.into_iter().map(|order| order_view(inner, &atlas, order, now)).collect::<Vec<_>>()
    });
    orders.sort_by(|a, b| {
        b.unprotected_camera_hours
            .total_cmp(&a.unprotected_camera_hours)
            .then(a.order.since.cmp(&b.order.since))
    });
    orders.truncate(limit);
    Ok(Json(OrderList { orders }))
}

/// One act on a work order.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum ActAsked {
    /// Gives it to somebody; without `to` to nobody.
    Assign {
        to: Option<String>,
    },
    Note {
        text: String,
    },
    Part {
        name: String,
        count: u32,
    },
    /// It is mended; it closes when the next good probe proves it.
    Mended,
}

/// Writes down what somebody did about a work order.
#[utoipa::path(post, path = "/api/v1/work-orders/{id}", params(("id" = String, Path)), request_body = ActAsked,
    responses((status = 200, body = Object), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn act(State(web): App, looker: Looker, InPath(id): InPath<String>, body: Body) -> Answered<Order> {
    let asked: ActAsked = json_body(body).await?;
    let order = order_id(&id)?;
    looker.pass(&web, Action::Work, None, json!({ "order": order, "act": asked })).await?;
    let what = match asked {
        ActAsked::Assign { to } => What::Assign { to: to.filter(|to| !to.trim().is_empty()) },
        ActAsked::Note { text } => What::Note { text, photo: None },
        ActAsked::Part { name, count } => What::Part { name, count },
        ActAsked::Mended => What::Mended,
    };
    let act = act_of(&web, order, what);
    Ok(Json(super::blocking(move || web.fleet.act(act)).await?))
}

/// One work order.
#[utoipa::path(get, path = "/api/v1/work-orders/{id}", params(("id" = String, Path)),
    responses((status = 200, body = OrderView), (status = 404, body = Problem)))]
pub async fn order(State(web): App, InPath(id): InPath<String>) -> Answered<OrderView> {
    let (id, now, atlas) = (order_id(&id)?, Time::now(), web.atlas().await);
    let found = web.fleet.look(|inner| {
        let order = inner.book.known.orders.get(id)?;
        Some(order_view(inner, &atlas, order, now))
    });
    found.map(Json).ok_or_else(|| ActError::from(WorkError::Unknown(id)).into())
}

/// About which device somebody opens a work order.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenAsked {
    #[schema(value_type = String)]
    device: DeviceId,
}

/// The work order about what a device suffers from: opened now, or the one that there is.
#[utoipa::path(post, path = "/api/v1/work-orders", request_body = OpenAsked,
    responses((status = 200, body = Object), (status = 201, body = Object), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "nothing is found wrong with it"),
        (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn open_order(
    State(web): App,
    looker: Looker,
    body: Body,
) -> Result<(StatusCode, Json<Order>), Problem> {
    let asked: OpenAsked = json_body(body).await?;
    looker.pass(&web, Action::Work, None, json!({ "open": asked.device })).await?;
    let opened = super::blocking(move || web.fleet.open_order(&asked.device, &web.actor, Time::now()));
    let (order, is_new) = opened.await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(order)))
}

/// Whether a device is in service.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAsked {
    /// `in_use` or `maintenance`.
    #[schema(value_type = String)]
    service: Decided,
    why: String,
}

/// Takes a device out of service for maintenance, or back into it.
#[utoipa::path(post, path = "/api/v1/devices/{id}/service", params(("id" = String, Path)), request_body = ServiceAsked,
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn service(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let asked: ServiceAsked = json_body(body).await?;
    let device = device_id(&id)?;
    if asked.service == Decided::Retired {
        return Err(Problem::bad_request("service: a device is retired by taking it out of the registry"));
    }
    if asked.why.trim().is_empty() || asked.why.chars().count() > WORK_TEXT_CHARS_MAX {
        return Err(Problem::bad_request(format!("why: 1 to {WORK_TEXT_CHARS_MAX} characters")));
    }
    looker
        .pass(
            &web,
            Action::Work,
            None,
            json!({ "device": device, "service": asked.service, "why": asked.why }),
        )
        .await?;
    super::blocking(move || web.fleet.decide(&device, asked.service, &web.actor, asked.why.trim())).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ActError> for Problem {
    fn from(error: ActError) -> Self {
        match &error {
            ActError::NoDevice(_) | ActError::Work(WorkError::Unknown(_)) => {
                Self::not_found(error.to_string())
            }
            ActError::Well(_)
            | ActError::Work(WorkError::Closed(_) | WorkError::Known(_) | WorkError::Full) => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            ActError::Work(WorkError::Text) => Self::bad_request(error.to_string()),
            ActError::Journal(_) => Self::internal(StatusCode::SERVICE_UNAVAILABLE, &error),
        }
    }
}

fn zone() -> TimeZone {
    TimeZone::get(ZONE).unwrap_or(TimeZone::UTC)
}

/// A month, as it is asked for, with its beginning and end; this month, if nobody asks for one.
pub(super) fn month_of(asked: Option<&str>, now: Time) -> Result<(String, (Time, Time)), Problem> {
    let Some(text) = asked else {
        return Ok((now.to_zoned(zone()).strftime("%Y-%m").to_string(), this_month(now)));
    };
    let parsed = text
        .split_once('-')
        .and_then(|(y, m)| availability::month(y.parse().ok()?, m.parse().ok()?, &zone()));
    let month = parsed.ok_or_else(|| Problem::bad_request("month: write it as 2026-11"))?;
    Ok((text.to_owned(), month))
}

fn this_month(now: Time) -> (Time, Time) {
    let today = now.to_zoned(zone()).date();
    availability::month(today.year(), today.month(), &zone()).unwrap_or((now, now))
}

/// What a device's time came to; what is to come counts for nothing.
fn of_months(
    inner: &Inner,
    id: &DeviceId,
    member: &Member,
    (from, to): (Time, Time),
    now: Time,
) -> Availability {
    Availability::of(&states_of(inner, id, member), from, to.min(now))
}

/// Oldest first. Until something else was told, it worked.
fn states_of(inner: &Inner, id: &DeviceId, member: &Member) -> States {
    let known = inner.book.known.states.get(id).map_or(&[][..], Vec::as_slice);
    let mut states = vec![(member.from, DeviceState::Working)];
    states.extend(known.iter().copied().filter(|&(since, _)| since >= member.from));
    states
}

fn availability_view(of: &Availability) -> AvailabilityView {
    let shares = of.shares();
    AvailabilityView {
        in_state_s: of
            .in_state
            .iter()
            .map(|(&state, time)| (state_name(state), time.as_secs().max(0) as u64))
            .collect(),
        working: shares.map(|(working, _)| working),
        doing: shares.map(|(_, doing)| doing),
    }
}

fn order_view(inner: &Inner, atlas: &Atlas, order: &Order, now: Time) -> OrderView {
    let until = order.closed.unwrap_or(now);
    let hours = until.duration_since(order.since).as_secs_f64().max(0.0) / 3600.0;
    let is_camera = |id: &&DeviceId| {
        inner.roster.devices.get(*id).is_some_and(|member| member.device.kind == DeviceKind::Camera)
    };
    let away: Vec<&DeviceId> = order.devices.iter().filter(is_camera).collect();
    // What suffers from the same is of no help.
    let works = |id: &DeviceId| !order.devices.contains(id) && state_of(inner, id) <= DeviceState::Degraded;
    let is_covered = |id: &&&DeviceId| cover::is_covered(atlas.cameras(), id, works, now);
    let covered = away.iter().filter(is_covered).count();
    let weight = cover::weight(away.len(), covered);
    OrderView {
        order: order.clone(),
        unprotected_camera_hours: weight * hours,
        cameras: away.len(),
        uncovered_cameras: away.len() - covered,
    }
}

fn order_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::not_found("there is no such work order: its id is no UUID"))
}

/// An act of whoever is at the console, now.
fn act_of(web: &Web, order: Uuid, what: What) -> Act {
    Act { order, time: Time::now(), actor: web.actor.clone(), what }
}

fn words_of(asked: Option<&str>) -> Result<Vec<String>, Problem> {
    let text = asked.unwrap_or_default();
    check_text("q", text)?;
    Ok(fold_marks(text).split_whitespace().map(str::to_owned).collect())
}

/// Whether all words stand in the names by which people know a device.
fn has_words(history: &History, member: &Member, words: &[String]) -> bool {
    let device = &member.device;
    let site = history.site(&device.site);
    let (name, address) = site.map_or(("", ""), |site| (&site.name, &site.address));
    let names = fold_marks(&format!("{} {} {} {name} {address}", device.id, device.name, device.box_id));
    words.iter().all(|word| names.contains(word.as_str()))
}

fn incident_view(inner: &Inner, incident: &Incident) -> IncidentView {
    IncidentView {
        cause: incident.cause.clone(),
        trouble: json!(incident.trouble),
        since: incident.since,
        devices: incident.devices.iter().cloned().collect(),
        order: inner.book.known.orders.open_about(&incident.cause).map(|order| order.id),
    }
}

fn state_of(inner: &Inner, id: &DeviceId) -> DeviceState {
    inner.fleet.device(id).map_or(DeviceState::Unreachable, |standing| standing.state)
}

fn device_state(inner: &Inner, id: &DeviceId, member: &Member) -> DeviceStateView {
    let standing = inner.fleet.device(id);
    let troubles = standing.map(|standing| standing.troubles()).unwrap_or_default();
    DeviceStateView {
        id: id.clone(),
        name: member.device.name.clone(),
        kind: member.device.kind,
        site: member.device.site.to_string(),
        box_id: member.device.box_id.to_string(),
        point: member.point.map(|point| PointView { lat: point.lat, lon: point.lon }),
        state: state_of(inner, id),
        since: standing.map_or(member.from, |standing| standing.since),
        troubles: troubles
            .into_iter()
            .map(|(trouble, since)| TroubleView { trouble: json!(trouble), since })
            .collect(),
        last_heard: inner.fleet.facts.devices.get(id).and_then(|facts| facts.rhythm.last()),
    }
}

fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Camera => "camera",
        DeviceKind::Lamp => "lamp",
        DeviceKind::Gate => "gate",
    }
}

pub(super) fn area_of(asked: Option<&str>) -> Result<Option<AreaId>, Problem> {
    asked.map(AreaId::new).transpose().map_err(|error| Problem::bad_request(format!("area: {error}")))
}

fn device_id(text: &str) -> Result<DeviceId, Problem> {
    DeviceId::new(text).map_err(|error| Problem::not_found(format!("there is no such device: {error}")))
}

fn wanted_state(asked: Option<&str>) -> Result<impl Fn(DeviceState) -> bool, Problem> {
    let wanted = match asked {
        None | Some("all" | "wrong") => None,
        Some(name) => Some(serde_json::from_value::<DeviceState>(json!(name)).map_err(|_| {
            Problem::bad_request(
                "state: working, degraded, not_recording, unreachable, maintenance, wrong or all",
            )
        })?),
    };
    let only_wrong = asked == Some("wrong");
    Ok(move |state: DeviceState| match wanted {
        Some(wanted) => state == wanted,
        None => !only_wrong || is_wrong(state),
    })
}

fn is_wrong(state: DeviceState) -> bool {
    matches!(state, DeviceState::Degraded | DeviceState::NotRecording | DeviceState::Unreachable)
}
