//! Interrupts for the turns of workers, and for all their work once the scheduler is gone.

use std::time::Duration;

use diffusion::Interrupt;

use crate::booked_job::WorkerId;

/// The interrupts of the turns in progress. Dropping this, with the event loop, sets them all.
#[derive(Debug)]
pub(crate) struct Interrupts {
    /// Interrupts work without an order: the calibration at startup.
    shutdown: Interrupt,
    turns: Vec<Turn>,
}

/// The interrupt state of a worker's last turn.
#[derive(Debug, Default)]
struct Turn {
    interrupt: Interrupt,
    /// Time of the interrupt, if set.
    since: Option<Duration>,
}

impl Interrupts {
    /// Creates the interrupts of loading workers, whose calibration ends with `shutdown`.
    pub(crate) fn new(n_workers: usize, shutdown: Interrupt) -> Self {
        Interrupts { shutdown, turns: (0..n_workers).map(|_| Turn::default()).collect() }
    }

    /// Returns the interrupt of the worker's next turn.
    pub(crate) fn begin(&mut self, worker: WorkerId) -> Interrupt {
        self.turns[worker] = Turn::default();
        self.turns[worker].interrupt.clone()
    }

    /// Interrupts the worker's turn at `now`, unless it is interrupted already.
    pub(crate) fn set(&mut self, worker: WorkerId, now: Duration) {
        let turn = &mut self.turns[worker];
        turn.interrupt.set();
        turn.since.get_or_insert(now);
    }

    /// Records that the worker is back at `now`. Returns the time since its turn was interrupted, if it was.
    pub(crate) fn ended(&mut self, worker: WorkerId, now: Duration) -> Option<Duration> {
        self.turns[worker].since.take().map(|since| now.saturating_sub(since))
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.shutdown.set();
        self.turns.iter().for_each(|turn| turn.interrupt.set());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_turn_is_interrupted_alone_and_once() {
        let mut interrupts = Interrupts::new(2, Interrupt::default());
        let turns = [interrupts.begin(0), interrupts.begin(1)];
        interrupts.set(1, at(5));
        interrupts.set(1, at(7));
        assert_eq!(turns.each_ref().map(Interrupt::is_set), [false, true]);
        assert_eq!([interrupts.ended(0, at(8)), interrupts.ended(1, at(8))], [None, Some(at(3))]);
        assert!(!interrupts.begin(1).is_set(), "the next turn is another one");
        assert_eq!(interrupts.ended(1, at(9)), None);
    }

    #[test]
    fn the_end_of_the_scheduler_ends_everything() {
        let shutdown = Interrupt::default();
        let mut interrupts = Interrupts::new(1, shutdown.clone());
        let turn = interrupts.begin(0);
        drop(interrupts);
        assert!(shutdown.is_set() && turn.is_set());
    }
}
