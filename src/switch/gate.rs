//! The gate: whether the slots that a switch aims at may take live traffic.
//!
//! Pure. A slot passes when it has upstreams, every one is known to be healthy, and none is
//! slower than `max_latency`. An upstream that nobody has probed yet does not pass: what serves
//! live traffic on trust must not be switched to on trust.

use std::fmt;
use std::time::Duration;

use crate::model::{Color, ServiceName};

/// Proof that a cutover may happen. Only [`Ready::admit`] and [`Ready::forced`] make one.
#[derive(Debug, PartialEq, Eq)]
pub struct Ready {
    forced: bool,
}

impl Ready {
    /// Admits slots whose every report passes.
    ///
    /// Errors: every reason why not, in the order of `slots`.
    pub fn admit<'a>(
        slots: impl IntoIterator<Item = (&'a SlotReport, Option<Duration>)>,
    ) -> Result<Self, Vec<GateFailure>> {
        let mut any = false;
        let mut failures = Vec::new();
        for (slot, max_latency) in slots {
            any = true;
            failures.extend(slot.failures(max_latency));
        }
        if any && failures.is_empty() {
            Ok(Self { forced: false })
        } else {
            Err(failures)
        }
    }

    /// The operator's word instead of a gate's.
    #[must_use]
    pub const fn forced() -> Self {
        Self { forced: true }
    }

    /// Whether the gate was skipped.
    #[must_use]
    pub const fn is_forced(&self) -> bool {
        self.forced
    }
}

/// What probes know of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamState {
    /// Passed as many probes in a row as it must.
    Healthy,
    /// Not yet decided.
    Unknown,
    /// Failed.
    Down,
}

/// One upstream of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamReport {
    /// As the configuration names it.
    pub address: String,
    /// What the probes say.
    pub state: UpstreamState,
    /// Why it is not healthy, if known.
    pub reason: Option<String>,
    /// How long the last probe that passed took.
    pub latency: Option<Duration>,
}

/// The upstreams of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateReport {
    /// Empty: nothing runs there.
    pub upstreams: Vec<UpstreamReport>,
}

impl GateReport {
    /// Whether some upstream is not known to be down: all that a rollback asks for.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        self.upstreams
            .iter()
            .any(|upstream| upstream.state != UpstreamState::Down)
    }
}

/// A [`GateReport`] and the slot that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotReport {
    /// The service.
    pub service: ServiceName,
    /// The slot.
    pub color: Color,
    /// Its upstreams.
    pub report: GateReport,
}

impl SlotReport {
    /// Whether nothing runs in the slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.report.upstreams.is_empty()
    }

    /// Every reason why the slot does not pass.
    #[must_use]
    pub fn failures(&self, max_latency: Option<Duration>) -> Vec<GateFailure> {
        let failure = |upstream: Option<&UpstreamReport>, why: String| GateFailure {
            service: self.service.clone(),
            color: self.color,
            upstream: upstream.map(|upstream| upstream.address.clone()),
            why,
        };
        if self.is_empty() {
            return vec![failure(None, "no upstreams".to_owned())];
        }
        let failing = |upstream: &UpstreamReport| {
            why_not(upstream, max_latency).map(|why| failure(Some(upstream), why))
        };
        self.report.upstreams.iter().filter_map(failing).collect()
    }
}

/// Why one upstream keeps a gate shut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateFailure {
    /// The service.
    pub service: ServiceName,
    /// The slot.
    pub color: Color,
    /// The upstream; `None`: the slot is empty.
    pub upstream: Option<String>,
    /// The reason, without the names above.
    pub why: String,
}

impl fmt::Display for GateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.color)?;
        if let Some(upstream) = &self.upstream {
            write!(f, " {upstream}")?;
        }
        write!(f, ": {}", self.why)
    }
}

fn why_not(upstream: &UpstreamReport, max_latency: Option<Duration>) -> Option<String> {
    let with_reason = |word: &str| match &upstream.reason {
        Some(reason) => format!("{word}: {reason}"),
        None => word.to_owned(),
    };
    match (upstream.state, max_latency, upstream.latency) {
        (UpstreamState::Down, _, _) => Some(with_reason("down")),
        (UpstreamState::Unknown, _, _) => Some(with_reason("not yet known to be healthy")),
        (UpstreamState::Healthy, None, _) => None,
        (UpstreamState::Healthy, Some(_), None) => Some("latency not yet measured".to_owned()),
        (UpstreamState::Healthy, Some(max), Some(took)) => {
            (took > max).then(|| format!("took {took:.1?}, allowed are {max:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(upstreams: &[(UpstreamState, Option<u64>)]) -> SlotReport {
        let upstreams = upstreams
            .iter()
            .enumerate()
            .map(|(index, (state, millis))| UpstreamReport {
                address: format!("app{index}:3000"),
                state: *state,
                reason: None,
                latency: millis.map(Duration::from_millis),
            })
            .collect();
        SlotReport {
            service: "web".into(),
            color: Color::Green,
            report: GateReport { upstreams },
        }
    }

    fn passes(slot: &SlotReport, max_latency: Option<Duration>) -> bool {
        Ready::admit([(slot, max_latency)]).is_ok()
    }

    #[test]
    fn only_healthy_upstreams_pass() {
        use UpstreamState::{Down, Healthy, Unknown};
        assert!(passes(&slot(&[(Healthy, None), (Healthy, None)]), None));
        assert!(!passes(&slot(&[(Healthy, None), (Unknown, None)]), None));
        assert!(!passes(&slot(&[(Healthy, None), (Down, None)]), None));
    }

    #[test]
    fn an_empty_slot_and_an_empty_move_pass_no_gate() {
        assert!(!passes(&slot(&[]), None));
        assert_eq!(Ready::admit([]), Err(Vec::new()));
    }

    #[test]
    fn max_latency_is_met_by_measured_latency_alone() {
        let max = Some(Duration::from_millis(200));
        assert!(passes(&slot(&[(UpstreamState::Healthy, Some(200))]), max));
        assert!(!passes(&slot(&[(UpstreamState::Healthy, Some(201))]), max));
        assert!(!passes(&slot(&[(UpstreamState::Healthy, None)]), max));
    }

    #[test]
    fn each_failing_upstream_is_named_with_its_reason() {
        let mut slot = slot(&[(UpstreamState::Down, None), (UpstreamState::Healthy, None)]);
        slot.report.upstreams[0].reason = Some("connection refused".to_owned());
        let texts: Vec<_> = slot
            .failures(None)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["web green app0:3000: down: connection refused"]);
    }

    #[test]
    fn a_rollback_asks_only_for_an_upstream_not_known_to_be_down() {
        use UpstreamState::{Down, Unknown};
        assert!(slot(&[(Down, None), (Unknown, None)]).report.may_serve());
        assert!(!slot(&[(Down, None)]).report.may_serve());
        assert!(!slot(&[]).report.may_serve());
    }
}
