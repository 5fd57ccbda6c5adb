//! Notes reach a webhook, signed, in order and after a crash.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::RATE;
use crate::support::wait_until;
use crate::world::{Mood, World};

const SECRET: &str = "a secret of the test";

/// One request to the webhook.
#[derive(Clone, Debug)]
struct Got {
    id: String,
    time: String,
    signature: String,
    body: String,
    /// What it was answered with.
    status: u16,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// As a receiver checks it, not as the sender wrote it.
    fn is_signed(&self) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let text = format!("{}.{}.{}", self.id, self.time, self.body);
        let given = self.signature.strip_prefix("v1,").expect("a version");
        let given = STANDARD.decode(given).expect("base64");
        hmac::verify(&key, text.as_bytes(), &given).is_ok()
    }
}

/// Somebody's webhook.
struct Webhook {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Webhook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let hook = Self {
            address,
            status: Arc::new(AtomicU16::new(204)),
            got: Arc::default(),
        };
        let (status, got) = (Arc::clone(&hook.status), Arc::clone(&hook.got));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut text = String::new();
                let mut buffer = [0; 4096];
                let (head, body) = loop {
                    let Ok(length @ 1..) = stream.read(&mut buffer) else {
                        break (String::new(), String::new());
                    };
                    text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let length = field(head, "content-length").parse();
                    if Ok(body.len()) == length {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                if head.is_empty() {
                    continue;
                }
                let status = status.load(Ordering::Relaxed);
                got.lock().expect("no panic").push(Got {
                    id: field(&head, "webhook-id"),
                    time: field(&head, "webhook-timestamp"),
                    signature: field(&head, "webhook-signature"),
                    body,
                    status,
                });
                let answer = format!(
                    "HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        hook
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().expect("no panic").clone()
    }

    /// The first note of an event that was taken.
    fn taken(&self, event: &str) -> Option<Got> {
        let mut all = self.got().into_iter();
        all.find(|got| got.status == 204 && got.json()["event"] == event)
    }

    fn config(&self) -> String {
        format!(
            "[[notify]]\nkind = \"json\"\nurl = \"http://{}/hook?token=hidden\"\nsecret = \"{SECRET}\"\n",
            self.address
        )
    }
}

fn field(head: &str, name: &str) -> String {
    let found = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    });
    found.unwrap_or_default()
}

#[test]
fn a_rollback_is_told_with_its_numbers() {
    let hook = Webhook::start();
    let world = World::start(&hook.config(), RATE, false);
    let tested = world.edge.proxyctl(&["notify", "test"]);
    assert_eq!(tested.code, 0, "{tested:?}");
    assert!(tested.stdout.contains("arrived"), "{tested:?}");
    world.baseline(4);
    world.is_undone(Mood::Fails(1.0), 0);
    wait_until("the rollback is told", || {
        hook.taken("rolled_back").is_some()
    });
    let note = hook.taken("rolled_back").expect("told").json();
    assert_eq!(
        (&note["from"], &note["to"]),
        (&"green".into(), &"blue".into())
    );
    assert!(note["failures"].as_u64() > Some(0), "{note}");
    assert!(
        note["text"].to_string().contains("requests failed"),
        "{note}"
    );
    assert!(note["details"].to_string().contains("/route/"), "{note}");
    let got = hook.got();
    assert!(got.iter().all(Got::is_signed), "{got:#?}");
    let events: Vec<_> = got.iter().map(|got| got.json()["event"].clone()).collect();
    assert!(events.contains(&"switched".into()), "{events:?}");
    let said = world.edge.log() + &world.edge.proxyctl(&["status"]).stdout;
    assert!(
        !said.contains("token=hidden") && !said.contains(SECRET),
        "a secret"
    );
}

#[test]
fn a_note_outlives_an_outage_of_its_target_and_a_kill() {
    let hook = Webhook::start();
    hook.status.store(503, Ordering::Relaxed);
    let mut world = World::start(&hook.config(), RATE, false);
    let tested = world.edge.proxyctl(&["notify", "test"]);
    assert_eq!(tested.code, 1, "{tested:?}");
    assert!(
        tested.stdout.contains("503") || tested.stderr.contains("503"),
        "{tested:?}"
    );
    world.baseline(4);
    world.is_undone(Mood::Fails(1.0), 0);
    let told = |hook: &Webhook| {
        let mut all = hook.got().into_iter();
        all.find(|got| got.json()["event"] == "switched")
    };
    wait_until("it was tried", || told(&hook).is_some());
    wait_until("the status says so", || {
        world.edge.proxyctl(&["status"]).stdout.contains("503")
    });
    let first = told(&hook).expect("tried");
    world.edge.stop("-KILL");
    hook.status.store(204, Ordering::Relaxed);
    world.edge.spawn();
    wait_until("it arrives", || hook.taken("rolled_back").is_some());
    let second = hook.taken("switched").expect("in order");
    assert_eq!((&first.id, &first.body), (&second.id, &second.body));
    assert!(second.is_signed());
}
