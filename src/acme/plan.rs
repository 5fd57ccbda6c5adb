//! When to order which certificate where. Pure: no clock, no randomness, no file, no lock.
//!
//! One [`Record`] for every set of names. A certificate is due in the window that the CA
//! suggests (RFC 9773), without one at two thirds of its life. A failure waits on a ladder from
//! one minute to six hours that spans 30 days, then a day at a time: names whose DNS is mended
//! months later still get their certificate. After a refusal the next tries go to the CA's
//! staging directory, if it has one, until that succeeds, so that mending costs no limit of
//! the real one. A CA that is down, or refuses, or limits, gives way to the next.
//!
//! Invariants: a set is in at most one running attempt; no attempt begins before its
//! [`Decision::Wait`] is over; at most [`Rules::concurrent`] run at a time; every attempt at a
//! CA with published limits has taken its tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::limits::{Buckets, Published};
use super::names::{NameSet, fraction};

/// How control over a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A file below `/.well-known/acme-challenge/` on port 80 (RFC 8555 §8.3).
    Http01,
    /// A certificate shown to ALPN `acme-tls/1` on port 443 (RFC 8737).
    TlsAlpn01,
}

impl Method {
    /// The challenge's registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// What does not change while planning.
#[derive(Clone, Debug)]
pub struct Rules {
    /// CAs in the order of preference; never empty.
    pub issuers: Vec<IssuerRules>,
    /// Ways of proof in the order of preference; without one nothing is ordered.
    pub methods: Vec<Method>,
    /// Orders at a time. Default 4.
    pub concurrent: usize,
}

/// What the planner knows of a CA.
#[derive(Clone, Debug)]
pub struct IssuerRules {
    /// Directory URL: the name of its buckets.
    pub directory: String,
    /// Whether it has a staging directory to fail on.
    pub staging: bool,
    /// Its published limits.
    pub limits: Option<Published>,
}

/// A certificate that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// When the CA wants a certificate renewed (RFC 9773 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From.
    pub start: SystemTime,
    /// Until.
    pub end: SystemTime,
}

/// What to do for one set of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing before `until`.
    Wait {
        /// When to ask again.
        until: SystemTime,
        /// Why then.
        why: Why,
    },
    /// Order now.
    Order(Attempt),
}

/// Why a set waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An attempt is running.
    Running,
    /// In the middle of the window that the CA suggests.
    Suggested,
    /// Two thirds of its life are over then.
    TwoThirds,
    /// The last attempt failed.
    Backoff,
    /// The published limits of every CA, or their own answer, leave nothing before.
    Limit,
    /// No listener on which a challenge could be answered.
    NoMethod,
}

impl Why {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "an order is running",
            Self::Suggested => "the CA suggests it (RFC 9773)",
            Self::TwoThirds => "two thirds of its life are over then",
            Self::Backoff => "the last attempt failed",
            Self::Limit => "the CA's rate limit",
            Self::NoMethod => "no listener that could answer a challenge",
        }
    }
}

/// One order to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// For these names.
    pub names: NameSet,
    /// Position in [`Rules::issuers`].
    pub issuer: usize,
    /// At the CA's staging directory: proves that it would work, delivers nothing.
    pub staging: bool,
    /// How to prove control.
    pub method: Method,
    /// Whether there is a certificate for these names already.
    pub renewal: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A certificate came.
    Issued(Validity),
    /// The staging directory would have given one.
    Staged,
    /// It did not work.
    Failed {
        /// What that means for the next attempt.
        kind: FailureKind,
        /// In the CA's own words where it spoke.
        message: String,
    },
}

/// What a failure means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing was sent: storage, clock or DNS of this side must be mended.
    Preflight,
    /// The names may not be certified by this CA (RFC 8659).
    Forbidden,
    /// The CA could not validate a name.
    Validation,
    /// The CA limits (RFC 8555 §6.6), until then if it said.
    Limited(Option<SystemTime>),
    /// Not reachable, slow, broken, or busy until then.
    Unavailable(Option<SystemTime>),
    /// The CA does not want this order or account.
    Refused,
    /// A certificate came, but this side could not keep or serve it.
    Lost,
}

/// What is remembered of one set of names; part of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Failed attempts since the last certificate.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<SystemTime>,
    /// Not before.
    pub retry_at: Option<SystemTime>,
    /// The last failure, in the CA's own words where it spoke.
    pub last_error: Option<String>,
    /// How the last attempt proved control.
    pub method: Option<Method>,
    /// Position of the CA whose turn it is.
    issuer: usize,
    /// Whether its staging directory comes first.
    staging: bool,
    /// Failed validations at this CA in a row.
    invalid: u32,
    /// CAs that said when to come back.
    closed: BTreeMap<usize, SystemTime>,
}

/// The part of a plan that is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// Directories in their order; with others, what is remembered of failures starts anew.
    issuers: Vec<String>,
    buckets: BTreeMap<String, Buckets>,
    records: BTreeMap<String, Record>,
}

/// When to order which certificate where.
#[derive(Clone, Debug)]
pub struct Plan {
    rules: Rules,
    journal: Journal,
    sets: BTreeMap<NameSet, State>,
    running: BTreeSet<NameSet>,
}

#[derive(Clone, Debug, Default)]
struct State {
    validity: Option<Validity>,
    window: Option<Window>,
    forced: bool,
}

impl Journal {
    /// What is remembered of `names`.
    #[must_use]
    pub fn record(&self, names: &NameSet) -> Record {
        let record = self.records.get(&names.folder());
        record.cloned().unwrap_or_default()
    }
}

impl Plan {
    /// A plan that goes on where `journal` ended.
    #[must_use]
    pub fn new(rules: Rules, mut journal: Journal) -> Self {
        let issuers: Vec<_> = (rules.issuers.iter())
            .map(|issuer| issuer.directory.clone())
            .collect();
        if journal.issuers != issuers {
            journal.records.clear();
            journal.issuers = issuers;
        }
        Self {
            rules,
            journal,
            sets: BTreeMap::new(),
            running: BTreeSet::new(),
        }
    }

    /// What must be on disk before the attempts of [`Plan::begin`] are made.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Replaces the wanted sets. What is known of those that stay is kept; running attempts
    /// finish.
    pub fn want(&mut self, wanted: impl IntoIterator<Item = NameSet>) {
        let mut old = std::mem::take(&mut self.sets);
        self.sets = wanted
            .into_iter()
            .map(|names| {
                let state = old.remove(&names).unwrap_or_default();
                (names, state)
            })
            .collect();
    }

    /// The wanted sets.
    pub fn sets(&self) -> impl Iterator<Item = &NameSet> {
        self.sets.keys()
    }

    /// A certificate for `names` is there.
    pub fn has(&mut self, names: &NameSet, validity: Validity) {
        if let Some(state) = self.sets.get_mut(names)
            && state.validity != Some(validity)
        {
            state.validity = Some(validity);
            state.window = None;
        }
    }

    /// The CA suggests when to renew it; `None`: it no longer does. A window that ends before
    /// it starts, or starts when the certificate is over, is no suggestion.
    pub fn suggest(&mut self, names: &NameSet, window: Option<Window>) {
        if let Some(state) = self.sets.get_mut(names) {
            let over = state.validity.map(|validity| validity.not_after);
            state.window = window.filter(|window| {
                window.end > window.start && over.is_none_or(|over| window.start < over)
            });
        }
    }

    /// Orders `names` at the next [`Plan::begin`], due or not, backoff or not; limits hold.
    /// Whether the set is wanted at all.
    pub fn force(&mut self, names: &NameSet) -> bool {
        let Some(state) = self.sets.get_mut(names) else {
            return false;
        };
        state.forced = true;
        if let Some(record) = self.journal.records.get_mut(&names.folder()) {
            record.retry_at = None;
        }
        true
    }

    /// What is remembered of `names`.
    #[must_use]
    pub fn record(&self, names: &NameSet) -> Record {
        self.journal.record(names)
    }

    /// The certificate that is there for `names`.
    #[must_use]
    pub fn validity(&self, names: &NameSet) -> Option<Validity> {
        self.sets.get(names)?.validity
    }

    /// When the certificate that is there is to be renewed; `None` without one.
    #[must_use]
    pub fn due(&self, names: &NameSet) -> Option<SystemTime> {
        let state = self.sets.get(names)?;
        state.validity.map(|_| due(names, state).0)
    }

    /// What to do for `names` now; changes nothing.
    #[must_use]
    pub fn next(&self, names: &NameSet, now: SystemTime) -> Decision {
        let wait = |until, why| Decision::Wait { until, why };
        let Some(state) = self.sets.get(names) else {
            return wait(now + CHECK, Why::Running);
        };
        if self.running.contains(names) {
            return wait(now + CHECK, Why::Running);
        }
        let (due, why) = due(names, state);
        if !state.forced && now < due {
            return wait(due, why);
        }
        let record = self.record(names);
        // Later than anything that is ever written, it was written by a wrong clock.
        if let Some(retry) = record.retry_at.filter(|retry| *retry < now + LONGEST_WAIT)
            && now < retry
        {
            return wait(retry, Why::Backoff);
        }
        let Some(method) = self.method(&record) else {
            return wait(now + CHECK, Why::NoMethod);
        };
        let count = self.rules.issuers.len();
        let mut open = None;
        for turn in 0..count {
            let issuer = (record.issuer + turn) % count;
            let at = self.open_at(names, issuer, &record, now);
            if at <= now {
                return Decision::Order(Attempt {
                    names: names.clone(),
                    issuer,
                    staging: turn == 0 && record.staging && self.rules.issuers[issuer].staging,
                    method,
                    renewal: state.validity.is_some(),
                });
            }
            open = Some(open.map_or(at, |open: SystemTime| open.min(at)));
        }
        wait(open.unwrap_or(now + CHECK), Why::Limit)
    }

    /// The attempts to make now, most urgent first; they count as running until
    /// [`Plan::finish`]. Tokens are taken: write [`Plan::journal`] before the first is sent.
    pub fn begin(&mut self, now: SystemTime) -> Vec<Attempt> {
        let urgency = |state: &State| state.validity.map(|validity| validity.not_after);
        let mut sets: Vec<_> = (self.sets.iter())
            .map(|(names, state)| (urgency(state), names.clone()))
            .collect();
        sets.sort();
        let mut attempts = Vec::new();
        for (_, names) in sets {
            if self.running.len() >= self.rules.concurrent {
                break;
            }
            // Each takes tokens before the next is asked.
            if let Decision::Order(attempt) = self.next(&names, now) {
                self.start(&attempt, now);
                attempts.push(attempt);
            }
        }
        attempts
    }

    /// The earliest time at which [`Plan::begin`] may have something; `None` without sets.
    #[must_use]
    pub fn deadline(&self, now: SystemTime) -> Option<SystemTime> {
        self.sets
            .keys()
            .filter(|names| !self.running.contains(*names))
            .map(|names| match self.next(names, now) {
                Decision::Wait { until, .. } => until,
                // Held back by the bound alone: a running one has to end first.
                Decision::Order(_) => now + CHECK,
            })
            .min()
    }

    /// An attempt ended.
    pub fn finish(&mut self, attempt: &Attempt, outcome: Outcome, now: SystemTime) {
        let names = &attempt.names;
        self.running.remove(names);
        let record = self.journal.records.entry(names.folder()).or_default();
        match outcome {
            Outcome::Issued(validity) => {
                *record = Record {
                    method: Some(attempt.method),
                    ..Record::default()
                };
                self.has(names, validity);
                if let Some(state) = self.sets.get_mut(names) {
                    state.forced = false;
                }
            }
            Outcome::Staged => {
                record.staging = false;
                record.invalid = 0;
                record.retry_at = None;
            }
            Outcome::Failed { kind, message } => {
                record.failures = record.failures.saturating_add(1);
                let since = *record.failing_since.get_or_insert(now);
                let failing = now.duration_since(since).unwrap_or_default();
                record.retry_at = Some(now + delay(record.failures, failing, names.seed()));
                record.last_error = Some(message);
                self.learn(attempt, kind, now);
            }
        }
    }

    /// What a failure says of CA, staging and method.
    fn learn(&mut self, attempt: &Attempt, kind: FailureKind, now: SystemTime) {
        let Some(issuer) = self.rules.issuers.get(attempt.issuer) else {
            return;
        };
        let names = &attempt.names;
        if let Some(limits) = &issuer.limits
            && !attempt.staging
            && kind != FailureKind::Lost
            && let Some(buckets) = self.journal.buckets.get_mut(&issuer.directory)
        {
            buckets.refund(limits, names, attempt.renewal);
        }
        let next = (attempt.issuer + 1) % self.rules.issuers.len();
        let record = self.journal.records.entry(names.folder()).or_default();
        record.issuer = attempt.issuer;
        let mut leave = next != attempt.issuer;
        match kind {
            FailureKind::Preflight | FailureKind::Lost => leave = false,
            FailureKind::Validation => {
                if let Some(limits) = &issuer.limits
                    && !attempt.staging
                {
                    let buckets = self.journal.buckets.entry(issuer.directory.clone());
                    buckets.or_default().failed(limits, names, now);
                }
                record.method = other(&self.rules.methods, attempt.method);
                record.invalid += 1;
                record.staging = issuer.staging;
                // Another CA asks the same listeners: each way twice here first.
                leave &= record.invalid as usize >= 2 * self.rules.methods.len();
            }
            FailureKind::Refused => record.staging = issuer.staging,
            FailureKind::Limited(until) => {
                let until = until.unwrap_or(now + LIMITED);
                record.closed.insert(attempt.issuer, until);
            }
            FailureKind::Unavailable(until) => {
                if let Some(until) = until {
                    record.closed.insert(attempt.issuer, until);
                }
            }
            FailureKind::Forbidden => {}
        }
        if leave {
            record.issuer = next;
            record.invalid = 0;
            record.staging = false;
        }
    }

    fn start(&mut self, attempt: &Attempt, now: SystemTime) {
        self.running.insert(attempt.names.clone());
        let issuer = &self.rules.issuers[attempt.issuer];
        if let Some(limits) = &issuer.limits
            && !attempt.staging
        {
            let buckets = self.journal.buckets.entry(issuer.directory.clone());
            let (names, renewal) = (&attempt.names, attempt.renewal);
            buckets.or_default().order(limits, names, renewal, now);
        }
    }

    fn method(&self, record: &Record) -> Option<Method> {
        let known = record
            .method
            .filter(|method| self.rules.methods.contains(method));
        known.or_else(|| self.rules.methods.first().copied())
    }

    fn open_at(
        &self,
        names: &NameSet,
        issuer: usize,
        record: &Record,
        now: SystemTime,
    ) -> SystemTime {
        let closed = (record.closed.get(&issuer).copied())
            .filter(|until| *until < now + LONGEST_WAIT)
            .unwrap_or(now);
        let rules = &self.rules.issuers[issuer];
        let staging = issuer == record.issuer && record.staging && rules.staging;
        let renewal = self.validity(names).is_some();
        let tokens = match (&rules.limits, self.journal.buckets.get(&rules.directory)) {
            (Some(limits), Some(buckets)) if !staging => {
                buckets.allowed_at(limits, names, renewal, now)
            }
            _ => now,
        };
        closed.max(tokens)
    }
}

/// When a certificate is to be renewed, and why then.
fn due(names: &NameSet, state: &State) -> (SystemTime, Why) {
    let Some(Validity {
        not_before,
        not_after,
    }) = state.validity
    else {
        return (SystemTime::UNIX_EPOCH, Why::Running);
    };
    // The next certificate of the same names gets another place in its window.
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let serial = not_before
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let place = fraction(names.seed(), serial.as_secs());
    if let Some(window) = state.window {
        let length = window.end.duration_since(window.start).unwrap_or_default();
        return (window.start + length.mul_f64(place), Why::Suggested);
    }
    let jitter = (life / JITTER).mul_f64(place);
    (not_before + life * 2 / 3 - jitter, Why::TwoThirds)
}

/// Wait after the `failures`th failure in a row: the ladder, then its last step for 30 days,
/// then a day. A tenth of it is spread, so that sets which fail together do not try together.
fn delay(failures: u32, failing: Duration, seed: u64) -> Duration {
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let minutes = if failing >= LADDER_SPAN {
        DAY_MINUTES
    } else {
        LADDER_MINUTES.get(step).copied().unwrap_or(SLOWEST_MINUTES)
    };
    let whole = Duration::from_secs(minutes * 60);
    whole + (whole / 10).mul_f64(fraction(seed, u64::from(failures)))
}

fn other(methods: &[Method], tried: Method) -> Option<Method> {
    let at = methods.iter().position(|method| *method == tried)?;
    methods.get((at + 1) % methods.len()).copied()
}

/// How often the plan is looked at, however far the next deadline is: timers stand still while
/// a machine sleeps.
pub const CHECK: Duration = Duration::from_secs(600);

/// Waits in minutes after the first failures; certmagic's are of the same shape.
const LADDER_MINUTES: [u64; 27] = [
    1, 2, 2, 5, 10, 10, 10, 20, 20, 20, 20, 30, 30, 30, 30, 30, 30, 60, 60, 60, 60, 60, 60, 120,
    120, 120, 180,
];

const SLOWEST_MINUTES: u64 = 360;
const DAY_MINUTES: u64 = 1440;
const LADDER_SPAN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Retry-After of the CA when it names none with `rateLimited`.
const LIMITED: Duration = Duration::from_secs(3600);

/// A renewal without a suggestion comes earlier by at most this part of the life: a day and a
/// half of 90.
const JITTER: u32 = 60;

/// No wait that is written is longer: published limits refill within a week.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 24 * 3600);

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
