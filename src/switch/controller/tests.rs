//! The shell on virtual time, with a driver that remembers what it was told.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::config::Slot;
use crate::model::Color::{Blue, Green};
use crate::model::Kind;
use crate::switch::driver::{DrainWindows, Publication, Traffic};
use crate::switch::gate::{GateReport, UpstreamReport, UpstreamState};
use crate::switch::journal::{Journal, SaveError};
use crate::switch::machine::Override;
use crate::switch::record::{Freeze, MaintenanceRecord};
use crate::switch::recover::recover;
use crate::switch::request::{SwitchRequest, VerbRequest};
use crate::switch::switchboard::Switchboard;
use crate::switch::verdict::Plain;

#[derive(Default)]
struct Fake {
    log: Mutex<Vec<String>>,
    down: Mutex<Vec<(ServiceName, Color)>>,
    busy: AtomicBool,
}

impl Fake {
    fn say(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn set_down(&self, service: &str, color: Color, down: bool) {
        let slot = (ServiceName::from(service), color);
        let mut all = self.down.lock().unwrap();
        all.retain(|other| *other != slot);
        if down {
            all.push(slot);
        }
    }
}

impl Driver for Fake {
    fn gate(&self, service: &ServiceName, color: Color) -> GateReport {
        let slot = (service.clone(), color);
        let down = self.down.lock().unwrap().contains(&slot);
        GateReport {
            upstreams: vec![UpstreamReport {
                address: format!("{service}-{color}:3000"),
                state: if down {
                    UpstreamState::Down
                } else {
                    UpstreamState::Healthy
                },
                reason: down.then(|| "connection refused".to_owned()),
                latency: None,
            }],
        }
    }

    fn publish(&self, pools: &[Publication]) {
        let shown: Vec<_> = pools
            .iter()
            .map(|pool| format!("{}={}", pool.service, pool.color))
            .collect();
        self.say(format!("publish {}", shown.join(" ")));
    }

    fn begin_drain(&self, service: &ServiceName, _: Generation, _: DrainWindows) {
        self.say(format!("drain {service}"));
    }

    fn in_flight(&self, _: &ServiceName, _: Generation) -> [u64; 3] {
        [u64::from(self.busy.load(Ordering::Relaxed)), 0, 0]
    }

    fn close(&self, service: &ServiceName, _: Generation, kind: Kind) {
        self.say(format!("close {service} {}", kind.as_str()));
    }

    fn retire(&self, service: &ServiceName, _: Generation) {
        self.say(format!("retire {service}"));
    }

    fn traffic(&self, _: &ServiceName, _: Color) -> Traffic {
        Traffic::default()
    }
}

/// A store that can be told to fail.
struct Disk {
    journal: Journal,
    /// What was recorded last.
    saved: Mutex<Option<Book>>,
    full: AtomicBool,
}

impl Save for Disk {
    fn save(&self, book: &Book) -> Result<(), SaveError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(SaveError {
                path: "journal.wal".into(),
                source: io::Error::from(io::ErrorKind::StorageFull),
            });
        }
        self.journal.save(book)?;
        *self.saved.lock().unwrap() = Some(book.clone());
        Ok(())
    }
}

fn service(name: &str, stack: &str) -> Service {
    let slot = |color: Color| {
        Some(Slot {
            upstreams: vec![format!("{name}-{color}:3000").parse().unwrap()],
            release: None,
        })
    };
    Service {
        stack: stack.into(),
        slots: Color::ALL.map(slot),
        ..Service::new(name)
    }
}

struct Rig {
    board: Switchboard,
    driver: Arc<Fake>,
    disk: Arc<Disk>,
    _folder: Option<tempfile::TempDir>,
}

/// Time that tokio can pause.
fn virtual_now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "the clock of the paused runtime")]
    tokio::time::Instant::now().into_std()
}

impl Rig {
    fn new(services: Vec<Service>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Self::on(folder.path(), services);
        rig._folder = Some(folder);
        rig
    }

    /// A clean stop: everything is on disk and the journal is free.
    async fn end(self) {
        self.board.flush().await;
        let Self { board, disk, .. } = self;
        drop(board);
        while Arc::strong_count(&disk) > 1 {
            tokio::task::yield_now().await;
        }
    }

    fn on(folder: &std::path::Path, services: Vec<Service>) -> Self {
        Self::damaged(folder, services, None)
    }

    fn damaged(folder: &std::path::Path, services: Vec<Service>, damage: Option<String>) -> Self {
        let (journal, found) = Journal::open(folder).unwrap();
        assert_eq!((&found.damage, &found.unwritable), (&None, &None));
        let recovered = recover(found.book, &services);
        let driver = Arc::new(Fake::default());
        let disk = Arc::new(Disk {
            journal,
            saved: Mutex::default(),
            full: AtomicBool::new(false),
        });
        let setup = Setup {
            services,
            recovered,
            driver: Arc::clone(&driver) as Arc<dyn Driver>,
            judge: Box::new(Plain),
            save: Arc::clone(&disk) as Arc<dyn Save>,
            damage,
        };
        Self {
            board: Switchboard::start_with_clock(setup, virtual_now),
            driver,
            disk,
            _folder: None,
        }
    }

    async fn switch(&self, request: SwitchRequest) -> Outcome {
        let mut news = self.board.switch(request);
        last(&mut news).await
    }

    fn live(&self, service: &str) -> Color {
        let status = self.board.status();
        let mut services = status.iter().flat_map(|stack| &stack.services);
        let found = services.find(|other| other.service.as_str() == service);
        found.unwrap().live.color
    }

    fn saved(&self, service: &str) -> Color {
        let book = self.disk.saved.lock().unwrap().clone().unwrap();
        book.services[service].live.color
    }

    async fn until(&self, phase: Phase) {
        let mut status = self.board.watch();
        let reached = status.wait_for(|all| all.iter().any(|stack| stack.phase == phase));
        let reached = tokio::time::timeout(Duration::from_secs(7_200), reached).await;
        assert!(reached.is_ok(), "never {}", phase.as_str());
    }
}

async fn last(news: &mut UnboundedReceiver<Progress>) -> Outcome {
    let mut outcome = None;
    while let Some(progress) = news.recv().await {
        assert_eq!(outcome, None, "something came after the end");
        if let Progress::Finished(end) = progress {
            outcome = Some(end);
        }
    }
    outcome.expect("the last item is the outcome")
}

fn to(color: Color) -> SwitchRequest {
    SwitchRequest {
        color,
        services: Vec::new(),
        force: false,
        release: None,
        confirm_within: None,
        canary_percent: None,
        by: by("ci"),
    }
}

fn by(actor: &str) -> By {
    By {
        actor: actor.to_owned(),
        ..By::default()
    }
}

fn verb() -> VerbRequest {
    VerbRequest {
        services: Vec::new(),
        by: by("ops"),
    }
}

fn pair() -> Vec<Service> {
    vec![service("api", "default"), service("web", "default")]
}

#[tokio::test(start_paused = true)]
async fn a_stack_moves_in_one_store_and_drains_after_the_watch() {
    let rig = Rig::new(pair());
    let started = virtual_now();
    let outcome = rig.switch(to(Green)).await;
    assert_eq!(outcome.to_string(), "green is live: api, web");
    assert!(
        started.elapsed_virtually() >= Duration::from_secs(1_800),
        "observe_max"
    );
    assert_eq!(
        rig.driver.log(),
        [
            "publish api=green web=green",
            "drain api",
            "drain web",
            "retire api",
            "retire web"
        ]
    );
    assert_eq!(rig.saved("web"), Green);
}

trait ElapsedVirtually {
    fn elapsed_virtually(&self) -> Duration;
}

impl ElapsedVirtually for Instant {
    fn elapsed_virtually(&self) -> Duration {
        virtual_now().saturating_duration_since(*self)
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_detaches_and_the_switch_goes_on() {
    let rig = Rig::new(pair());
    drop(rig.board.switch(to(Green)));
    rig.until(Phase::Observing).await;
    rig.until(Phase::Idle).await;
    assert_eq!(rig.live("web"), Green);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_gate_says_what_it_waits_for() {
    let rig = Rig::new(pair());
    rig.driver.set_down("web", Green, true);
    let mut news = rig.board.switch(to(Green));
    let Some(Progress::Accepted { services, .. }) = news.recv().await else {
        panic!("accepted first");
    };
    assert_eq!(services, ["api".into(), "web".into()]);
    let Some(Progress::Waiting { failing }) = news.recv().await else {
        panic!("then waiting");
    };
    assert_eq!(
        failing[0].to_string(),
        "web green web-green:3000: down: connection refused"
    );
    rig.until(Phase::Probing).await;
    rig.driver.set_down("web", Green, false);
    rig.until(Phase::Observing).await;
    assert_eq!(rig.live("web"), Green);
}

#[tokio::test(start_paused = true)]
async fn rollback_promote_and_abort_reach_the_running_switch() {
    let rig = Rig::new(pair());
    let mut news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    assert_eq!(rig.board.abort(verb()).await.exit_code(), 0);
    assert_eq!(last(&mut news).await.exit_code(), 4);
    assert_eq!(rig.saved("web"), Blue);

    let mut news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    assert_eq!(rig.board.promote(verb()).await.exit_code(), 0);
    assert_eq!(last(&mut news).await.exit_code(), 0);
    assert_eq!(rig.saved("web"), Green);

    assert_eq!(rig.board.rollback(verb()).await.exit_code(), 0);
    assert_eq!(rig.saved("web"), Blue);
    assert_eq!(rig.board.rollback(verb()).await.exit_code(), 3);
    assert_eq!(rig.board.promote(verb()).await.exit_code(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_same_id_has_the_same_result_and_moves_traffic_once() {
    let rig = Rig::new(pair());
    let mut request = to(Green);
    request.by.id = Some("deploy-1".to_owned());
    let mut first = rig.board.switch(request.clone());
    rig.until(Phase::Observing).await;
    let mut second = rig.board.switch(request.clone());
    let outcome = last(&mut first).await;
    assert_eq!(last(&mut second).await, outcome);
    // Later it is told from the record, in the same words.
    let again = rig.switch(request).await;
    assert_eq!(again.to_string(), outcome.to_string());
    assert_eq!((again.code(), again.exit_code()), (outcome.code(), 0));
    let publications = rig.driver.log().join(" ").matches("publish").count();
    assert_eq!(publications, 1);
}

#[tokio::test(start_paused = true)]
async fn a_result_is_known_by_its_id_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let mut request = to(Green);
    request.by.id = Some("deploy-1".to_owned());
    let outcome = rig.switch(request.clone()).await;
    rig.end().await;
    let rig = Rig::on(folder.path(), pair());
    assert_eq!(rig.switch(to(Blue)).await.exit_code(), 0);
    let again = rig.switch(request).await;
    assert_eq!(again.to_string(), outcome.to_string());
    assert_eq!(rig.live("web"), Blue, "it was not done again");
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_after_a_restart_and_is_undone_after_the_second_crash() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let _news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    rig.end().await;

    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Observing).await;
    let status = rig.board.status();
    let run = status[0].run.clone().expect("a run");
    assert_eq!((run.target, run.services.len()), (Green, 2));
    assert_eq!(rig.board.abort(verb()).await.exit_code(), 0);
    assert_eq!(rig.driver.log()[0], "publish api=blue web=blue");
    let _news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    assert_eq!(rig.live("web"), Green);
    rig.end().await;

    // A stop on purpose in between does not count.
    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Observing).await;
    rig.board.goodbye().await;
    rig.end().await;
    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Observing).await;
    assert_eq!((rig.live("api"), rig.live("web")), (Green, Green));
    rig.end().await;
    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Idle).await;
    assert_eq!((rig.live("api"), rig.live("web")), (Blue, Blue));
}

#[tokio::test(start_paused = true)]
async fn a_resumed_watch_ends_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let _news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    rig.end().await;
    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Observing).await;
    rig.until(Phase::Idle).await;
    assert_eq!((rig.live("web"), rig.saved("web")), (Green, Green));
    let log = rig.driver.log().join("\n");
    assert!(
        log.contains("drain web"),
        "the old pool is drained at last: {log}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_waits_for_a_confirmation_does_so_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let mut request = to(Green);
    request.confirm_within = Some(Duration::from_secs(7_200));
    let _news = rig.board.switch(request);
    rig.until(Phase::Observing).await;
    rig.end().await;
    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Observing).await;
    // Longer than the longest watch.
    tokio::time::sleep(Duration::from_secs(7_000)).await;
    assert_eq!(rig.board.status()[0].phase, Phase::Observing);
    rig.until(Phase::Idle).await;
    assert_eq!((rig.live("web"), rig.saved("web")), (Blue, Blue));
}

#[tokio::test(start_paused = true)]
async fn a_freeze_refuses_every_switch_and_no_rollback_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let _news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    let freeze = Freeze {
        why: "the sale".to_owned(),
        by: "ann".to_owned(),
        since_ms: 1,
        until_ms: None,
    };
    assert_eq!(rig.board.freeze(Some(freeze.clone())).await, Ok(()));
    assert_eq!(rig.board.rollback(verb()).await.exit_code(), 0);
    rig.end().await;

    let rig = Rig::on(folder.path(), pair());
    assert_eq!(rig.board.notes().freeze, Some(freeze.clone()));
    let mut forced = to(Green);
    forced.force = true;
    let outcome = rig.switch(forced.clone()).await;
    assert_eq!(outcome.exit_code(), 3);
    assert_eq!(
        outcome.to_string(),
        "refused: switches are frozen by ann: the sale"
    );
    let over = Freeze {
        until_ms: Some(1),
        ..freeze
    };
    assert_eq!(rig.board.freeze(Some(over)).await, Ok(()));
    assert_eq!(rig.switch(forced).await.exit_code(), 0, "its time is over");
    assert_eq!(rig.board.freeze(None).await, Ok(()));
    assert_eq!(rig.board.notes().freeze, None);
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_remembered_and_a_disk_that_fails_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let record = MaintenanceRecord {
        message: Some("back at noon".to_owned()),
        by: "ann".to_owned(),
        since_ms: 1,
    };
    let change = |key: &str| vec![(key.to_owned(), Some(record.clone()))];
    assert_eq!(rig.board.maintain(change("service:web")).await, Ok(()));
    rig.disk.full.store(true, Ordering::Relaxed);
    let told = rig.board.maintain(change("site:example.com")).await;
    assert!(told.is_err_and(|why| why.contains("no space left") || why.contains("storage")));
    assert_eq!(
        rig.board.notes().maintenance.len(),
        2,
        "it holds all the same"
    );
    rig.disk.full.store(false, Ordering::Relaxed);
    rig.board.flush().await;
    rig.end().await;
    let rig = Rig::on(folder.path(), pair());
    assert_eq!(rig.board.notes().maintenance["service:web"], record);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_journal_locks_switches_until_its_repair() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::damaged(
        folder.path(),
        pair(),
        Some("record 2 is damaged".to_owned()),
    );
    let refused = rig.switch(to(Green)).await;
    assert_eq!(
        (refused.code(), refused.exit_code()),
        ("journal_damaged", 3)
    );
    let disk = Arc::clone(&rig.disk);
    let repair = move |book: &Book| disk.journal.repair(book).map_err(|error| error.to_string());
    let done = rig.board.repair(repair).await.unwrap();
    assert!(done.last().is_some_and(|line| line.contains("wrote a new")));
    assert_eq!(rig.switch(to(Green)).await.exit_code(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_canary_is_refused_with_the_reason() {
    let rig = Rig::new(pair());
    let mut request = to(Green);
    request.canary_percent = Some(5.0);
    let outcome = rig.switch(request).await;
    assert_eq!(outcome.exit_code(), 3);
    assert!(outcome.to_string().contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn stacks_switch_apart_and_are_never_guessed() {
    let rig = Rig::new(vec![service("web", "default"), service("cart", "shop")]);
    let outcome = rig.switch(to(Green)).await;
    assert!(outcome.to_string().contains("--service"), "{outcome}");
    let mut request = to(Green);
    request.services = vec!["cart".into()];
    let _news = rig.board.switch(request);
    rig.until(Phase::Observing).await;
    assert_eq!((rig.live("cart"), rig.live("web")), (Green, Blue));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_a_switch_but_not_a_rollback() {
    let rig = Rig::new(pair());
    let mut news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    rig.board.flush().await;
    rig.disk.full.store(true, Ordering::Relaxed);
    let outcome = rig.board.rollback(verb()).await;
    assert_eq!(outcome.exit_code(), 0);
    assert!(outcome.to_string().contains("NOT YET ON DISK"), "{outcome}");
    assert_eq!(last(&mut news).await.exit_code(), 4);
    assert_eq!(rig.live("web"), Blue);
    assert_eq!(rig.saved("web"), Green);
    let outcome = rig.switch(to(Green)).await;
    assert_eq!(outcome.exit_code(), 3);
    assert_eq!(rig.live("web"), Blue);
    rig.disk.full.store(false, Ordering::Relaxed);
    let mut status = rig.board.watch();
    let saved = status.wait_for(|all| all[0].unsaved.is_none());
    let saved = tokio::time::timeout(Duration::from_secs(5), saved).await;
    assert!(saved.is_ok(), "never written again");
    assert_eq!(rig.saved("web"), Blue);
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_live_color_and_still_knows_the_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let _news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    rig.end().await;

    let mut services = pair();
    services[0].live = Some(Blue);
    let rig = Rig::on(folder.path(), services);
    assert_eq!((rig.live("api"), rig.live("web")), (Green, Green));
    assert_eq!(rig.board.rollback(verb()).await.exit_code(), 0);
    assert_eq!(rig.driver.log()[0], "publish api=blue web=blue");
}

#[tokio::test(start_paused = true)]
async fn a_reload_never_resets_a_live_color_and_keeps_the_pools_of_an_observe() {
    let rig = Rig::new(pair());
    let _news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    let mut services = pair();
    services.push(service("new", "default"));
    services[1].live = Some(Blue);
    let (seen, layout) = oneshot::channel();
    let install = move |layout: &Layout| seen.send(layout.clone()).unwrap();
    let warnings = rig.board.reconfigure(services, install).await.unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let layout = layout.await.unwrap();
    let live = |name: &str| layout.live[name].color;
    assert_eq!(
        (live("api"), live("web"), live("new")),
        (Green, Green, Blue)
    );
    assert_eq!(layout.standby.len(), 2);
    assert!(layout.standby.iter().all(|(_, pool)| pool.color == Blue));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_comes_back_is_live_where_it_was() {
    let rig = Rig::new(pair());
    drop(rig.board.switch(to(Green)));
    rig.until(Phase::Observing).await;
    rig.until(Phase::Idle).await;
    let without = vec![service("api", "default")];
    rig.board.reconfigure(without, |_| {}).await.unwrap();
    rig.board.reconfigure(pair(), |_| {}).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(rig.live("web"), Green);
}

#[tokio::test(start_paused = true)]
async fn a_live_slot_that_a_reload_removes_gives_way_with_a_warning() {
    let rig = Rig::new(pair());
    let mut services = pair();
    services[1].slots[Blue.index()] = None;
    let warnings = rig.board.reconfigure(services, |_| {}).await.unwrap();
    assert_eq!(
        warnings,
        ["web: blue was live but has no upstreams any more; green is live now"]
    );
    tokio::task::yield_now().await;
    assert_eq!((rig.live("api"), rig.live("web")), (Blue, Green));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_changes_its_stack_keeps_its_color() {
    let rig = Rig::new(pair());
    let mut news = rig.board.switch(to(Green));
    rig.until(Phase::Observing).await;
    let services = vec![service("api", "default"), service("web", "other")];
    rig.board.reconfigure(services, |_| {}).await.unwrap();
    assert_eq!(last(&mut news).await.exit_code(), 0);
    assert_eq!((rig.live("api"), rig.live("web")), (Green, Green));
    assert!(rig.driver.log().contains(&"drain web".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn subscribers_hear_of_a_switch_in_order() {
    let rig = Rig::new(vec![service("web", "default")]);
    let mut events = rig.board.subscribe();
    let outcome = rig.switch(to(Green)).await;
    let mut heard = Vec::new();
    while let Ok(stamped) = events.try_recv() {
        heard.push(match stamped.event {
            Event::SwitchAccepted { .. } => "accepted",
            Event::CutOver { .. } => "cut over",
            Event::DrainBegan { .. } => "drain began",
            Event::Drained { .. } => "drained",
            Event::Ended { outcome: end, .. } => {
                assert_eq!(end, outcome);
                "ended"
            }
            Event::Overridden { .. }
            | Event::Held { .. }
            | Event::RolledBack { .. }
            | Event::NotDurable { .. }
            | Event::Durable => "something else",
        });
    }
    assert_eq!(
        heard,
        ["accepted", "cut over", "drain began", "drained", "ended"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_never_ends_is_closed_at_its_deadline() {
    let rig = Rig::new(vec![service("web", "default")]);
    rig.driver.busy.store(true, Ordering::Relaxed);
    let outcome = rig.switch(to(Green)).await;
    let Outcome::Kept { closed, .. } = outcome else {
        panic!("{outcome}");
    };
    assert_eq!(closed, [1, 0, 0]);
    assert!(rig.driver.log().contains(&"close web request".to_owned()));
}

fn named(color: Color, id: &str) -> SwitchRequest {
    let mut request = to(color);
    request.by.id = Some(id.to_owned());
    request
}

#[tokio::test(start_paused = true)]
async fn a_command_that_a_crash_cut_is_joined_by_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let _news = rig.board.switch(named(Green, "deploy-1"));
    rig.until(Phase::Observing).await;
    rig.end().await;

    let rig = Rig::on(folder.path(), pair());
    rig.until(Phase::Observing).await;
    assert!(rig.board.knows("deploy-1").await && !rig.board.knows("deploy-2").await);
    let mut again = rig.board.switch(named(Green, "deploy-1"));
    let Some(Progress::Recorded { moves, .. }) = again.recv().await else {
        panic!("whoever does not wait is told at once");
    };
    assert_eq!(moves.len(), 2);
    let outcome = last(&mut again).await;
    assert_eq!(outcome.to_string(), "green is live: api, web");
    assert_eq!(rig.driver.log()[..1], ["drain api"], "nothing moved again");
    rig.end().await;

    let rig = Rig::on(folder.path(), pair());
    let recorded = rig.switch(named(Green, "deploy-1")).await;
    assert_eq!(recorded.to_string(), outcome.to_string());
    assert_eq!(rig.driver.log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_kills_the_daemon_is_told_to_whoever_asks_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::on(folder.path(), pair());
    let _news = rig.board.switch(named(Green, "deploy-1"));
    rig.until(Phase::Observing).await;
    rig.end().await;
    Rig::on(folder.path(), pair()).end().await;

    let rig = Rig::on(folder.path(), pair());
    assert_eq!(rig.live("web"), Blue, "the second crash undid it");
    let told = rig.switch(named(Green, "deploy-1")).await;
    assert_eq!((told.code(), told.exit_code()), ("rolled_back", 4));
    assert_eq!(rig.live("web"), Blue, "it was not done again");
}

#[tokio::test(start_paused = true)]
async fn what_a_person_sets_aside_is_told_with_who_and_why() {
    let rig = Rig::new(pair());
    let mut events = rig.board.subscribe();
    let mut overridden = async move || {
        loop {
            if let Event::Overridden {
                actor, why, what, ..
            } = events.recv().await.unwrap().event
            {
                return (actor, why, what);
            }
        }
    };
    let because = |why: &str| {
        let mut verb = verb();
        verb.by.why = Some(why.to_owned());
        verb
    };
    rig.driver.set_down("web", Green, true);
    let mut forced = to(Green);
    forced.force = true;
    let mut news = rig.board.switch(forced);
    let (actor, _, what) = overridden().await;
    let Override::Gate { failing } = what else {
        panic!("{what:?}");
    };
    assert_eq!((actor.as_str(), failing.len()), ("ci", 1));
    assert_eq!(failing[0].why, "down: connection refused");
    rig.driver.set_down("web", Green, false);
    rig.until(Phase::Observing).await;
    assert_eq!(
        rig.board.promote(because("it is well")).await.exit_code(),
        0
    );
    let (actor, why, what) = overridden().await;
    assert_eq!(
        (actor.as_str(), why.as_deref()),
        ("ops", Some("it is well"))
    );
    assert!(
        matches!(what, Override::Promote { held: None, .. }),
        "{what:?}"
    );
    assert_eq!(last(&mut news).await.exit_code(), 0);
    let _news = rig.board.switch(to(Blue));
    rig.until(Phase::Observing).await;
    assert_eq!(rig.board.abort(because("it is not")).await.exit_code(), 0);
    let (_, why, what) = overridden().await;
    assert_eq!(why.as_deref(), Some("it is not"));
    let phase = Phase::Observing;
    assert_eq!(what, Override::Abort { phase });
}
