//! `hash-password`: a password in, its hash for `basic_auth` out.
//!
//! A person types it twice and does not see it; a script writes one line. It is no argument, because
//! arguments are seen by every user of the machine.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use crate::admin::wire::{ControlError, ErrorCode};
use crate::config::step::Hashed;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::ctl::output::Output;

/// Longest password that is read, in bytes.
const LONGEST: u64 = 4_096;

/// Exit code of a process that was interrupted, as shells give it.
const INTERRUPTED: u8 = 130;

#[derive(serde::Serialize)]
struct Report<'a> {
    hash: &'a str,
}

/// Reads a password and prints its hash; the exit code.
pub(crate) async fn hash_password(output: &Output, bcrypt: bool) -> u8 {
    let password = match ask().await {
        Ok(Some(password)) => password,
        Ok(None) => return INTERRUPTED,
        Err(error) => return output.error(error),
    };
    let hashed = match bcrypt {
        true => Hashed::bcrypt(&password),
        false => Hashed::argon2(&password),
    };
    match hashed {
        Ok(hashed) => {
            let hash = hashed.text().reveal();
            match output.json {
                true => output.document(&Report { hash }),
                false => output.raw(&format!("{hash}\n")),
            }
            0
        }
        Err(error) => output.error(ControlError::new(ErrorCode::Failed, error.to_string())),
    }
}

/// The password; `None`: interrupted.
async fn ask() -> Result<Option<Vec<u8>>, ControlError> {
    let is_terminal = io::stdin().is_terminal();
    // Echo comes back whatever ends this function.
    let quiet = is_terminal
        .then(Quiet::new)
        .transpose()
        .map_err(unreadable)?;
    let stopped = async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        let [Ok(mut interrupt), Ok(mut terminate)] = kinds.map(signal) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let typed = tokio::select! {
        biased;
        () = stopped => return Ok(None),
        typed = on_a_thread(move || read(is_terminal)) => typed,
    };
    drop(quiet);
    let usage = |message: &str| ControlError::new(ErrorCode::Usage, message);
    match typed {
        Some(Ok(Typed { first, .. })) if first.is_empty() => Err(usage("the password is empty")),
        Some(Ok(Typed { first, .. })) if first.len() as u64 >= LONGEST => {
            Err(usage("the password is too long"))
        }
        Some(Ok(Typed { first, again })) if again.as_ref().is_some_and(|again| *again != first) => {
            let message = "the two passwords differ";
            Err(ControlError::new(ErrorCode::Failed, message))
        }
        Some(Ok(Typed { first, .. })) => Ok(Some(first)),
        Some(Err(error)) => Err(unreadable(error)),
        None => Err(unreadable(io::ErrorKind::BrokenPipe)),
    }
}

struct Typed {
    first: Vec<u8>,
    /// A terminal's second one.
    again: Option<Vec<u8>>,
}

fn read(is_terminal: bool) -> io::Result<Typed> {
    if !is_terminal {
        let first = line()?;
        return Ok(Typed { first, again: None });
    }
    let first = prompted("Password: ")?;
    let again = match first.is_empty() {
        true => None,
        false => Some(prompted("Again: ")?),
    };
    Ok(Typed { first, again })
}

fn prompted(prompt: &str) -> io::Result<Vec<u8>> {
    let mut stderr = io::stderr();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()?;
    line()
}

/// A line of stdin without its end.
fn line() -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    io::stdin()
        .lock()
        .take(LONGEST)
        .read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(line)
}

/// Nothing waits for the thread, so a read that never ends keeps nobody from leaving.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, finished) = oneshot::channel();
    std::thread::spawn(move || done.send(work()).is_ok());
    finished.await.ok()
}

fn unreadable(error: impl std::fmt::Display) -> ControlError {
    let message = format!("the password cannot be read: {error}");
    ControlError::new(ErrorCode::Failed, message)
}

/// A terminal that shows nothing of what is typed but the line ends.
struct Quiet(Termios);

impl Quiet {
    fn new() -> nix::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is nobody to tell that it failed but this terminal.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
