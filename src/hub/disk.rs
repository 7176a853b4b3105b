//! Room on the disk that holds the hub's data, for Prometheus.
//!
//! Owns two figures, read while Prometheus asks. Decides nothing.

use std::path::{Path, PathBuf};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Error, IntGauge, Registry};

use crate::metrics::Part;

/// The disk under a folder.
pub struct Disk {
    dir: PathBuf,
    own: Registry,
    free: IntGauge,
    size: IntGauge,
}

impl Disk {
    /// Registers the figures of the disk under `dir`.
    pub fn register(dir: &Path, metrics: &Registry) -> Result<(), Error> {
        let own = Registry::new();
        let part = Part::new(&own, "camnet_hub_disk_");
        let free = part.gauge("free_bytes", "Room on the disk of data_dir for the hub")?;
        let size = part.gauge("size_bytes", "Size of the disk of data_dir")?;
        metrics.register(Box::new(Self { dir: dir.to_owned(), own, free, size }))
    }
}

impl Collector for Disk {
    fn desc(&self) -> Vec<&Desc> {
        [self.free.desc(), self.size.desc()].concat()
    }

    /// Nothing is better than an old figure.
    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(disk) = fs2::statvfs(&self.dir) else { return Vec::new() };
        self.free.set(disk.available_space() as i64);
        self.size.set(disk.total_space() as i64);
        self.own.gather()
    }
}
