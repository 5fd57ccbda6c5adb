//! One pool that finishes its requests. Kept beside the switch: drains outlive its lock.

use std::time::{Duration, Instant};

use super::words::{Effect, Event, Ticket};
use crate::model::{Generation, Kind, ServiceName};
use crate::switch::driver::DrainWindows;
use crate::switch::record::Live;
use crate::switch::status::DrainStatus;

/// Between two looks at what a draining pool still serves.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// How long after the last window closed connections may take to disappear.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// A pool that is drained, or will be once its verdict is durable.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    pub(super) service: ServiceName,
    pub(super) pool: Live,
    /// The switch whose end waits for this drain.
    pub(super) run: Option<Generation>,
    windows: DrainWindows,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Its verdict is not on disk: a restart could make this pool live again.
    Waiting { ticket: Ticket },
    Draining {
        since: Instant,
        next: Instant,
        in_flight: [u64; 3],
        /// What was told to close and has not disappeared yet.
        closing: [u64; 3],
        closed: [u64; 3],
    },
}

impl Drain {
    pub(super) const fn new(
        service: ServiceName,
        pool: Live,
        windows: DrainWindows,
        ticket: Ticket,
        run: Option<Generation>,
    ) -> Self {
        Self {
            service,
            pool,
            run,
            windows,
            stage: Stage::Waiting { ticket },
        }
    }

    /// Whether the pool still takes whatever claims it: it was never told to drain.
    pub(super) const fn is_waiting(&self) -> bool {
        match self.stage {
            Stage::Waiting { .. } => true,
            Stage::Draining { .. } => false,
        }
    }

    /// What had to be closed so far.
    pub(super) const fn closed(&self) -> [u64; 3] {
        match self.stage {
            Stage::Waiting { .. } => [0; 3],
            Stage::Draining { closed, .. } => closed,
        }
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting { .. } => None,
            Stage::Draining { next, .. } => Some(next),
        }
    }

    /// Begins if the record that it waits for is durable.
    pub(super) fn saved(&mut self, now: Instant, saved: Ticket, out: &mut Vec<Effect>) {
        match self.stage {
            Stage::Waiting { ticket } if ticket <= saved => {}
            Stage::Waiting { .. } | Stage::Draining { .. } => return,
        }
        self.stage = Stage::Draining {
            since: now,
            next: now + COUNT_EVERY,
            in_flight: [0; 3],
            closing: [0; 3],
            closed: [0; 3],
        };
        out.push(Effect::BeginDrain {
            service: self.service.clone(),
            generation: self.pool.generation,
            windows: self.windows,
        });
        out.push(Effect::Notify(Event::DrainBegan {
            service: self.service.clone(),
            pool: self.pool,
        }));
        out.push(self.count());
    }

    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match &mut self.stage {
            Stage::Draining { next, .. } if now >= *next => *next = now + COUNT_EVERY,
            Stage::Waiting { .. } | Stage::Draining { .. } => return,
        }
        out.push(self.count());
    }

    /// Closes the kinds whose window is over. True: nothing is left to wait for.
    pub(super) fn counted(
        &mut self,
        now: Instant,
        counts: [u64; 3],
        out: &mut Vec<Effect>,
    ) -> bool {
        let Stage::Draining {
            since,
            in_flight,
            closing,
            closed,
            ..
        } = &mut self.stage
        else {
            return false;
        };
        *in_flight = counts;
        let age = now.saturating_duration_since(*since);
        // A request may have become a WebSocket after that window: the last one closes all.
        let last = self.windows.longest();
        for kind in Kind::ALL {
            let count = counts[kind.index()];
            let open = age < self.windows.of(kind) && age < last;
            if open || count == 0 {
                closing[kind.index()] = 0;
                continue;
            }
            closed[kind.index()] += count.saturating_sub(closing[kind.index()]);
            closing[kind.index()] = count;
            out.push(Effect::Close {
                service: self.service.clone(),
                generation: self.pool.generation,
                kind,
            });
        }
        counts == [0; 3] || age >= last + CLOSE_GRACE
    }

    pub(super) fn status(&self) -> DrainStatus {
        let (in_flight, since) = match self.stage {
            Stage::Waiting { .. } => ([0; 3], None),
            Stage::Draining {
                since, in_flight, ..
            } => (in_flight, Some(since)),
        };
        DrainStatus {
            service: self.service.clone(),
            pool: self.pool,
            in_flight,
            closed: self.closed(),
            since,
            deadline: since.map(|since| since + self.windows.longest()),
        }
    }

    fn count(&self) -> Effect {
        Effect::Count {
            service: self.service.clone(),
            generation: self.pool.generation,
        }
    }
}
