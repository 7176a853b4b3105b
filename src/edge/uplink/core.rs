//! What is on its way to the hub, and when it is sent again.
//!
//! Decides and does no I/O: actions in, parcels to send out; the time comes in with each action. Knows places, not
//! contents, and keeps ranges, so that a backlog of a million events costs as little as one.
//!
//! **Fairness.** What was accepted while the link is up is *fresh* and goes first, in at most half of the window; all
//! else is *backlog* and has the other half. A thousand boxes that come back after a day offline would fill the
//! broker's queue to the hub with old events, and fresh ones would wait behind them, so the backlog's window starts
//! small and follows the time that receipts take: it grows while they come quickly and is halved when they do not.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::edge::outbox::{Place, Span};
use crate::limits::{
    BACKLOG_DELAY_MAX, BACKLOG_WINDOW_FIRST, BACKLOG_WINDOW_MIN, BATCH_EVENTS_MAX, RESEND_AFTER,
    UPLINK_WINDOW_EVENTS,
};
use crate::model::{Epoch, Ranges};
use crate::mqtt::PublishOutcome;
use crate::wire::Receipt;

/// What happened.
#[derive(Debug)]
pub enum Action {
    /// These events are in the outbox and owed to the hub.
    Owed(Vec<Span>),
    LinkUp,
    LinkDown,
    /// The broker took or refused the message with this token.
    Published {
        token: u64,
        outcome: PublishOutcome,
    },
    /// The hub's word.
    Receipt(Receipt),
    /// The outbox can't give these any more.
    Gone {
        epoch: Epoch,
        sequences: Ranges,
    },
    /// Time has passed.
    Tick,
}

/// What to do: send `count` events from `from` on in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    pub token: u64,
    pub from: Place,
    pub count: usize,
}

/// Decides what to send when.
#[derive(Debug)]
pub struct Core {
    is_up: bool,
    /// In the order in which they were first seen; older ones are sent first.
    epochs: Vec<Flow>,
    messages: HashMap<u64, Parcel>,
    next_token: u64,
    /// Until then nothing is sent: the broker said that nobody listens.
    pause_until: Option<Instant>,
    /// Events of the backlog that may be on their way.
    backlog_window: usize,
    /// The backlog's window is not halved again before.
    halved_until: Option<Instant>,
    /// What the newest receipt took, from the sending of what it covers.
    receipt_took: Option<Duration>,
}

/// What of one epoch waits or is on its way.
#[derive(Debug)]
struct Flow {
    epoch: Epoch,
    waiting: Ranges,
    /// By first sequence.
    sent: BTreeMap<u64, Flight>,
    newest: u64,
    /// Sequences from here on are fresh.
    fresh_from: u64,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    last: u64,
    at: Instant,
}

/// How long to wait when the broker says that no hub is subscribed.
const NO_SUBSCRIBER_PAUSE: Duration = Duration::from_secs(1);
/// What the hub misses may still be on its way for this long.
const MISSING_GRACE: Duration = Duration::from_secs(2);

impl Default for Core {
    fn default() -> Self {
        Self {
            is_up: false,
            epochs: Vec::new(),
            messages: HashMap::new(),
            next_token: 0,
            pause_until: None,
            backlog_window: BACKLOG_WINDOW_FIRST,
            halved_until: None,
            receipt_took: None,
        }
    }
}

impl Core {
    /// One step: takes an action at `now` and returns what to send.
    pub fn step(&mut self, action: Action, now: Instant) -> Vec<Parcel> {
        match action {
            Action::Owed(spans) => spans.into_iter().for_each(|span| self.owe(span)),
            Action::LinkUp => {
                self.is_up = true;
                self.pause_until = None;
                self.backlog_window = BACKLOG_WINDOW_FIRST;
                self.all_is_backlog();
            }
            Action::LinkDown => {
                self.is_up = false;
                self.messages.clear();
                self.epochs.iter_mut().for_each(|flow| flow.take_back(|_, _| true));
            }
            Action::Published { token, outcome } => self.published(token, outcome, now),
            Action::Receipt(receipt) => self.receipt(&receipt, now),
            Action::Gone { epoch, sequences } => {
                if let Some(flow) = self.epochs.iter_mut().find(|flow| flow.epoch == epoch) {
                    flow.waiting.remove_all(&sequences);
                    flow.arrived(&sequences, now);
                }
            }
            Action::Tick => self.epochs.iter_mut().for_each(|flow| {
                flow.take_back(|_, flight| now.saturating_duration_since(flight.at) >= RESEND_AFTER);
            }),
        }
        let sends = self.send(now);
        let newest = self.epochs.last().map(|flow| flow.epoch);
        self.epochs.retain(|flow| !flow.is_done() || Some(flow.epoch) == newest);
        sends
    }

    /// Events sent or waiting.
    pub fn owed_count(&self) -> usize {
        let counts = self.epochs.iter().map(|flow| flow.waiting.count() + flow.sent_count(|_| true));
        counts.sum::<u64>() as usize
    }

    fn owe(&mut self, span: Span) {
        let flow = match self.epochs.iter().position(|flow| flow.epoch == span.epoch) {
            Some(at) => &mut self.epochs[at],
            None => {
                // Nothing is fresh while the link is down: LinkUp sets the mark again.
                self.epochs.push(Flow {
                    epoch: span.epoch,
                    waiting: Ranges::new(),
                    sent: BTreeMap::new(),
                    newest: 0,
                    fresh_from: 1,
                });
                self.epochs.last_mut().expect("just pushed")
            }
        };
        flow.newest = flow.newest.max(span.last);
        let mut new = Ranges::of(span.first, span.last);
        flow.sent.iter().for_each(|(&first, flight)| new.remove(first, flight.last));
        flow.waiting.insert_all(&new);
    }

    fn all_is_backlog(&mut self) {
        self.epochs.iter_mut().for_each(|flow| flow.fresh_from = flow.newest + 1);
    }

    fn published(&mut self, token: u64, outcome: PublishOutcome, now: Instant) {
        let Some(message) = self.messages.remove(&token) else { return };
        if outcome == PublishOutcome::Taken {
            // It proves nothing: only a receipt does. A lost message is sent again after RESEND_AFTER.
            return;
        }
        let last = message.from.1 + message.count as u64 - 1;
        if let Some(flow) = self.epochs.iter_mut().find(|flow| flow.epoch == message.from.0) {
            flow.take_back(|first, _| (message.from.1..=last).contains(&first));
        }
        self.pause_until = Some(now + NO_SUBSCRIBER_PAUSE);
    }

    fn receipt(&mut self, receipt: &Receipt, now: Instant) {
        let Some(flow) = self.epochs.iter_mut().find(|flow| flow.epoch == receipt.epoch) else { return };
        let covered = receipt.covered();
        flow.waiting.remove_all(&covered);
        let took =
            flow.sent.iter().filter(|(first, flight)| !covered.overlap(**first, flight.last).is_empty());
        let took = took.map(|(_, flight)| now.saturating_duration_since(flight.at)).min();
        self.receipt_took = took.or(self.receipt_took);
        let arrived = flow.arrived(&covered, now);
        // What the hub misses although it was sent a while ago is lost; what was just sent may be on its way.
        let asked = receipt.asked();
        flow.take_back(|first, flight| {
            let is_asked = !asked.overlap(first, flight.last).is_empty();
            is_asked && now.saturating_duration_since(flight.at) >= MISSING_GRACE
        });
        if let Some((count, delay)) = arrived {
            self.adapt(count, delay, now);
        }
    }

    /// From sending to the newest receipt.
    pub fn receipt_took(&self) -> Option<Duration> {
        self.receipt_took
    }

    /// Follows the time that receipts of the backlog take.
    fn adapt(&mut self, arrived: u64, delay: Duration, now: Instant) {
        if delay <= BACKLOG_DELAY_MAX {
            let wider = self.backlog_window.saturating_add(arrived as usize);
            self.backlog_window = wider.min(UPLINK_WINDOW_EVENTS / 2);
        } else if self.halved_until.is_none_or(|until| now >= until) {
            self.backlog_window = (self.backlog_window / 2).max(BACKLOG_WINDOW_MIN);
            self.halved_until = Some(now + delay);
        }
    }

    fn send(&mut self, now: Instant) -> Vec<Parcel> {
        let mut sends = Vec::new();
        if !self.is_up {
            return sends;
        }
        if let Some(until) = self.pause_until {
            if now < until {
                return sends;
            }
            self.pause_until = None;
        }
        let count = |counts: fn(&Flow) -> u64, flows: &[Flow]| flows.iter().map(counts).sum::<u64>() as usize;
        let mut fresh_out = count(|flow| flow.sent_count(|first| first >= flow.fresh_from), &self.epochs);
        let mut old_out = count(|flow| flow.sent_count(|first| first < flow.fresh_from), &self.epochs);
        loop {
            let old = self.epochs.iter().position(|flow| flow.old_waits());
            let fresh = self.epochs.iter().position(|flow| flow.fresh_waits());
            let shares = old.is_some() || old_out > 0;
            let fresh_max = if shares { UPLINK_WINDOW_EVENTS / 2 } else { UPLINK_WINDOW_EVENTS };
            if let Some(at) = fresh.filter(|_| fresh_out < fresh_max) {
                fresh_out += self.parcel(at, true, BATCH_EVENTS_MAX, now, &mut sends);
            } else if let Some(at) = old.filter(|_| old_out < self.backlog_window) {
                let room = (self.backlog_window - old_out).min(BATCH_EVENTS_MAX);
                old_out += self.parcel(at, false, room, now, &mut sends);
            } else {
                return sends;
            }
        }
    }

    fn parcel(&mut self, at: usize, fresh: bool, max: usize, now: Instant, out: &mut Vec<Parcel>) -> usize {
        let flow = &mut self.epochs[at];
        let from = if fresh { flow.fresh_from } else { 1 };
        let (first, end) = flow.waiting.range_at_or_after(from).expect("something waits");
        let first = first.max(from);
        let end = if fresh { end } else { end.min(flow.fresh_from - 1) };
        let last = end.min(first + max as u64 - 1);
        flow.waiting.remove(first, last);
        flow.sent.insert(first, Flight { last, at: now });
        self.next_token += 1;
        let count = (last - first + 1) as usize;
        let parcel = Parcel { token: self.next_token, from: (flow.epoch, first), count };
        self.messages.insert(parcel.token, parcel);
        out.push(parcel);
        count
    }
}

impl Flow {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    fn old_waits(&self) -> bool {
        self.waiting.first().is_some_and(|first| first < self.fresh_from)
    }

    fn fresh_waits(&self) -> bool {
        self.waiting.last().is_some_and(|last| last >= self.fresh_from)
    }

    fn sent_count(&self, of: impl Fn(u64) -> bool) -> u64 {
        let flights = self.sent.iter().filter(|(first, _)| of(**first));
        flights.map(|(first, flight)| flight.last - first + 1).sum()
    }

    /// Moves what was sent and matches back to what waits.
    fn take_back(&mut self, matches: impl Fn(u64, &Flight) -> bool) {
        let waiting = &mut self.waiting;
        self.sent.retain(|&first, flight| {
            let back = matches(first, flight);
            if back {
                waiting.insert(first, flight.last);
            }
            !back
        });
    }

    /// Takes what is covered out of what is on its way. Returns how much of the backlog that was and how long the
    /// oldest of it took.
    fn arrived(&mut self, covered: &Ranges, now: Instant) -> Option<(u64, Duration)> {
        let mut old: Option<(u64, Duration)> = None;
        let touched: Vec<(u64, Flight)> = self
            .sent
            .iter()
            .filter(|(first, flight)| !covered.overlap(**first, flight.last).is_empty())
            .map(|(first, flight)| (*first, *flight))
            .collect();
        for (first, flight) in touched {
            self.sent.remove(&first);
            let mut rest = Ranges::of(first, flight.last);
            let before = rest.count();
            rest.remove_all(covered);
            for (first, last) in rest.iter() {
                self.sent.insert(first, Flight { last, at: flight.at });
            }
            if first < self.fresh_from {
                let took = now.saturating_duration_since(flight.at);
                let (count, longest) = old.unwrap_or_default();
                old = Some((count + before - rest.count(), longest.max(took)));
            }
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Epoch = Epoch(1);
    const B: Epoch = Epoch(2);

    fn owed(epoch: Epoch, sequences: std::ops::RangeInclusive<u64>) -> Action {
        Action::Owed(vec![Span { epoch, first: *sequences.start(), last: *sequences.end() }])
    }

    fn spans(sends: &[Parcel]) -> Vec<(Epoch, u64, usize)> {
        sends.iter().map(|s| (s.from.0, s.from.1, s.count)).collect()
    }

    fn receipt(epoch: Epoch, upto: u64, missing: &[(u64, u64)]) -> Action {
        Action::Receipt(Receipt { epoch, upto, missing: missing.to_vec(), refused: Vec::new() })
    }

    #[test]
    fn nothing_is_sent_while_the_link_is_down_and_all_of_it_when_it_comes_up() {
        let (mut core, now) = (Core::default(), Instant::now());
        assert_eq!(core.step(owed(A, 5..=7), now), []);
        assert_eq!(core.step(owed(B, 1..=1), now), []);
        assert_eq!(spans(&core.step(Action::LinkUp, now)), [(A, 5, 3), (B, 1, 1)]);
        assert_eq!(core.step(Action::LinkDown, now), []);
        assert_eq!(spans(&core.step(Action::LinkUp, now)), [(A, 5, 3), (B, 1, 1)], "sent again");
    }

    #[test]
    fn a_publish_that_was_taken_is_still_owed_until_the_receipt() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        let sends = core.step(owed(A, 1..=3), now);
        let taken = Action::Published { token: sends[0].token, outcome: PublishOutcome::Taken };
        assert_eq!(core.step(taken, now), []);
        assert_eq!(core.owed_count(), 3);
        let later = now + RESEND_AFTER;
        assert_eq!(spans(&core.step(Action::Tick, later)), [(A, 1, 3)], "no receipt came");
        core.step(receipt(A, 3, &[]), later);
        assert_eq!(core.owed_count(), 0);
        assert_eq!(core.step(Action::Tick, later + RESEND_AFTER), []);
    }

    #[test]
    fn what_the_hub_misses_is_sent_again_but_not_what_was_just_sent() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        core.step(owed(A, 1..=9), now);
        assert_eq!(core.step(receipt(A, 9, &[(2, 3)]), now), [], "it may be on its way");
        let later = now + Duration::from_secs(3);
        assert_eq!(spans(&core.step(receipt(A, 9, &[(2, 3)]), later)), [(A, 2, 2)]);
    }

    #[test]
    fn nobody_subscribed_means_a_pause_and_then_again() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        let sends = core.step(owed(A, 1..=2), now);
        let lost = Action::Published { token: sends[0].token, outcome: PublishOutcome::NoSubscriber };
        assert_eq!(core.step(lost, now), []);
        assert_eq!(core.step(Action::Tick, now + NO_SUBSCRIBER_PAUSE / 2), []);
        assert_eq!(spans(&core.step(Action::Tick, now + NO_SUBSCRIBER_PAUSE)), [(A, 1, 2)]);
    }

    #[test]
    fn the_window_bounds_what_is_on_its_way() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.step(Action::LinkUp, now);
        let many = UPLINK_WINDOW_EVENTS as u64 * 3;
        let sends = core.step(owed(A, 1..=many), now);
        let on_its_way: usize = sends.iter().map(|s| s.count).sum();
        assert!((UPLINK_WINDOW_EVENTS..UPLINK_WINDOW_EVENTS + BATCH_EVENTS_MAX).contains(&on_its_way));
        let sends = core.step(receipt(A, 1000, &[]), now);
        assert!(!sends.is_empty(), "a receipt makes room");
    }

    #[test]
    fn fresh_events_go_before_a_backlog_and_both_have_their_share() {
        let (mut core, mut now) = (Core::default(), Instant::now());
        core.step(owed(A, 1..=1_000_000), now);
        let mut sends = core.step(Action::LinkUp, now);
        let (mut newest, mut old_sent) = (1_000_000, 0u64);
        for _ in 0..100 {
            old_sent += sends.iter().filter(|s| s.from.1 <= 1_000_000).map(|s| s.count as u64).sum::<u64>();
            newest += 1;
            let fresh = core.step(owed(A, newest..=newest), now);
            assert_eq!(spans(&fresh)[0], (A, newest, 1), "a fresh event goes at once");
            now += Duration::from_millis(50);
            let missing = [(old_sent + 1, 1_000_000)];
            sends = core.step(receipt(A, newest, &missing), now);
            let on_its_way: usize = sends.iter().map(|s| s.count).sum();
            assert!(on_its_way <= UPLINK_WINDOW_EVENTS);
        }
        assert!(old_sent > 40_000, "the backlog goes on too: {old_sent}");
        assert!(core.epochs[0].waiting.range_count() < 5, "a backlog costs a few ranges");
    }

    #[test]
    fn slow_receipts_narrow_the_backlogs_window_and_quick_ones_widen_it() {
        let (mut core, mut now) = (Core::default(), Instant::now());
        core.step(owed(A, 1..=1_000_000), now);
        let mut sends = core.step(Action::LinkUp, now);
        let mut upto = 0;
        let mut rounds = |core: &mut Core, delay: Duration| {
            for _ in 0..30 {
                upto += sends.iter().map(|s| s.count as u64).sum::<u64>();
                now += delay;
                sends = core.step(receipt(A, upto, &[]), now);
            }
            sends.iter().map(|s| s.count).sum::<usize>()
        };
        assert_eq!(rounds(&mut core, Duration::from_millis(10)), UPLINK_WINDOW_EVENTS / 2);
        assert_eq!(rounds(&mut core, BACKLOG_DELAY_MAX * 2), BACKLOG_WINDOW_MIN);
    }
}
