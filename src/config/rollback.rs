//! When a release is undone without anybody asking: the numbers of the verdict.

use std::time::Duration;

use http::Method;

/// `[service.X.rollback]` merged over `[rollback]`. The tables of the evaluator are kept as
/// numbers for the verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollback {
    /// Default enforce.
    pub mode: RollbackMode,
    /// Default true.
    pub rescue: bool,
    /// Default false; true: a rollback would do harm, so it only pages.
    pub r#unsafe: bool,
    /// Probability of one false rollback per release. Default 1e-4.
    pub alpha: f64,
    /// `[rollback.baseline]`.
    pub baseline: RollbackBaseline,
    /// `[rollback.errors]`.
    pub errors: RollbackErrors,
    /// `[rollback.fast]`.
    pub fast: RollbackFast,
    /// `[rollback.latency]`.
    pub latency: RollbackLatency,
    /// `[rollback.gate]`.
    pub gate: RollbackGate,
    /// `[rollback.after]`.
    pub after: RollbackAfter,
    /// `[rollback.rules]`.
    pub rules: RollbackRules,
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            mode: RollbackMode::Enforce,
            rescue: true,
            r#unsafe: false,
            alpha: 1e-4,
            baseline: RollbackBaseline::default(),
            errors: RollbackErrors::default(),
            fast: RollbackFast::default(),
            latency: RollbackLatency::default(),
            gate: RollbackGate::default(),
            after: RollbackAfter::default(),
            rules: RollbackRules::default(),
        }
    }
}

/// `mode` of the rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackMode {
    /// Decide and act.
    Enforce,
    /// Decide and report.
    Observe,
    /// Neither.
    Off,
}

impl RollbackMode {
    /// As the configuration spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// Baseline before the cutover.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackBaseline {
    /// Default 10 min.
    pub min_window: Duration,
    /// Default 100,000.
    pub min_requests: u64,
    /// Default 24 h.
    pub max_window: Duration,
    /// Tolerated error rate without any baseline. Default 10 %.
    pub no_baseline_limit: f64,
}

impl Default for RollbackBaseline {
    fn default() -> Self {
        Self {
            min_window: Duration::from_secs(600),
            min_requests: 100_000,
            max_window: Duration::from_secs(86400),
            no_baseline_limit: 0.10,
        }
    }
}

/// Slow path.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackErrors {
    /// Default 1.5.
    pub ratio: f64,
    /// Default 0.5 %.
    pub floor: f64,
    /// Default 5.
    pub min_errors: u64,
    /// Default 5.
    pub min_bad_seconds: u32,
    /// Default 15 s.
    pub restart_every: Duration,
    /// Default 8.
    pub alternatives: u32,
}

impl Default for RollbackErrors {
    fn default() -> Self {
        Self {
            ratio: 1.5,
            floor: 0.005,
            min_errors: 5,
            min_bad_seconds: 5,
            restart_every: Duration::from_secs(15),
            alternatives: 8,
        }
    }
}

/// Fast path.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackFast {
    /// Default 0.9.
    pub q: f64,
    /// Default 1 s.
    pub min_span: Duration,
}

impl Default for RollbackFast {
    fn default() -> Self {
        Self {
            q: 0.9,
            min_span: Duration::from_secs(1),
        }
    }
}

/// Latency test.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackLatency {
    /// Default 1.5.
    pub factor: f64,
    /// Default 0.90 and 0.99.
    pub quantiles: Vec<f64>,
    /// Default 1.5.
    pub ratio: f64,
    /// One per quantile. Default 2 % and 0.5 %.
    pub floor: Vec<f64>,
    /// Default 30 s.
    pub warmup: Duration,
}

impl Default for RollbackLatency {
    fn default() -> Self {
        Self {
            factor: 1.5,
            quantiles: vec![0.90, 0.99],
            ratio: 1.5,
            floor: vec![0.02, 0.005],
            warmup: Duration::from_secs(30),
        }
    }
}

/// Attribution gate.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackGate {
    /// Methods that may be rescued. Default GET, HEAD and OPTIONS.
    pub methods: Vec<Method>,
    /// How often the old slot may be asked. Default auto.
    pub budget: RescueBudget,
    /// Whether paths that worked a moment ago are asked of the old slot again. Default true.
    pub replay: bool,
    /// Log-likelihood ratio that speaks for the old slot working. Default 3.0.
    pub clear: f64,
    /// Log-likelihood ratio that speaks for the old slot failing too. Default 4.0.
    pub block: f64,
    /// How long a decision waits for either, with an error rate of 10 % and above, and below.
    /// Default 10 s and 30 s.
    pub wait: [Duration; 2],
}

impl Default for RollbackGate {
    fn default() -> Self {
        Self {
            methods: vec![Method::GET, Method::HEAD, Method::OPTIONS],
            budget: RescueBudget::Auto,
            replay: true,
            clear: 3.0,
            block: 4.0,
            wait: [Duration::from_secs(10), Duration::from_secs(30)],
        }
    }
}

/// `budget` of the gate: how often rescues may ask the old slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RescueBudget {
    /// `auto`: 1.25 times its own highest rate in one second of the last five minutes, at least
    /// ten a second. It carried that load a moment ago.
    Auto,
    /// `20% + 10/s`.
    Share {
        /// Share of that highest rate, 0–1.
        share: f64,
        /// And that many a second beside it.
        per_second: u32,
    },
}

impl RescueBudget {
    /// Rescues a second that the old slot may be asked for, when it carried `highest` requests a
    /// second.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a u32"
    )]
    pub fn rate(self, highest: u32) -> u32 {
        match self {
            Self::Auto => highest.saturating_add(highest / 4).max(10),
            Self::Share { share, per_second } => {
                let of_it = (f64::from(highest) * share).ceil() as u32;
                of_it.saturating_add(per_second)
            }
        }
    }
}

/// Rules that need no statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackRules {
    /// Three probes of the new slot fail in a row while the old one passes. Default rollback.
    pub health: RuleAction,
    /// A container of the new slot exits, restarts or is killed for memory. Default rollback.
    pub container: RuleAction,
    /// Of at least 20 requests in 3 s half fail. Default rollback.
    pub absolute: RuleAction,
    /// More than 1 % of the requests of a minute fail. Default alert.
    pub server_errors: RuleAction,
    /// For five minutes p99 of the time to the first byte is three times what it was. Default
    /// alert.
    pub p99: RuleAction,
    /// Memory above 90 % of its limit, or growing so that it is reached within an hour. Default
    /// alert.
    pub memory: RuleAction,
    /// CPU above 90 % of its limit for a minute. Default alert.
    pub cpu: RuleAction,
    /// Health probes take more than 200 ms for ten seconds. Default alert.
    pub health_latency: RuleAction,
}

impl Default for RollbackRules {
    fn default() -> Self {
        Self {
            health: RuleAction::Rollback,
            container: RuleAction::Rollback,
            absolute: RuleAction::Rollback,
            server_errors: RuleAction::Alert,
            p99: RuleAction::Alert,
            memory: RuleAction::Alert,
            cpu: RuleAction::Alert,
            health_latency: RuleAction::Alert,
        }
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Goes back, if the gate agrees.
    Rollback,
    /// Tells people.
    Alert,
    /// Nothing.
    Off,
}

/// What happens after the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackAfter {
    /// Default hold.
    pub on_shared: AfterAction,
    /// Default rollback.
    pub on_ambiguous: AfterAction,
    /// Default hold.
    pub on_old_dead: AfterAction,
    /// Default commit.
    pub on_no_traffic: AfterAction,
    /// Default true.
    pub quarantine: bool,
    /// Default 10 min.
    pub cooldown: Duration,
}

impl Default for RollbackAfter {
    fn default() -> Self {
        Self {
            on_shared: AfterAction::Hold,
            on_ambiguous: AfterAction::Rollback,
            on_old_dead: AfterAction::Hold,
            on_no_traffic: AfterAction::Commit,
            quarantine: true,
            cooldown: Duration::from_secs(600),
        }
    }
}

/// What to do when the evidence alone does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAction {
    /// Keep both slots and page.
    Hold,
    /// Go back.
    Rollback,
    /// Keep the new release.
    Commit,
}
