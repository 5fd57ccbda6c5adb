//! Keys that seal session tickets (RFC 5077, RFC 8446 §4.6.1), shared by every site.
//!
//! Nothing is kept per client: a ticket holds the session, sealed under the newest key. A new
//! key is made every 12 h and four are kept, so a ticket lives 36 to 48 h, and so does what
//! somebody could read who stole the keys (TLS 1.2 sessions that began in that time; TLS 1.3
//! agrees on fresh keys even when it resumes). The keys are in `state_dir/tls/tickets`, so a
//! restart, or the process that takes over, resumes the sessions of the one before.
//!
//! A ticket is bound to the policy of the site that it was made under (its lowest version, and
//! which client certificates it asks for) as additional data of the seal: under any other
//! policy it does not open, and the client makes a full handshake. rustls itself resumes a
//! session only under the SNI that it began with.
//!
//! The seal is AES-256-GCM-SIV (RFC 8452), which stays safe with random nonces for as many
//! tickets as twelve hours can need. Layout: key name (16 bytes), nonce (12), sealed session.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

use super::error::{Fault, TlsError};
use super::policy::PolicyId;
use crate::disk;

/// How long tickets are sealed with one key.
const ROTATION: Duration = Duration::from_secs(12 * 60 * 60);
/// Keys that tickets are opened with, the sealing one included.
const KEPT: usize = 4;
const NAME_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const SECRET_BYTES: usize = 32;
/// A key from further ahead than this was made under a wrong clock.
const CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

/// The keys of this process, newest first.
pub(super) struct TicketKeys {
    ring: ArcSwap<Vec<Key>>,
    file: PathBuf,
    rotating: Mutex<()>,
}

#[derive(Clone)]
struct Key {
    made: SystemTime,
    name: [u8; NAME_BYTES],
    secret: [u8; SECRET_BYTES],
    seal: Arc<RandomizedNonceKey>,
}

impl TicketKeys {
    /// The keys of a state folder. Until [`TicketKeys::rotate`] was called nothing is written,
    /// and there is a key even if the folder cannot be used.
    pub(super) fn open(state_dir: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let file = state_dir.join("tls").join("tickets");
        let mut ring = read(&file, now).unwrap_or_default();
        if ring.is_empty() {
            let key = Key::new(now).map_err(|fault| TlsError::new(&file, fault))?;
            ring.push(key);
        }
        Ok(Self {
            ring: ArcSwap::from_pointee(ring),
            file,
            rotating: Mutex::default(),
        })
    }

    /// Makes a new key if the newest is 12 h old, forgets the fifth, and writes the keys if the
    /// file does not hold them. Another process that shares the folder may have done so first;
    /// then its keys are taken over. Returns whether the sealing key is another one. Blocks.
    pub(super) fn rotate(&self, now: SystemTime) -> Result<bool, TlsError> {
        let _one_at_a_time = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = self.ring.load_full();
        let on_disk = read(&self.file, now);
        let mut ring: Vec<Key> = mine.to_vec();
        for key in on_disk.as_deref().unwrap_or_default() {
            if !ring.iter().any(|other| other.name == key.name) {
                ring.push(key.clone());
            }
        }
        let stored = |ring: &[Key]| match &on_disk {
            Ok(keys) => keys
                .iter()
                .map(|key| key.name)
                .eq(ring.iter().map(|key| key.name)),
            Err(_) => false,
        };
        tidy(&mut ring, now);
        let fault = |fault| TlsError::new(&self.file, fault);
        if ring
            .first()
            .is_none_or(|newest| newest.made + ROTATION <= now)
        {
            ring.insert(0, Key::new(now).map_err(fault)?);
            ring.truncate(KEPT);
        }
        let changed = ring.first().map(|key| key.name) != mine.first().map(|key| key.name);
        let write = !stored(&ring);
        let text = write.then(|| text_of(&ring));
        self.ring.store(Arc::new(ring));
        if let Some(text) = text {
            self.write(&text)
                .map_err(|error| fault(Fault::Unwritable(error)))?;
        }
        match on_disk {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fault(Fault::TicketKeys(error)))
            }
            _ => Ok(changed),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        disk::private_folder(self.file.parent().unwrap_or(Path::new(".")))?;
        disk::replace(&self.file, text.as_bytes())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Newest first, at most [`KEPT`], none past its time and none from the future.
fn tidy(ring: &mut Vec<Key>, now: SystemTime) {
    ring.retain(|key| {
        let kept_for = ROTATION * u32::try_from(KEPT).unwrap_or(u32::MAX);
        key.made + kept_for > now && key.made <= now + CLOCK_SKEW
    });
    ring.sort_by_key(|key| (std::cmp::Reverse(key.made), key.name));
    ring.truncate(KEPT);
}

impl Key {
    fn new(now: SystemTime) -> Result<Self, Fault> {
        let random = |bytes: &mut [u8]| {
            aws_lc_rs::rand::fill(bytes).map_err(|_| Fault::Setup("no random bytes".to_owned()))
        };
        let (mut name, mut secret) = ([0; NAME_BYTES], [0; SECRET_BYTES]);
        random(&mut name)?;
        random(&mut secret)?;
        Self::from_parts(now, name, secret)
            .ok_or_else(|| Fault::Setup("no cipher for tickets".to_owned()))
    }

    fn from_parts(
        made: SystemTime,
        name: [u8; NAME_BYTES],
        secret: [u8; SECRET_BYTES],
    ) -> Option<Self> {
        let seal = RandomizedNonceKey::new(&AES_256_GCM_SIV, &secret).ok()?;
        Some(Self {
            made,
            name,
            secret,
            seal: Arc::new(seal),
        })
    }
}

/// Seals and opens the tickets of one policy.
pub(super) struct Ticketer {
    keys: Arc<TicketKeys>,
    policy: PolicyId,
}

impl Ticketer {
    pub(super) fn new(keys: Arc<TicketKeys>, policy: PolicyId) -> Self {
        Self { keys, policy }
    }

    /// What a ticket is bound to beside its content.
    fn bound_to(&self, name: &[u8; NAME_BYTES]) -> Aad<Vec<u8>> {
        Aad::from([name.as_slice(), self.policy.as_bytes()].concat())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    /// Every ticket can be opened this long, in seconds; the ones from a young key longer.
    fn lifetime(&self) -> u32 {
        let sure = ROTATION * u32::try_from(KEPT - 1).unwrap_or_default();
        u32::try_from(sure.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.keys.ring.load();
        let key = ring.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key
            .seal
            .seal_in_place_append_tag(self.bound_to(&key.name), &mut sealed)
            .ok()?;
        Some([&key.name, nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let ring = self.keys.ring.load();
        // The name is no secret: it is on the wire.
        let key = ring.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key
            .seal
            .open_in_place(nonce, self.bound_to(name), &mut sealed)
            .ok()?;
        Some(plain.to_vec())
    }
}

/// The file: `{"version": 1, "keys": [...]}`, newest first.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    /// Seconds since the Unix epoch.
    made: u64,
    name: String,
    secret: String,
}

fn text_of(ring: &[Key]) -> String {
    let keys = ring.iter().map(|key| StoredKey {
        made: seconds(key.made),
        name: hex(&key.name),
        secret: hex(&key.secret),
    });
    let stored = Stored {
        version: 1,
        keys: keys.collect(),
    };
    serde_json::to_string(&stored).expect("numbers and texts are always JSON")
}

/// The keys that a file holds and that are still good. Keys that others could read are no
/// keys: who has them reads what they seal.
fn read(file: &Path, now: SystemTime) -> io::Result<Vec<Key>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mode = std::fs::metadata(file)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(invalid("others can read it"));
    }
    let text = std::fs::read_to_string(file)?;
    let stored: Stored = serde_json::from_str(&text).map_err(|_| invalid("it is not whole"))?;
    if stored.version != 1 {
        return Err(invalid("it is of another version"));
    }
    let mut ring = stored
        .keys
        .iter()
        .map(|key| {
            let made = UNIX_EPOCH.checked_add(Duration::from_secs(key.made))?;
            Key::from_parts(made, unhex(&key.name)?, unhex(&key.secret)?)
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| invalid("it is not whole"))?;
    tidy(&mut ring, now);
    Ok(ring)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes every write");
            text
        })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn ticketer(keys: &Arc<TicketKeys>, policy: u8) -> Ticketer {
        Ticketer::new(Arc::clone(keys), PolicyId::from([policy; 32]))
    }

    fn open(folder: &Path, now: SystemTime) -> Arc<TicketKeys> {
        Arc::new(TicketKeys::open(folder, now).expect("keys"))
    }

    #[test]
    fn a_ticket_opens_under_its_own_policy_and_untouched_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = open(folder.path(), clock::wall());
        let ticket = ticketer(&keys, 1).encrypt(b"session").expect("sealed");
        assert_eq!(
            ticketer(&keys, 1).decrypt(&ticket).expect("opens"),
            b"session"
        );
        assert_eq!(ticketer(&keys, 2).decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(ticketer(&keys, 1).decrypt(&forged), None, "byte {at}");
            assert_eq!(
                ticketer(&keys, 1).decrypt(&ticket[..at]),
                None,
                "cut at {at}"
            );
        }
        let again = ticketer(&keys, 1).encrypt(b"session").expect("sealed");
        assert_ne!(ticket, again, "a nonce was used twice");
    }

    #[test]
    fn a_key_seals_for_12_hours_and_opens_for_48() {
        let folder = tempfile::tempdir().expect("a folder");
        let start = clock::wall();
        let keys = open(folder.path(), start);
        let ticketer = ticketer(&keys, 0);
        assert_eq!(ticketer.lifetime(), 36 * 60 * 60);
        keys.rotate(start).expect("written");
        let first = ticketer.encrypt(b"x").expect("sealed");
        assert!(!keys.rotate(start + 11 * HOUR).expect("written"));
        let last = ticketer.encrypt(b"x").expect("sealed");
        assert_eq!(first[..NAME_BYTES], last[..NAME_BYTES]);
        for hours in [12, 24, 36] {
            assert!(keys.rotate(start + hours * HOUR).expect("written"));
            assert!(ticketer.decrypt(&last).is_some(), "after {hours} h");
            let next = ticketer.encrypt(b"x").expect("sealed");
            assert_ne!(first[..NAME_BYTES], next[..NAME_BYTES]);
        }
        assert_eq!(keys.ring.load().len(), KEPT);
        assert!(keys.rotate(start + 48 * HOUR).expect("written"));
        assert_eq!(ticketer.decrypt(&last), None);
    }

    #[test]
    fn the_next_process_opens_the_tickets_of_the_last_and_two_agree_on_a_new_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = clock::wall();
        let old = open(folder.path(), now);
        old.rotate(now).expect("written");
        let ticket = ticketer(&old, 0).encrypt(b"x").expect("sealed");
        let new = open(folder.path(), now + HOUR);
        assert!(ticketer(&new, 0).decrypt(&ticket).is_some());
        assert!(old.rotate(now + 13 * HOUR).expect("written"));
        assert!(new.rotate(now + 13 * HOUR).expect("written"));
        let ticket = ticketer(&new, 0).encrypt(b"x").expect("sealed");
        assert!(ticketer(&old, 0).decrypt(&ticket).is_some());
        let mode = fs::metadata(&new.file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let week = open(folder.path(), now + 7 * 24 * HOUR);
        assert_eq!(ticketer(&week, 0).decrypt(&ticket), None);
    }

    #[test]
    fn a_file_that_is_cut_or_open_to_others_is_replaced_and_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = clock::wall();
        let keys = open(folder.path(), now);
        keys.rotate(now).expect("written");
        let ticket = ticketer(&keys, 0).encrypt(b"x").expect("sealed");
        let file = keys.file.clone();
        let whole = fs::read_to_string(&file).expect("readable");
        for broken in [
            &whole[..whole.len() / 2],
            "",
            "{}",
            &whole.replace(":1", ":2"),
        ] {
            fs::write(&file, broken).expect("written");
            let keys = open(folder.path(), now);
            assert!(ticketer(&keys, 0).decrypt(&ticket).is_none());
            keys.rotate(now).expect_err("said once");
            assert!(!keys.rotate(now).expect("mended"));
        }
        fs::write(&file, &whole).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("opened");
        let keys = open(folder.path(), now);
        assert!(ticketer(&keys, 0).decrypt(&ticket).is_none());
        let said = keys.rotate(now).expect_err("said once").to_string();
        assert!(said.contains("others can read it"), "{said}");
        assert!(!format!("{keys:?}").contains(&hex(&keys.ring.load()[0].secret)));
    }
}
