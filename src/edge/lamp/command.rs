//! Whether a lamp command is carried out: once, in time, not too often, and only what this box's configuration allows.
//!
//! Owns the way from the uplink to the cabinets ([`Orders`]) and what each decides before it writes ([`Desk`]). Whatever
//! the hub sends, a box does no more than its own file says. May not write to a cabinet itself.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::edge::config::{LampAllowed, LampConfig};
use crate::limits::{
    COMMAND_ACTOR_CHARS_MAX, COMMAND_ID_CHARS_MAX, LAMP_COMMAND_PAUSE, LAMP_COMMAND_VALID_MAX,
    LAMP_COMMANDS_KNOWN_MAX, LAMP_COMMANDS_PER_HOUR_MAX, LAMP_COMMANDS_WAITING_MAX, PURPOSE_CHARS_MAX,
};
use crate::model::{DeviceId, LampAct, Time};
use crate::wire::{CommandResult, LampCommand};

const HOUR: Duration = Duration::from_secs(3600);

/// Where the uplink hands lamp commands over.
#[derive(Default)]
pub struct Orders {
    cabinets: HashMap<DeviceId, mpsc::Sender<LampCommand>>,
}

impl Orders {
    /// The queue of one cabinet's commands.
    pub fn open(&mut self, device: &DeviceId) -> mpsc::Receiver<LampCommand> {
        let (commands, queue) = mpsc::channel(LAMP_COMMANDS_WAITING_MAX);
        self.cabinets.insert(device.clone(), commands);
        queue
    }

    /// Never waits; the result, if the command gets no further.
    pub fn hand_over(&self, command: LampCommand) -> Result<(), CommandResult> {
        let Some(cabinet) = self.cabinets.get(&command.device) else {
            let why = format!("this box has no lamp cabinet {}", command.device);
            return Err(CommandResult::refused(clip(&command.correlation), why));
        };
        cabinet.try_send(command).map_err(|error| {
            let why = "too many commands wait for this cabinet, or it is stopping; try again later";
            CommandResult::refused(clip(&error.into_inner().correlation), why)
        })
    }
}

/// Decides on the commands to one cabinet.
pub struct Desk {
    allowed: Vec<LampAllowed>,
    circuits: Vec<u16>,
    /// When this process began: what it did before, it does not know.
    started: Time,
    /// Commands that were carried out, or tried, oldest first.
    known: VecDeque<CommandResult>,
    /// When each circuit was last commanded, within the hour.
    acts: HashMap<usize, VecDeque<Instant>>,
}

impl Desk {
    pub fn new(config: &LampConfig, started: Time) -> Self {
        let circuits = config.circuits.iter().map(|circuit| circuit.circuit).collect();
        let allowed = config.commands.clone();
        Self { allowed, circuits, started, known: VecDeque::new(), acts: HashMap::new() }
    }

    /// The index of the circuit that is to do it, now; or the answer that stands without doing anything.
    pub fn judge(&mut self, command: &LampCommand, now: Time, at: Instant) -> Result<usize, CommandResult> {
        if let Some(known) = self.known.iter().find(|known| known.correlation == command.correlation) {
            return Err(known.clone());
        }
        self.decide(command, now, at).map_err(|why| CommandResult::refused(clip(&command.correlation), why))
    }

    /// Remembers what became of a command, so that it is not carried out twice.
    pub fn done(&mut self, result: &CommandResult) {
        self.known.push_back(result.clone());
        while self.known.len() > LAMP_COMMANDS_KNOWN_MAX {
            self.known.pop_front();
        }
    }

    fn decide(&mut self, command: &LampCommand, now: Time, at: Instant) -> Result<usize, String> {
        check_form(command)?;
        let (wanted, word) = match command.act {
            LampAct::Switch { .. } => (LampAllowed::Switch, "switch"),
            LampAct::Dim { .. } => (LampAllowed::Dim, "dim"),
        };
        if !self.allowed.contains(&wanted) {
            return Err(format!(
                "{} is not allowed: its box's configuration would have to say commands = [\"{word}\"]",
                word
            ));
        }
        self.check_time(command, now)?;
        let index = self.circuits.iter().position(|&circuit| circuit == command.circuit);
        let index = index.ok_or_else(|| format!("{} has no circuit {}", command.device, command.circuit))?;
        self.check_wear(index, at)?;
        Ok(index)
    }

    fn check_time(&self, command: &LampCommand, now: Time) -> Result<(), String> {
        let valid_until = command.valid_until;
        if now > valid_until {
            return Err(format!("expired: it was valid until {valid_until}, by the box's clock it is {now}"));
        }
        let valid_for = Duration::try_from(valid_until.duration_since(now)).unwrap_or_default();
        if valid_for > LAMP_COMMAND_VALID_MAX {
            let most = LAMP_COMMAND_VALID_MAX.as_secs();
            return Err(format!(
                "valid until {valid_until}, by the box's clock it is {now}: {most} s ahead is the most; compare the clocks"
            ));
        }
        if command.issued < self.started {
            let (issued, started) = (command.issued, self.started);
            return Err(format!("issued at {issued}, before this box started at {started}; send a new one"));
        }
        Ok(())
    }

    /// Relays and lamps wear; what passes here counts.
    fn check_wear(&mut self, index: usize, at: Instant) -> Result<(), String> {
        let acts = self.acts.entry(index).or_default();
        while acts.front().is_some_and(|&act| at.saturating_duration_since(act) >= HOUR) {
            acts.pop_front();
        }
        let since_last = acts.back().map(|&act| at.saturating_duration_since(act));
        if let Some(since) = since_last.filter(|&since| since < LAMP_COMMAND_PAUSE) {
            let left_s = (LAMP_COMMAND_PAUSE - since).as_secs() + 1;
            return Err(format!("too often: this circuit was commanded just now; try again in {left_s} s"));
        }
        if acts.len() >= LAMP_COMMANDS_PER_HOUR_MAX {
            return Err(format!(
                "too often: {LAMP_COMMANDS_PER_HOUR_MAX} commands to one circuit in an hour are the most"
            ));
        }
        acts.push_back(at);
        Ok(())
    }
}

/// The texts of a command, of whatever kind.
pub fn check_words(correlation: &str, actor: &str, purpose: Option<&str>) -> Result<(), String> {
    let is_within = |text: &str, most: usize| text.chars().nth(most).is_none();
    if correlation.is_empty() || !is_within(correlation, COMMAND_ID_CHARS_MAX) {
        return Err(format!("correlation: 1 to {COMMAND_ID_CHARS_MAX} characters"));
    }
    if actor.is_empty() || !is_within(actor, COMMAND_ACTOR_CHARS_MAX) {
        return Err(format!("actor: 1 to {COMMAND_ACTOR_CHARS_MAX} characters"));
    }
    if purpose.is_some_and(|purpose| !is_within(purpose, PURPOSE_CHARS_MAX)) {
        return Err(format!("purpose: at most {PURPOSE_CHARS_MAX} characters"));
    }
    Ok(())
}

fn check_form(command: &LampCommand) -> Result<(), String> {
    check_words(&command.correlation, &command.actor, command.purpose.as_deref())?;
    match command.act {
        LampAct::Dim { percent } if percent > 100 => Err(format!("dim to {percent} %: 0 to 100")),
        _ => Ok(()),
    }
}

/// An answer goes to whoever asked, whatever he called it, but not at any length.
pub fn clip(correlation: &str) -> String {
    correlation.chars().take(COMMAND_ID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::edge::config::CircuitConfig;
    use crate::wire::CommandOutcome;

    fn config(commands: Vec<LampAllowed>) -> LampConfig {
        let circuit = |circuit| CircuitConfig {
            circuit,
            phase: None,
            relay: None,
            nominal_power_w: 100.0,
            lamps: None,
            units: Default::default(),
        };
        LampConfig {
            id: "cab-01".parse().unwrap(),
            address: String::new(),
            map: "map.toml".into(),
            poll: SignedDuration::from_secs(1),
            heartbeat: SignedDuration::from_secs(900),
            answer: SignedDuration::from_secs(1),
            commands,
            units: Default::default(),
            circuits: vec![circuit(3), circuit(4)],
        }
    }

    fn time(text: &str) -> Time {
        format!("2026-11-20T{text}Z").parse().unwrap()
    }

    /// To circuit 3, at 18:00:00, valid for 30 s.
    fn command(correlation: &str, act: LampAct) -> LampCommand {
        LampCommand {
            correlation: correlation.into(),
            device: "cab-01".parse().unwrap(),
            circuit: 3,
            act,
            actor: "demo".into(),
            purpose: None,
            issued: time("18:00:00"),
            valid_until: time("18:00:30"),
        }
    }

    const ON: LampAct = LampAct::Switch { on: true };
    const DIM: LampAct = LampAct::Dim { percent: 40 };

    #[test]
    fn nothing_is_done_that_is_not_allowed_in_time_and_whole() {
        use LampAllowed::{Dim, Switch};
        let good = command("c1", ON);
        let dim = |percent| command("c1", LampAct::Dim { percent });
        type Row = (Vec<LampAllowed>, LampCommand, &'static str, Result<usize, &'static str>);
        let table: Vec<Row> = vec![
            (vec![], good.clone(), "18:00:01", Err("switch is not allowed")),
            (vec![Dim], good.clone(), "18:00:01", Err("switch is not allowed")),
            (vec![Switch], command("c1", DIM), "18:00:01", Err("dim is not allowed")),
            (vec![Switch], good.clone(), "18:00:01", Ok(0)),
            (vec![Switch, Dim], dim(100), "18:00:01", Ok(0)),
            (vec![Switch, Dim], dim(101), "18:00:01", Err("0 to 100")),
            (vec![Switch], LampCommand { circuit: 4, ..good.clone() }, "18:00:01", Ok(1)),
            (vec![Switch], LampCommand { circuit: 9, ..good.clone() }, "18:00:01", Err("no circuit 9")),
            (vec![Switch], good.clone(), "18:00:30", Ok(0)),
            (vec![Switch], good.clone(), "18:00:31", Err("expired")),
            (vec![Switch], good.clone(), "23:00:00", Err("expired")),
            // A box whose clock is wrong, and a hub that asks for too much.
            (vec![Switch], good.clone(), "03:00:00", Err("compare the clocks")),
            (
                vec![Switch],
                LampCommand { valid_until: time("18:06:00"), ..good.clone() },
                "18:00:01",
                Err("300 s"),
            ),
            (
                vec![Switch],
                LampCommand { issued: time("17:59:59"), ..good.clone() },
                "18:00:01",
                Err("before this box"),
            ),
            (
                vec![Switch],
                LampCommand { correlation: "".into(), ..good.clone() },
                "18:00:01",
                Err("correlation"),
            ),
            (
                vec![Switch],
                LampCommand { correlation: "x".repeat(65), ..good.clone() },
                "18:00:01",
                Err("correlation"),
            ),
            (vec![Switch], LampCommand { actor: "".into(), ..good.clone() }, "18:00:01", Err("actor")),
            (
                vec![Switch],
                LampCommand { purpose: Some("x".repeat(501)), ..good },
                "18:00:01",
                Err("purpose"),
            ),
        ];
        for (allowed, command, now, expected) in table {
            let mut desk = Desk::new(&config(allowed.clone()), time("18:00:00"));
            let found = desk.judge(&command, time(now), Instant::now());
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{command:?}"),
                (Err(result), Err(expected)) => {
                    assert_eq!(result.outcome, CommandOutcome::Refused);
                    assert!(result.why.as_ref().unwrap().contains(expected), "{expected}: {result:?}");
                    assert!(result.correlation.chars().count() <= COMMAND_ID_CHARS_MAX);
                }
                _ => panic!("{allowed:?} {command:?} at {now}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_command_is_carried_out_once() {
        let mut desk = Desk::new(&config(vec![LampAllowed::Switch]), time("18:00:00"));
        let (now, at) = (time("18:00:01"), Instant::now());
        assert_eq!(desk.judge(&command("c1", ON), now, at), Ok(0));
        let result = CommandResult {
            outcome: CommandOutcome::Ok,
            why: None,
            on: Some(true),
            ..CommandResult::failed("c1", "")
        };
        desk.done(&result);
        // Even much later, when it would have expired, the answer is what became of it.
        for later in ["18:00:02", "18:20:00"] {
            assert_eq!(desk.judge(&command("c1", ON), time(later), at), Err(result.clone()));
        }
    }

    #[test]
    fn relays_are_spared() {
        let mut desk = Desk::new(&config(vec![LampAllowed::Switch]), time("18:00:00"));
        let (now, start) = (time("18:00:01"), Instant::now());
        let mut told = |circuit, second| {
            let command = LampCommand { circuit, ..command(&format!("{circuit}-{second}"), ON) };
            desk.judge(&command, now, start + Duration::from_secs(second))
                .map_err(|result| result.why.unwrap())
        };
        assert_eq!(told(3, 0), Ok(0));
        assert!(told(3, 4).unwrap_err().contains("try again in"), "5 s between two");
        assert_eq!(told(4, 4), Ok(1), "each circuit has its own count");
        for n in 1..20 {
            assert_eq!(told(3, n * 5), Ok(0), "{n}");
        }
        assert!(told(3, 200).unwrap_err().contains("20 commands"));
        assert_eq!(told(3, 3600), Ok(0), "an hour after the first");
        assert!(told(3, 3604).is_err());
    }

    #[test]
    fn a_command_for_nobody_and_one_too_many_are_answered() {
        let mut orders = Orders::default();
        let mut queue = orders.open(&"cab-01".parse().unwrap());
        let stray = LampCommand { device: "cab-02".parse().unwrap(), ..command("c0", ON) };
        assert!(orders.hand_over(stray).unwrap_err().why.unwrap().contains("no lamp cabinet cab-02"));
        for n in 0..LAMP_COMMANDS_WAITING_MAX {
            orders.hand_over(command(&n.to_string(), ON)).unwrap();
        }
        assert_eq!(orders.hand_over(command("more", ON)).unwrap_err().correlation, "more");
        assert_eq!(queue.try_recv().unwrap().correlation, "0");
        orders.hand_over(command("more", ON)).unwrap();
    }
}
