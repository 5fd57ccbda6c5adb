//! Requests that wait at the edge: in the order they came, bounded in number, bytes and time.
//!
//! While nothing is held, a request reads one atomic. A hold that has ended lets its requests go
//! one after the other: each gives the turn on once its head is on its way to an upstream, so
//! they arrive there in the order they came in, and an application that has just started is not
//! hit by all of them at once. Requests that come meanwhile queue up behind.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::model::ServiceName;

/// How much may wait for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Requests. Default 10,000.
    pub requests: usize,
    /// Bytes of their heads. Default 64 MiB. Bodies are not read while a request waits.
    pub bytes: usize,
}

/// Every service's hold.
#[derive(Debug, Default)]
pub struct Holds {
    /// Services with a hold or with requests that still wait for their turn.
    busy: AtomicUsize,
    services: Mutex<HashMap<ServiceName, Arc<Hold>>>,
}

/// How a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldState {
    /// When it began; `None`: it has ended and those that waited are being let go.
    pub since: Option<Instant>,
    /// Longest wait of a request.
    pub max: Duration,
    /// Requests that wait.
    pub waiting: usize,
    /// When the first of them gives up.
    pub until: Option<Instant>,
    /// Bytes of their heads.
    pub bytes: usize,
    /// Requests that found no room or waited too long, since the hold began.
    pub refused: u64,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Entered {
    /// Nothing is held.
    Pass,
    /// It waits.
    Wait(Waiting),
    /// There is no room.
    Full,
}

#[derive(Debug)]
struct Hold {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    since: Option<Instant>,
    max: Duration,
    next: u64,
    queue: VecDeque<Place>,
    bytes: usize,
    refused: u64,
    /// Somebody has the turn and has not given it on.
    going: bool,
    /// Counted in [`Holds::busy`].
    counted: bool,
}

#[derive(Debug)]
struct Place {
    number: u64,
    bytes: usize,
    until: Instant,
    go: oneshot::Sender<()>,
}

/// A request's place in the queue. Dropped, it is free again.
#[derive(Debug)]
pub struct Waiting {
    holds: Arc<Holds>,
    hold: Arc<Hold>,
    number: u64,
    go: oneshot::Receiver<()>,
    until: Instant,
}

/// The turn of a request that was let go. Dropped, the next one has it.
#[derive(Debug)]
pub struct Turn {
    holds: Arc<Holds>,
    hold: Arc<Hold>,
}

impl Holds {
    /// Whether any service holds requests: one atomic load.
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Lets the requests of a service wait from now on, each for `max` at most. A hold that is
    /// there already goes on with the new `max`.
    pub fn hold(&self, service: &ServiceName, now: Instant, max: Duration) {
        let hold = Arc::clone(self.services().entry(service.clone()).or_insert_with(|| {
            Arc::new(Hold {
                inner: Mutex::default(),
            })
        }));
        let mut inner = hold.lock();
        if inner.since.is_none() {
            inner.since = Some(now);
            inner.refused = 0;
        }
        inner.max = max;
        self.count(&mut inner);
    }

    /// Ends the hold of a service. Gives how many requests go on; `None`: there was none.
    pub fn resume(self: &Arc<Self>, service: &ServiceName) -> Option<usize> {
        let hold = self.find(service)?;
        let mut inner = hold.lock();
        inner.since.take()?;
        let waiting = inner.queue.len();
        self.give_on(&mut inner);
        Some(waiting)
    }

    /// Every hold, by service.
    #[must_use]
    pub fn states(&self) -> BTreeMap<ServiceName, HoldState> {
        let services = self.services();
        let state = |(service, hold): (&ServiceName, &Arc<Hold>)| {
            let inner = hold.lock();
            let state = HoldState {
                since: inner.since,
                max: inner.max,
                waiting: inner.queue.len(),
                until: inner.queue.front().map(|place| place.until),
                bytes: inner.bytes,
                refused: inner.refused,
            };
            inner.counted.then(|| (service.clone(), state))
        };
        services.iter().filter_map(state).collect()
    }

    /// A request of `bytes` for a service.
    #[must_use]
    pub fn enter(
        self: &Arc<Self>,
        service: &ServiceName,
        now: Instant,
        bytes: usize,
        limits: HoldLimits,
    ) -> Entered {
        let Some(hold) = self.find(service) else {
            return Entered::Pass;
        };
        let mut inner = hold.lock();
        if !inner.counted {
            return Entered::Pass;
        }
        if inner.queue.len() >= limits.requests || inner.bytes + bytes > limits.bytes {
            inner.refused += 1;
            return Entered::Full;
        }
        let (go, released) = oneshot::channel();
        let number = inner.next;
        inner.next += 1;
        inner.bytes += bytes;
        let until = now + inner.max;
        inner.queue.push_back(Place {
            number,
            bytes,
            until,
            go,
        });
        drop(inner);
        Entered::Wait(Waiting {
            holds: Arc::clone(self),
            hold,
            number,
            go: released,
            until,
        })
    }

    /// Gives the turn to the first in the queue, if the hold has ended.
    fn give_on(&self, inner: &mut Inner) {
        if inner.since.is_some() || inner.going {
            return;
        }
        while let Some(place) = inner.queue.pop_front() {
            inner.bytes -= place.bytes;
            if place.go.send(()).is_ok() {
                inner.going = true;
                return;
            }
        }
        if std::mem::take(&mut inner.counted) {
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn count(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.counted, true) {
            self.busy.fetch_add(1, Ordering::Release);
        }
    }

    fn find(&self, service: &ServiceName) -> Option<Arc<Hold>> {
        self.services().get(service).cloned()
    }

    fn services(&self) -> MutexGuard<'_, HashMap<ServiceName, Arc<Hold>>> {
        // Nothing inside can panic half-way.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing inside can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// When it has waited long enough.
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Waits for its turn. Cancel-safe.
    pub async fn turn(&mut self) -> Turn {
        // The sender lives in the queue until it is used.
        let _ = (&mut self.go).await;
        Turn {
            holds: Arc::clone(&self.holds),
            hold: Arc::clone(&self.hold),
        }
    }

    /// It waited too long.
    pub fn gave_up(self) {
        self.hold.lock().refused += 1;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inner = self.hold.lock();
        let number = self.number;
        // Numbers ascend, so the place is found without looking at every one.
        if let Ok(at) = inner
            .queue
            .binary_search_by_key(&number, |place| place.number)
            && let Some(place) = inner.queue.remove(at)
        {
            inner.bytes -= place.bytes;
        } else if self.go.try_recv().is_ok() {
            // It got the turn and left without taking it.
            inner.going = false;
        }
        self.holds.give_on(&mut inner);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.hold.lock();
        inner.going = false;
        self.holds.give_on(&mut inner);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const LIMITS: HoldLimits = HoldLimits {
        requests: 10,
        bytes: 1_000,
    };

    fn enter(holds: &Arc<Holds>, bytes: usize) -> Option<Waiting> {
        match holds.enter(&"web".into(), clock::now(), bytes, LIMITS) {
            Entered::Wait(waiting) => Some(waiting),
            Entered::Pass | Entered::Full => None,
        }
    }

    fn state(holds: &Holds) -> Option<(usize, usize, u64)> {
        let state = holds.states().remove("web")?;
        Some((state.waiting, state.bytes, state.refused))
    }

    #[test]
    fn nothing_waits_without_a_hold_and_nothing_is_left_after_one() {
        let holds: Arc<Holds> = Arc::default();
        assert!(!holds.are_any());
        let entered = holds.enter(&"web".into(), clock::now(), 1, LIMITS);
        assert!(matches!(entered, Entered::Pass));
        holds.hold(&"web".into(), clock::now(), Duration::from_secs(1));
        assert!(holds.are_any());
        let entered = holds.enter(&"api".into(), clock::now(), 1, LIMITS);
        assert!(matches!(entered, Entered::Pass), "another service");
        assert_eq!(holds.resume(&"web".into()), Some(0));
        assert!(!holds.are_any());
        assert_eq!(holds.resume(&"web".into()), None);
        assert_eq!(state(&holds), None);
    }

    #[test]
    fn requests_go_in_the_order_they_came_one_after_the_other() {
        let holds: Arc<Holds> = Arc::default();
        holds.hold(&"web".into(), clock::now(), Duration::from_secs(1));
        let mut waiting: Vec<_> = (0..5).map(|_| enter(&holds, 10).expect("room")).collect();
        assert!(
            waiting
                .iter_mut()
                .all(|one| one.turn().now_or_never().is_none())
        );
        assert_eq!(holds.resume(&"web".into()), Some(5));
        let mut late = enter(&holds, 10).expect("behind those that wait");
        for one in &mut waiting {
            assert!(late.turn().now_or_never().is_none());
            let turn = one.turn().now_or_never().expect("its turn");
            drop(turn);
        }
        drop(late.turn().now_or_never().expect("the last"));
        assert!(!holds.are_any());
    }

    #[test]
    fn number_and_bytes_are_bounded_and_who_leaves_frees_the_place() {
        let holds: Arc<Holds> = Arc::default();
        holds.hold(&"web".into(), clock::now(), Duration::from_secs(1));
        let mut waiting: Vec<_> = (0..10).map(|_| enter(&holds, 10).expect("room")).collect();
        assert!(enter(&holds, 10).is_none(), "the eleventh");
        assert_eq!(state(&holds), Some((10, 100, 1)));
        waiting.remove(3);
        assert!(enter(&holds, 911).is_none(), "too many bytes");
        assert!(enter(&holds, 910).is_some());
        assert_eq!(state(&holds), Some((9, 90, 2)));
        waiting.remove(0).gave_up();
        assert_eq!(state(&holds), Some((8, 80, 3)));
    }

    #[test]
    fn a_hold_in_the_middle_of_letting_go_keeps_the_rest() {
        let holds: Arc<Holds> = Arc::default();
        holds.hold(&"web".into(), clock::now(), Duration::from_secs(1));
        let mut first = enter(&holds, 1).expect("room");
        let mut second = enter(&holds, 1).expect("room");
        holds.resume(&"web".into());
        let turn = first.turn().now_or_never().expect("its turn");
        holds.hold(&"web".into(), clock::now(), Duration::from_secs(1));
        drop(turn);
        assert!(second.turn().now_or_never().is_none());
        assert_eq!(holds.resume(&"web".into()), Some(1));
        assert!(second.turn().now_or_never().is_some());
    }

    proptest! {
        /// Whoever comes, leaves, is let go or held again in any order: turns are given in the
        /// order of coming, one at a time, and nothing is left in the end.
        #[test]
        fn no_history_loses_or_overtakes_a_request(steps in prop::collection::vec((0_u8..6, any::<u8>()), 0..200)) {
            let holds: Arc<Holds> = Arc::default();
            let (mut waiting, mut turns): (Vec<(u32, Waiting)>, Vec<Turn>) = (Vec::new(), Vec::new());
            let (mut came, mut went) = (0, None);
            let mut go = |waiting: &mut Vec<(u32, Waiting)>, turns: &mut Vec<Turn>| {
                while let Some(at) = waiting.iter_mut().position(|(_, one)| one.turn().now_or_never().is_some_and(|turn| {
                    turns.push(turn);
                    true
                })) {
                    let (number, _) = waiting.remove(at);
                    assert_eq!(at, 0, "somebody was overtaken");
                    assert!(went.is_none_or(|last| last < number));
                    went = Some(number);
                    assert_eq!(turns.len(), 1, "two at a time");
                }
            };
            for (step, which) in steps {
                match step {
                    0 => holds.hold(&"web".into(), clock::now(), Duration::from_secs(1)),
                    1 => drop(holds.resume(&"web".into())),
                    2 | 3 => if let Some(one) = enter(&holds, usize::from(which)) {
                        waiting.push((came, one));
                        came += 1;
                    },
                    4 if !waiting.is_empty() => drop(waiting.remove(usize::from(which) % waiting.len())),
                    _ => drop(turns.pop()),
                }
                go(&mut waiting, &mut turns);
            }
            holds.resume(&"web".into());
            while !waiting.is_empty() || !turns.is_empty() {
                turns.clear();
                let before = waiting.len();
                go(&mut waiting, &mut turns);
                prop_assert!(waiting.len() < before || !turns.is_empty() || waiting.is_empty(), "nobody has the turn");
            }
            prop_assert!(!holds.are_any());
            prop_assert_eq!(state(&holds), None);
        }
    }
}
