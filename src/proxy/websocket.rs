//! The end of a WebSocket in place: close code 1012 to both ends, between two messages.
//!
//! A drain must not cut a connection in the middle of a frame. After an upgrade every byte passes
//! through [`super::front::Front`], so that is where both directions are followed, by their frame
//! headers alone (RFC 6455 §5.2); payloads are neither copied nor unmasked. When the end is asked
//! for, a Close frame goes to the client after the message that is being sent, and one to the
//! upstream after the message that is being received. What the upstream still sends is dropped;
//! the client has a moment to answer, then the connection ends.

use std::time::Duration;

/// How long a client may take to answer a Close frame.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Service Restart (IANA WebSocket Close Code Number Registry).
const CODE: [u8; 2] = 1012_u16.to_be_bytes();

/// What people see of it in a browser.
const REASON: &[u8] = b"service restart";

/// FIN and opcode 8.
const CLOSE: u8 = 0x88;

/// A Close frame for the client.
pub(super) fn close_for_client() -> Vec<u8> {
    let mut frame = vec![CLOSE, payload_length()];
    frame.extend(CODE);
    frame.extend(REASON);
    frame
}

/// A Close frame for the upstream: masked, as a client's frames are (RFC 6455 §5.3).
pub(super) fn close_for_upstream(mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![CLOSE, 0x80 | payload_length()];
    frame.extend(mask);
    let payload = CODE.iter().chain(REASON).zip(mask.iter().cycle());
    frame.extend(payload.map(|(byte, mask)| byte ^ mask));
    frame
}

/// Below 126, so it is the length itself.
const fn payload_length() -> u8 {
    (CODE.len() + REASON.len()) as u8
}

/// Where one direction is in its frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    /// The header so far.
    header: [u8; 14],
    have: usize,
    /// Bytes of the payload still to come.
    payload: u64,
    /// A fragmented message is not complete.
    in_message: bool,
    /// A Close frame has begun.
    closed: bool,
}

impl Frames {
    /// Whether nothing is half said: between two messages.
    pub(super) const fn is_between(&self) -> bool {
        self.have == 0 && self.payload == 0 && !self.in_message
    }

    /// Whether this direction has said goodbye.
    pub(super) const fn has_closed(&self) -> bool {
        self.closed
    }

    /// Follows all bytes.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.step(rest);
            rest = &rest[taken..];
        }
    }

    /// How many of the bytes belong to what was begun; all of them if it does not end in them.
    /// 0 when nothing was begun.
    pub(super) fn rest_of_message(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut taken = 0;
        while taken < bytes.len() && !ahead.is_between() {
            taken += ahead.step(&bytes[taken..]);
        }
        taken
    }

    /// Takes a part of a header or of a payload; at least one byte.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.payload > 0 {
            let taken =
                usize::try_from(self.payload).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.payload -= taken as u64;
            return taken;
        }
        let wanted = self.wanted();
        let taken = (wanted - self.have).min(bytes.len());
        self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        if self.have >= 2 && self.have == self.wanted() {
            self.begin();
        }
        taken
    }

    /// Length of the header, as far as it is known.
    fn wanted(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn begin(&mut self) {
        let [first, second, extended @ ..] = self.header;
        self.payload = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([extended[0], extended[1]])),
            127 => extended[..8]
                .iter()
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
            length => u64::from(length),
        };
        self.have = 0;
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        match opcode {
            // Control frames may stand between the fragments of a message.
            0x8..=0xf => self.closed |= opcode == 0x8,
            _ => self.in_message = !is_final,
        }
    }
}

/// Finds the end of a response head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// How much of `\r\n\r\n` was seen last.
    seen: usize,
    over: bool,
}

impl Head {
    /// How many of the bytes belong to the head.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        const END: &[u8; 4] = b"\r\n\r\n";
        if self.over {
            return 0;
        }
        for (at, byte) in bytes.iter().enumerate() {
            self.seen = if *byte == END[self.seen] {
                self.seen + 1
            } else {
                usize::from(*byte == END[0])
            };
            if self.seen == END.len() {
                self.over = true;
                return at + 1;
            }
        }
        bytes.len()
    }

    pub(super) const fn is_over(self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![first];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..126 => frame.push(mask | u8::try_from(length).unwrap()),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    #[test]
    fn both_close_frames_say_1012_and_are_whole() {
        for (frame, mask) in [
            (close_for_client(), None),
            (close_for_upstream([7, 8, 9, 10]), Some([7, 8, 9, 10])),
        ] {
            let mut frames = Frames::default();
            frames.follow(&frame);
            assert!(frames.is_between() && frames.has_closed());
            let payload = if mask.is_some() {
                &frame[6..]
            } else {
                &frame[2..]
            };
            let mask = mask.unwrap_or_default();
            let plain: Vec<u8> = payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(a, b)| a ^ b)
                .collect();
            assert_eq!(plain[..2], 1012_u16.to_be_bytes());
            assert_eq!(&plain[2..], b"service restart");
        }
    }

    #[test]
    fn a_head_ends_at_its_empty_line_over_any_border() {
        let bytes = b"HTTP/1.1 101 X\r\nA: \r\r\n\r\n\x81\x00";
        for cut in 0..bytes.len() {
            let mut head = Head::default();
            let first = head.follow(&bytes[..cut]);
            let rest = head.follow(&bytes[cut..]);
            assert_eq!(first + rest, bytes.len() - 2, "cut at {cut}");
            assert!(head.is_over());
        }
    }

    proptest! {
        /// However the bytes are cut, the places between messages are the same.
        #[test]
        fn any_cut_of_any_frames_finds_the_same_places(
            messages in prop::collection::vec((1_usize..4, prop_oneof![0_usize..200, 65_000_usize..70_000], any::<bool>(), any::<bool>()), 1..6),
            cuts in prop::collection::vec(1_usize..3_000, 1..40),
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (fragments, length, masked, ping) in messages {
                for at in 0..fragments {
                    let opcode = if at == 0 { 1 } else { 0 };
                    let fin = if at + 1 == fragments { 0x80 } else { 0 };
                    bytes.extend(frame(fin | opcode, length, masked));
                    if ping && at + 1 < fragments {
                        bytes.extend(frame(0x89, 5, masked));
                    }
                }
                ends.push(bytes.len());
            }
            let mut frames = Frames::default();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < bytes.len() {
                prop_assert_eq!(frames.is_between(), ends.contains(&at), "at {}", at);
                let next = (at + cuts.next().unwrap_or(1)).min(bytes.len());
                let part = &bytes[at..next];
                let rest = frames.rest_of_message(part);
                let end = ends.iter().find(|end| **end >= at).copied().unwrap_or(0);
                prop_assert_eq!(rest, end.min(next) - at);
                frames.follow(part);
                at = next;
            }
            prop_assert!(frames.is_between() && !frames.has_closed());
        }
    }
}
