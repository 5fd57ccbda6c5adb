//! Places of `concurrency`: so many requests at a time, and a bounded queue in the order of
//! arrival.
//!
//! A [`Place`] is given back when it is dropped, and so is a place in the queue, so neither
//! outlives its request however that ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network_of;
use crate::config::step::Concurrency;

/// All places of one step.
#[derive(Debug)]
pub(in crate::proxy) struct Places {
    requests: u32,
    queue: u32,
    /// `None`: each client has its own.
    all: Option<Arc<Gate>>,
    /// Of the clients that have a request here now, with how many.
    clients: Mutex<HashMap<IpAddr, (usize, Arc<Gate>)>>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(in crate::proxy) enum Entered {
    /// It goes on.
    Place(Place),
    /// It waits.
    Wait(Waiting),
    /// The queue is full.
    Full,
}

#[derive(Debug)]
struct Gate {
    free: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A request's place.
#[derive(Debug)]
pub(in crate::proxy) struct Place {
    // Given back before the client's entry goes, or a gate could be made anew while this one is
    // still in use.
    _permit: OwnedSemaphorePermit,
    _client: Option<Client>,
}

/// A request's place in the queue.
#[derive(Debug)]
pub(in crate::proxy) struct Waiting {
    queued: Queued,
    client: Option<Client>,
}

#[derive(Debug)]
struct Queued(Arc<Gate>);

/// Keeps the entry of a client.
#[derive(Debug)]
struct Client {
    places: Arc<Places>,
    network: IpAddr,
}

impl Places {
    /// Free places.
    pub(in crate::proxy) fn new(limit: &Concurrency) -> Self {
        Self {
            requests: limit.requests,
            queue: limit.queue,
            all: (!limit.per_client).then(|| Arc::new(Gate::new(limit.requests))),
            clients: Mutex::default(),
        }
    }

    /// A request of `ip` comes.
    pub(in crate::proxy) fn enter(self: &Arc<Self>, ip: IpAddr) -> Entered {
        let (gate, client) = match &self.all {
            Some(gate) => (Arc::clone(gate), None),
            None => {
                let (gate, client) = self.client(network_of(ip));
                (gate, Some(client))
            }
        };
        if let Ok(permit) = Arc::clone(&gate.free).try_acquire_owned() {
            return Entered::Place(Place {
                _permit: permit,
                _client: client,
            });
        }
        let room = |waiting| (waiting < self.queue).then_some(waiting + 1);
        let queued = (gate.waiting).fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        match queued {
            Ok(_) => Entered::Wait(Waiting {
                queued: Queued(gate),
                client,
            }),
            Err(_) => Entered::Full,
        }
    }

    fn client(self: &Arc<Self>, network: IpAddr) -> (Arc<Gate>, Client) {
        let mut clients = self.clients();
        let fresh = || (0, Arc::new(Gate::new(self.requests)));
        let (users, gate) = clients.entry(network).or_insert_with(fresh);
        *users += 1;
        let client = Client {
            places: Arc::clone(self),
            network,
        };
        (Arc::clone(gate), client)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, (usize, Arc<Gate>)>> {
        // Nothing inside can panic half-way.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn new(requests: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(requests.max(1) as usize)),
            waiting: AtomicU32::new(0),
        }
    }
}

impl Waiting {
    /// Waits for a place, those that came before first. Cancel-safe: dropped, it leaves the queue.
    pub(in crate::proxy) async fn turn(self) -> Option<Place> {
        let free = Arc::clone(&self.queued.0.free);
        // The semaphore is never closed.
        let permit = free.acquire_owned().await.ok()?;
        Some(Place {
            _permit: permit,
            _client: self.client,
        })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut clients = self.places.clients();
        let Some((users, _)) = clients.get_mut(&self.network) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            clients.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn places(requests: u32, queue: u32, per_client: bool) -> Arc<Places> {
        Arc::new(Places::new(&Concurrency {
            requests,
            queue,
            wait: std::time::Duration::from_secs(5),
            per_client,
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("ip")
    }

    fn place(entered: Entered) -> Place {
        match entered {
            Entered::Place(place) => place,
            other => panic!("{other:?}"),
        }
    }

    fn waiting(entered: Entered) -> Waiting {
        match entered {
            Entered::Wait(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }

    fn is_ready<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn those_who_wait_go_on_in_the_order_they_came() {
        let places = places(1, 2, false);
        let first = place(places.enter(ip("192.0.2.1")));
        let mut second = pin!(waiting(places.enter(ip("192.0.2.2"))).turn());
        let mut third = pin!(waiting(places.enter(ip("192.0.2.3"))).turn());
        assert!(matches!(places.enter(ip("192.0.2.4")), Entered::Full));
        assert!(is_ready(second.as_mut()).is_none());
        assert!(is_ready(third.as_mut()).is_none());
        drop(first);
        assert!(
            !matches!(places.enter(ip("192.0.2.5")), Entered::Place(_)),
            "nobody jumps the queue"
        );
        assert!(is_ready(third.as_mut()).is_none());
        let second = is_ready(second.as_mut()).flatten().expect("its turn");
        assert!(is_ready(third.as_mut()).is_none());
        drop(second);
        assert!(is_ready(third.as_mut()).flatten().is_some());
    }

    #[test]
    fn who_leaves_the_queue_makes_room_in_it() {
        let places = places(1, 1, false);
        let _first = place(places.enter(ip("192.0.2.1")));
        let mut left = Box::pin(waiting(places.enter(ip("192.0.2.2"))).turn());
        assert!(is_ready(left.as_mut()).is_none());
        assert!(matches!(places.enter(ip("192.0.2.3")), Entered::Full));
        drop(left);
        drop(waiting(places.enter(ip("192.0.2.3"))));
    }

    #[test]
    fn a_turn_that_comes_to_somebody_who_left_goes_to_the_next() {
        let places = places(1, 2, false);
        let first = place(places.enter(ip("192.0.2.1")));
        let mut left = Box::pin(waiting(places.enter(ip("192.0.2.2"))).turn());
        let mut next = pin!(waiting(places.enter(ip("192.0.2.3"))).turn());
        assert!(is_ready(left.as_mut()).is_none() && is_ready(next.as_mut()).is_none());
        drop(first);
        drop(left);
        assert!(is_ready(next.as_mut()).flatten().is_some());
    }

    #[test]
    fn each_client_has_its_own_places_and_leaves_nothing_behind() {
        let places = places(1, 1, true);
        let one = place(places.enter(ip("2001:db8::1")));
        let same = waiting(places.enter(ip("2001:db8::2")));
        let other = place(places.enter(ip("192.0.2.1")));
        assert_eq!(places.clients().len(), 2);
        drop((one, other));
        assert_eq!(places.clients().len(), 1, "one still waits");
        drop(same);
        assert!(places.clients().is_empty());
    }
}
