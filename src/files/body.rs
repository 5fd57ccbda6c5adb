//! The bytes of an answer, a piece at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Read at a time.
const PIECE: u64 = 128 << 10;

/// Pieces to send one after the other.
#[derive(Debug)]
pub(crate) struct Body {
    file: Option<Arc<File>>,
    parts: VecDeque<Part>,
    /// Whether the file system can be asked without waiting.
    cached: bool,
    /// Where the next piece is read to: the memory of the piece before, once that was sent.
    buffer: BytesMut,
}

#[derive(Debug)]
enum Part {
    Text(Bytes),
    /// Of the file; never empty.
    Range(Range<u64>),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self {
            file: None,
            parts: VecDeque::new(),
            cached: true,
            buffer: BytesMut::new(),
        }
    }

    pub(super) fn text(text: String) -> Self {
        let mut body = Self::empty();
        body.push_text(text);
        body
    }

    pub(super) fn of(file: File) -> Self {
        Self {
            file: Some(Arc::new(file)),
            parts: VecDeque::with_capacity(1),
            cached: true,
            buffer: BytesMut::new(),
        }
    }

    pub(super) fn push_text(&mut self, text: String) {
        if !text.is_empty() {
            self.parts.push_back(Part::Text(Bytes::from(text)));
        }
    }

    pub(super) fn push_range(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.parts.push_back(Part::Range(range));
        }
    }

    /// Whether all of it was given out.
    pub(crate) fn is_done(&self) -> bool {
        self.parts.is_empty()
    }

    /// The next piece, at most 128 KiB of a file. `None`: that was all.
    ///
    /// # Errors
    /// The file cannot be read, or it has become shorter than what was announced
    /// (`UnexpectedEof`): the connection must end early.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let (Some(part), file) = (self.parts.pop_front(), &self.file) else {
            return Ok(None);
        };
        let (mut range, file) = match (part, file) {
            (Part::Text(text), _) => return Ok(Some(text)),
            (Part::Range(_), None) => return Ok(None),
            (Part::Range(range), Some(file)) => (range, Arc::clone(file)),
        };
        let at = range.start;
        let length = (range.end - at).min(PIECE);
        let mut buffer = mem::take(&mut self.buffer);
        buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        let read = match self.at_hand(&file, &mut buffer, at)? {
            Some(read) => read,
            None => {
                let read = move || {
                    let read = file.read_at(&mut buffer, at)?;
                    Ok::<_, io::Error>((read, buffer))
                };
                let (read, back) = tokio::task::spawn_blocking(read).await??;
                buffer = back;
                read
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(read);
        range.start += read as u64;
        if !range.is_empty() {
            self.parts.push_front(Part::Range(range));
        }
        let piece = buffer.split().freeze();
        self.buffer = buffer;
        Ok(Some(piece))
    }

    /// What the kernel has at hand; `None`: a disk would have to be waited for.
    fn at_hand(&mut self, file: &File, buffer: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        if !self.cached {
            return Ok(None);
        }
        let mut buffers = [IoSliceMut::new(buffer)];
        match preadv2(file, &mut buffers, at, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(Some(read)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                self.cached = false;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    async fn all(mut body: Body) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await? {
            assert!(!piece.is_empty() && piece.len() as u64 <= PIECE);
            bytes.extend_from_slice(&piece);
        }
        assert!(body.is_done());
        Ok(bytes)
    }

    #[tokio::test]
    async fn texts_and_ranges_come_in_their_order() {
        let mut body = Body::of(file(b"0123456789"));
        body.push_text("<".to_owned());
        body.push_range(7..10);
        body.push_text("|".to_owned());
        body.push_range(0..2);
        body.push_range(5..5);
        body.push_text(String::new());
        assert_eq!(all(body).await.expect("read"), b"<789|01");
        assert!(all(Body::empty()).await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn a_long_file_comes_in_pieces_whether_it_is_cached_or_not() {
        let bytes: Vec<u8> = (0..PIECE * 5 / 2).map(|n| (n % 251) as u8).collect();
        for cached in [true, false] {
            let mut body = Body::of(file(&bytes));
            body.cached = cached;
            body.push_range(1..bytes.len() as u64);
            assert_eq!(all(body).await.expect("read"), &bytes[1..]);
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error_and_no_short_answer() {
        for cached in [true, false] {
            let mut body = Body::of(file(b"0123"));
            body.cached = cached;
            body.push_range(0..8);
            let error = all(body).await.expect_err("short");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
