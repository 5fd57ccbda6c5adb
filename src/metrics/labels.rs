//! Closed lists of label values. A list's order is the order of its counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::Method;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the counters.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The value of the label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl Label for $name {
            type Counters = [AtomicU64; [$($text),+].len()];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// A label whose values are known in advance: one counter each, no map.
pub(super) trait Label: Copy {
    /// One counter for every value.
    type Counters: Default + AsRef<[AtomicU64]>;

    /// Position among the values.
    fn index(self) -> usize;
}

/// Counters of one service or of the process, by the values of one label.
#[derive(Debug)]
pub(super) struct Counters<L: Label>(L::Counters);

impl<L: Label> Default for Counters<L> {
    fn default() -> Self {
        Self(L::Counters::default())
    }
}

impl<L: Label> Counters<L> {
    pub(super) fn increment(&self, label: L) {
        self.0.as_ref()[label.index()].fetch_add(1, Relaxed);
    }

    /// Stays at zero rather than wrap.
    pub(super) fn decrement(&self, label: L) {
        let counter = &self.0.as_ref()[label.index()];
        // An `Err` says that it was zero already, which is where it should stay.
        let _ = counter.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    pub(super) fn value(&self, label: L) -> u64 {
        self.0.as_ref()[label.index()].load(Relaxed)
    }
}

label! {
    /// How a switch ended.
    SwitchOutcome {
        /// The verdict kept the new color.
        Kept => "kept",
        /// The verdict, or a person, went back to the old color.
        RolledBack => "rolled_back",
        /// Ended before the cutover, by a person or by a target that never became ready.
        Aborted => "aborted",
        /// Never began: gate, freeze or another switch.
        Refused => "refused",
    }
}

label! {
    /// What made a switch roll back.
    RollbackReason {
        /// Too many failed answers.
        ErrorRate => "error_rate",
        /// Answers became slower.
        Latency => "latency",
        /// Active probes failed.
        Health => "health",
        /// A container stopped or restarted.
        Container => "container",
        /// A person asked for it.
        Operator => "operator",
    }
}

label! {
    /// How a thing that can fail ended: an order of a certificate, a reload.
    Outcome {
        /// The certificate was issued; the new configuration is in force.
        Success => "success",
        /// It was not; the old one stays.
        Failure => "failure",
    }
}

label! {
    /// What a client's connection speaks.
    Protocol {
        /// HTTP without TLS.
        Http => "http",
        /// HTTP over TLS, any version.
        Https => "https",
    }
}

/// Values of the `method` label: the methods of RFC 9110 §9.3 and RFC 5789, and the rest.
pub(super) const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER",
];

/// Position of a method in [`METHODS`]. Methods are case-sensitive: `get` is an other one.
pub(super) fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ => 9,
    }
}

/// Values of the `code` label: what the IANA registry of status codes lists, the widely used
/// 499 (the client went away), a rest for each class, and the rest of the rest.
pub(super) const CODES: [&str; 70] = [
    "100", "101", "102", "103", "104", "200", "201", "202", "203", "204", "205", "206", "207",
    "208", "226", "300", "301", "302", "303", "304", "305", "307", "308", "400", "401", "402",
    "403", "404", "405", "406", "407", "408", "409", "410", "411", "412", "413", "414", "415",
    "416", "417", "418", "421", "422", "423", "424", "425", "426", "428", "429", "431", "451",
    "499", "500", "501", "502", "503", "504", "505", "506", "507", "508", "510", "511", "1xx",
    "2xx", "3xx", "4xx", "5xx", "other",
];

/// Position of a status code in [`CODES`].
pub(super) fn code_index(status: u16) -> usize {
    INDEX_OF_STATUS
        .get(usize::from(status))
        .map_or(CODES.len() - 1, |index| usize::from(*index))
}

/// Whether the code at this position of [`CODES`] is a server's failure.
pub(super) fn is_5xx(index: usize) -> bool {
    CODES[index].starts_with('5')
}

static INDEX_OF_STATUS: [u8; 600] = index_of_status();

const fn index_of_status() -> [u8; 600] {
    let classes = CODES.len() - 6;
    let mut table = [(CODES.len() - 1) as u8; 600];
    let mut status = 100;
    while status < table.len() {
        table[status] = (classes + status / 100 - 1) as u8;
        status += 1;
    }
    let mut index = 0;
    while index < classes {
        let digits = CODES[index].as_bytes();
        let status = (digits[0] - b'0') as usize * 100
            + (digits[1] - b'0') as usize * 10
            + (digits[2] - b'0') as usize;
        table[status] = index as u8;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_status_is_itself_and_an_unknown_one_its_class() {
        let code = |status| CODES[code_index(status)];
        for status in [100, 101, 200, 204, 304, 404, 421, 431, 499, 500, 503, 511] {
            assert_eq!(code(status), status.to_string());
        }
        let folded = [
            (199, "1xx"),
            (299, "2xx"),
            (306, "3xx"),
            (420, "4xx"),
            (599, "5xx"),
        ];
        for (status, class) in folded {
            assert_eq!(code(status), class);
        }
        for status in [0, 1, 99, 600, 999, u16::MAX] {
            assert_eq!(code(status), "other", "{status}");
        }
    }

    #[test]
    fn server_errors_are_found_under_every_name() {
        for status in 0..1000 {
            assert_eq!(
                is_5xx(code_index(status)),
                (500..600).contains(&status),
                "{status}"
            );
        }
    }

    #[test]
    fn a_standard_method_is_itself_and_any_other_one_is_other() {
        for (index, name) in METHODS.iter().enumerate().take(9) {
            let method: Method = name.parse().expect("a method");
            assert_eq!(method_index(&method), index);
        }
        for name in ["get", "PROPFIND", "X", "OTHER"] {
            let method: Method = name.parse().expect("a method");
            assert_eq!(METHODS[method_index(&method)], "OTHER");
        }
    }

    #[test]
    fn a_gauge_of_connections_does_not_go_below_zero() {
        let open = Counters::<Protocol>::default();
        open.decrement(Protocol::Http);
        open.increment(Protocol::Http);
        assert_eq!(open.value(Protocol::Http), 1);
    }
}
