//! The table cell by cell, then by random sequences of events.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn machine(phase: Phase, wanted: bool) -> Machine {
    Machine { policy: Policy::default(), phase, wanted, attempts: 1 }
}

#[test]
fn every_cell_of_the_table_is_as_written() {
    let t0 = Instant::now();
    let now = t0 + SECOND;
    let grace = now + Policy::default().grace;
    let stopping = Phase::Stopping { kill_at: Some(grace) };
    let killed = Phase::Stopping { kill_at: None };
    let starting = Phase::Starting { again: false };
    let again = Phase::Starting { again: true };
    let running = Phase::Running { since: t0 };
    let fresh = Phase::Running { since: now };
    let later = Phase::BackingOff { until: now + SECOND };
    let due = Phase::BackingOff { until: t0 };
    let overdue = Phase::Stopping { kill_at: Some(t0) };
    let asked = Phase::HandingOver { since: t0, until: None };
    let beside = Phase::HandingOver { since: t0, until: Some(now + Policy::default().handover) };
    let late = Phase::HandingOver { since: t0, until: Some(t0) };
    let exited = Event::Exited { spread: 0.0 };
    let failed = Event::StartFailed { spread: 0.0 };
    let adopted = Event::Adopted { since: t0 };
    let (successor, promote, give_up) =
        (Some(Action::StartSuccessor), Some(Action::Promote), Some(Action::DropSuccessor));
    let (start, stop, kill) = (Some(Action::Start), Some(Action::Stop), Some(Action::Kill));

    // state before, wanted before, event, state after, wanted after, action
    let table = [
        (Phase::Stopped, false, Event::Want, starting, true, start),
        (Phase::Stopped, false, Event::Replace, starting, true, start),
        (Phase::Stopped, false, Event::Unwant, Phase::Stopped, false, None),
        (Phase::Stopped, false, adopted, running, false, None),
        (Phase::Stopped, false, Event::Started, Phase::Stopped, false, None),
        (Phase::Stopped, false, failed, Phase::Stopped, false, None),
        (Phase::Stopped, false, Event::StartRefused, Phase::Stopped, false, None),
        (Phase::Stopped, false, exited, Phase::Stopped, false, None),
        (Phase::Stopped, false, Event::Allowed, Phase::Stopped, false, None),
        (Phase::Stopped, false, Event::Tick, Phase::Stopped, false, None),
        (starting, true, Event::Want, starting, true, None),
        (starting, true, Event::Replace, again, true, None),
        (starting, true, Event::Unwant, starting, false, None),
        (starting, false, Event::Want, starting, true, None),
        (starting, true, adopted, starting, true, None),
        (starting, true, Event::Started, fresh, true, None),
        (starting, false, Event::Started, stopping, false, stop),
        (starting, true, failed, starting, true, start),
        (starting, false, failed, Phase::Stopped, false, None),
        (starting, true, Event::StartRefused, Phase::Refused, true, None),
        (starting, false, Event::StartRefused, Phase::Stopped, false, None),
        (starting, true, exited, starting, true, None),
        (starting, true, Event::Allowed, starting, true, None),
        (starting, true, Event::Tick, starting, true, None),
        (again, true, Event::Started, stopping, true, stop),
        (again, true, failed, starting, true, start),
        (again, false, failed, Phase::Stopped, false, None),
        (again, true, Event::Replace, again, true, None),
        (again, true, Event::Want, again, true, None),
        (again, true, Event::StartRefused, Phase::Refused, true, None),
        (running, true, Event::Want, running, true, None),
        (running, false, Event::Want, running, true, None),
        (running, true, Event::Replace, stopping, true, stop),
        (running, true, Event::Unwant, stopping, false, stop),
        (running, true, adopted, running, true, None),
        (running, true, Event::Started, running, true, None),
        (running, true, failed, running, true, None),
        (running, true, Event::StartRefused, running, true, None),
        (running, true, exited, starting, true, start),
        (running, false, exited, Phase::Stopped, false, None),
        (running, true, Event::Allowed, running, true, None),
        (running, true, Event::Tick, running, true, None),
        (later, true, Event::Want, later, true, None),
        (later, true, Event::Replace, starting, true, start),
        (later, true, Event::Unwant, Phase::Stopped, false, None),
        (later, true, adopted, later, true, None),
        (later, true, Event::Started, later, true, None),
        (later, true, failed, later, true, None),
        (later, true, Event::StartRefused, later, true, None),
        (later, true, exited, later, true, None),
        (later, true, Event::Allowed, later, true, None),
        (later, true, Event::Tick, later, true, None),
        (due, true, Event::Tick, starting, true, start),
        (stopping, false, Event::Want, stopping, true, None),
        (stopping, true, Event::Replace, stopping, true, None),
        (stopping, true, Event::Unwant, stopping, false, None),
        (stopping, true, adopted, stopping, true, None),
        (stopping, true, Event::Started, stopping, true, None),
        (stopping, true, failed, stopping, true, None),
        (stopping, true, Event::StartRefused, stopping, true, None),
        (stopping, true, exited, starting, true, start),
        (stopping, false, exited, Phase::Stopped, false, None),
        (stopping, false, Event::Allowed, stopping, false, None),
        (stopping, false, Event::Tick, stopping, false, None),
        (overdue, false, Event::Tick, killed, false, kill),
        (killed, false, Event::Tick, killed, false, None),
        (killed, true, exited, starting, true, start),
        (killed, false, exited, Phase::Stopped, false, None),
        (Phase::Refused, true, Event::Want, starting, true, start),
        (Phase::Refused, true, Event::Replace, starting, true, start),
        (Phase::Refused, true, Event::Unwant, Phase::Stopped, false, None),
        (Phase::Refused, true, adopted, Phase::Refused, true, None),
        (Phase::Refused, true, Event::Started, Phase::Refused, true, None),
        (Phase::Refused, true, failed, Phase::Refused, true, None),
        (Phase::Refused, true, Event::StartRefused, Phase::Refused, true, None),
        (Phase::Refused, true, exited, Phase::Refused, true, None),
        (Phase::Refused, true, Event::Allowed, starting, true, start),
        (Phase::Refused, true, Event::Tick, Phase::Refused, true, None),
        (Phase::Stopped, false, Event::HandOver, starting, true, start),
        (starting, true, Event::HandOver, again, true, None),
        (running, true, Event::HandOver, asked, true, successor),
        (later, true, Event::HandOver, starting, true, start),
        (stopping, true, Event::HandOver, stopping, true, None),
        (Phase::Refused, true, Event::HandOver, starting, true, start),
        (running, true, Event::TookOver, running, true, None),
        (running, true, Event::SuccessorExited, running, true, None),
        (stopping, false, Event::TookOver, stopping, false, None),
        (asked, true, Event::Want, asked, true, None),
        (asked, true, Event::HandOver, asked, true, None),
        (asked, true, Event::Replace, stopping, true, stop),
        (asked, true, Event::Unwant, stopping, false, stop),
        (asked, true, adopted, asked, true, None),
        (asked, true, Event::Started, beside, true, None),
        (asked, true, failed, running, true, None),
        (asked, true, Event::StartRefused, running, true, None),
        (asked, true, exited, starting, true, None),
        (asked, true, Event::TookOver, asked, true, None),
        (asked, true, Event::SuccessorExited, asked, true, None),
        (asked, true, Event::Tick, asked, true, None),
        (beside, true, Event::Want, beside, true, None),
        (beside, true, Event::HandOver, beside, true, None),
        (beside, true, Event::Replace, stopping, true, stop),
        (beside, true, Event::Unwant, stopping, false, stop),
        (beside, true, Event::Started, beside, true, None),
        (beside, true, failed, beside, true, None),
        (beside, true, Event::TookOver, fresh, true, promote),
        (beside, true, Event::SuccessorExited, running, true, None),
        (beside, true, exited, fresh, true, promote),
        (beside, true, Event::Tick, beside, true, None),
        (late, true, Event::Tick, running, true, give_up),
    ];
    for (before, wanted, event, after, wanted_after, action) in table {
        let mut machine = machine(before, wanted);
        let got = machine.handle(event, now);
        let cell = format!("{before:?} wanted={wanted} + {event:?}");
        assert_eq!((machine.phase, machine.wanted, got), (after, wanted_after, action), "{cell}");
    }
}

/// Start times of a program that runs for `lives`, as seconds after the first start.
fn starts(lives: &[f64]) -> Vec<f64> {
    let t0 = Instant::now();
    let mut now = t0;
    let mut machine = Machine::new(Policy::default());
    let mut starts = Vec::new();
    let mut action = machine.handle(Event::Want, now);
    for life in lives {
        if action.is_none() {
            now = machine.deadline().unwrap();
            action = machine.handle(Event::Tick, now);
        }
        assert_eq!(action, Some(Action::Start));
        starts.push((now - t0).as_secs_f64());
        machine.handle(Event::Started, now);
        now += Duration::from_secs_f64(*life);
        action = machine.handle(Event::Exited { spread: 0.0 }, now);
    }
    starts
}

#[test]
fn a_program_that_exits_at_once_is_started_at_0_0_0_2_6_14_30_62_122_182_seconds() {
    assert_eq!(starts(&[0.0; 10]), [0.0, 0.0, 0.0, 2.0, 6.0, 14.0, 30.0, 62.0, 122.0, 182.0]);
}

#[test]
fn a_program_that_lives_eleven_seconds_is_always_started_at_once() {
    assert_eq!(starts(&[11.0; 5]), [0.0, 11.0, 22.0, 33.0, 44.0]);
}

#[test]
fn four_quick_crashes_are_forgotten_after_twenty_seconds_of_health() {
    // The wait before the fifth start is over at 6 s; it lives until 26 s, and its successor is free of waits again.
    assert_eq!(starts(&[0.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0, 0.0]), [0.0, 0.0, 0.0, 2.0, 6.0, 26.0, 26.0, 26.0]);
}

#[test]
fn only_waits_longer_than_the_first_are_spread_and_only_to_shorter() {
    let policy = Policy::default();
    assert_eq!(policy.wait_before(3, 0.9), None);
    assert_eq!(policy.wait_before(4, 0.9), Some(2 * SECOND));
    assert_eq!(policy.wait_before(5, 1.0), Some(Duration::from_millis(3600)));
    assert_eq!(policy.wait_before(100, 0.0), Some(60 * SECOND));
    assert_eq!(policy.wait_before(u32::MAX, 1.0), Some(54 * SECOND));
}

/// What may happen from outside, in a random order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Want,
    Replace,
    HandOver,
    Unwant,
    Dies,
    SuccessorReady,
    SuccessorDies,
    StartWorks,
    StartFails,
    StartRefused,
    Allowed,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Want),
        1 => Just(Step::Replace),
        2 => Just(Step::HandOver),
        1 => Just(Step::Unwant),
        1 => Just(Step::Dies),
        1 => Just(Step::SuccessorReady),
        1 => Just(Step::SuccessorDies),
        3 => Just(Step::StartWorks),
        1 => Just(Step::StartFails),
        1 => Just(Step::StartRefused),
        1 => Just(Step::Allowed),
        1 => (0..20_000u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..200)
}

/// The world around the table: at most one start under way, at most one process and, while one hands over, a successor.
/// What has handed over, and successors that are given up, are the shell's to end.
#[derive(Default)]
struct World {
    starting: bool,
    running: bool,
    successor: bool,
    told_to_stop: bool,
}

impl World {
    fn act(&mut self, action: Option<Action>) {
        match action {
            None => {}
            Some(Action::Start) => {
                assert!(!self.starting && !self.running, "started twice");
                self.starting = true;
            }
            Some(Action::Stop) => {
                assert!(self.running && !self.told_to_stop, "nothing to stop");
                self.told_to_stop = true;
                // A start under way is the shell's to end from now on.
                (self.successor, self.starting) = (false, false);
            }
            Some(Action::StartSuccessor) => {
                assert!(self.running && !self.starting && !self.successor && !self.told_to_stop, "two successors");
                self.starting = true;
            }
            Some(Action::Promote) => {
                assert!(self.successor && !self.told_to_stop, "nobody to promote");
                (self.successor, self.running) = (false, true);
            }
            Some(Action::DropSuccessor) => {
                assert!(self.successor && self.running, "nobody to drop");
                self.successor = false;
            }
            Some(Action::Kill) => assert!(self.running && self.told_to_stop, "killed unasked"),
        }
    }

    fn apply(&mut self, machine: &mut Machine, step: Step, now: &mut Instant) {
        let spread = 0.5;
        let event = match step {
            Step::Want => Event::Want,
            Step::Replace => Event::Replace,
            Step::HandOver => Event::HandOver,
            Step::Unwant => Event::Unwant,
            Step::SuccessorReady if self.successor => Event::TookOver,
            Step::SuccessorDies if self.successor => {
                self.successor = false;
                Event::SuccessorExited
            }
            Step::Dies if self.running => {
                (self.running, self.told_to_stop) = (false, false);
                Event::Exited { spread }
            }
            Step::StartWorks if self.starting => {
                self.starting = false;
                if std::mem::replace(&mut self.running, true) {
                    self.successor = true;
                }
                Event::Started
            }
            Step::StartFails if self.starting => {
                self.starting = false;
                Event::StartFailed { spread }
            }
            Step::StartRefused if self.starting => {
                self.starting = false;
                Event::StartRefused
            }
            Step::Allowed => Event::Allowed,
            Step::Wait(millis) => {
                *now += Duration::from_millis(millis);
                Event::Tick
            }
            Step::Dies
            | Step::SuccessorReady
            | Step::SuccessorDies
            | Step::StartWorks
            | Step::StartFails
            | Step::StartRefused => return,
        };
        let action = machine.handle(event, *now);
        self.act(action);
    }
}

proptest! {
    #[test]
    fn whatever_happens_there_is_one_instance_at_most_and_in_the_end_what_is_wanted_runs(
        steps in steps(), wanted in any::<bool>(),
    ) {
        let mut now = Instant::now();
        let mut machine = Machine::new(Policy::default());
        let mut world = World::default();
        for step in steps {
            world.apply(&mut machine, step, &mut now);
            let phase = machine.phase();
            let asked = matches!(phase, Phase::HandingOver { until: None, .. });
            let beside = matches!(phase, Phase::HandingOver { until: Some(_), .. });
            prop_assert_eq!(world.starting, asked || matches!(phase, Phase::Starting { .. }));
            prop_assert_eq!(world.successor, beside);
            let runs = matches!(phase, Phase::Running { .. } | Phase::Stopping { .. });
            prop_assert_eq!(world.running, runs || asked || beside);
            prop_assert_eq!(world.told_to_stop, matches!(phase, Phase::Stopping { .. }));
            let waits = matches!(phase, Phase::BackingOff { .. } | Phase::Refused);
            prop_assert!(machine.wanted() || !waits, "waiting for a start nobody wants");
        }
        // From here on the world is kind: starts work, stops are obeyed, and nothing dies by itself.
        world.apply(&mut machine, if wanted { Step::Want } else { Step::Unwant }, &mut now);
        world.apply(&mut machine, Step::Allowed, &mut now);
        for _ in 0..4 {
            world.apply(&mut machine, Step::Wait(60_000), &mut now);
            world.apply(&mut machine, Step::StartWorks, &mut now);
            world.apply(&mut machine, Step::SuccessorReady, &mut now);
            if world.told_to_stop {
                world.apply(&mut machine, Step::Dies, &mut now);
            }
        }
        prop_assert_eq!(world.running, wanted);
        prop_assert!(!world.starting && !world.told_to_stop && !world.successor);
    }
}
