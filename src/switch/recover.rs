//! On start: which color of each service is live, from what the disk remembers.
//!
//! Pure. The last durable *done* wins: a cutover that was only intended did not happen, a
//! rollback that was intended is finished. What the disk remembers wins over `live` in the
//! configuration, unless that slot is gone.

use std::collections::BTreeMap;

use super::ids;
use super::record::{Book, Intent, Live, ServiceRecord};
use crate::config::Service;
use crate::model::{Color, Generation, ServiceName};

/// What the daemon begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The live pool of every configured service: the first table is built from these.
    pub live: BTreeMap<ServiceName, Live>,
    /// What to say at start, one line each.
    pub warnings: Vec<String>,
    pub(crate) book: Book,
}

/// Settles what a stop left behind. `None`: nothing was ever remembered.
#[must_use]
pub fn recover(book: Option<Book>, services: &[Service]) -> Recovered {
    let mut book = book.unwrap_or_default();
    let mut warnings = settle(&mut book);
    ids::settle(&mut book);
    let fresh = book.allot();
    let mut live = BTreeMap::new();
    for service in services {
        let (pool, warning) = live_of(&book, service, fresh);
        remember(&mut book, &service.name, pool);
        live.insert(service.name.clone(), pool);
        warnings.extend(warning);
    }
    Recovered {
        live,
        warnings,
        book,
    }
}

/// The live pool of a service, from what is remembered, else from its configuration. A slot
/// that is gone gives way to the other one, as pool `fresh`, with a warning.
pub(super) fn live_of(book: &Book, service: &Service, fresh: Generation) -> (Live, Option<String>) {
    let filled = |color: Color| service.slots[color.index()].is_some();
    let Some(record) = book.services.get(&service.name) else {
        let color = service.first_live();
        return (
            Live {
                color,
                generation: fresh,
            },
            None,
        );
    };
    let recorded = record.live;
    let other = recorded.color.other();
    if filled(recorded.color) || !filled(other) {
        return (recorded, None);
    }
    let warning = format!(
        "{}: {} was live but has no upstreams any more; {other} is live now",
        service.name, recorded.color
    );
    let live = Live {
        color: other,
        generation: fresh,
    };
    (live, Some(warning))
}

pub(super) fn remember(book: &mut Book, service: &ServiceName, live: Live) {
    match book.services.get_mut(service) {
        Some(record) => record.live = live,
        None => {
            let record = ServiceRecord {
                live,
                releases: BTreeMap::new(),
            };
            book.services.insert(service.clone(), record);
        }
    }
}

/// A release under which the daemon died that often is undone: it may be what kills it.
const CRASHES: u32 = 2;

/// Ends what was under way when the daemon stopped.
fn settle(book: &mut Book) -> Vec<String> {
    let mut warnings = Vec::new();
    let clean = std::mem::take(&mut book.clean);
    let Book {
        services, stacks, ..
    } = book;
    for (stack, record) in stacks {
        match record.pending.take() {
            Some(Intent::CutOver { moves }) => {
                for m in &moves {
                    if let Some(service) = services.get_mut(&m.service) {
                        service.live = m.from;
                    }
                }
                warnings.push(format!(
                    "stack {stack}: a switch was interrupted before it happened; the old color is live"
                ));
            }
            Some(Intent::RollBack { moves }) => {
                for m in &moves {
                    if let Some(service) = services.get_mut(&m.service) {
                        service.live = m.to;
                    }
                }
                record.last = None;
                warnings.push(format!(
                    "stack {stack}: a rollback was interrupted and is finished now"
                ));
            }
            None => {}
        }
        let Some(last) = record.last.as_mut().filter(|last| !last.kept) else {
            continue;
        };
        let crashed = u32::from(!clean);
        match &mut last.watched {
            Some(watched) if watched.crashes + crashed >= CRASHES => {
                for m in &last.moves {
                    if let Some(service) = services.get_mut(&m.service)
                        && service.live == m.to
                    {
                        service.live = m.from;
                    }
                }
                warnings.push(format!(
                    "stack {stack}: the daemon died {CRASHES} times while {} was watched; {} is \
                     live again",
                    watched.target,
                    watched.target.other()
                ));
                record.last = None;
            }
            Some(watched) => {
                watched.crashes += crashed;
                warnings.push(format!(
                    "stack {stack}: the watch of the last switch was interrupted; it goes on, with \
                     {} live",
                    watched.target
                ));
            }
            None => {
                last.kept = true;
                warnings.push(format!(
                    "stack {stack}: the watch of the last switch was cut short by a restart; it is \
                     kept, and `rollback` still undoes it"
                ));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::record::{Cutover, Move, StackRecord, Watched};

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
            to: live(Color::Green, 2),
        }]
    }

    fn back() -> Vec<Move> {
        let reversed = |m: Move| Move {
            service: m.service,
            from: m.to,
            to: m.from,
        };
        there().into_iter().map(reversed).collect()
    }

    fn settled(now: Live, pending: Option<Intent>, kept: Option<bool>) -> (Live, StackRecord) {
        let mut book = Book::default();
        remember(&mut book, &"web".into(), now);
        let last = kept.map(|kept| Cutover {
            moves: there(),
            actor: "ci".to_owned(),
            kept,
            watched: None,
        });
        let record = StackRecord { last, pending };
        book.stacks.insert("default".into(), record);
        let recovered = recover(Some(book), &[]);
        let book = recovered.book;
        (book.services["web"].live, book.stacks["default"].clone())
    }

    #[test]
    fn an_intended_cutover_did_not_happen() {
        let pending = Some(Intent::CutOver { moves: there() });
        let (now, record) = settled(live(Color::Blue, 1), pending, None);
        assert_eq!(now.color, Color::Blue);
        assert_eq!(record, StackRecord::default());
    }

    #[test]
    fn an_intended_rollback_is_finished() {
        let pending = Some(Intent::RollBack { moves: back() });
        let (now, record) = settled(live(Color::Green, 2), pending, Some(false));
        assert_eq!(now.color, Color::Blue);
        assert_eq!(record, StackRecord::default());
    }

    fn watched(crashes: u32, clean: bool) -> Recovered {
        let mut book = Book {
            clean,
            ..Book::default()
        };
        remember(&mut book, &"web".into(), live(Color::Green, 2));
        let last = Some(Cutover {
            moves: there(),
            actor: "ci".to_owned(),
            kept: false,
            watched: Some(Watched {
                target: Color::Green,
                why: None,
                since_ms: 5,
                crashes,
                held: None,
                confirm_ms: None,
            }),
        });
        let record = StackRecord {
            last,
            pending: None,
        };
        book.stacks.insert("default".into(), record);
        recover(Some(book), &[])
    }

    #[test]
    fn a_watch_goes_on_after_a_restart() {
        for (crashes, clean, expected) in [(0, false, 1), (0, true, 0), (1, true, 1)] {
            let Recovered { book, warnings, .. } = watched(crashes, clean);
            assert_eq!(book.services["web"].live.color, Color::Green);
            let last = book.stacks["default"].last.clone().expect("still watched");
            assert_eq!(last.watched.map(|watched| watched.crashes), Some(expected));
            assert!(!last.kept && !book.clean);
            assert!(
                warnings[0].contains("it goes on, with green live"),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn the_second_crash_under_a_watch_undoes_the_release() {
        let Recovered { book, warnings, .. } = watched(1, false);
        assert_eq!(book.services["web"].live, live(Color::Blue, 1));
        assert_eq!(book.stacks["default"], StackRecord::default());
        assert!(warnings[0].contains("died 2 times while green was watched; blue is live again"));
    }

    #[test]
    fn a_watched_cutover_is_kept_and_can_be_undone() {
        let (now, record) = settled(live(Color::Green, 2), None, Some(false));
        assert_eq!(now.color, Color::Green);
        assert!(record.last.is_some_and(|last| last.kept));
    }
}
