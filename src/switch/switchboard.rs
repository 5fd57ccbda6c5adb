//! The handle that everything else holds: orders go in, progress, status and events come out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{broadcast, oneshot, watch};

use super::controller::Controller;
use super::driver::Driver;
use super::journal::Save;
use super::machine::{Event, Progress};
use super::outcome::Outcome;
use super::record::{Book, Freeze, Live, MaintenanceRecord};
use super::recover::Recovered;
use super::request::{SwitchRequest, VerbRequest};
use super::status::StackStatus;
use super::verdict::Judge;
use crate::clock;
use crate::config::Service;
use crate::model::{Color, Release, ServiceName, StackName};

/// Events that a slow subscriber may lag behind before it misses some.
const EVENTS_KEPT: usize = 256;

/// What a switchboard is made of.
pub struct Setup {
    /// The configured services.
    pub services: Vec<Service>,
    /// What was found on disk for them.
    pub recovered: Recovered,
    /// What does the work.
    pub driver: Arc<dyn Driver>,
    /// What decides about observed cutovers.
    pub judge: Box<dyn Judge>,
    /// Where the book is kept.
    pub save: Arc<dyn Save>,
    /// What is wrong with what was found there: nothing is switched before its repair.
    pub damage: Option<String>,
}

/// What is set by hand and survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Switches are frozen.
    pub freeze: Option<Freeze>,
    /// What is closed for maintenance: `service:NAME` or `site:HOST`.
    pub maintenance: BTreeMap<String, MaintenanceRecord>,
    /// What is wrong with the journal.
    pub damage: Option<String>,
}

/// All switches of the daemon. Cheap to clone; when the last clone is dropped its task ends.
#[derive(Clone)]
pub struct Switchboard {
    messages: UnboundedSender<Message>,
    status: watch::Receiver<Arc<[StackStatus]>>,
    events: broadcast::Sender<Stamped>,
    notes: watch::Receiver<Notes>,
}

/// An [`Event`], when and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// Wall-clock time.
    pub at: SystemTime,
    /// The stack.
    pub stack: StackName,
    /// What happened.
    pub event: Event,
}

/// The pools that a new table must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The live pool of every service.
    pub live: BTreeMap<ServiceName, Live>,
    /// Pools that take no requests but may be published again: they must not be dropped.
    pub standby: Vec<(ServiceName, Live)>,
}

/// The switchboard's task is gone: the daemon is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

/// What a command is.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Switch(SwitchRequest),
    RollBack(VerbRequest),
    Promote(VerbRequest),
    Abort(VerbRequest),
}

/// Applies a new table; see [`Switchboard::reconfigure`].
pub(super) type Install = Box<dyn FnOnce(&Layout) + Send>;

pub(super) enum Message {
    Ask {
        request: Request,
        progress: UnboundedSender<Progress>,
    },
    Reconfigure {
        services: Vec<Service>,
        install: Install,
        warnings: oneshot::Sender<Vec<String>>,
    },
    Flush {
        goodbye: bool,
        done: oneshot::Sender<Result<(), String>>,
    },
    Freeze {
        freeze: Option<Freeze>,
        done: oneshot::Sender<Result<(), String>>,
    },
    Maintain {
        changes: Vec<(String, Option<MaintenanceRecord>)>,
        done: oneshot::Sender<Result<(), String>>,
    },
    Knows {
        id: String,
        done: oneshot::Sender<bool>,
    },
    Repair {
        repair: Repair,
        done: oneshot::Sender<Result<Vec<String>, String>>,
    },
}

/// Repairs the journal with what is in memory; gives what was done.
pub(super) type Repair = Box<dyn FnOnce(&Book) -> Result<Vec<String>, String> + Send>;

impl Switchboard {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        Self::start_with_clock(setup, clock::now)
    }

    pub(super) fn start_with_clock(setup: Setup, clock: fn() -> Instant) -> Self {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let (controller, status, notes) = Controller::new(setup, clock, inbox, events.clone());
        tokio::spawn(controller.run());
        Self {
            messages,
            status,
            events,
            notes,
        }
    }

    /// Starts a switch, or joins the one with the same id. The last item is always
    /// [`Progress::Finished`]. Dropping the receiver detaches: the switch goes on.
    #[must_use]
    pub fn switch(&self, request: SwitchRequest) -> UnboundedReceiver<Progress> {
        self.ask(Request::Switch(request))
    }

    /// Undoes the last cutover. Cancel-safe: the rollback goes on.
    pub async fn rollback(&self, request: VerbRequest) -> Outcome {
        outcome(self.ask(Request::RollBack(request))).await
    }

    /// Ends an observe by keeping the cutover. Cancel-safe.
    pub async fn promote(&self, request: VerbRequest) -> Outcome {
        outcome(self.ask(Request::Promote(request))).await
    }

    /// Cancels a switch at the gate, or ends an observe by rolling back. Cancel-safe.
    pub async fn abort(&self, request: VerbRequest) -> Outcome {
        outcome(self.ask(Request::Abort(request))).await
    }

    /// Every stack as it is now, in the order of their names.
    #[must_use]
    pub fn status(&self) -> Arc<[StackStatus]> {
        Arc::clone(&self.status.borrow())
    }

    /// What a switch said runs in a slot; `None`: nothing was said.
    #[must_use]
    pub fn release(&self, service: &ServiceName, color: Color) -> Option<Release> {
        let status = self.status.borrow();
        let mut services = status.iter().flat_map(|stack| &stack.services);
        let found = services.find(|known| known.service == *service)?;
        found.releases[color.index()].clone()
    }

    /// A receiver that wakes at every change of [`Switchboard::status`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<[StackStatus]>> {
        self.status.clone()
    }

    /// Everything that happens from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Stamped> {
        self.events.subscribe()
    }

    /// Takes over a new configuration. `install` publishes the new table; it runs between two
    /// steps of the switchboard, so that no cutover can meet a table half made, and must not
    /// block. Live colors are kept, except where the live slot is gone. The result are
    /// warnings. Cancel-safe: once sent, the change happens.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn reconfigure(
        &self,
        services: Vec<Service>,
        install: impl FnOnce(&Layout) + Send + 'static,
    ) -> Result<Vec<String>, Stopped> {
        let (warnings, result) = oneshot::channel();
        let message = Message::Reconfigure {
            services,
            install: Box::new(install),
            warnings,
        };
        self.messages.send(message).map_err(|_| Stopped)?;
        result.await.map_err(|_| Stopped)
    }

    /// Waits until nothing is left to be written. Returns as well when a write has failed.
    pub async fn flush(&self) {
        // Why not is told where it happens.
        let _ = self
            .send(|done| Message::Flush {
                goodbye: false,
                done,
            })
            .await;
    }

    /// The last call of a daemon that stops on purpose: the next start does not count this end
    /// as a crash. Returns when that is on disk or has failed.
    pub async fn goodbye(&self) {
        // Why not is told where it happens.
        let _ = self
            .send(|done| Message::Flush {
                goodbye: true,
                done,
            })
            .await;
    }

    /// Refuses every switch from now on, or allows them again. Rollbacks are always possible.
    ///
    /// # Errors
    /// Why it is not on disk; it holds all the same, until a restart.
    pub async fn freeze(&self, freeze: Option<Freeze>) -> Result<(), String> {
        self.send(|done| Message::Freeze { freeze, done }).await?
    }

    /// Remembers what is closed for maintenance, or is not any more. The keys are `service:NAME`
    /// and `site:HOST`.
    ///
    /// # Errors
    /// Why it is not on disk; it holds all the same, until a restart.
    pub async fn maintain(
        &self,
        changes: Vec<(String, Option<MaintenanceRecord>)>,
    ) -> Result<(), String> {
        self.send(|done| Message::Maintain { changes, done })
            .await?
    }

    /// Has the journal repaired with what is in memory, and allows switches again. `repair` may
    /// block for as long as a write takes. Gives what was done.
    ///
    /// # Errors
    /// Why it could not be.
    pub async fn repair(
        &self,
        repair: impl FnOnce(&Book) -> Result<Vec<String>, String> + Send + 'static,
    ) -> Result<Vec<String>, String> {
        let repair: Repair = Box::new(repair);
        self.send(|done| Message::Repair { repair, done }).await?
    }

    /// Whether a command with this id runs or has ended: asked again, it changes nothing.
    pub async fn knows(&self, id: &str) -> bool {
        let id = id.to_owned();
        let known = self.send(|done| Message::Knows { id, done }).await;
        known.unwrap_or(false)
    }

    /// What was set by hand, as it is now.
    #[must_use]
    pub fn notes(&self) -> Notes {
        self.notes.borrow().clone()
    }

    async fn send<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, String> {
        let (done, answer) = oneshot::channel();
        let sent = self.messages.send(message(done));
        sent.map_err(|_| Stopped.to_string())?;
        answer.await.map_err(|_| Stopped.to_string())
    }

    fn ask(&self, request: Request) -> UnboundedReceiver<Progress> {
        let (progress, news) = mpsc::unbounded_channel();
        let message = Message::Ask { request, progress };
        if let Err(mpsc::error::SendError(Message::Ask { progress, .. })) =
            self.messages.send(message)
        {
            let _ = progress.send(Progress::Finished(stopped()));
        }
        news
    }
}

fn stopped() -> Outcome {
    Outcome::Failed {
        reason: Stopped.to_string(),
    }
}

async fn outcome(mut news: UnboundedReceiver<Progress>) -> Outcome {
    while let Some(progress) = news.recv().await {
        if let Progress::Finished(outcome) = progress {
            return outcome;
        }
    }
    stopped()
}
