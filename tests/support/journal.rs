//! The journal read by other means than the daemon's.

use std::fs;

use serde_json::Value;

use super::Edge;

/// The last whole record.
pub fn book(edge: &Edge) -> Value {
    let log = fs::read(edge.folder.path().join("state/journal.wal")).expect("a journal");
    let log = String::from_utf8_lossy(&log).into_owned();
    let record = |line: &str| {
        let (sum, body) = line.split_once(' ')?;
        let whole = sum == format!("{:08x}", crc32fast::hash(body.as_bytes()));
        let (_, book) = body.split_once(' ').filter(|_| whole)?;
        serde_json::from_str::<Value>(book).ok()
    };
    log.lines().rev().find_map(record).expect("a whole record")
}

/// What the journal of a killed daemon names, worked out from its last whole record and the table
/// of the design, not by the daemon's code.
pub fn named_by_the_journal(edge: &Edge) -> String {
    let book = book(edge);
    let stack = &book["stacks"]["default"];
    let (pending, last) = (&stack["pending"], &stack["last"]);
    let (moves, side) = if pending["kind"] == "cut_over" {
        (&pending["moves"], "from")
    } else if pending["kind"] == "roll_back" {
        (&pending["moves"], "to")
    } else if last["kept"] == false && last["watched"]["crashes"].as_u64() >= Some(1) {
        // This death is the second one.
        (&last["moves"], "from")
    } else {
        return book["services"]["web"]["live"]["color"]
            .as_str()
            .expect("a color")
            .to_owned();
    };
    let color = moves[0][side]["color"].as_str().expect("a color");
    color.to_owned()
}
