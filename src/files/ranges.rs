//! Byte ranges (RFC 9110 §14), as Go's `http.ServeContent` takes them.

use std::ops::Range;

/// What a `Range` field asks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The whole: the field is in another unit or says nothing, or its ranges are together longer than the file.
    Whole,
    /// These, in this order; none is empty.
    Parts(Vec<Range<u64>>),
    /// 416 with the length: no range lies within the file.
    Beyond,
    /// 416 without: the field cannot be read.
    Malformed,
}

/// More than this is no player and no download: the whole is sent (RFC 9110 §14.2).
const MOST: usize = 64;

/// Reads a `Range` field for a file of `size` bytes.
pub(super) fn read(field: &str, size: u64) -> Asked {
    let (unit, set) = field.split_once('=').unwrap_or((field, ""));
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.trim().is_empty() {
        return Asked::Whole;
    }
    let mut parts = Vec::new();
    let (mut total, mut beyond) = (0_u64, false);
    for entry in set.split(',').map(str::trim) {
        if entry.is_empty() {
            continue;
        }
        match one(entry, size) {
            Err(Malformed) => return Asked::Malformed,
            Ok(None) => beyond = true,
            Ok(Some(part)) => {
                total = total.saturating_add(part.end - part.start);
                parts.push(part);
            }
        }
    }
    if parts.is_empty() && beyond {
        // A client that limits every answer by a range gets an empty file all the same.
        return if size == 0 {
            Asked::Whole
        } else {
            Asked::Beyond
        };
    }
    if parts.is_empty() {
        return Asked::Malformed;
    }
    if total > size || parts.len() > MOST {
        return Asked::Whole;
    }
    Asked::Parts(parts)
}

struct Malformed;

/// One range; `None`: it lies beyond the file.
fn one(entry: &str, size: u64) -> Result<Option<Range<u64>>, Malformed> {
    let (first, last) = entry.split_once('-').ok_or(Malformed)?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Ok((length > 0).then(|| size - length..size));
    }
    let start = number(first)?;
    let end = match last {
        "" => size,
        last => number(last)?.saturating_add(1),
    };
    if !last.is_empty() && start >= end {
        return Err(Malformed);
    }
    Ok((start < size).then(|| start..end.min(size)))
}

/// Digits alone; what is larger than any file counts as the largest number.
fn number(text: &str) -> Result<u64, Malformed> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    Ok(text.parse().unwrap_or(u64::MAX - 1))
}

/// The parts of a `multipart/byteranges` body around the bytes of the file (RFC 9110 §14.6).
#[derive(Debug)]
pub(super) struct Multipart {
    boundary: String,
}

impl Multipart {
    /// With a boundary that no file holds but by intent: 256 random bits.
    pub(super) fn new() -> Self {
        let boundary = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        Self { boundary }
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Before the bytes of `part`, the `number`th from 0.
    pub(super) fn before(
        &self,
        number: usize,
        part: &Range<u64>,
        size: u64,
        content_type: Option<&str>,
    ) -> String {
        let line_end = if number == 0 { "" } else { "\r\n" };
        let kind =
            content_type.map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
        format!(
            "{line_end}--{}\r\nContent-Range: {}\r\n{kind}\r\n",
            self.boundary,
            content_range(part, size),
        )
    }

    pub(super) fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

/// RFC 9110 §14.4.
pub(super) fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vec_of(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    fn parts(field: &str) -> Vec<Range<u64>> {
        match read(field, 10) {
            Asked::Parts(parts) => parts,
            other => panic!("{field}: {other:?}"),
        }
    }

    #[test]
    fn ranges_are_read_from_both_ends() {
        assert_eq!(parts("bytes=0-0"), vec_of(0..1));
        assert_eq!(parts("bytes=2-4"), vec_of(2..5));
        assert_eq!(parts("bytes=7-"), vec_of(7..10));
        assert_eq!(parts("bytes=-3"), vec_of(7..10));
        assert_eq!(parts("bytes=-30"), vec_of(0..10));
        assert_eq!(parts("bytes=5-99999999999999999999999"), vec_of(5..10));
        assert_eq!(parts("Bytes = 0-1 , 4 - 5,"), [0..2, 4..6]);
        assert_eq!(parts("bytes=20-30, 1-1"), vec_of(1..2));
    }

    #[test]
    fn what_lies_beyond_is_told_from_nonsense() {
        for field in ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=11-12,30-"] {
            assert_eq!(read(field, 10), Asked::Beyond, "{field}");
        }
        for field in [
            "bytes=,",
            "bytes=a-b",
            "bytes=5-3",
            "bytes=--3",
            "bytes=-",
            "bytes=1",
            "bytes=+1-3",
            "bytes=0-1,x",
        ] {
            assert_eq!(read(field, 10), Asked::Malformed, "{field}");
        }
    }

    #[test]
    fn odd_requests_get_the_whole() {
        for field in ["lines=1-2", "bytes=", "bytes"] {
            assert_eq!(read(field, 10), Asked::Whole, "{field}");
        }
        assert_eq!(
            read("bytes=0-8,0-8", 10),
            Asked::Whole,
            "more than the file"
        );
        assert_eq!(read("bytes=0-", 0), Asked::Whole, "an empty file");
        let many = format!("bytes={}", vec!["1-1"; MOST + 1].join(","));
        assert_eq!(read(&many, 1000), Asked::Whole);
    }

    #[test]
    fn parts_are_framed_as_multipart() {
        let multipart = Multipart {
            boundary: "B".to_owned(),
        };
        assert_eq!(
            multipart.before(0, &(0..2), 10, Some("text/plain")),
            "--B\r\nContent-Range: bytes 0-1/10\r\nContent-Type: text/plain\r\n\r\n"
        );
        assert_eq!(
            multipart.before(1, &(9..10), 10, None),
            "\r\n--B\r\nContent-Range: bytes 9-9/10\r\n\r\n"
        );
        assert_eq!(multipart.end(), "\r\n--B--\r\n");
    }

    proptest! {
        #[test]
        fn no_field_reaches_outside_the_file(field in "bytes=[0-9, -]{0,24}", size in 0_u64..50) {
            if let Asked::Parts(parts) = read(&field, size) {
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= size);
            }
        }
    }
}
