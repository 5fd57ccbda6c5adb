//! Commands by the id that their client chose: a command that is repeated joins the one that
//! runs or gets its result, over restarts as well.
//!
//! Pure. What a command has done so far is noted in the same write as what it did, so that the
//! one is on disk if and only if the other is.

use super::machine::Progress;
use super::outcome::Outcome;
use super::record::{Book, GoneBack, Intent, Recorded, Running, StackRecord, Verb};
use super::verdict::Cause;
use crate::model::{Generation, ServiceName, StackName};

/// Results of finished commands that are remembered by id.
const RESULTS_KEPT: usize = 256;

/// For how long, in milliseconds: a day.
const RESULT_AGE_MS: u64 = 86_400_000;

/// Remembers how the command with this id ended.
pub(super) fn record(book: &mut Book, id: String, at_ms: u64, outcome: &Outcome) {
    let results = &mut book.results;
    results.retain(|known| at_ms.saturating_sub(known.at_ms) < RESULT_AGE_MS);
    if results.len() >= RESULTS_KEPT {
        results.remove(0);
    }
    results.push(Recorded {
        id,
        at_ms,
        code: outcome.code().to_owned(),
        text: outcome.to_string(),
        exit: outcome.exit_code(),
    });
}

/// The id of a command that has ended, if it had one.
pub(super) fn finish(book: &mut Book, command: Generation) -> Option<String> {
    let mut running = book.running.iter();
    let index = running.position(|known| known.generation == command)?;
    Some(book.running.remove(index).id)
}

/// What a command tells of itself before the write that makes it durable.
pub(super) fn told(book: &mut Book, command: Generation, progress: &Progress) {
    let mut running = book.running.iter_mut();
    let Some(known) = running.find(|known| known.generation == command) else {
        return;
    };
    match progress {
        Progress::CutOver { moves } => known.moves.clone_from(moves),
        Progress::RollingBack { by, reason } => {
            known.back = Some(GoneBack {
                by: by.clone(),
                reason: reason.clone(),
            });
        }
        Progress::Accepted { .. }
        | Progress::Waiting { .. }
        | Progress::Recorded { .. }
        | Progress::Observing(_)
        | Progress::Held { .. }
        | Progress::Draining
        | Progress::Finished(_) => {}
    }
}

/// What the record of a stack says of commands, just before it is written.
pub(super) fn written(book: &mut Book, stack: &StackName, record: &StackRecord) {
    let kept = record.last.as_ref().filter(|last| last.kept);
    for known in book.running.iter_mut().filter(|one| one.stack == *stack) {
        if let Some(last) = kept
            && (known.verb == Verb::Promote || is_of(known.generation, &last.moves))
        {
            known.kept = true;
            known.moves.clone_from(&last.moves);
        }
        if let Some(Intent::RollBack { moves }) = &record.pending
            && known.back.is_some()
            && known.moves.is_empty()
        {
            known.moves.clone_from(moves);
        }
    }
}

/// After a stop, with its stacks settled: what became of the commands that ran. One whose watch
/// goes on runs on; one that did nothing is forgotten, and may be asked for again.
pub(super) fn settle(book: &mut Book) {
    for known in std::mem::take(&mut book.running) {
        let last = book.stacks.get(&known.stack);
        let last = last.and_then(|record| record.last.as_ref());
        let last = last.filter(|last| is_of(known.generation, &last.moves));
        let is_watched = last.is_some_and(|last| !last.kept && last.watched.is_some());
        if is_watched && known.verb == Verb::Switch {
            book.running.push(known);
            continue;
        }
        let is_kept = known.kept || last.is_some_and(|last| last.kept);
        if let Some(outcome) = ended(&known, is_kept) {
            record(book, known.id, known.at_ms, &outcome);
        }
    }
}

/// How a command ended that a stop cut; `None`: it had done nothing.
fn ended(known: &Running, is_kept: bool) -> Option<Outcome> {
    let color = known.moves.first()?.to.color;
    let services: Vec<ServiceName> = known.moves.iter().map(|m| m.service.clone()).collect();
    let back = known.back.as_ref();
    let went_back = |by: &str, reason: &str| Outcome::RolledBack {
        services: services.clone(),
        by: by.to_owned(),
        cause: Cause::Operator,
        reason: reason.to_owned(),
    };
    Some(match (known.verb, back) {
        (Verb::Rollback | Verb::Abort, _) => Outcome::Undone {
            services: services.clone(),
            unsaved: None,
        },
        (Verb::Switch | Verb::Promote, Some(back)) => went_back(&back.by, &back.reason),
        (Verb::Promote, None) => Outcome::Promoted { color },
        (Verb::Switch, None) if is_kept => Outcome::Kept {
            color,
            services: services.clone(),
            closed: [0; 3],
            unsaved: None,
        },
        (Verb::Switch, None) => went_back("cutover", "the daemon died while it was watched"),
    })
}

/// All pools that a command publishes have its number.
fn is_of(command: Generation, moves: &[super::record::Move]) -> bool {
    moves.iter().any(|m| m.to.generation == command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Color;
    use crate::switch::record::{Cutover, Live, Move};

    fn live(color: Color, generation: u64) -> Live {
        Live {
            color,
            generation: Generation(generation),
        }
    }

    fn there() -> Vec<Move> {
        vec![Move {
            service: "web".into(),
            from: live(Color::Blue, 1),
            to: live(Color::Green, 7),
        }]
    }

    fn running(verb: Verb) -> Running {
        Running {
            id: "x".to_owned(),
            at_ms: 5,
            generation: Generation(7),
            stack: "default".into(),
            verb,
            moves: Vec::new(),
            kept: false,
            back: None,
        }
    }

    fn book(known: Running) -> Book {
        Book {
            running: vec![known],
            ..Book::default()
        }
    }

    fn kept() -> StackRecord {
        StackRecord {
            last: Some(Cutover {
                moves: there(),
                actor: "ci".to_owned(),
                kept: true,
                watched: None,
            }),
            pending: None,
        }
    }

    /// What is told to whoever asks again after a stop.
    fn after_a_stop(mut book: Book) -> Option<(String, u8)> {
        settle(&mut book);
        assert_eq!(book.running, []);
        let recorded = book.results.first()?;
        Some((recorded.code.clone(), recorded.exit))
    }

    #[test]
    fn what_had_moved_nothing_may_be_asked_for_again() {
        assert_eq!(after_a_stop(book(running(Verb::Switch))), None);
    }

    #[test]
    fn a_switch_that_was_kept_while_it_drained_was_kept() {
        let mut book = book(running(Verb::Switch));
        told(
            &mut book,
            Generation(7),
            &Progress::CutOver { moves: there() },
        );
        written(&mut book, &"default".into(), &kept());
        // The next switch is what the stack remembers.
        assert_eq!(after_a_stop(book), Some(("kept".to_owned(), 0)));
    }

    #[test]
    fn going_back_is_told_to_both_who_asked_for_it_and_who_is_undone() {
        for (verb, code, exit) in [
            (Verb::Switch, "rolled_back", 4),
            (Verb::Rollback, "undone", 0),
            (Verb::Abort, "undone", 0),
        ] {
            let mut book = book(running(verb));
            let back = Progress::RollingBack {
                by: "ann".to_owned(),
                reason: "it smells".to_owned(),
            };
            told(&mut book, Generation(7), &back);
            let mut record = kept();
            record.pending = Some(Intent::RollBack { moves: there() });
            record.last = None;
            written(&mut book, &"default".into(), &record);
            assert_eq!(
                after_a_stop(book),
                Some((code.to_owned(), exit)),
                "{verb:?}"
            );
        }
    }

    #[test]
    fn a_promotion_that_is_on_disk_is_done() {
        let mut book = book(running(Verb::Promote));
        written(&mut book, &"default".into(), &kept());
        assert_eq!(after_a_stop(book), Some(("promoted".to_owned(), 0)));
    }
}
