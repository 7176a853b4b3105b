//! The hub's figures for Prometheus, prefix `camnet_hub_`.
//!
//! Owns one registry for one hub; a part adds its own figures by [`HubMetrics::registry`]. May not label
//! by anything that an outsider can make up without bound.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Every figure of search, uploads and the listeners.
#[derive(Clone)]
pub struct HubMetrics {
    registry: Registry,
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
        let registry = Registry::new_custom(Some("camnet_hub".into()), None).expect("the prefix is valid");
        let requests =
            counters(&registry, "http_requests_total", "Answered requests", &["listener", "route", "status"]);
        let seconds = HistogramOpts::new("http_request_seconds", "Time to the answer's head")
            .buckets(vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        let request_seconds =
            registered(&registry, HistogramVec::new(seconds, &["listener", "route"]).expect("valid"));
        Self {
            requests,
            request_seconds,
            uploads: counters(&registry, "uploads_total", "Uploads by how they ended", &["result"]),
            upload_bytes: registered(
                &registry,
                IntCounter::new("upload_bytes_total", "Bytes that boxes uploaded").expect("valid"),
            ),
            uploads_open: gauge(&registry, "uploads_open", "Uploads that are not complete"),
            looks: counters(&registry, "looks_total", "Looks at footage or results", &["action", "decision"]),
            box_connections_failed: counters(
                &registry,
                "box_connections_failed_total",
                "Connections of boxes that failed before a request",
                &["reason"],
            ),
            box_connections: gauge(&registry, "box_connections", "Open connections of boxes"),
            index_applied: gauge(&registry, "index_applied", "Next journal record to enter the index"),
            journal_next: gauge(&registry, "journal_next", "Next record of the hub's journal"),
            broker_up: gauge(&registry, "broker_up", "1 if the link to the broker is up"),
            registry,
        }
    }

    /// Where other parts of the hub register their own figures.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn request(&self, listener: &str, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[listener, route, &status.to_string()]).inc();
        self.request_seconds.with_label_values(&[listener, route]).observe(took.as_secs_f64());
    }

    /// Everything, in Prometheus's text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory does not fail");
        text
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels).expect("valid"))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help).expect("valid"))
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each figure is registered once");
    collector
}
