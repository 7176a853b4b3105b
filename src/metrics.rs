//! Figures for Prometheus: what a part counts, registered under the part's own prefix.
//!
//! Owns how figures are made and registered. May not label by anything that an outsider can make up without bound:
//! whoever registers sees to it.

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// A part of the program and the prefix of its figures, `camnet_edge_camera_` for instance.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    registry: &'a Registry,
    prefix: &'static str,
}

impl<'a> Part<'a> {
    pub fn new(registry: &'a Registry, prefix: &'static str) -> Self {
        Self { registry, prefix }
    }

    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(self.opts(name, help))?)
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(self.opts(name, help), labels)?)
    }

    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(self.opts(name, help))?)
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(self.opts(name, help), labels)?)
    }

    /// A gauge with a fraction: seconds, shares.
    pub fn fraction(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(self.opts(name, help))?)
    }

    pub fn fractions(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.register(GaugeVec::new(self.opts(name, help), labels)?)
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, Error> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets);
        self.register(Histogram::with_opts(opts)?)
    }

    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets);
        self.register(HistogramVec::new(opts, labels)?)
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}{name}", self.prefix), help)
    }

    fn register<C: Collector + Clone + 'static>(&self, figure: C) -> Result<C, Error> {
        self.registry.register(Box::new(figure.clone()))?;
        Ok(figure)
    }
}
