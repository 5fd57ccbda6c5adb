//! What is wanted to be known of containers under watch: that they end, what they wrote last, and what
//! they use of what they may. Asked only about those that [`Attention::pay`] names, because a socket
//! proxy may refuse both, and each costs the engine something.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::client::{Call, Client, DockerError};
use super::event::Sign;
use super::read;
use crate::clock;

/// Lines of a log that are kept.
const LINES: usize = 20;
/// Of each line.
const LINE_CHARACTERS: usize = 300;
/// For the log of a container that ended: the account of a rollback waits for it, the rollback does not.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at what containers use.
const MEASURE: Duration = Duration::from_secs(2);
/// For one look.
const MEASURE_PATIENCE: Duration = Duration::from_secs(5);

/// Something that speaks against a container.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What happened.
    pub sign: Sign,
    /// What it wrote last.
    pub log: LastLines,
    /// When it happened.
    pub at: Instant,
}

/// The last lines of a container's log, which may still be on their way.
#[derive(Clone, Debug)]
pub struct LastLines(watch::Receiver<Option<Lines>>);

/// Oldest first; or why they are not known.
type Lines = Result<Vec<String>, String>;

impl LastLines {
    /// Waits for them, 3 s at most from the moment they were asked for. Cancel-safe.
    ///
    /// # Errors
    /// Why they are not known, for people.
    pub async fn read(&self) -> Result<Vec<String>, String> {
        let mut lines = self.0.clone();
        let read = lines.wait_for(Option::is_some).await;
        // A sender that is gone belonged to a watch that ended.
        let read = read.ok().and_then(|read| Option::clone(&read));
        read.unwrap_or_else(|| Err("Docker is asked no more".to_owned()))
    }
}

/// Limits of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// CPUs.
    pub cpu: Option<f64>,
}

/// What a container uses of its limits, 0–1 and above; `None`: no limit, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Of its memory.
    pub memory: Option<f64>,
    /// Of its CPUs, since the look before.
    pub cpu: Option<f64>,
}

/// Which containers matter now.
#[derive(Debug)]
pub struct Attention {
    troubles: mpsc::UnboundedSender<Trouble>,
    paid: Mutex<BTreeMap<String, Limits>>,
    used: Mutex<HashMap<String, Used>>,
}

impl Attention {
    pub(super) fn new(troubles: mpsc::UnboundedSender<Trouble>) -> Self {
        Self {
            troubles,
            paid: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// Pays attention to these containers, by id, and to no others.
    pub fn pay(&self, containers: BTreeMap<String, Limits>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|id, _| containers.contains_key(id));
        drop(used);
        *self.paid.lock().unwrap_or_else(PoisonError::into_inner) = containers;
    }

    /// What a container used when it was last looked at.
    #[must_use]
    pub fn used(&self, id: &str) -> Option<Used> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(id).copied()
    }

    fn paid(&self) -> BTreeMap<String, Limits> {
        let paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        paid.clone()
    }

    /// Tells what speaks against a container, if attention is paid to it, and asks for its last lines.
    pub(super) fn happened(&self, client: &Client, id: &str, name: &str, sign: Sign) {
        if !self.paid().contains_key(id) {
            return;
        }
        let (found, lines) = watch::channel(None);
        let trouble = Trouble {
            id: id.to_owned(),
            name: name.to_owned(),
            sign,
            log: LastLines(lines),
            at: clock::now(),
        };
        // Nobody listens any more when the daemon stops.
        let _ = self.troubles.send(trouble);
        let (client, id) = (client.clone(), id.to_owned());
        tokio::spawn(async move {
            let lines = match tokio::time::timeout(PATIENCE, client.last_lines(&id, LINES)).await {
                Ok(Ok(lines)) => Ok(lines),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("Docker did not give its log in time".to_owned()),
            };
            found.send_replace(Some(lines));
        });
    }

    /// Looks at what containers use, for ever. Ends with the engine's words when it refuses that.
    pub(super) fn measure(self: &Arc<Self>, client: Client) -> Measuring {
        let attention = Arc::clone(self);
        Box::pin(async move {
            let mut before: HashMap<String, (u64, Instant)> = HashMap::new();
            loop {
                tokio::time::sleep(MEASURE).await;
                for (id, limits) in attention.paid() {
                    if limits == Limits::default() {
                        continue;
                    }
                    match stats(&client, &id).await {
                        Ok(Some((memory, cpu))) => {
                            let now = clock::now();
                            let last = cpu.and_then(|cpu| before.insert(id.clone(), (cpu, now)));
                            let used = Used {
                                memory: share(memory, limits.memory),
                                cpu: cpu_share(cpu, last, now, limits.cpu),
                            };
                            let mut all = attention
                                .used
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner);
                            all.insert(id, used);
                        }
                        Err(DockerError::Refused { message, .. }) => return message,
                        // The loss of the engine is noticed elsewhere.
                        Ok(None) | Err(_) => {}
                    }
                }
            }
        })
    }

    /// Measures nothing.
    pub(super) fn never() -> Measuring {
        Box::pin(std::future::pending())
    }
}

/// Ends only when it is refused.
pub(super) type Measuring = std::pin::Pin<Box<dyn Future<Output = String> + Send>>;

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn share(used: Option<u64>, limit: Option<u64>) -> Option<f64> {
    Some(used? as f64 / limit? as f64)
}

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn cpu_share(
    used: Option<u64>,
    last: Option<(u64, Instant)>,
    now: Instant,
    limit: Option<f64>,
) -> Option<f64> {
    let (before, then) = last?;
    let spent = used?.checked_sub(before)? as f64 / 1e9;
    let time = now.saturating_duration_since(then).as_secs_f64();
    (time > 0.0).then_some(spent / time / limit?)
}

async fn stats(
    client: &Client,
    id: &str,
) -> Result<Option<(Option<u64>, Option<u64>)>, DockerError> {
    let options = StatsOptionsBuilder::new()
        .stream(false)
        .one_shot(true)
        .build();
    let mut stream = Box::pin(client.api().stats(id, Some(options)));
    let answer = tokio::time::timeout(MEASURE_PATIENCE, stream.next()).await;
    match answer {
        Ok(Some(Ok(stats))) => Ok(Some((read::memory(&stats), read::cpu(&stats)))),
        Ok(Some(Err(error))) => Err(DockerError::of(Call::Stats, error)),
        Ok(None) | Err(_) => Ok(None),
    }
}

/// A line for a screen: without control characters, and not longer than that.
pub(super) fn cut(line: &str) -> String {
    let mut shown: String = line
        .chars()
        .filter(|c| *c == '\t' || !c.is_control())
        .take(LINE_CHARACTERS + 1)
        .collect();
    if shown.chars().count() > LINE_CHARACTERS {
        shown = shown.chars().take(LINE_CHARACTERS - 1).collect();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_and_cannot_move_the_cursor() {
        assert_eq!(cut("panic: \u{1b}[31mno\u{7}"), "panic: [31mno");
        let long = cut(&"x".repeat(1000));
        assert_eq!(long.chars().count(), LINE_CHARACTERS);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn shares_need_a_limit_and_a_look_before() {
        let now = clock::now();
        let then = now - Duration::from_secs(2);
        let half = cpu_share(
            Some(3_000_000_000),
            Some((1_000_000_000, then)),
            now,
            Some(2.0),
        );
        assert_eq!(half, Some(0.5));
        assert_eq!(cpu_share(Some(1), None, now, Some(1.0)), None);
        assert_eq!(
            cpu_share(Some(1), Some((5, then)), now, Some(1.0)),
            None,
            "another run"
        );
        assert_eq!(share(Some(90), Some(100)), Some(0.9));
        assert_eq!(share(Some(90), None), None);
    }
}
