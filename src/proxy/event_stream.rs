//! The end of an event stream in place: between two events, with a `retry:` field.
//!
//! An event ends with an empty line, whatever the line ends are (WHATWG HTML §9.2.6). A stream
//! that is to end goes on to the next such place; there it is cut, the upstream's connection is
//! shut, and the response gets its proper end, so that the client sees a complete stream and
//! comes back after the time it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::pool::{OpenConnection, StreamEnd};

/// When clients come back, in milliseconds: spread, so that they do not come all at once.
const RETRY_MS: std::ops::Range<u32> = 500..2_000;

/// One event stream on its way to a client.
#[derive(Debug)]
pub(super) struct EventStream {
    end: Arc<StreamEnd>,
    scanner: Scanner,
    /// Cut: the rest of the upstream's answer is dropped.
    cut: bool,
    between: Arc<AtomicBool>,
    upstream: Option<OpenConnection>,
}

impl EventStream {
    /// A stream that has the connection `upstream` for itself.
    pub(super) fn new(upstream: Option<OpenConnection>) -> Self {
        let between = Arc::new(AtomicBool::new(true));
        let end = {
            let (between, upstream) = (Arc::clone(&between), upstream.clone());
            // Without a word from the upstream nothing would notice: its end does.
            StreamEnd::with(move || {
                if between.load(Ordering::SeqCst)
                    && let Some(upstream) = &upstream
                {
                    upstream.end();
                }
            })
        };
        Self {
            end: Arc::new(end),
            scanner: Scanner::default(),
            cut: false,
            between,
            upstream,
        }
    }

    /// How its end is asked for.
    pub(super) fn end(&self) -> &Arc<StreamEnd> {
        &self.end
    }

    /// Lets a part of the body pass, up to the end if that is wanted.
    pub(super) fn pass(&mut self, body: &mut Option<Bytes>) {
        if self.cut {
            *body = None;
            return;
        }
        let Some(bytes) = body else {
            return;
        };
        if self.end.is_asked() {
            let rest = self.scanner.rest_of_event(bytes);
            bytes.truncate(rest);
        }
        self.scanner.follow(bytes);
        self.between
            .store(self.scanner.is_between(), Ordering::SeqCst);
        // Asked for meanwhile, the end is here as well.
        if self.end.is_asked() && self.scanner.is_between() {
            self.cut = true;
            if let Some(upstream) = &self.upstream {
                upstream.end();
            }
        }
    }

    /// The last bytes of a stream that was ended here; `None`: it was not, or in the middle of an
    /// event.
    pub(super) fn farewell(&self) -> Option<Bytes> {
        let ended = self.end.is_asked() && self.scanner.is_between();
        ended.then(|| Bytes::from(format!("retry: {}\n\n", fastrand::u32(RETRY_MS))))
    }
}

/// Where a stream is in its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scanner {
    /// Something stands in the current line.
    in_line: bool,
    /// Something stands in the current event.
    in_event: bool,
    /// The last byte was a carriage return.
    after_return: bool,
}

impl Scanner {
    const fn is_between(self) -> bool {
        !self.in_event && !self.in_line
    }

    fn follow(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
        }
    }

    /// How many of the bytes belong to the event that was begun.
    fn rest_of_event(self, bytes: &[u8]) -> usize {
        let mut ahead = self;
        let mut taken = 0;
        while taken < bytes.len() && !ahead.is_between() {
            ahead.step(bytes[taken]);
            taken += 1;
        }
        // The line feed of a pair belongs to its carriage return.
        if ahead.after_return && bytes.get(taken) == Some(&b'\n') {
            taken += 1;
        }
        taken
    }

    fn step(&mut self, byte: u8) {
        match byte {
            b'\n' if self.after_return => self.after_return = false,
            b'\n' | b'\r' => {
                // An empty line ends the event.
                self.in_event = self.in_line;
                self.in_line = false;
                self.after_return = byte == b'\r';
            }
            _ => {
                self.in_line = true;
                self.in_event = true;
                self.after_return = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(stream: &mut EventStream, bytes: &str) -> String {
        let mut body = Some(Bytes::copy_from_slice(bytes.as_bytes()));
        stream.pass(&mut body);
        body.map_or_else(String::new, |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    #[test]
    fn a_stream_ends_after_the_event_that_was_begun() {
        let mut stream = EventStream::new(None);
        assert_eq!(
            passed(&mut stream, "data: 1\n\ndata: "),
            "data: 1\n\ndata: "
        );
        stream.end().ask();
        assert_eq!(stream.farewell(), None, "in the middle of an event");
        assert_eq!(passed(&mut stream, "2\nid: 7\n"), "2\nid: 7\n");
        assert_eq!(passed(&mut stream, "\ndata: 3\n\n"), "\n");
        assert_eq!(passed(&mut stream, "data: 4\n\n"), "");
        let farewell = stream.farewell().expect("ended");
        assert!(farewell.starts_with(b"retry: ") && farewell.ends_with(b"\n\n"));
    }

    #[test]
    fn a_quiet_stream_is_between_two_events() {
        let mut stream = EventStream::new(None);
        assert_eq!(passed(&mut stream, ": hello\n\n"), ": hello\n\n");
        assert_eq!(stream.farewell(), None, "nobody asked");
        stream.end().ask();
        assert!(stream.farewell().is_some());
    }

    proptest! {
        /// Whatever the line ends and however the bytes are cut: what has passed is whole events.
        #[test]
        fn what_has_passed_is_whole_events(
            events in prop::collection::vec(("[a-z]{0,5}", 0_usize..3), 1..10),
            cuts in prop::collection::vec(1_usize..9, 1..20),
            asked_after in 0_usize..60,
        ) {
            let mut text = String::new();
            let mut ends = vec![0];
            for (data, line_end) in events {
                let line_end = ["\n", "\r", "\r\n"][line_end];
                text += &format!("data: {data}{line_end}id: 1{line_end}{line_end}");
                ends.push(text.len());
            }
            let mut stream = EventStream::new(None);
            let (mut at, mut out, mut cuts) = (0, 0, cuts.into_iter().cycle());
            while at < text.len() {
                if at >= asked_after {
                    stream.end().ask();
                }
                let next = (at + cuts.next().unwrap_or(1)).min(text.len());
                out += passed(&mut stream, &text[at..next]).len();
                at = next;
            }
            // Between the bytes of a pair is as good as behind it.
            let whole = ends.contains(&out) || ends.contains(&(out + 1)) && text[out..].starts_with('\n');
            prop_assert!(whole, "{} of {}: {:?}", out, text.len(), &text[..out]);
        }
    }
}
