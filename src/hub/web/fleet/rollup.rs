//! `/api/v1/fleet/rollup`: the fleet by area, street or site, with what is wrong in each. Reveals no footage.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{IncidentView, area_of, incident_view, kind_name, state_of};
use crate::hub::fleet::keeper::{Inner, state_name};
use crate::hub::fleet::work::{Order, Stage, mean_time_to_repair};
use crate::hub::registry::{History, Version};
use crate::hub::search::answer::PointView;
use crate::hub::search::geometry::{Bounds, Line, distance_to_line_m, line_from};
use crate::hub::web::api::{Answered, App, query};
use crate::hub::web::{Problem, blocking};
use crate::limits::{FLEET_PAGE_MAX, FLEET_STREET_M};
use crate::model::{AreaId, DeviceId, DeviceKind, DeviceState, Point, SiteId, Time};

/// How the fleet is told in groups.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RollupAsked {
    /// `area` (and those below it count too), `street` or `site`.
    #[param(value_type = String)]
    by: By,
    /// Only what stands in this area or below it.
    area: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Area,
    Street,
    Site,
}

/// The fleet in groups.
#[derive(Serialize, ToSchema)]
pub struct RollupView {
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// The ones with the most devices that don't work as they should first.
    groups: Vec<GroupView>,
    /// There are more groups than one answer holds: ask for one area.
    truncated: bool,
}

/// Devices of an area, a street or a site.
#[derive(Serialize, ToSchema, Default)]
pub struct GroupView {
    /// Absent for what stands on no street.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The area that the group lies in: an area's parent, a site's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<String>,
    /// Of a site.
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<PointView>,
    /// By kind and state, how many devices.
    totals: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Devices that are degraded, do not record or are unreachable.
    wrong: u64,
    /// Why: every cause that one of its devices suffers from.
    incidents: Vec<IncidentView>,
    orders_open: u64,
    /// Of all orders about its devices that were closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_time_to_repair_s: Option<u64>,
}

/// How the fleet is doing by area, street or site: where to go first.
#[utoipa::path(get, path = "/api/v1/fleet/rollup", params(RollupAsked),
    responses((status = 200, body = RollupView), (status = 400, body = Problem)))]
pub async fn rollup(State(web): App, uri: Uri) -> Answered<RollupView> {
    let RollupAsked { by, area } = query(&uri)?;
    let area = area_of(area.as_deref())?;
    let view = blocking(move || {
        let history = web.registry.history();
        let streets = if by == By::Street { streets_of_sites(&history) } else { Default::default() };
        web.fleet.look(|inner| groups(inner, &history, by, area.as_ref(), &streets))
    });
    Ok(Json(view.await))
}

/// The groups that each device belongs to, by their number.
type Memberships<'a> = BTreeMap<&'a DeviceId, Vec<usize>>;

fn groups(
    inner: &Inner,
    history: &History,
    by: By,
    area: Option<&AreaId>,
    streets: &BTreeMap<SiteId, String>,
) -> RollupView {
    let mut numbers: BTreeMap<Option<String>, usize> = BTreeMap::new();
    let mut members = Memberships::new();
    let mut groups: Vec<GroupView> = Vec::new();
    for (id, member) in &inner.roster.devices {
        if area.is_some_and(|area| !inner.roster.places.is_in(id, area)) {
            continue;
        }
        let state = state_of(inner, id);
        for name in names_of(inner, by, id, streets) {
            let number = *numbers.entry(name).or_insert_with_key(|name| {
                groups.push(named(history, by, name.clone()));
                groups.len() - 1
            });
            members.entry(id).or_default().push(number);
            groups[number].count(member.device.kind, state);
        }
    }
    tell_why(inner, &members, &mut groups);
    groups.sort_by(|a, b| b.wrong.cmp(&a.wrong).then_with(|| a.name.cmp(&b.name)));
    let truncated = groups.len() > FLEET_PAGE_MAX;
    groups.truncate(FLEET_PAGE_MAX);
    RollupView { at: Time::now(), groups, truncated }
}

/// The groups of a device; what stands on no street is in one without a name.
fn names_of(inner: &Inner, by: By, id: &DeviceId, streets: &BTreeMap<SiteId, String>) -> Vec<Option<String>> {
    let site = inner.roster.devices.get(id).map(|member| &member.device.site);
    match by {
        By::Area => inner.roster.places.areas_of(id).iter().map(|area| Some(area.to_string())).collect(),
        By::Street => vec![site.and_then(|site| streets.get(site).cloned())],
        By::Site => vec![site.map(SiteId::to_string)],
    }
}

/// Causes and orders of each group: each is looked at once, however many groups there are.
fn tell_why(inner: &Inner, members: &Memberships, groups: &mut [GroupView]) {
    let groups_of = |devices: &BTreeSet<DeviceId>| -> BTreeSet<usize> {
        devices.iter().filter_map(|id| members.get(id)).flatten().copied().collect()
    };
    for incident in inner.fleet.incidents() {
        for number in groups_of(&incident.devices) {
            groups[number].incidents.push(incident_view(inner, incident));
        }
    }
    let mut closed: BTreeMap<usize, Vec<&Order>> = BTreeMap::new();
    for order in inner.book.known.orders.all() {
        for number in groups_of(&order.devices) {
            match order.stage {
                Stage::Closed => closed.entry(number).or_default().push(order),
                _ => groups[number].orders_open += 1,
            }
        }
    }
    for (number, orders) in closed {
        let took = mean_time_to_repair(orders.into_iter());
        groups[number].mean_time_to_repair_s = took.map(|time| time.as_secs().max(0) as u64);
    }
}

impl GroupView {
    fn count(&mut self, kind: DeviceKind, state: DeviceState) {
        self.wrong += u64::from(super::is_wrong(state));
        *self.totals.entry(kind_name(kind)).or_default().entry(state_name(state)).or_default() += 1;
    }
}

/// A group's name and place, with nothing in it.
fn named(history: &History, by: By, id: Option<String>) -> GroupView {
    let mut view = GroupView { id, ..GroupView::default() };
    let Some(text) = view.id.clone() else { return view };
    match by {
        By::Area => {
            if let Some(area) = AreaId::new(&text).ok().and_then(|id| history.area(&id)) {
                view.name = Some(area.name.clone());
                view.within = area.parent.as_ref().map(AreaId::to_string);
            }
        }
        By::Street => {
            let street = history.streets().find(|(id, _)| id.to_string() == text);
            if let Some(Version { value, .. }) = street.and_then(|(_, versions)| versions.last()) {
                view.name = Some(value.name.clone());
                view.within = value.area.as_ref().map(AreaId::to_string);
            }
        }
        By::Site => {
            if let Some(site) = SiteId::new(&text).ok().and_then(|id| history.site(&id)) {
                view.name = Some(site.name.clone());
                view.within = Some(site.area.to_string());
                view.point = Some(PointView { lat: site.point.lat, lon: site.point.lon });
            }
        }
    }
    view
}

/// The street that each site stands on: the nearest one, if it is near.
fn streets_of_sites(history: &History) -> BTreeMap<SiteId, String> {
    let current = history.current();
    let streets: Vec<(String, Line, Bounds)> = current
        .streets
        .iter()
        .filter_map(|street| {
            let line = line_from(&street.line);
            let bounds = Bounds::of(&line)?.widened(FLEET_STREET_M);
            Some((street.id.to_string(), line, bounds))
        })
        .collect();
    let nearest = |point: Point| {
        let near = streets.iter().filter(|(_, _, bounds)| bounds.has(point));
        let by_distance = near.map(|(id, line, _)| (distance_to_line_m(point, line), id));
        let (metres, id) = by_distance.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (metres <= FLEET_STREET_M).then(|| id.clone())
    };
    current.sites.iter().filter_map(|site| Some((site.id.clone(), nearest(site.point)?))).collect()
}
