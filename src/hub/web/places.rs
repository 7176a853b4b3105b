//! `/api/v1/places`: the registry as it is now, for the map. Reveals no footage, so no gate stands before it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::api::App;
use crate::hub::search::answer::{PointView, ViewView};
use crate::hub::search::geometry::{Line, Polygon, line_from, polygon_from};
use crate::model::{Area, AreaId, Device, DeviceKind, LampCircuit, Site, Street, Time};

/// Lines and rings have longitude first, as in GeoJSON.
#[derive(Serialize, ToSchema)]
pub struct Places {
    areas: Vec<AreaPlace>,
    streets: Vec<StreetPlace>,
    sites: Vec<SitePlace>,
    devices: Vec<DevicePlace>,
}

#[derive(Serialize, ToSchema)]
pub struct AreaPlace {
    id: String,
    name: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    former_names: Vec<FormerNamePlace>,
    /// Its border as coordinates of a GeoJSON Polygon; rings are even-odd.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Vec<Vec<f64>>>)]
    boundary: Polygon,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Time>,
}

#[derive(Serialize, ToSchema)]
pub struct FormerNamePlace {
    name: String,
    #[schema(value_type = String, format = DateTime)]
    until: Time,
}

#[derive(Serialize, ToSchema)]
pub struct StreetPlace {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    area: Option<String>,
    #[schema(value_type = Vec<Vec<f64>>)]
    line: Line,
}

#[derive(Serialize, ToSchema)]
pub struct SitePlace {
    id: String,
    name: String,
    address: String,
    area: String,
    owner: String,
    point: PointView,
}

#[derive(Serialize, ToSchema)]
pub struct DevicePlace {
    id: String,
    name: String,
    /// `camera`, `lamp` or `gate`.
    #[schema(value_type = String)]
    kind: DeviceKind,
    site: String,
    #[serde(rename = "box")]
    box_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<ViewView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lamps: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    circuits: Vec<CircuitPlace>,
}

/// A circuit of a lighting cabinet, and the line that it lights.
#[derive(Serialize, ToSchema)]
pub struct CircuitPlace {
    circuit: u16,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lamps: Option<u32>,
    #[schema(value_type = Vec<Vec<f64>>)]
    route: Line,
}

/// Areas, streets, sites and devices as they are now.
#[utoipa::path(get, path = "/api/v1/places", responses((status = 200, body = Places)))]
pub async fn places(State(web): App) -> Json<Places> {
    let now = web.registry.history().current();
    Json(Places {
        areas: now.areas.into_iter().map(AreaPlace::from).collect(),
        streets: now.streets.into_iter().map(StreetPlace::from).collect(),
        sites: now.sites.into_iter().map(SitePlace::from).collect(),
        devices: now.devices.into_iter().map(DevicePlace::from).collect(),
    })
}

impl From<Area> for AreaPlace {
    fn from(a: Area) -> Self {
        let former = a.former_names.into_iter().map(|f| FormerNamePlace { name: f.name, until: f.until });
        Self {
            id: a.id.to_string(),
            name: a.name,
            kind: a.kind,
            parent: a.parent.as_ref().map(AreaId::to_string),
            former_names: former.collect(),
            boundary: polygon_from(&a.boundary),
            from: a.from,
            until: a.until,
        }
    }
}

impl From<Street> for StreetPlace {
    fn from(s: Street) -> Self {
        Self {
            id: s.id.to_string(),
            name: s.name,
            area: s.area.as_ref().map(AreaId::to_string),
            line: line_from(&s.line),
        }
    }
}

impl From<Site> for SitePlace {
    fn from(s: Site) -> Self {
        Self {
            id: s.id.to_string(),
            name: s.name,
            address: s.address,
            area: s.area.to_string(),
            owner: s.owner,
            point: PointView { lat: s.point.lat, lon: s.point.lon },
        }
    }
}

impl From<Device> for DevicePlace {
    fn from(d: Device) -> Self {
        Self {
            id: d.id.to_string(),
            name: d.name,
            kind: d.kind,
            site: d.site.to_string(),
            box_id: d.box_id.to_string(),
            view: d.view.as_ref().map(ViewView::from),
            lamps: d.lamps,
            circuits: d.circuits.into_iter().map(CircuitPlace::from).collect(),
        }
    }
}

impl From<LampCircuit> for CircuitPlace {
    fn from(c: LampCircuit) -> Self {
        Self { circuit: c.circuit, name: c.name, lamps: c.lamps, route: line_from(&c.route) }
    }
}
