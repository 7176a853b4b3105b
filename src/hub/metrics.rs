//! The hub's figures for Prometheus, prefix `camnet_hub_`.
//!
//! Owns one registry for one hub, and one for figures of each box; a part adds its own by [`HubMetrics::registry`]. May
//! not label by anything that an outsider can make up without bound, and in the first not by box or device.

use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

use crate::metrics::Part;

/// Every figure of search, uploads and the listeners.
#[derive(Clone)]
pub struct HubMetrics {
    registry: Registry,
    of_each: Registry,
    /// Answered requests by listener, route and status.
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    /// Uploads by how they ended: `stored`, `known`, `wrong_hash`, `stale`.
    pub uploads: IntCounterVec,
    pub upload_bytes: IntCounter,
    pub uploads_open: IntGauge,
    /// Looks by action and decision.
    pub looks: IntCounterVec,
    /// Connections of boxes that failed before a request: `handshake`, `name`, `timeout`.
    pub box_connections_failed: IntCounterVec,
    pub box_connections: IntGauge,
    pub index_applied: IntGauge,
    pub journal_next: IntGauge,
    pub broker_up: IntGauge,
}

impl Default for HubMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl HubMetrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let part = Part::new(&registry, "camnet_hub_");
        let gauge = |name, help| part.gauge(name, help).expect("each figure is registered once");
        let counters = |name, help, labels: &[&str]| {
            part.counters(name, help, labels).expect("each figure is registered once")
        };
        let bytes = part.counter("upload_bytes_total", "Bytes that boxes uploaded");
        let seconds = part.histograms(
            "http_request_seconds",
            "Time to the answer's head",
            &["listener", "route"],
            vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
        );
        Self {
            of_each: Registry::new(),
            requests: counters("http_requests_total", "Answered requests", &["listener", "route", "status"]),
            request_seconds: seconds.expect("each figure is registered once"),
            uploads: counters("uploads_total", "Uploads by how they ended", &["result"]),
            upload_bytes: bytes.expect("each figure is registered once"),
            uploads_open: gauge("uploads_open", "Uploads that are not complete"),
            looks: counters("looks_total", "Looks at footage or results", &["action", "decision"]),
            box_connections_failed: counters(
                "box_connections_failed_total",
                "Connections of boxes that failed before a request",
                &["reason"],
            ),
            box_connections: gauge("box_connections", "Open connections of boxes"),
            index_applied: gauge("index_applied", "Next journal record to enter the index"),
            journal_next: gauge("journal_next", "Next record of the hub's journal"),
            broker_up: gauge("broker_up", "1 if the link to the broker is up"),
            registry,
        }
    }

    /// Where other parts of the hub register their own figures.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where parts register figures that have a series for each box or device. They have an address of their own: see
    /// [`super::fleet::device_figures`].
    pub fn of_each(&self) -> &Registry {
        &self.of_each
    }

    pub fn request(&self, listener: &str, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[listener, route, &status.to_string()]).inc();
        self.request_seconds.with_label_values(&[listener, route]).observe(took.as_secs_f64());
    }

    /// Everything, in Prometheus's text format.
    pub fn render(&self) -> Vec<u8> {
        render(&self.registry)
    }
}

/// What a registry holds, in Prometheus's text format.
pub fn render(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).expect("writing to memory does not fail");
    text
}
