//! How a book looks in the log and in the snapshot.

use std::io;

use serde::{Deserialize, Serialize};

use crate::switch::record::Book;

/// The log: one line for each record, its CRC-32 (IEEE 802.3) in hexadecimal, its number, the
/// book as JSON.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The record with the highest number.
    pub(super) newest: Option<(u64, Book)>,
    /// What is wrong with it beside a torn end.
    pub(super) damage: Option<String>,
    /// The highest version of any record.
    pub(super) version: Option<u32>,
}

/// The part of a book that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Log {
    pub(super) fn line(sequence: u64, book: &Book) -> io::Result<String> {
        let body = format!("{sequence} {}", serde_json::to_string(book)?);
        Ok(format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes())))
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut log = Self::default();
        let mut rest = bytes;
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let end = rest.iter().position(|byte| *byte == b'\n');
            let line = &rest[..end.unwrap_or(rest.len())];
            rest = end.map_or(&[][..], |end| &rest[end + 1..]);
            // Only the line end itself is bad: the record is whole.
            let whole = match (record(line), line) {
                (Err(_), [whole @ .., _]) if end.is_none() => record(whole),
                (read, _) => read,
            };
            match whole {
                Ok((sequence, version, book)) => {
                    log.version = log.version.max(Some(version));
                    if let Some(book) = book
                        && log.newest.as_ref().is_none_or(|(last, _)| *last < sequence)
                    {
                        log.newest = Some((sequence, book));
                    }
                }
                // What a crash leaves of a write: its beginning, or blocks that were never
                // written and read as zeros.
                Err(_)
                    if end.is_none()
                        || rest.iter().all(|byte| *byte == 0) && line.ends_with(&[0]) =>
                {
                    return log;
                }
                Err(what) => {
                    let told = || format!("record {number} {what}");
                    log.damage = log.damage.or_else(|| Some(told()));
                }
            }
        }
        log
    }
}

/// Number, version and, in the known one, book.
fn record(line: &[u8]) -> Result<(u64, u32, Option<Book>), &'static str> {
    const DAMAGED: &str = "is damaged";
    let line = std::str::from_utf8(line).map_err(|_| DAMAGED)?;
    let (sum, body) = line.split_once(' ').ok_or(DAMAGED)?;
    let written = u32::from_str_radix(sum, 16).map_err(|_| DAMAGED)?;
    if sum.len() != 8
        || sum != sum.to_ascii_lowercase()
        || written != crc32fast::hash(body.as_bytes())
    {
        return Err(DAMAGED);
    }
    let (sequence, book) = body.split_once(' ').ok_or(DAMAGED)?;
    let sequence = sequence.parse().map_err(|_| DAMAGED)?;
    let Versioned { version } = serde_json::from_str(book).map_err(|_| DAMAGED)?;
    if version > Book::VERSION {
        return Ok((sequence, version, None));
    }
    let book = serde_json::from_str(book).map_err(|_| "is of another shape")?;
    Ok((sequence, version, Some(book)))
}

/// The second copy: JSON for people, with the number and the sum of the record that it repeats.
#[derive(Debug)]
pub(super) enum Snapshot {
    Good {
        sequence: u64,
        book: Book,
    },
    /// Written before there was a log.
    Alone {
        book: Book,
    },
    Newer {
        version: u32,
    },
    Damaged {
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    version: u32,
    sequence: u64,
    crc32: String,
    book: Book,
}

impl Snapshot {
    pub(super) fn text(sequence: u64, book: &Book) -> io::Result<String> {
        let sealed = Sealed {
            version: book.version,
            sequence,
            crc32: sum(sequence, book)?,
            book: book.clone(),
        };
        Ok(serde_json::to_string_pretty(&sealed)? + "\n")
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let damaged = |what: &str| Self::Damaged {
            what: what.to_owned(),
        };
        let Ok(Versioned { version }) = serde_json::from_slice(bytes) else {
            return damaged("it is damaged");
        };
        if version > Book::VERSION {
            return Self::Newer { version };
        }
        if version == 1 {
            return match serde_json::from_slice::<Book>(bytes) {
                Ok(mut book) => {
                    book.version = Book::VERSION;
                    Self::Alone { book }
                }
                Err(_) => damaged("it is damaged"),
            };
        }
        match serde_json::from_slice::<Sealed>(bytes) {
            Ok(sealed)
                if sum(sealed.sequence, &sealed.book).is_ok_and(|sum| sum == sealed.crc32) =>
            {
                Self::Good {
                    sequence: sealed.sequence,
                    book: sealed.book,
                }
            }
            Ok(_) => damaged("its checksum is wrong"),
            Err(_) => damaged("it is damaged"),
        }
    }

    pub(super) const fn version(&self) -> Option<u32> {
        match self {
            Self::Newer { version } => Some(*version),
            Self::Good { .. } | Self::Alone { .. } | Self::Damaged { .. } => None,
        }
    }
}

fn sum(sequence: u64, book: &Book) -> io::Result<String> {
    let body = format!("{sequence} {}", serde_json::to_string(book)?);
    Ok(format!("{:08x}", crc32fast::hash(body.as_bytes())))
}
