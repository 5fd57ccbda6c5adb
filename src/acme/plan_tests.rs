use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::super::limits::LETS_ENCRYPT;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn set(name: &str) -> NameSet {
    NameSet::new([name]).expect("a name")
}

fn lets_encrypt() -> IssuerRules {
    IssuerRules {
        directory: "https://le.example/dir".to_owned(),
        staging: true,
        limits: Some(LETS_ENCRYPT),
    }
}

fn plain(directory: &str) -> IssuerRules {
    IssuerRules {
        directory: directory.to_owned(),
        staging: false,
        limits: None,
    }
}

fn rules(issuers: Vec<IssuerRules>) -> Rules {
    Rules {
        issuers,
        methods: vec![Method::Http01, Method::TlsAlpn01],
        concurrent: 4,
    }
}

fn plan(issuers: Vec<IssuerRules>, names: &[&str]) -> Plan {
    let mut plan = Plan::new(rules(issuers), Journal::default());
    plan.want(names.iter().map(|name| set(name)));
    plan
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed {
        kind,
        message: "no".to_owned(),
    }
}

fn valid(from: SystemTime, days: u32) -> Validity {
    Validity {
        not_before: from,
        not_after: from + DAY * days,
    }
}

/// Runs the plan as the shell does, checking every ten minutes at least; `answer` is the CA.
/// Returns the attempts with their times.
fn live(
    plan: &mut Plan,
    days: u32,
    mut answer: impl FnMut(&Attempt, SystemTime) -> Outcome,
) -> Vec<(SystemTime, Attempt)> {
    let mut now = start();
    let mut made = Vec::new();
    while now < start() + DAY * days {
        loop {
            let attempts = plan.begin(now);
            if attempts.is_empty() {
                break;
            }
            for attempt in attempts {
                let outcome = answer(&attempt, now);
                plan.finish(&attempt, outcome, now);
                made.push((now, attempt));
            }
        }
        let next = plan.deadline(now).expect("a wanted set");
        now = next.clamp(now + Duration::from_secs(1), now + CHECK);
    }
    made
}

#[test]
fn ninety_days_without_trouble_are_one_order_and_one_renewal() {
    let mut plan = plan(vec![lets_encrypt()], &["a.example"]);
    let made = live(&mut plan, 90, |_, now| Outcome::Issued(valid(now, 90)));
    assert_eq!(made.len(), 2);
    let after = made[1].0.duration_since(made[0].0).expect("later");
    assert!(after <= DAY * 60 && after >= DAY * 58, "{after:?}");
    assert!(!made[0].1.renewal && made[1].1.renewal);
    assert!(made.iter().all(|(_, attempt)| !attempt.staging));
}

#[test]
fn ninety_days_of_refused_validations_cost_one_production_order() {
    let mut plan = plan(vec![lets_encrypt()], &["a.example"]);
    let made = live(&mut plan, 90, |_, _| failed(FailureKind::Validation));
    let production = made.iter().filter(|(_, attempt)| !attempt.staging).count();
    assert_eq!(production, 1, "then staging fails first");
    // 27 steps of the ladder in the first 20 h, every 6 h (and a spread of up to a tenth) up
    // to day 30, daily up to day 90.
    assert_eq!(made.len(), 196);
    assert_eq!(plan.record(&set("a.example")).failures, 196);
    let gap = |n: usize| made[n + 1].0.duration_since(made[n].0).expect("later");
    assert!(gap(0) >= Duration::from_secs(60) && gap(0) <= Duration::from_secs(66));
    assert!(gap(100) >= Duration::from_secs(6 * 3600));
    assert!(gap(190) >= DAY && gap(190) <= DAY + DAY / 9);
}

#[test]
fn ninety_days_of_a_ca_that_is_down_are_the_ladder_and_no_staging() {
    let mut plan = plan(vec![lets_encrypt()], &["a.example"]);
    let down = |_: &Attempt, _| failed(FailureKind::Unavailable(None));
    let made = live(&mut plan, 90, down);
    assert!(made.iter().all(|(_, attempt)| !attempt.staging));
    assert_eq!(
        made.len(),
        196,
        "no certificate came, so no weekly limit is in the way"
    );
}

#[test]
fn ninety_days_of_certificates_that_get_lost_are_five_and_the_weekly_refill() {
    let mut plan = plan(vec![lets_encrypt()], &["a.example"]);
    let made = live(&mut plan, 90, |_, _| failed(FailureKind::Lost));
    // One token each 33.6 h beside the first five.
    assert_eq!(made.len(), 69);
}

#[test]
fn staging_that_passes_leads_to_production_at_once() {
    let mut plan = plan(vec![lets_encrypt()], &["a.example"]);
    let mended = start() + DAY;
    let made = live(&mut plan, 2, |attempt, now| match attempt.staging {
        _ if now < mended => failed(FailureKind::Validation),
        true => Outcome::Staged,
        false => Outcome::Issued(valid(now, 90)),
    });
    let [.., (staged_at, staged), (issued_at, issued)] = made.as_slice() else {
        panic!("two attempts at least");
    };
    assert!(staged.staging && !issued.staging);
    assert_eq!(staged_at, issued_at);
    assert_eq!(plan.record(&set("a.example")).failures, 0);
}

#[test]
fn a_failed_validation_is_tried_in_the_other_way_next() {
    let mut plan = plan(vec![plain("a")], &["a.example"]);
    let made = live(&mut plan, 1, |attempt, now| match attempt.method {
        Method::Http01 => failed(FailureKind::Validation),
        Method::TlsAlpn01 => Outcome::Issued(valid(now, 90)),
    });
    let methods: Vec<_> = made.iter().map(|(_, attempt)| attempt.method).collect();
    assert_eq!(methods, [Method::Http01, Method::TlsAlpn01]);
    let record = plan.record(&set("a.example"));
    assert_eq!(
        record.method,
        Some(Method::TlsAlpn01),
        "renewals begin with what worked"
    );
}

#[test]
fn a_ca_that_is_down_gives_way_to_the_fallback_and_comes_first_again_later() {
    let mut plan = plan(vec![plain("a"), plain("b")], &["a.example"]);
    let made = live(&mut plan, 70, |attempt, now| match attempt.issuer {
        0 if now < start() + DAY => failed(FailureKind::Unavailable(None)),
        _ => Outcome::Issued(valid(now, 90)),
    });
    let issuers: Vec<_> = made.iter().map(|(_, attempt)| attempt.issuer).collect();
    assert_eq!(issuers, [0, 1, 0]);
}

#[test]
fn a_limit_with_retry_after_is_waited_for_to_the_second() {
    let mut plan = plan(vec![plain("a")], &["a.example"]);
    let until = start() + Duration::from_secs(7_000);
    let made = live(&mut plan, 1, |_, now| match now < until {
        true => failed(FailureKind::Limited(Some(until))),
        false => Outcome::Issued(valid(now, 90)),
    });
    assert_eq!(made.len(), 2);
    assert_eq!(made[1].0, until);
}

#[test]
fn a_suggested_window_decides_and_an_empty_or_late_one_does_not() {
    let (mut plan, names) = (plan(vec![plain("a")], &["a.example"]), set("a.example"));
    plan.has(&names, valid(start(), 90));
    let thirds = plan.due(&names).expect("a certificate");
    let window = |from: u32, to: u32| {
        Some(Window {
            start: start() + DAY * from,
            end: start() + DAY * to,
        })
    };
    plan.suggest(&names, window(10, 12));
    let due = plan.due(&names).expect("a certificate");
    assert!(due >= start() + DAY * 10 && due < start() + DAY * 12);
    for none in [window(12, 10), window(91, 92), None] {
        plan.suggest(&names, none);
        assert_eq!(plan.due(&names), Some(thirds));
    }
}

#[test]
fn a_restart_goes_on_with_the_wait_and_other_cas_start_anew() {
    let mut before = plan(vec![plain("a")], &["a.example"]);
    let attempt = before.begin(start()).remove(0);
    before.finish(&attempt, failed(FailureKind::Validation), start());
    let bytes = serde_json::to_vec(before.journal()).expect("JSON");
    let journal: Journal = serde_json::from_slice(&bytes).expect("the same");
    let mut after = Plan::new(rules(vec![plain("a")]), journal.clone());
    after.want([set("a.example")]);
    assert_eq!(
        after.next(&set("a.example"), start()),
        before.next(&set("a.example"), start())
    );
    let mut other = Plan::new(rules(vec![plain("b")]), journal);
    other.want([set("a.example")]);
    assert!(matches!(
        other.next(&set("a.example"), start()),
        Decision::Order(_)
    ));
}

#[test]
fn force_orders_what_is_fresh_and_what_backs_off_once() {
    let (mut plan, names) = (plan(vec![plain("a")], &["a.example"]), set("a.example"));
    plan.has(&names, valid(start(), 90));
    assert!(plan.begin(start()).is_empty());
    assert!(plan.force(&names));
    let attempt = plan.begin(start()).remove(0);
    plan.finish(&attempt, failed(FailureKind::Validation), start());
    assert!(
        plan.begin(start()).is_empty(),
        "a forced attempt that failed waits"
    );
    assert!(plan.force(&names));
    let attempt = plan.begin(start()).remove(0);
    plan.finish(&attempt, Outcome::Issued(valid(start(), 90)), start());
    assert!(plan.begin(start()).is_empty());
    assert!(!plan.force(&set("b.example")));
}

#[test]
fn the_certificate_that_ends_first_is_ordered_first_and_no_more_at_a_time_than_allowed() {
    let names: Vec<_> = (0..10).map(|n| format!("{n}.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut plan = plan(vec![plain("a")], &names);
    for (n, name) in (1..).zip(&names) {
        plan.has(&set(name), valid(start() - DAY * (100 - n), 90));
    }
    let attempts = plan.begin(start());
    let first: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.names.to_string())
        .collect();
    assert_eq!(first, names[..4]);
    assert!(plan.begin(start()).is_empty());
}

#[test]
fn a_preflight_that_fails_spends_no_token_of_validations_and_stays_at_its_ca() {
    let mut plan = plan(vec![plain("a"), plain("b")], &["a.example"]);
    let made = live(&mut plan, 2, |_, _| failed(FailureKind::Preflight));
    assert!(
        made.iter()
            .all(|(_, attempt)| attempt.issuer == 0 && !attempt.staging)
    );
}

fn outcome() -> impl Strategy<Value = u8> {
    0_u8..8
}

proptest! {
    /// Whatever a CA answers: no set runs twice at once, no attempt before its wait is over,
    /// and the plan never ends.
    #[test]
    fn every_history_keeps_the_invariants(answers in proptest::collection::vec(outcome(), 1..200)) {
        let mut plan = plan(vec![lets_encrypt(), plain("b")], &["a.example", "b.example"]);
        let mut now = start();
        for answer in answers {
            let attempts = plan.begin(now);
            let running: BTreeSet<_> = attempts.iter().map(|attempt| &attempt.names).collect();
            prop_assert_eq!(running.len(), attempts.len());
            prop_assert!(plan.begin(now).is_empty());
            for attempt in &attempts {
                let at = now;
                let outcome = match answer {
                    0 => Outcome::Issued(valid(at, 6)),
                    1 => Outcome::Staged,
                    2 => failed(FailureKind::Preflight),
                    3 => failed(FailureKind::Forbidden),
                    4 => failed(FailureKind::Limited(Some(at + DAY))),
                    5 => failed(FailureKind::Unavailable(None)),
                    6 => failed(FailureKind::Refused),
                    _ => failed(FailureKind::Validation),
                };
                let is_failure = matches!(outcome, Outcome::Failed { .. });
                plan.finish(attempt, outcome, at);
                if is_failure {
                    let next = plan.next(&attempt.names, at);
                    let waits = matches!(next, Decision::Wait { until, .. } if until > at);
                    prop_assert!(waits, "{next:?}");
                }
            }
            let next = plan.deadline(now).expect("two sets");
            prop_assert!(next < now + DAY * 30);
            now = next.max(now + Duration::from_secs(1));
        }
    }
}
