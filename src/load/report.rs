//! What a load run counts, and how it is told.
//!
//! Owns counters that all boxes share. May not talk to the hub.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// Each bucket of [`Latencies`] is this much wider than the one before: the error of a percentile.
const GROWTH: f64 = 1.04;
const FIRST_MS: f64 = 0.1;
const BUCKETS: usize = 512;

/// What all boxes did together.
#[derive(Default)]
pub struct Totals {
    pub connected: AtomicU64,
    pub accepted: AtomicU64,
    /// Events handed to the link, resends included.
    pub sent: AtomicU64,
    pub messages: AtomicU64,
    pub receipts: AtomicU64,
    /// Events that a receipt covered.
    pub receipted: AtomicU64,
    /// The same of the backlog only.
    pub old_receipted: AtomicU64,
    pub refused: AtomicU64,
    pub links_lost: AtomicU64,
    /// Fresh events: accepted → covered by a receipt.
    pub fresh: Latencies,
}

/// Counts durations in buckets; answers percentiles to within 4 %.
pub struct Latencies {
    buckets: Vec<AtomicU64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Latencies {
    pub fn add(&self, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        let at = (ms.max(FIRST_MS) / FIRST_MS).ln() / GROWTH.ln();
        self.buckets[(at as usize).min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Upper bound of the bucket that `share` of all durations do not exceed, milliseconds; None without any.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let rank = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let at = self.buckets.iter().position(|bucket| {
            seen += bucket.load(Ordering::Relaxed);
            seen >= rank.max(1)
        })?;
        Some(FIRST_MS * GROWTH.powi(at as i32 + 1))
    }
}

/// The outcome of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub boxes: usize,
    pub seconds: f64,
    pub accepted: u64,
    pub sent: u64,
    pub messages: u64,
    pub receipts: u64,
    pub receipted: u64,
    /// Events that the hub's index holds of this run, by its API.
    pub indexed: u64,
    pub refused: u64,
    pub links_lost: u64,
    /// Accepted, but not in the index.
    pub lost: u64,
    /// Rows beyond one for an event, among the `rows_checked` that were read back one by one.
    pub duplicated: u64,
    pub rows_checked: u64,
    pub receipt_ms: [Option<f64>; 3],
    pub searchable_ms: [Option<f64>; 3],
    pub hub_cpu_us_per_event: f64,
    pub hub_rss_mb: f64,
    /// Events that waited when the boxes came back, and when the last of them had its receipt.
    pub backlog: u64,
    pub drain_s: Option<f64>,
}

/// The percentiles that are told.
pub const SHARES: [f64; 3] = [0.50, 0.99, 0.999];

impl Report {
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.duplicated == 0
    }

    pub fn to_json(&self) -> Value {
        json!({
            "boxes": self.boxes, "seconds": self.seconds, "accepted": self.accepted, "sent": self.sent,
            "messages": self.messages, "receipts": self.receipts, "receipted": self.receipted,
            "indexed": self.indexed, "refused": self.refused, "links_lost": self.links_lost, "lost": self.lost,
            "duplicated": self.duplicated, "rows_checked": self.rows_checked,
            "receipt_ms": self.receipt_ms, "searchable_ms": self.searchable_ms,
            "hub_cpu_us_per_event": self.hub_cpu_us_per_event, "hub_rss_mb": self.hub_rss_mb,
            "backlog": self.backlog, "drain_s": self.drain_s,
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { boxes, seconds, accepted, sent, messages, receipts, receipted, indexed, .. } = self;
        writeln!(f, "boxes                 {boxes}, for {seconds:.0} s")?;
        writeln!(f, "accepted              {accepted} events")?;
        writeln!(f, "sent                  {sent} events in {messages} messages (resends included)")?;
        writeln!(
            f,
            "receipted             {receipted} events by {receipts} receipts; {} set aside",
            self.refused
        )?;
        writeln!(f, "indexed               {indexed} events, by the hub's API")?;
        writeln!(f, "links lost            {}", self.links_lost)?;
        writeln!(f, "accepted → receipt    {}", spread(&self.receipt_ms))?;
        writeln!(
            f,
            "accepted → searchable {} (motion, by the hub's histogram)",
            spread(&self.searchable_ms)
        )?;
        writeln!(
            f,
            "hub                   {:.1} us CPU per event, {:.0} MB",
            self.hub_cpu_us_per_event, self.hub_rss_mb
        )?;
        if self.backlog > 0 {
            let drained =
                self.drain_s.map_or("not drained".to_owned(), |s| format!("drained after {s:.1} s"));
            writeln!(f, "backlog               {} events, {drained}", self.backlog)?;
        }
        write!(
            f,
            "lost {}, duplicated {} (of {} rows read back)",
            self.lost, self.duplicated, self.rows_checked
        )
    }
}

fn spread(ms: &[Option<f64>; 3]) -> String {
    let text = |ms: &Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    format!("p50 {} ms, p99 {} ms, p99.9 {} ms", text(&ms[0]), text(&ms[1]), text(&ms[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_a_bucket() {
        let latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(0.5), None);
        for ms in 1..=1000 {
            latencies.add(Duration::from_millis(ms));
        }
        for (share, expected) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let ms = latencies.percentile_ms(share).unwrap();
            assert!((expected / GROWTH..=expected * GROWTH * GROWTH).contains(&ms), "{share}: {ms}");
        }
        latencies.add(Duration::from_secs(1 << 40));
        assert_eq!(latencies.count(), 1001);
    }
}
