//! One circuit of a cabinet, or a lamp that speaks for itself: what was last told of it, and what is wrong.
//!
//! Owns what ends a trouble: a lamp that is off shows neither that it burns again nor that it fails, so a trouble of a
//! burning lamp ends only with a good word of a burning lamp, and one of the day with a good word by day. Pure.

use std::collections::BTreeMap;

use super::burning::Burning;
use super::facts::Said;
use super::sun::Light;
use crate::model::{Lamp, LampAct, Time, Trouble};

#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    pub word: Said<Lamp>,
    pub troubles: BTreeMap<Trouble, Time>,
    pub burning: Burning,
    /// Somebody switched it off: its darkness is meant.
    is_meant_off: bool,
}

impl Circuit {
    /// As it was first told; `from` as in [`Burning::hear`].
    pub fn new(word: Said<Lamp>, light: Option<Light>, from: Time) -> Self {
        let (troubles, burning) = (BTreeMap::new(), Burning::default());
        let mut circuit = Self { word: word.clone(), troubles, burning, is_meant_off: false };
        circuit.hear(word, light, from);
        circuit
    }

    /// Takes the next word of it; `light` is the light of the place then.
    pub fn hear(&mut self, word: Said<Lamp>, light: Option<Light>, from: Time) {
        let (lamp, at) = (&word.what, word.at);
        self.burning.hear(at, lamp, light, from);
        if let Some(command) = &lamp.command {
            self.is_meant_off = matches!(command.act, LampAct::Switch { on: false });
        } else if lamp.on {
            self.is_meant_off = false;
        }
        // A fault's name stands before its words.
        let fault = lamp.fault.as_deref().map(|fault| fault.split(':').next().unwrap_or_default().trim());
        let found = fault.map(|name| match name {
            "supply_loss" => Trouble::SupplyLoss,
            "lamp_failure" => Trouble::LampFailure,
            "on_when_off" => Trouble::OnWhenOff,
            _ => Trouble::CabinetFault,
        });
        self.troubles.retain(|&trouble, _| {
            Some(trouble) == found
                || fault.is_some()
                || !(shows_well(trouble, lamp, light) || trouble == Trouble::OffByNight && self.is_meant_off)
        });
        let by_light = match (lamp.on, light, found) {
            (true, Some(Light::Day), None) => Some(Trouble::OnByDay),
            (false, Some(Light::Night), None) if !self.is_meant_off => Some(Trouble::OffByNight),
            _ => None,
        };
        for trouble in [found, by_light].into_iter().flatten() {
            self.troubles.entry(trouble).or_insert(at);
        }
        self.word = word;
    }
}

/// Troubles that a circuit's own words tell.
pub fn is_of_circuit(trouble: Trouble) -> bool {
    use Trouble::{LampFailure, OffByNight, OnByDay, OnWhenOff, SupplyLoss};
    matches!(trouble, SupplyLoss | LampFailure | OnWhenOff | OnByDay | OffByNight)
}

/// Whether a word without a fault shows that a trouble is gone; `light` is the light of the place then.
pub fn shows_well(trouble: Trouble, lamp: &Lamp, light: Option<Light>) -> bool {
    match trouble {
        Trouble::SupplyLoss | Trouble::LampFailure | Trouble::OffByNight => lamp.on,
        Trouble::OnWhenOff => !lamp.on,
        Trouble::OnByDay => !lamp.on && light == Some(Light::Day),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LampCommanded, LampReason};

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn lamp(on: bool, fault: Option<&str>) -> Lamp {
        let fault = fault.map(str::to_owned);
        Lamp { fault, ..Lamp::new(1, LampReason::Heartbeat, on, 0.0, 0.0) }
    }

    /// What is wrong after these words, one each 15 minutes.
    fn after(words: &[(bool, Option<&str>, Light)]) -> Vec<(Trouble, i64)> {
        let mut circuit: Option<Circuit> = None;
        for (n, &(on, fault, light)) in (0..).zip(words) {
            let word = Said { at: at(n * 900), what: lamp(on, fault) };
            match &mut circuit {
                Some(circuit) => circuit.hear(word, Some(light), Time::MIN),
                None => circuit = Some(Circuit::new(word, Some(light), Time::MIN)),
            }
        }
        let troubles = circuit.unwrap().troubles;
        troubles
            .into_iter()
            .map(|(trouble, since)| (trouble, since.duration_since(at(0)).as_secs() / 900))
            .collect()
    }

    #[test]
    fn a_trouble_ends_with_a_good_word_of_the_same_condition() {
        use Light::{Between, Day, Night};
        use Trouble::*;
        let failed = Some("lamp_failure: 1 of 12 lamps");
        assert_eq!(after(&[(true, None, Night), (true, failed, Night)]), [(LampFailure, 1)]);
        // Dawn switches it off, which mends nothing.
        let day = [(true, failed, Night), (false, None, Between), (false, None, Day)];
        assert_eq!(after(&day), [(LampFailure, 0)]);
        assert_eq!(after(&[day[0], day[1], day[2], (true, None, Night)]), []);
        assert_eq!(after(&[(true, None, Day), (true, None, Night)]), [(OnByDay, 0)], "night excuses nothing");
        assert_eq!(after(&[(true, None, Day), (true, None, Night), (false, None, Day)]), []);
        assert_eq!(after(&[(false, None, Night), (false, None, Day)]), [(OffByNight, 0)]);
        assert_eq!(after(&[(false, Some("on_when_off"), Day), (false, None, Day)]), []);
        assert_eq!(after(&[(false, Some("cabinet_fault"), Day), (false, None, Day)]), []);
        assert_eq!(after(&[(false, None, Between), (true, None, Between)]), []);
    }

    #[test]
    fn a_lamp_that_somebody_switched_off_is_meant_to_be_dark() {
        let command = LampCommanded {
            correlation: "1".into(),
            act: LampAct::Switch { on: false },
            actor: "Lan".into(),
            purpose: None,
            done: true,
        };
        let told = Lamp { command: Some(command), ..lamp(false, None) };
        let mut circuit = Circuit::new(Said { at: at(0), what: told }, Some(Light::Night), Time::MIN);
        circuit.hear(Said { at: at(900), what: lamp(false, None) }, Some(Light::Night), Time::MIN);
        assert_eq!(circuit.troubles.len(), 0);
        // On again by itself, and off: that is no command.
        circuit.hear(Said { at: at(1800), what: lamp(true, None) }, Some(Light::Night), Time::MIN);
        circuit.hear(Said { at: at(2700), what: lamp(false, None) }, Some(Light::Night), Time::MIN);
        assert!(circuit.troubles.contains_key(&Trouble::OffByNight));
    }
}
