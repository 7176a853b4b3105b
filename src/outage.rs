//! What the log says of something that fails again and again.
//!
//! Owns the memory of one outage: a retry loop says its loss once, once more for each changed reason, and its
//! end. May not log itself: whoever retries knows the words.

/// A state that may last for many tries.
#[derive(Debug, Default)]
pub struct Outage {
    failures: u64,
    reason: String,
}

impl Outage {
    /// Notes a failed try; true if its reason is news, so that it belongs into the log.
    pub fn failed(&mut self, reason: &str) -> bool {
        self.failures += 1;
        let is_news = self.reason != reason;
        if is_news {
            self.reason = reason.to_owned();
        }
        is_news
    }

    /// Failed tries since the last success.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Notes a success: how many tries had failed, where there was an outage.
    pub fn ended(&mut self) -> Option<u64> {
        let failures = std::mem::take(self).failures;
        (failures > 0).then_some(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_news_once_and_again_when_its_reason_changes() {
        let mut outage = Outage::default();
        assert_eq!(outage.ended(), None);
        let reasons =
            [("refused", true), ("refused", false), ("timeout", true), ("timeout", false), ("refused", true)];
        for (reason, is_news) in reasons {
            assert_eq!(outage.failed(reason), is_news, "{reason} after {} failures", outage.failures());
        }
        assert_eq!(outage.ended(), Some(5));
        assert_eq!((outage.ended(), outage.failures()), (None, 0));
        assert!(outage.failed("refused"), "an outage of its own");
    }
}
