//! What the daemon must be able to do for the control API.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::wire::{
    CertificateReport, ConfigReport, ControlError, DecisionRequest, DeployRequest, Done,
    ExplainReport, ExplainRequest, HistoryReport, HistoryRequest, JobRequest, JudgeReport,
    Operation, Outcome, Progress, ReloadReport, RenewRequest, RollbackRequest, Status,
    SwitchRequest,
};

/// The daemon as the control API sees it.
///
/// Every call runs in a task of its own: a client that leaves does not cancel it. `Err` is a
/// refusal or a failure with its code; `Ok` of a long verb is how it ended, good or bad.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Everything at this moment. Must not wait for a running switch.
    async fn status(&self) -> Status;

    /// Gate, cutover, observe, verdict, drain. With `wait` false it returns as soon as the
    /// cutover is published, and the rest goes on.
    async fn switch(
        &self,
        actor: Actor,
        request: SwitchRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError>;

    /// Pull, jobs, start, gate, smoke, switch, verdict, stop: the whole release. With `wait` false
    /// it returns as soon as it is begun.
    async fn deploy(
        &self,
        actor: Actor,
        request: DeployRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError>;

    /// Runs a job on a schedule now; returns when it is over.
    async fn job(&self, actor: Actor, request: JobRequest) -> Result<Outcome, ControlError>;

    /// Undoes the last cutover.
    async fn rollback(
        &self,
        actor: Actor,
        request: RollbackRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError>;

    /// Ends an observe or canary early: the target stays. Returns when that is durable.
    async fn promote(
        &self,
        actor: Actor,
        request: DecisionRequest,
    ) -> Result<Outcome, ControlError>;

    /// Ends a gate, observe or canary early: the former slot is live. Returns when it is.
    async fn abort(&self, actor: Actor, request: DecisionRequest) -> Result<Outcome, ControlError>;

    /// Reads the configuration again. An error means that nothing was changed.
    async fn reload(&self, actor: Actor) -> Result<ReloadReport, ControlError>;

    /// What is done at once: hold, resume, maintenance, freeze, repair.
    async fn operate(&self, actor: Actor, operation: Operation) -> Result<Done, ControlError>;

    /// What was done, the newest first.
    async fn history(&self, request: HistoryRequest) -> Result<HistoryReport, ControlError>;

    /// What the verdict sees.
    async fn judge(&self) -> Result<JudgeReport, ControlError>;

    /// Every certificate that is served or wanted.
    async fn certificates(&self) -> Result<CertificateReport, ControlError>;

    /// Orders a certificate now.
    async fn renew(&self, actor: Actor, request: RenewRequest) -> Result<Done, ControlError>;

    /// The effective configuration, secrets masked.
    async fn config(&self) -> Result<ConfigReport, ControlError>;

    /// Where a request would go.
    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, ControlError>;

    /// Whether configuration is loaded, listeners are bound and no stop has begun.
    ///
    /// # Errors
    /// What is missing, in a few words.
    fn ready(&self) -> Result<(), String>;
}

/// Who asks, by the kernel's word about the peer of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// User id.
    pub uid: u32,
    /// Name in the user database; the number as text for a user that is not in it, which is
    /// usual in a container.
    pub name: String,
}

impl Actor {
    /// Looks the name up. Blocks on the user database.
    #[must_use]
    pub fn of(uid: u32) -> Self {
        let name = match nix::unistd::User::from_uid(uid.into()) {
            Ok(Some(user)) => user.name,
            Ok(None) | Err(_) => uid.to_string(),
        };
        Self { uid, name }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {})", self.name, self.uid)
    }
}

/// Where a long verb says how it gets on. Never waits: a client that reads slowly, or not at
/// all, cannot hold up a switch. What does not fit is lost; the outcome never is, because it
/// is the call's return value.
#[derive(Clone, Debug)]
pub struct Reporter(pub(super) mpsc::Sender<Progress>);

impl Reporter {
    /// A reporter and its reading end. Holds [`Reporter::CAPACITY`] unread lines.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Progress>) {
        let (sender, receiver) = mpsc::channel(Self::CAPACITY);
        (Self(sender), receiver)
    }

    /// Lines held for a reader that is behind. Ticks leave half of it to events.
    pub const CAPACITY: usize = 256;

    /// Says one thing. Without effect when nobody reads any more.
    pub fn report(&self, progress: Progress) {
        if progress.tick && self.0.capacity() < Self::CAPACITY / 2 {
            return;
        }
        // Full and closed are the same here: nobody would see it.
        let _ = self.0.try_send(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Phase, SwitchStatus};
    use super::*;
    use crate::model::Color;

    fn progress(tick: bool) -> Progress {
        Progress {
            deploy: None,
            tick,
            message: String::new(),
            switch: SwitchStatus {
                services: Vec::new(),
                target: Color::Green,
                phase: Phase::Observe,
                actor: String::new(),
                elapsed_ms: 0,
                planned_ms: None,
                limit_ms: None,
                requests: 0,
                requests_needed: None,
                canary: None,
                new: None,
                old: None,
                gate: Vec::new(),
                reason: None,
            },
        }
    }

    #[test]
    fn a_reader_that_sleeps_loses_ticks_before_events_and_never_blocks() {
        let (reporter, mut receiver) = Reporter::channel();
        for _ in 0..10 * Reporter::CAPACITY {
            reporter.report(progress(true));
        }
        reporter.report(progress(false));
        let mut seen = Vec::new();
        while let Ok(line) = receiver.try_recv() {
            seen.push(line.tick);
        }
        assert!(seen.len() < Reporter::CAPACITY);
        assert_eq!(seen.last(), Some(&false), "the event had room");
    }

    #[test]
    fn a_user_without_an_entry_is_shown_by_number() {
        assert_eq!(
            Actor::of(3_999_999_999).to_string(),
            "3999999999 (uid 3999999999)"
        );
        assert_eq!(Actor::of(0).to_string(), "root (uid 0)");
    }
}
