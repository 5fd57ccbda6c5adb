//! Model-checks the claim word: every interleaving of claims, releases and a drain.
//!
//! The file under test is compiled here a second time with the checker's atomics.

#[path = "../src/pool/claim.rs"]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "the library's own file"
)]
mod claim;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

use claim::ClaimWord;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

#[test]
fn no_claim_succeeds_after_the_pool_was_seen_drained() {
    // Three threads: all schedules with up to two forced switches; the full space takes minutes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let word = Arc::new(ClaimWord::new());
        let drained = Arc::new(AtomicBool::new(false));
        let claimers: Vec<_> = (0..2)
            .map(|lane| {
                let (word, drained) = (Arc::clone(&word), Arc::clone(&drained));
                thread::spawn(move || {
                    let seen_drained = drained.load(Ordering::Acquire);
                    if word.try_claim(lane) {
                        assert!(!seen_drained, "claimed a drained pool");
                        assert!(!word.is_drained(), "drained while this claim is held");
                        word.release(lane);
                    }
                })
            })
            .collect();
        word.begin_drain();
        if word.is_drained() {
            drained.store(true, Ordering::Release);
        }
        for claimer in claimers {
            claimer.join().expect("claimer");
        }
        assert!(word.is_drained());
        assert!(!word.try_claim(0));
        assert_eq!(word.counts(), [0, 0, 0]);
    });
}

#[test]
fn exactly_one_party_learns_that_the_drain_is_over() {
    loom::model(|| {
        let word = Arc::new(ClaimWord::new());
        assert!(word.try_claim(0));
        assert!(word.try_claim(1));
        let holders: Vec<_> = (0..2)
            .map(|lane| {
                let word = Arc::clone(&word);
                thread::spawn(move || u32::from(word.release(lane)))
            })
            .collect();
        let mut told = u32::from(word.begin_drain());
        for holder in holders {
            told += holder.join().expect("holder");
        }
        assert_eq!(told, 1);
        assert!(word.is_drained());
    });
}

#[test]
fn an_upgrade_never_lets_a_drain_end_early() {
    loom::model(|| {
        let word = Arc::new(ClaimWord::new());
        assert!(word.try_claim(0));
        let upgrading = {
            let word = Arc::clone(&word);
            thread::spawn(move || {
                word.reclassify(0, 1);
                assert!(!word.is_drained());
                word.release(1)
            })
        };
        let empty_at_once = word.begin_drain();
        let [requests, sockets, _] = word.counts();
        assert!(requests + sockets <= 1);
        let last = upgrading.join().expect("upgrading");
        assert!(last != empty_at_once, "exactly one of the two saw the end");
        assert!(word.is_drained());
    });
}
