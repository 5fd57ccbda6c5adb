//! What is acknowledged is found again, whatever happens to the disk in between.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::faults::{Memory, Trouble};
use super::*;
use crate::model::{Color, Generation};
use crate::switch::record::{Live, ServiceRecord};

/// The n-th book of a history.
fn book(number: u64) -> Book {
    let mut book = Book {
        generation: Generation(number),
        ..Book::default()
    };
    let live = Live {
        color: Color::ALL[usize::from(number % 2 == 1)],
        generation: Generation(number),
    };
    let record = ServiceRecord {
        live,
        releases: [(Color::Green, "v2 of the shop".into())].into(),
    };
    book.services.insert("web".into(), record);
    book
}

fn open(disk: &Memory) -> (Journal<Memory>, Found) {
    Journal::on(disk.clone(), Path::new("/state")).expect("a folder")
}

fn number(found: &Found) -> u64 {
    found.book.as_ref().map_or(0, |book| book.generation.0)
}

/// Books 1 to `last`, until the machine goes off. Gives the last one that was acknowledged.
fn write(disk: &Memory, last: u64) -> u64 {
    let Ok((journal, found)) = Journal::on(disk.clone(), Path::new("/state")) else {
        return 0;
    };
    let mut acknowledged = number(&found);
    for next in acknowledged + 1..=last {
        if journal.save(&book(next)).is_err() {
            break;
        }
        acknowledged = next;
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_every_step() {
    let whole = Memory::default();
    write(&whole, 6);
    for step in 0..whole.steps() {
        for keep in [0, 1, 60, 61, 127, 128, 200, 201, 254, 255] {
            for mixed in [false, true] {
                let disk = Memory::default();
                disk.crash_after(step);
                let acknowledged = write(&disk, 6);
                assert!(disk.has_crashed(), "step {step}");
                let mut choice = 0;
                let after = disk.after_power_cut(|| {
                    choice += 1;
                    if mixed && choice % 2 == 0 {
                        255 - keep
                    } else {
                        keep
                    }
                });
                let (_, found) = open(&after);
                let case = format!("step {step}, keep {keep}, mixed {mixed}: {found:?}");
                assert_eq!(found.damage, None, "{case}");
                let found = number(&found);
                assert!(
                    found == acknowledged || found == acknowledged + 1,
                    "{case}, acknowledged {acknowledged}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several lives of a daemon, each ended by a power cut, each with a disk in trouble at
    /// times: no acknowledged book is ever lost.
    #[test]
    fn no_history_of_power_cuts_and_disk_errors_loses_an_acknowledged_book(
        lives in prop::collection::vec(
            (0_u64..60, prop::collection::vec((0_u8..8, any::<u8>()), 1..8), any::<Vec<u8>>()),
            1..5,
        ),
    ) {
        let mut disk = Memory::default();
        let (mut acknowledged, mut tried) = (0, 0);
        for (steps, writes, choices) in lives {
            let (journal, found) = open(&disk);
            prop_assert_eq!(&found.damage, &None);
            let begun = number(&found);
            prop_assert!((acknowledged..=tried).contains(&begun), "{begun} of {acknowledged}..={tried}");
            disk.crash_after(steps);
            tried = tried.max(begun);
            acknowledged = begun;
            for (trouble, times) in writes {
                disk.trouble(match trouble {
                    0 => Trouble::Full,
                    1 => Trouble::ReadOnly,
                    2 => Trouble::SyncFails,
                    _ => Trouble::None,
                });
                for _ in 0..times % 4 {
                    tried += 1;
                    if journal.save(&book(tried)).is_ok() {
                        acknowledged = tried;
                    }
                }
            }
            let mut choices = choices.into_iter().cycle();
            disk = disk.after_power_cut(|| choices.next().unwrap_or(0));
        }
        let (_, found) = open(&disk);
        let last = number(&found);
        prop_assert!((acknowledged..=tried).contains(&last), "{last} of {acknowledged}..={tried}");
    }
}

#[test]
fn a_torn_last_record_is_dropped_in_silence_at_every_length() {
    let disk = Memory::default();
    write(&disk, 3);
    let whole = disk.content(LOG).expect("a log");
    let last = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .expect("lines")
        + 1;
    for length in last..whole.len() {
        for zeros in [0, 1, 512] {
            let mut torn = whole[..length].to_vec();
            torn.resize(length + zeros, 0);
            let disk = disk.after_power_cut(|| 254);
            disk.put(LOG, &torn);
            let (_, found) = open(&disk);
            let case = format!("{length} of {} and {zeros} zeros: {found:?}", whole.len());
            assert_eq!(found.damage, None, "{case}");
            // Without its line end the record is whole all the same.
            let expected = if length == whole.len() - 1 && zeros < 2 {
                3
            } else {
                2
            };
            assert_eq!(number(&found), expected, "{case}");
        }
    }
}

#[test]
fn a_flipped_bit_is_either_harmless_or_said() {
    let original = Memory::default();
    write(&original, 4);
    for file in [LOG, SNAPSHOT] {
        let whole = original.content(file).expect("a file");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let disk = original.after_power_cut(|| 254);
            disk.put(file, &flipped);
            let (_, found) = open(&disk);
            let case = format!("{file}, bit {bit}: {found:?}");
            assert!(number(&found) == 4 || found.damage.is_some(), "{case}");
            if file == SNAPSHOT {
                assert_eq!((number(&found), &found.damage), (4, &None), "{case}");
            }
        }
    }
}

#[test]
fn an_empty_file_is_survived() {
    let disk = Memory::default();
    write(&disk, 4);
    disk.put(SNAPSHOT, b"");
    let (_, found) = open(&disk);
    assert_eq!(
        (number(&found), found.damage),
        (4, None),
        "the log is complete"
    );

    let disk = Memory::default();
    write(&disk, 4);
    disk.put(LOG, b"");
    let (_, found) = open(&disk);
    let damage = found.damage.expect("what is lost cannot be known");
    assert!(
        damage.ends_with("journal.wal: it has no record"),
        "{damage}"
    );

    let disk = Memory::default();
    disk.put(LOG, b"");
    disk.put(SNAPSHOT, b"");
    let (journal, found) = open(&disk);
    assert!(found.book.is_none() && found.damage.is_some(), "{found:?}");
    let done = journal.repair(&book(9)).expect("a good disk");
    assert_eq!(done.len(), 3, "{done:?}");
    let (_, found) = open(&disk);
    assert_eq!((number(&found), found.damage), (9, None));
    assert!(disk.content("journal.wal.damaged").is_some());
}

#[test]
fn damage_in_the_middle_serves_the_newest_record_and_is_left_for_the_repair() {
    let disk = Memory::default();
    write(&disk, 4);
    let mut log = disk.content(LOG).expect("a log");
    let middle = log.len() / 2;
    log[middle] ^= 4;
    disk.put(LOG, &log);
    let (journal, found) = open(&disk);
    assert_eq!(number(&found), 4);
    let damage = found.damage.clone().expect("it is said");
    assert!(
        damage.contains("/state/journal.wal: record 3 is damaged"),
        "{damage}"
    );
    assert_eq!(disk.content(LOG), Some(log.clone()), "nothing was touched");
    journal.repair(&book(4)).expect("a good disk");
    assert_eq!(disk.content("journal.wal.damaged"), Some(log));
    let (_, found) = open(&disk);
    assert_eq!((number(&found), found.damage), (4, None));
}

#[test]
fn after_an_error_the_log_is_begun_anew_and_the_journal_heals() {
    for trouble in [Trouble::Full, Trouble::ReadOnly, Trouble::SyncFails] {
        let disk = Memory::default();
        let (journal, _) = open(&disk);
        journal.save(&book(1)).expect("a good disk");
        disk.trouble(trouble);
        for next in 2..5 {
            let error = journal.save(&book(next)).expect_err("a bad disk");
            assert!(error.path.starts_with("/state"), "{error}");
        }
        disk.trouble(Trouble::None);
        journal.save(&book(5)).expect("a good disk again");
        let (_, found) = open(&disk.after_power_cut(|| 0));
        assert_eq!((number(&found), found.damage), (5, None), "{trouble:?}");
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_served_from_and_said() {
    let disk = Memory::default();
    write(&disk, 3);
    disk.trouble(Trouble::ReadOnly);
    let (journal, found) = open(&disk);
    assert_eq!(number(&found), 3);
    assert!(
        found
            .unwritable
            .is_some_and(|why| why.contains("read-only"))
    );
    disk.trouble(Trouble::None);
    journal.save(&book(4)).expect("a good disk again");
    assert_eq!(number(&open(&disk).1), 4);
}

#[test]
fn the_log_does_not_grow_for_ever() {
    let disk = Memory::default();
    let (journal, _) = open(&disk);
    let mut longest = 0;
    for next in 1..3_000 {
        journal.save(&book(next)).expect("a good disk");
        longest = longest.max(disk.content(LOG).map_or(0, |log| log.len()));
    }
    assert!(longest < LOG_LIMIT + 1_024, "{longest}");
    assert_eq!(number(&open(&disk).1), 2_999);
}

#[test]
fn a_second_daemon_is_told_who_has_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, _) = Journal::open(folder.path()).expect("the first one");
    let refused = Journal::open(folder.path())
        .expect_err("a second one")
        .to_string();
    assert!(
        refused.contains("is in use by another cutover "),
        "{refused}"
    );
    let process = format!("process {} on ", std::process::id());
    assert!(refused.contains(&process), "{refused}");
    assert!(inspect(folder.path()).is_ok_and(|damage| damage.is_none()));
    drop(journal);
    Journal::open(folder.path()).expect("the lock ends with its holder");
}

#[test]
fn only_the_owner_may_read_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, _) = Journal::open(folder.path()).expect("a folder");
    journal.save(&book(1)).expect("a good disk");
    for file in [LOG, SNAPSHOT, "owner.json"] {
        let metadata = fs::metadata(folder.path().join(file)).expect(file);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_file_from_before_the_log_is_read_and_a_newer_one_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(SNAPSHOT);
    let mut old = book(7);
    old.version = 1;
    fs::write(&path, serde_json::to_vec_pretty(&old).expect("JSON")).expect("a file");
    let (journal, found) = Journal::open(folder.path()).expect("an old file");
    assert_eq!((number(&found), &found.damage), (7, &None));
    drop(journal);
    // Beside a log that is whole, what the copy says does not matter.
    fs::write(&path, r#"{"version": 77, "other": true}"#).expect("a file");
    assert_eq!(number(&Journal::open(folder.path()).expect("a log").1), 7);
    fs::write(&path, r#"{"version": 77, "other": true}"#).expect("a file");
    fs::remove_file(folder.path().join(LOG)).expect("a log");
    let error = Journal::open(folder.path())
        .expect_err("a newer file")
        .to_string();
    assert!(
        error.contains("has version 77, this daemon knows 2"),
        "{error}"
    );
}

#[test]
fn a_stopped_daemons_journal_is_repaired_by_hand() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, _) = Journal::open(folder.path()).expect("a folder");
    for next in 1..4 {
        journal.save(&book(next)).expect("a good disk");
    }
    assert!(matches!(
        repair(folder.path()),
        Err(RepairError::Open(OpenError::Held { .. }))
    ));
    drop(journal);
    assert_eq!(repair(folder.path()).expect("sound"), [] as [String; 0]);
    let log = folder.path().join(LOG);
    let mut bytes = fs::read(&log).expect("a log");
    bytes[20] ^= 1;
    fs::write(&log, &bytes).expect("a log");
    assert!(inspect(folder.path()).expect("readable").is_some());
    let done = repair(folder.path()).expect("repaired");
    assert!(done[0].contains("record 1 is damaged"), "{done:?}");
    assert_eq!(repair(folder.path()).expect("sound"), [] as [String; 0]);
    let (_, found) = Journal::open(folder.path()).expect("a folder");
    assert_eq!((number(&found), found.damage), (3, None));
}
