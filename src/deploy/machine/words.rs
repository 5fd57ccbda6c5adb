//! What goes into the machine and what comes out of it.

use serde::{Deserialize, Serialize};

use crate::deploy::action::Action;
use crate::deploy::record::{Cause, Pulled, Run};
use crate::model::{Color, ServiceName};

/// Number of one write of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// That write is on disk.
    Saved {
        /// Which.
        ticket: Ticket,
    },
    /// It is not.
    SaveFailed {
        /// Which.
        ticket: Ticket,
        /// What the disk said.
        reason: String,
    },
    /// An action has ended.
    Answered {
        /// Which.
        stamp: u64,
        /// How.
        answer: Answer,
    },
    /// A person calls it off; without effect after the cutover, or once the release is kept.
    Abort {
        /// Who.
        by: String,
    },
    /// Time went by.
    Tick,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// As it should.
    Done(News),
    /// Not as it should.
    Failed(Failure),
}

/// What is known after an action.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// Nothing new.
    Nothing,
    /// What a reference turned out to be.
    Pulled(Pulled),
    /// The stack is closed.
    Closed {
        /// Whether nothing is in flight any more.
        quiet: bool,
    },
    /// A job did well.
    Ran {
        /// When it began, in milliseconds since 1970.
        began_ms: u64,
    },
    /// Requests go to the new release, and that is on disk.
    Moved,
    /// The new release is kept.
    Kept,
    /// Requests go to the old release again.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// After a restart: the cutover was intended and did not happen.
    NeverHappened,
    /// The data was put back.
    Restored(String),
    /// The data was not put back; what a person can do.
    Advice(Vec<String>),
}

/// Why an action did not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub reason: String,
    /// The last lines of a job or a container.
    pub lines: Vec<String>,
    /// The engine did not answer: it may do in a moment.
    pub again: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self {
            reason,
            ..Self::default()
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the record durable; answer with [`Input::Saved`].
    Save {
        /// Names the write.
        ticket: Ticket,
        /// The record.
        run: Box<Run>,
        /// What becomes of the rest of the book.
        change: Change,
    },
    /// Do it; answer with [`Input::Answered`].
    Do {
        /// Names the attempt.
        stamp: u64,
        /// What.
        action: Action,
    },
    /// Nobody waits for that answer any more.
    Cancel {
        /// The attempt.
        stamp: u64,
    },
    /// An action begins.
    Report(Stage),
    /// It is over, and that is on disk.
    End(Outcome),
}

/// What a write changes in the book.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Only the run.
    Step,
    /// The new release is the live one.
    Adopt,
    /// The run is over.
    End(Outcome),
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What is being done.
    pub action: Option<Action>,
    /// In words.
    pub text: String,
    /// Actions before it.
    pub done: usize,
    /// Of how many.
    pub of: usize,
    /// Whether it goes back.
    pub is_back: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// The new release is live.
    Kept {
        /// Its slot; `None`: workers alone.
        color: Option<Color>,
        /// Its label.
        release: String,
        /// The services.
        services: Vec<ServiceName>,
        /// What went wrong all the same.
        trouble: Vec<String>,
    },
    /// It was live before.
    AlreadyLive {
        /// Its label.
        release: String,
    },
    /// It was live for a while.
    RolledBack {
        /// The services.
        services: Vec<ServiceName>,
        /// Why.
        reason: String,
        /// What else is to be known.
        details: Vec<String>,
    },
    /// It never was.
    Failed {
        /// At which step.
        step: String,
        /// Why.
        reason: String,
        /// The last lines, and what else is to be known.
        details: Vec<String>,
        /// The new release is not fit: it is not healthy, or its gate stayed shut.
        #[serde(default)]
        is_shut: bool,
        /// Some of its containers had taken requests.
        #[serde(default)]
        moved: bool,
    },
    /// A person called it off.
    Aborted {
        /// Who.
        by: String,
        /// What else is to be known.
        details: Vec<String>,
        /// Some of its containers had taken requests.
        #[serde(default)]
        moved: bool,
    },
    /// Nothing was begun.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// The word for JSON, logs and the history.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Kept { .. } => "kept",
            Self::AlreadyLive { .. } => "already_live",
            Self::RolledBack { .. } => "rolled_back",
            Self::Failed { .. } => "failed",
            Self::Aborted { .. } => "aborted",
            Self::Refused { .. } => "refused",
        }
    }
}

/// The end of a run that has nothing left to do.
pub(super) fn outcome(run: &Run) -> Outcome {
    let services = run.plan.services();
    let release = run.plan.release.clone();
    let facts = &run.facts;
    let details = || {
        let all = facts.restored.iter().chain(&facts.advice);
        all.chain(&facts.trouble).cloned().collect::<Vec<_>>()
    };
    let Some(back) = &run.back else {
        let color = run.plan.has_web().then(|| run.plan.color()).flatten();
        return Outcome::Kept {
            color,
            release,
            services,
            trouble: details(),
        };
    };
    match &back.cause {
        Cause::AlreadyLive => Outcome::AlreadyLive { release },
        Cause::Refused { reason } => Outcome::Refused {
            reason: reason.clone(),
        },
        Cause::Aborted { by } => Outcome::Aborted {
            by: by.clone(),
            details: details(),
            moved: facts.moved,
        },
        Cause::RolledBack { reason } => Outcome::RolledBack {
            services,
            reason: reason.clone(),
            details: details(),
        },
        Cause::Failed {
            step,
            reason,
            lines,
            is_shut,
        } => Outcome::Failed {
            is_shut: *is_shut,
            moved: facts.moved,
            step: step.clone(),
            reason: reason.clone(),
            details: lines.iter().cloned().chain(details()).collect(),
        },
    }
}
