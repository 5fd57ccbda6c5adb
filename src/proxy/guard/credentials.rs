//! Names and passwords of `basic_auth` (RFC 7617).
//!
//! A check takes a tenth of a second by design. So checks run on threads that may block, only a
//! few at a time, and what was found right is remembered by a keyed hash: who has a name and
//! password pays once. An unknown name costs what a known one does, or the time would tell them
//! apart.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::Semaphore;

use crate::config::step::{BasicAuth, Hashed};

/// Right passwords that one step remembers.
const REMEMBERED: usize = 1_024;
/// Checks that may wait for their turn, of all steps.
const WAITING: usize = 256;

/// Checks at a time, of all steps: half of the cores, because requests need the others.
static CHECKS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.div_ceil(2))
});
/// How many wait.
static QUEUE: AtomicUsize = AtomicUsize::new(0);

/// A name and a password. Never shown.
pub(in crate::proxy) struct Credentials {
    name: String,
    password: Vec<u8>,
}

impl Credentials {
    /// Of a request; `None`: it has none, or not one pair in the form of RFC 7617 §2.
    pub(in crate::proxy) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let value = sent.next()?.to_str().ok()?;
        if sent.next().is_some() {
            return None;
        }
        let (scheme, encoded) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = STANDARD.decode(encoded.trim_matches(' ')).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&pair[..colon]).ok()?;
        Some(Self {
            name: name.to_owned(),
            password: pair[colon + 1..].to_vec(),
        })
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Verdict {
    /// It is this user.
    Right(String),
    /// It is nobody.
    Wrong,
    /// Too many checks wait already.
    Busy,
}

/// Checks for one step.
#[derive(Debug)]
pub(in crate::proxy) struct Verifier {
    /// `None` without random bytes: nothing is remembered then.
    key: Option<hmac::Key>,
    known: Mutex<Known>,
}

/// Right pairs, oldest first.
#[derive(Debug, Default)]
struct Known {
    tags: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Verifier {
    /// Remembers nothing yet.
    pub(in crate::proxy) fn new() -> Self {
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            known: Mutex::default(),
        }
    }

    /// Whose name and password it is. Cancel-safe: a check that has begun goes on alone.
    pub(in crate::proxy) async fn check(&self, auth: &BasicAuth, sent: Credentials) -> Verdict {
        let tag = self.tag(&sent);
        if tag.is_some_and(|tag| self.lock().tags.contains(&tag)) {
            return Verdict::Right(sent.name);
        }
        let user = auth.users.iter().find(|user| user.name == sent.name);
        let Some(hash) = user.or(auth.users.first()).map(|user| user.hash.clone()) else {
            return Verdict::Wrong;
        };
        let is_known = user.is_some();
        match matches(hash, sent.password).await {
            None => Verdict::Busy,
            Some(true) if is_known => {
                if let Some(tag) = tag {
                    self.remember(tag);
                }
                Verdict::Right(sent.name)
            }
            Some(_) => Verdict::Wrong,
        }
    }

    fn tag(&self, sent: &Credentials) -> Option<[u8; 32]> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        // The length keeps the pairs `a`, `bc` and `ab`, `c` apart.
        context.update(&sent.name.len().to_be_bytes());
        context.update(sent.name.as_bytes());
        context.update(&sent.password);
        context.sign().as_ref().try_into().ok()
    }

    fn remember(&self, tag: [u8; 32]) {
        let mut known = self.lock();
        if !known.tags.insert(tag) {
            return;
        }
        known.order.push_back(tag);
        if known.order.len() > REMEMBERED
            && let Some(oldest) = known.order.pop_front()
        {
            known.tags.remove(&oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing inside can panic half-way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the password fits, found out on a thread that may block; `None`: too many wait.
async fn matches(hash: Hashed, password: Vec<u8>) -> Option<bool> {
    let queued = Queued::enter()?;
    // The semaphore is never closed.
    let turn = CHECKS.acquire().await.ok()?;
    drop(queued);
    let check = move || {
        let fits = hash.matches(&password);
        // Held to here, so that a client that leaves does not let the next one begin.
        drop(turn);
        fits
    };
    tokio::task::spawn_blocking(check).await.ok()
}

/// One that waits, counted until it is dropped.
struct Queued;

impl Queued {
    fn enter() -> Option<Self> {
        let room = |waiting| (waiting < WAITING).then_some(waiting + 1);
        let entered = QUEUE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        entered.ok().map(|_| Self)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        QUEUE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::step::User;

    /// Cheap: 256 KiB, and the password is `password`.
    const CHEAP: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn auth(hash: Hashed) -> BasicAuth {
        BasicAuth {
            realm: "restricted".to_owned(),
            users: vec![User {
                name: "alice".to_owned(),
                hash,
            }],
        }
    }

    fn pair(name: &str, password: &str) -> Credentials {
        Credentials {
            name: name.to_owned(),
            password: password.into(),
        }
    }

    fn read(values: &[&str]) -> Option<(String, Vec<u8>)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().expect("a value"));
        }
        Credentials::of(&headers).map(|sent| (sent.name, sent.password))
    }

    #[test]
    fn the_pair_is_read_as_the_rfc_writes_it_and_nothing_else_is() {
        let aladdin = ("Aladdin".to_owned(), b"open sesame".to_vec());
        assert_eq!(
            read(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]),
            Some(aladdin.clone())
        );
        assert_eq!(
            read(&["bAsIc  QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]),
            Some(aladdin)
        );
        assert_eq!(
            read(&["Basic YTpiOmM="]),
            Some(("a".to_owned(), b"b:c".to_vec()))
        );
        for bad in [
            "Bearer YTpi",
            "Basic",
            "Basic YWI=",
            "Basic !!",
            "YTpi",
            "Basic YTpi, Basic YTpi",
        ] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        assert_eq!(
            read(&["Basic YTpi", "Basic YTpi"]),
            None,
            "which one would the upstream take?"
        );
        assert_eq!(read(&[]), None);
    }

    #[tokio::test]
    async fn a_right_pair_is_checked_once_and_a_wrong_one_each_time() {
        let auth = auth(Hashed::read(CHEAP).expect("a hash"));
        let verifier = Verifier::new();
        assert_eq!(
            verifier.check(&auth, pair("alice", "wrong")).await,
            Verdict::Wrong
        );
        assert!(verifier.lock().tags.is_empty());
        let right = Verdict::Right("alice".to_owned());
        assert_eq!(
            verifier.check(&auth, pair("alice", "password")).await,
            right
        );
        assert_eq!(verifier.lock().tags.len(), 1);
        // What is remembered needs no hash any more.
        let gone = auth_without_users();
        assert_eq!(
            verifier.check(&gone, pair("alice", "password")).await,
            right
        );
        assert_eq!(
            verifier.check(&gone, pair("alic", "epassword")).await,
            Verdict::Wrong
        );
    }

    fn auth_without_users() -> BasicAuth {
        BasicAuth {
            realm: String::new(),
            users: Vec::new(),
        }
    }

    #[tokio::test]
    async fn an_unknown_name_is_wrong_with_any_password_and_costs_as_much() {
        let auth = auth(Hashed::bcrypt(b"password").expect("a hash"));
        let verifier = Verifier::new();
        let took = async |name: &str| {
            let began = clock::now();
            let verdict = verifier.check(&auth, pair(name, "password")).await;
            (verdict, clock::now().saturating_duration_since(began))
        };
        let (verdict, unknown) = took("mallory").await;
        assert_eq!(
            verdict,
            Verdict::Wrong,
            "though the first user's password fits"
        );
        let (verdict, known) = took("alice").await;
        assert_eq!(verdict, Verdict::Right("alice".to_owned()));
        assert!(unknown > known / 4, "{unknown:?} beside {known:?}");
        assert!(verifier.lock().tags.len() == 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let verifier = Verifier::new();
        let tag = |n: usize| {
            verifier
                .tag(&pair("alice", &n.to_string()))
                .expect("random bytes")
        };
        for n in 0..=REMEMBERED {
            verifier.remember(tag(n));
            verifier.remember(tag(n));
        }
        let known = verifier.lock();
        assert_eq!(
            (known.tags.len(), known.order.len()),
            (REMEMBERED, REMEMBERED)
        );
        assert!(!known.tags.contains(&tag(0)));
        assert!(known.tags.contains(&tag(REMEMBERED)));
    }
}
