//! `/api/v1/lighting`: what lamps do, how long they burnt, and where streets lie dark. Reveals no footage.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::api::{Answered, App, query};
use super::fleet::{area_of, month_of};
use super::{Problem, Web};
use crate::hub::fleet::burning::Burnt;
use crate::hub::fleet::circuit::Circuit;
use crate::hub::fleet::keeper::Inner;
use crate::hub::fleet::lighting::{DarkLamps, Darkness, Stretch, metres, stretches};
use crate::hub::fleet::roster::Member;
use crate::hub::fleet::sun::{Light, light};
use crate::hub::search::answer::PointView;
use crate::limits::LIGHTING_CIRCUITS_MAX;
use crate::model::{AreaId, DeviceId, DeviceKind, LampCircuit, Point, Time, Trouble};

/// Which lamps, and which month's sums.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LightingAsked {
    /// Lamps of this area and of those below it.
    area: Option<String>,
    /// `2026-11`; this month, if absent.
    month: Option<String>,
}

/// The ward's light.
#[derive(Serialize, ToSchema)]
pub struct LightingView {
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    month: String,
    /// Metres of street by darkness: `dark`, `partly`, `unknown` (nothing is heard of the lamps).
    #[schema(value_type = Object)]
    metres: BTreeMap<Darkness, f64>,
    /// The longest dark one first.
    stretches: Vec<StretchView>,
    circuits: Vec<CircuitView>,
    /// There are more circuits than are shown: ask for an area.
    truncated: bool,
}

/// Lamps next to each other that don't give their light.
#[derive(Serialize, ToSchema)]
pub struct StretchView {
    #[schema(value_type = String)]
    darkness: Darkness,
    #[schema(value_type = String, format = DateTime)]
    since: Time,
    length_m: f64,
    lamps: Vec<DarkView>,
}

#[derive(Serialize, ToSchema)]
pub struct DarkView {
    #[schema(value_type = String)]
    device: DeviceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<u16>,
    name: String,
    route: Vec<PointView>,
}

/// One circuit of a cabinet, or one lamp.
#[derive(Serialize, ToSchema)]
pub struct CircuitView {
    #[schema(value_type = String)]
    device: DeviceId,
    circuit: u16,
    name: String,
    /// Absent until something was heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_w: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    heard: Option<Time>,
    /// `day`, `night` or `between` at its place now.
    #[serde(skip_serializing_if = "Option::is_none")]
    light: Option<&'static str>,
    #[schema(value_type = Vec<String>)]
    troubles: Vec<Value>,
    lamps: Option<u32>,
    route: Vec<PointView>,
    /// Of the month: time of which something is known, in which it burnt, and in which it burnt by day; what it drew.
    known_s: u64,
    burnt_s: u64,
    by_day_s: u64,
    energy_kwh: f64,
}

/// Lamps, their hours and their energy, and dark stretches of street.
#[utoipa::path(get, path = "/api/v1/lighting", params(LightingAsked),
    responses((status = 200, body = LightingView), (status = 400, body = Problem)))]
pub async fn lighting(State(web): App, uri: Uri) -> Answered<LightingView> {
    let asked: LightingAsked = query(&uri)?;
    let area = area_of(asked.area.as_deref())?;
    let at = Time::now();
    let (month, (from, _)) = month_of(asked.month.as_deref(), at)?;
    let view = super::blocking(move || made(&web, area.as_ref(), at, (month, from)));
    Ok(Json(view.await))
}

fn made(web: &Web, area: Option<&AreaId>, at: Time, (month, from): (String, Time)) -> LightingView {
    let view = web.fleet.look(|inner| {
        let lamps = inner.roster.devices.iter().filter(|(id, member)| {
            member.device.kind == DeviceKind::Lamp
                && area.is_none_or(|area| inner.roster.places.is_in(id, area))
        });
        let (mut circuits, mut dark) = (Vec::new(), Vec::new());
        for (id, member) in lamps {
            for part in parts(inner, id, member) {
                dark.extend(part.dark(inner));
                circuits.push(part.view(inner, from, at));
            }
        }
        let truncated = circuits.len().max(dark.len()) > LIGHTING_CIRCUITS_MAX;
        circuits.truncate(LIGHTING_CIRCUITS_MAX);
        (circuits, dark, truncated)
    });
    let (circuits, dark, truncated) = view;
    // Joining looks at all pairs of what is dark; a whole city in the dark is one outage, not a thousand stretches.
    let stretches = stretches(dark.into_iter().take(LIGHTING_CIRCUITS_MAX).collect());
    let metres = metres(&stretches);
    let stretches = stretches.into_iter().map(stretch_view).collect();
    LightingView { at, month, metres, stretches, circuits, truncated }
}

/// A circuit as the registry has it, as it was told, or both.
struct Part<'a> {
    id: &'a DeviceId,
    member: &'a Member,
    number: u16,
    known: Option<&'a LampCircuit>,
    told: Option<&'a Circuit>,
}

fn parts<'a>(inner: &'a Inner, id: &'a DeviceId, member: &'a Member) -> Vec<Part<'a>> {
    let told = inner.fleet.facts.devices.get(id).map(|facts| &facts.circuits);
    let mut numbers: Vec<u16> = member.device.circuits.iter().map(|circuit| circuit.circuit).collect();
    numbers.extend(told.into_iter().flatten().map(|(&number, _)| number));
    // One of which nothing is known at all has one lamp.
    if numbers.is_empty() {
        numbers.push(1);
    }
    numbers.sort_unstable();
    numbers.dedup();
    let known = |number| member.device.circuits.iter().find(|circuit| circuit.circuit == number);
    let told = |number| told.and_then(|circuits| circuits.get(&number));
    numbers
        .into_iter()
        .map(|number| Part { id, member, number, known: known(number), told: told(number) })
        .collect()
}

impl Part<'_> {
    fn name(&self) -> String {
        self.known.map_or_else(|| self.member.device.name.clone(), |circuit| circuit.name.clone())
    }

    fn route(&self) -> Vec<Point> {
        let line = self.known.map(|circuit| circuit.route.iter().copied().map(Point::from).collect());
        line.filter(|line: &Vec<Point>| !line.is_empty())
            .unwrap_or_else(|| self.member.point.into_iter().collect())
    }

    /// Its troubles, and those of its cabinet that concern all circuits.
    fn troubles(&self, inner: &Inner) -> Vec<(Trouble, Time)> {
        let of_cabinet = |trouble: Trouble| {
            matches!(
                trouble,
                Trouble::BoxSilent | Trouble::Silent | Trouble::CabinetUnreachable | Trouble::CabinetFault
            )
        };
        let standing = inner.fleet.device(self.id).map(|standing| standing.troubles()).unwrap_or_default();
        let own = self.told.into_iter().flat_map(|circuit| &circuit.troubles);
        let own = own.map(|(&trouble, &since)| (trouble, since));
        let mut all: Vec<_> = standing.into_iter().filter(|(trouble, _)| of_cabinet(*trouble)).collect();
        all.extend(own.filter(|(trouble, _)| !of_cabinet(*trouble)));
        all
    }

    fn dark(&self, inner: &Inner) -> Option<DarkLamps> {
        let of = self.troubles(inner).into_iter();
        let (darkness, since) = of
            .filter_map(|(trouble, since)| Some((Darkness::of(trouble)?, since)))
            .max_by_key(|(d, _)| *d)?;
        let (device, circuit) = (self.id.clone(), Some(self.number));
        Some(DarkLamps { device, circuit, name: self.name(), darkness, since, route: self.route() })
    }

    fn view(&self, inner: &Inner, month: Time, at: Time) -> CircuitView {
        let word = self.told.map(|circuit| &circuit.word);
        let month = crate::hub::fleet::book::month_of(month);
        let key = (self.id.clone(), self.number);
        let mut burnt = inner
            .book
            .known
            .burnt
            .get(&key)
            .and_then(|months| months.get(&month))
            .copied()
            .unwrap_or_default();
        // What is not written down yet belongs to this month.
        if month == crate::hub::fleet::book::month_of(at) {
            burnt.add(&self.told.map(|circuit| circuit.burning.so_far()).unwrap_or_default());
        }
        let Burnt { known_s, burnt_s, by_day_s, energy_kwh } = burnt;
        CircuitView {
            device: self.id.clone(),
            circuit: self.number,
            name: self.name(),
            on: word.map(|word| word.what.on),
            power_w: word.and_then(|word| word.what.power_w),
            heard: word.map(|word| word.at),
            light: self.member.point.map(|point| {
                match light(point, at, crate::hub::fleet::core::LIGHT_MARGIN) {
                    Light::Day => "day",
                    Light::Night => "night",
                    Light::Between => "between",
                }
            }),
            troubles: self.troubles(inner).into_iter().map(|(trouble, _)| json!(trouble)).collect(),
            lamps: self.known.and_then(|circuit| circuit.lamps),
            route: views(self.route()),
            known_s,
            burnt_s,
            by_day_s,
            energy_kwh,
        }
    }
}

fn views(route: Vec<Point>) -> Vec<PointView> {
    route.into_iter().map(|point| PointView { lat: point.lat, lon: point.lon }).collect()
}

fn stretch_view(stretch: Stretch) -> StretchView {
    let Stretch { darkness, since, length_m, lamps } = stretch;
    let lamps = lamps.into_iter().map(|lamps| {
        let DarkLamps { device, circuit, name, route, .. } = lamps;
        DarkView { device, circuit, name, route: views(route) }
    });
    StretchView { darkness, since, length_m, lamps: lamps.collect() }
}
