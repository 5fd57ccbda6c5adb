//! One body on its way through a compressor.
//!
//! A compressor holds back what might still compress better with what comes next. Each piece is
//! followed by a flush, so that the client has all of it at once: the next one may be a long time
//! in coming. Pieces are tens of kilobytes where bytes come fast, so this costs next to nothing.
//!
//! What one body holds in memory is bounded by its window: about 0.3 MiB for gzip, 2 MiB for
//! brotli and zstd at their default levels.

use std::fmt;
use std::io::{self, Write};
use std::mem;

use bytes::Bytes;

use crate::config::step::Encoding;

/// See the module. Dropped at any time, it leaves nothing behind.
pub(crate) struct Encoder(Stream);

enum Stream {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Finished,
}

/// Of gzip, as in Caddy.
const GZIP_LEVEL: u32 = 5;
/// Of brotli; what nginx and others take for answers that are made anew each time.
const BROTLI_LEVEL: u32 = 4;
/// Of zstd, its own default.
const ZSTD_LEVEL: u32 = 3;

/// Windows of 512 KiB, as a power of two; a body that is shorter gets a smaller one.
const WINDOW: u32 = 19;
/// The smallest that both formats allow.
const LEAST_WINDOW: u32 = 10;

impl Encoder {
    /// For a body of `length` bytes, if that is known.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(
        coding: Encoding,
        level: Option<u32>,
        length: Option<u64>,
    ) -> io::Result<Self> {
        let stream = match coding {
            Encoding::Gzip => {
                let level = flate2::Compression::new(level.unwrap_or(GZIP_LEVEL).min(9));
                Stream::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
            Encoding::Brotli => {
                let mut parameters = brotli::enc::BrotliEncoderParams::default();
                let level = level.unwrap_or(BROTLI_LEVEL).min(11);
                parameters.quality = i32::try_from(level).unwrap_or_default();
                parameters.lgwin = i32::try_from(window(length)).unwrap_or_default();
                let hint = length.and_then(|length| usize::try_from(length).ok());
                parameters.size_hint = hint.unwrap_or_default();
                Stream::Brotli(Box::new(brotli::CompressorWriter::with_params(
                    Vec::new(),
                    4096,
                    &parameters,
                )))
            }
            Encoding::Zstd => {
                let level = i32::try_from(level.unwrap_or(ZSTD_LEVEL).min(22)).unwrap_or_default();
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.window_log(window(length))?;
                // A wrong length from an upstream would be an error at the end: it is none here.
                encoder.include_contentsize(false)?;
                Stream::Zstd(encoder)
            }
        };
        Ok(Self(stream))
    }

    /// Replaces a piece of the body by what is to be sent for it, which may be nothing. `end`: it
    /// is the last one. After an end everything is dropped.
    ///
    /// # Errors
    /// No memory; the answer must end early.
    pub(crate) fn pass(&mut self, body: &mut Option<Bytes>, end: bool) -> io::Result<()> {
        let input = body.take().unwrap_or_default();
        let output = if end {
            self.0.write(&input)?;
            mem::replace(&mut self.0, Stream::Finished).finish()?
        } else if input.is_empty() {
            return Ok(());
        } else {
            self.0.write(&input)?;
            self.0.flush()?;
            self.0.take()
        };
        // An empty piece would be taken for the end of a chunked body.
        *body = (!output.is_empty()).then(|| Bytes::from(output));
        Ok(())
    }

    /// The rest, for a body that ends with trailers instead of a last piece.
    ///
    /// # Errors
    /// As [`Encoder::pass`].
    pub(crate) fn finish(&mut self) -> io::Result<Option<Bytes>> {
        let mut rest = None;
        self.pass(&mut rest, true)?;
        Ok(rest)
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Stream::Gzip(_) => "gzip",
            Stream::Brotli(_) => "br",
            Stream::Zstd(_) => "zstd",
            Stream::Finished => "finished",
        };
        f.debug_tuple("Encoder").field(&name).finish()
    }
}

impl Stream {
    fn write(&mut self, input: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(stream) => stream.write_all(input),
            Self::Brotli(stream) => stream.write_all(input),
            Self::Zstd(stream) => stream.write_all(input),
            Self::Finished => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(stream) => stream.flush(),
            Self::Brotli(stream) => stream.flush(),
            Self::Zstd(stream) => stream.flush(),
            Self::Finished => Ok(()),
        }
    }

    /// What has come out so far.
    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Gzip(stream) => mem::take(stream.get_mut()),
            Self::Brotli(stream) => mem::take(stream.get_mut()),
            Self::Zstd(stream) => mem::take(stream.get_mut()),
            Self::Finished => Vec::new(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(stream) => stream.finish(),
            Self::Brotli(stream) => Ok(stream.into_inner()),
            Self::Zstd(stream) => stream.finish(),
            Self::Finished => Ok(Vec::new()),
        }
    }
}

/// The window for a body of that length, as a power of two.
fn window(length: Option<u64>) -> u32 {
    let needed = length.map_or(WINDOW, |length| 64 - length.leading_zeros());
    needed.clamp(LEAST_WINDOW, WINDOW)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd];

    fn encoded(coding: Encoding, pieces: &[&[u8]], length: Option<u64>) -> Vec<u8> {
        let mut encoder = Encoder::new(coding, None, length).expect("an encoder");
        let mut out = Vec::new();
        for piece in pieces {
            let mut body = Some(Bytes::copy_from_slice(piece));
            encoder.pass(&mut body, false).expect("passed");
            out.extend_from_slice(&body.unwrap_or_default());
        }
        out.extend_from_slice(&encoder.finish().expect("finished").unwrap_or_default());
        out
    }

    /// As much as can be decoded of a stream that may not be whole yet.
    fn decoded(coding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut buffer = [0; 512];
        let mut reader: Box<dyn Read> = match coding {
            Encoding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
            Encoding::Brotli => Box::new(brotli::Decompressor::new(bytes, 512)),
            Encoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).expect("a decoder")),
        };
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            text.extend_from_slice(&buffer[..read]);
        }
        text
    }

    #[test]
    fn a_piece_that_was_passed_can_be_decoded_before_the_next_one() {
        for coding in ALL {
            let mut encoder = Encoder::new(coding, None, None).expect("an encoder");
            let mut sent = Vec::new();
            let mut text = String::new();
            for number in 0..5 {
                let piece = format!("piece {number}\n");
                text += &piece;
                let mut body = Some(Bytes::from(piece));
                encoder.pass(&mut body, false).expect("passed");
                sent.extend_from_slice(&body.expect("flushed"));
                assert_eq!(decoded(coding, &sent), text.as_bytes(), "{coding:?}");
            }
        }
    }

    #[test]
    fn an_end_without_bytes_finishes_the_body_and_nothing_follows() {
        for coding in ALL {
            let mut encoder = Encoder::new(coding, None, None).expect("an encoder");
            let mut body = Some(Bytes::new());
            encoder.pass(&mut body, false).expect("passed");
            assert_eq!(body, None, "no empty chunk");
            encoder.pass(&mut body, true).expect("passed");
            assert!(body.take().is_some_and(|rest| !rest.is_empty()));
            let mut late = Some(Bytes::from_static(b"late"));
            encoder.pass(&mut late, true).expect("passed");
            assert_eq!(late, None);
        }
    }

    #[test]
    fn every_level_makes_a_body_that_can_be_read() {
        let text = "the same text again and again ".repeat(100);
        for (coding, levels) in ALL.into_iter().zip([0..=9, 0..=11, 1..=22]) {
            for level in levels {
                let mut encoder =
                    Encoder::new(coding, Some(level), Some(text.len() as u64)).expect("an encoder");
                let mut body = Some(Bytes::from(text.clone()));
                encoder.pass(&mut body, true).expect("passed");
                let body = body.expect("a body");
                assert_eq!(
                    decoded(coding, &body),
                    text.as_bytes(),
                    "{coding:?} {level}"
                );
            }
        }
    }

    #[test]
    fn windows_fit_the_body() {
        assert_eq!(window(None), 19);
        assert_eq!(window(Some(0)), 10);
        assert_eq!(window(Some(100_000)), 17);
        assert_eq!(window(Some(u64::MAX)), 19);
    }

    proptest! {
        /// Whatever the pieces and whether the announced length is true.
        #[test]
        fn what_is_decoded_is_what_was_passed(
            pieces in prop::collection::vec(prop::collection::vec(0_u8..8, 0..3000), 0..6),
            length in prop::option::of(0_u64..20_000),
        ) {
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let whole = pieces.concat();
            for coding in ALL {
                let bytes = encoded(coding, &slices, length);
                prop_assert_eq!(&decoded(coding, &bytes), &whole);
            }
        }
    }
}
