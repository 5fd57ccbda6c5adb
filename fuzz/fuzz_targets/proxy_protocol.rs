//! Any first bytes of a connection as a header of the PROXY protocol.
#![no_main]

use cutover::model::proxy_protocol::{Parsed, Version, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Parsed::Whole { header, length }) = parse(bytes) else {
        return;
    };
    assert!(length <= bytes.len());
    // What was understood can be said again, in both forms.
    for version in [Version::V1, Version::V2] {
        let written = header.encode(version);
        let length = written.len();
        assert_eq!(parse(&written), Ok(Parsed::Whole { header, length }));
    }
    // No shorter beginning is a header, and every one may be the beginning of this one.
    for end in 0..length {
        assert_eq!(parse(&bytes[..end]), Ok(Parsed::Partial), "the first {end} bytes");
    }
});
