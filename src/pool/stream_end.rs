//! The wish that a stream comes to its end, told to whoever serves it.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// One stream's end: asked for by the drain, seen by the connection.
#[derive(Default)]
pub struct StreamEnd {
    told: Option<Box<dyn Fn() + Send + Sync>>,
    asked: AtomicBool,
    /// Who waits for bytes in either direction.
    wakers: Mutex<[Option<Waker>; 2]>,
}

impl fmt::Debug for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamEnd")
            .field("asked", &self.is_asked())
            .finish_non_exhaustive()
    }
}

impl StreamEnd {
    /// One that calls `told` when the end is asked for.
    pub fn with(told: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            told: Some(Box::new(told)),
            ..Self::default()
        }
    }

    /// The stream is to end at the next place where that hurts nobody.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        if let Some(told) = &self.told {
            told();
        }
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        for waker in wakers.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Remembers whom to wake: `side` 0 reads, 1 writes. To be called before
    /// [`StreamEnd::is_asked`] is asked for the last time.
    pub fn wake_later(&self, side: usize, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = wakers.get_mut(side) {
            match place {
                Some(known) if known.will_wake(waker) => {}
                place => *place = Some(waker.clone()),
            }
        }
    }
}
