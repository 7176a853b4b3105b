//! The seeded simulation of the whole protocol: production's cores and journal, on a disk, a network and a clock that
//! one seed decides. See `world` for what goes wrong and `oracle` for what must be true all the same.

mod broker;
mod camera;
mod hub;
mod index;
mod mutation;
mod node;
mod oracle;
mod rng;
mod world;

use std::time::Instant;

use camnet::edge::uplink::Metrics;
pub use mutation::Mutation;

/// What many seeds share: what is dear to make and decides nothing.
pub struct Shared {
    metrics: Metrics,
    base: Instant,
}

impl Shared {
    pub fn new() -> Self {
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("a new registry takes all");
        Self { metrics, base: Instant::now() }
    }

    /// Runs one seed; how many events were offered, or what is wrong.
    pub fn run(&self, seed: u64, mutation: Option<Mutation>, trace: bool) -> Result<u64, String> {
        world::World::new(seed, mutation, self.metrics.clone(), self.base, trace).run()
    }
}
