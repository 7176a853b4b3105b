//! Sets of numbers kept as ranges: which sequences of an epoch are owed, on their way, or have arrived.
//! A million numbers in a row cost one entry.

/// Inclusive ranges, sorted, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub fn new() -> Self {
        Self::default()
    }

    /// The set `first..=last`; empty if `last < first`.
    pub fn of(first: u64, last: u64) -> Self {
        let mut ranges = Self::default();
        ranges.insert(first, last);
        ranges
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|&(first, _)| first)
    }

    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|&(_, last)| last)
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges, which is what the set costs.
    pub fn range_count(&self) -> usize {
        self.0.len()
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn contains(&self, number: u64) -> bool {
        self.range_at_or_after(number).is_some_and(|(first, _)| first <= number)
    }

    /// The range that holds `number`, else the first one above it.
    pub fn range_at_or_after(&self, number: u64) -> Option<(u64, u64)> {
        let at = self.0.partition_point(|&(_, last)| last < number);
        self.0.get(at).copied()
    }

    pub fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        // Ranges that overlap the new one or touch it melt into it.
        let from = self.0.partition_point(|&(_, l)| l.saturating_add(1) < first);
        let to = self.0.partition_point(|&(f, _)| f <= last.saturating_add(1));
        if from == to {
            self.0.insert(from, (first, last));
            return;
        }
        let melted = (first.min(self.0[from].0), last.max(self.0[to - 1].1));
        self.0[from] = melted;
        self.0.drain(from + 1..to);
    }

    pub fn remove(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let from = self.0.partition_point(|&(_, l)| l < first);
        let to = self.0.partition_point(|&(f, _)| f <= last);
        if from >= to {
            return;
        }
        let (head, tail) = (self.0[from].0, self.0[to - 1].1);
        let left = (head < first).then(|| (head, first - 1));
        let right = (tail > last).then(|| (last + 1, tail));
        self.0.splice(from..to, left.into_iter().chain(right));
    }

    pub fn insert_all(&mut self, other: &Self) {
        other.iter().for_each(|(first, last)| self.insert(first, last));
    }

    pub fn remove_all(&mut self, other: &Self) {
        other.iter().for_each(|(first, last)| self.remove(first, last));
    }

    /// What of `first..=last` is in the set.
    pub fn overlap(&self, first: u64, last: u64) -> Self {
        let at = self.0.partition_point(|&(_, l)| l < first);
        let cut = self.0[at..].iter().take_while(|&&(f, _)| f <= last);
        Self(cut.map(|&(f, l)| (f.max(first), l.min(last))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_the_set_that_they_stand_for(
            steps in prop::collection::vec((any::<bool>(), 1u64..60, 0u64..12), 0..60),
            window in (0u64..70, 0u64..20),
        ) {
            let (mut ranges, mut model) = (Ranges::new(), BTreeSet::new());
            for (is_insert, first, length) in steps {
                let last = first + length;
                if is_insert {
                    ranges.insert(first, last);
                    model.extend(first..=last);
                } else {
                    ranges.remove(first, last);
                    model.retain(|n| !(first..=last).contains(n));
                }
                let told: Vec<u64> = ranges.iter().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(&told, &model.iter().copied().collect::<Vec<_>>());
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", ranges);
                prop_assert_eq!(ranges.count(), model.len() as u64);
            }
            let (first, last) = (window.0, window.0 + window.1);
            let cut: Vec<u64> = ranges.overlap(first, last).iter().flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(cut, model.range(first..=last).copied().collect::<Vec<_>>());
            prop_assert_eq!(ranges.contains(first), model.contains(&first));
        }
    }
}
