use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::RootCertStore;
use tokio::net::TcpListener;

use super::*;
use crate::config::Probe;
use crate::pool::{ProbeRecord, Target};

fn target(addr: SocketAddr, interval: Duration) -> ProbeTarget {
    let upstream = Upstream::new(addr.to_string().parse().unwrap(), Target::Socket(addr));
    ProbeTarget {
        upstream: Arc::new(upstream),
        health: Health {
            probe: Probe::Tcp,
            interval,
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 2,
            max_latency: None,
        },
        service: "web".into(),
        color: Color::Green,
        client: client(),
    }
}

/// The same one for all: another one would be another way to probe.
fn client() -> Client {
    static CLIENT: std::sync::OnceLock<Client> = std::sync::OnceLock::new();
    CLIENT
        .get_or_init(|| Client::with_roots(RootCertStore::empty()))
        .clone()
}

fn prober() -> Prober {
    Prober::new()
}

/// Counts connections; can be closed and opened again.
struct App {
    addr: SocketAddr,
    seen: Arc<AtomicUsize>,
    up: Arc<AtomicBool>,
}

impl App {
    /// Answers 200 while up, 503 otherwise.
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            addr: listener.local_addr().unwrap(),
            seen: Arc::default(),
            up: Arc::new(AtomicBool::new(true)),
        };
        let (seen, up) = (Arc::clone(&app.seen), Arc::clone(&app.up));
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            while let Ok((mut stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let status = if up.load(Ordering::SeqCst) { 200 } else { 503 };
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
            }
        });
        app
    }

    fn target(&self, interval: Duration) -> ProbeTarget {
        let mut target = target(self.addr, interval);
        target.health.probe = Probe::Http {
            path: "/healthz".into(),
            host: None,
            status: (200, 299),
            json: std::collections::BTreeMap::default(),
        };
        target
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

async fn next(events: &mut broadcast::Receiver<HealthChanged>) -> HealthChanged {
    tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .expect("a transition in time")
        .expect("the prober lives")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn transitions_are_written_and_told_once_each() {
    let app = App::start().await;
    let prober = prober();
    let mut events = prober.subscribe();
    let target = app.target(SHORT);
    let upstream = Arc::clone(&target.upstream);
    prober.sync(vec![target]);
    let event = next(&mut events).await;
    assert_eq!(
        (event.from, event.to),
        (Availability::Unknown, Availability::Healthy)
    );
    assert_eq!(upstream.availability(), Availability::Healthy);
    assert!(upstream.probe().latency.is_some());
    app.up.store(false, Ordering::SeqCst);
    let event = next(&mut events).await;
    assert_eq!(
        (event.from, event.to),
        (Availability::Healthy, Availability::Down)
    );
    assert_eq!(
        event.reason.as_deref(),
        Some("status 503, expected 200-299")
    );
    assert_eq!(event.service.as_str(), "web");
    assert_eq!(event.color, Color::Green);
    assert_eq!(&*event.upstream, app.addr.to_string());
    app.up.store(true, Ordering::SeqCst);
    let event = next(&mut events).await;
    assert_eq!(
        (event.from, event.to),
        (Availability::Down, Availability::Healthy)
    );
    assert_eq!(
        upstream.probe().reason.as_deref(),
        Some("status 503, expected 200-299"),
        "the last reason stays readable"
    );
}

#[tokio::test]
async fn the_first_verdict_does_not_wait_for_the_interval() {
    let app = App::start().await;
    let prober = prober();
    let mut events = prober.subscribe();
    prober.sync(vec![app.target(LONG)]);
    assert_eq!(next(&mut events).await.to, Availability::Healthy);
    assert_eq!(app.seen(), 2);
}

#[tokio::test]
async fn sync_leaves_what_stays_and_stops_what_goes() {
    let (stays, goes) = (App::start().await, App::start().await);
    let prober = prober();
    let stay = stays.target(SHORT);
    prober.sync(vec![stay.clone(), goes.target(SHORT), stay.clone()]);
    assert_eq!(prober.len(), 2, "a double is probed once");
    let task = prober
        .running
        .lock()
        .unwrap()
        .values()
        .map(|r| r.task.id())
        .collect::<Vec<_>>();
    until("both probed", || stays.seen() > 2 && goes.seen() > 2).await;
    prober.sync(vec![stay]);
    assert_eq!(prober.len(), 1);
    let kept = prober
        .running
        .lock()
        .unwrap()
        .values()
        .next()
        .unwrap()
        .task
        .id();
    assert!(task.contains(&kept), "the same task goes on");
    // One probe may be on its way.
    let (last, mark) = (goes.seen() + 1, stays.seen());
    until("still probed", || stays.seen() > mark + 5).await;
    assert!(goes.seen() <= last);
}

#[tokio::test]
async fn changed_settings_take_effect_and_keep_the_state() {
    let app = App::start().await;
    let prober = prober();
    let mut events = prober.subscribe();
    let mut target = app.target(LONG);
    prober.sync(vec![target.clone()]);
    assert_eq!(next(&mut events).await.to, Availability::Healthy);
    app.up.store(false, Ordering::SeqCst);
    target.health.interval = SHORT;
    prober.sync(vec![target.clone()]);
    assert_eq!(target.upstream.availability(), Availability::Healthy);
    let event = next(&mut events).await;
    assert_eq!(
        (event.from, event.to),
        (Availability::Healthy, Availability::Down)
    );
}

#[tokio::test]
async fn dropping_the_prober_ends_every_task() {
    let app = App::start().await;
    let prober = prober();
    let target = app.target(SHORT);
    let upstream = Arc::downgrade(&target.upstream);
    prober.sync(vec![target]);
    until("probed", || app.seen() > 2).await;
    drop(prober);
    until("the task let go of its upstream", || {
        upstream.strong_count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_restart_goes_on_from_the_state_that_is_known() {
    let app = App::start().await;
    app.up.store(false, Ordering::SeqCst);
    let prober = prober();
    let mut events = prober.subscribe();
    let target = app.target(SHORT);
    target.upstream.set_probe(ProbeRecord {
        state: Availability::Down,
        reason: Some("connection refused".into()),
        latency: None,
        at: Some(clock::now()),
        passes: 0,
    });
    prober.sync(vec![target.clone()]);
    until("probed", || app.seen() > 4).await;
    assert_eq!(target.upstream.availability(), Availability::Down);
    assert!(events.try_recv().is_err(), "down it was, down it is");
    let reason = target.upstream.probe().reason.clone();
    assert_eq!(reason.as_deref(), Some("status 503, expected 200-299"));
}

#[tokio::test]
async fn more_upstreams_than_may_be_probed_at_once_all_get_their_turn() {
    let app = App::start().await;
    let prober = prober();
    let targets: Vec<_> = (0..AT_ONCE * 2)
        .map(|number| {
            let mut target = target(app.addr, LONG);
            target.health.rise = 1;
            target.service = format!("service-{number}").into();
            target
        })
        .collect();
    prober.sync(targets.clone());
    assert_eq!(prober.len(), AT_ONCE * 2);
    until("all healthy", || {
        let healthy = |t: &ProbeTarget| t.upstream.availability() == Availability::Healthy;
        targets.iter().all(healthy)
    })
    .await;
    assert_eq!(prober.shared.permits.available_permits(), AT_ONCE);
}

#[test]
fn the_pause_is_the_interval_give_or_take_a_tenth() {
    let three = Duration::from_secs(3);
    assert_eq!(pause(three, false, 0.0), Duration::from_millis(2700));
    assert_eq!(pause(three, false, 1.0), Duration::from_millis(3300));
    assert_eq!(pause(three, true, 0.5), Duration::from_millis(500));
    let short = Duration::from_millis(100);
    assert_eq!(pause(short, true, 0.5), short, "never slower than asked");
}
