//! `balance = "cookie"`: a signed cookie that leads back within the live slot.

use crate::support::raw::{Mood, Raw};
use crate::support::{Edge, curl};

fn service(upstreams: &[Raw; 4], sticky: &str) -> String {
    let [a, b, c, d] = upstreams.each_ref().map(|raw| raw.addr);
    format!(
        "[[site]]\nhosts = [\"127.0.0.1\"]\ntls = \"off\"\nservice = \"web\"\n\
         [service.web]\nblue = [\"{a}\", \"{b}\"]\ngreen = [\"{c}\", \"{d}\"]\n\
         balance = \"cookie\"\n{sticky}\n\
         [service.web.health]\ntype = \"tcp\"\ninterval = \"500ms\"\n\
         [service.web.switch]\nobserve = \"0s\"\n"
    )
}

/// Who answered, and the cookie that it set, if any.
fn ask(edge: &Edge, cookie: Option<&str>) -> (String, Option<String>) {
    let url = format!("http://{}/", edge.http);
    let mut arguments = vec!["--include".to_owned(), url];
    if let Some(cookie) = cookie {
        arguments.extend(["--header".to_owned(), format!("Cookie: a=b; {cookie}")]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let answer = curl(&arguments);
    assert_eq!(answer.code, 0, "{answer:?}");
    let field = |name: &str| {
        let mut lines = answer.stdout.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            (found.eq_ignore_ascii_case(name)).then(|| value.trim().to_owned())
        })
    };
    let set = field("set-cookie");
    (field("x-origin").expect("an upstream"), set)
}

fn pair(set: &str) -> String {
    set.split(';').next().unwrap_or_default().to_owned()
}

#[test]
fn a_client_stays_with_its_upstream_within_the_live_slot() {
    let upstreams = ["a", "b", "c", "d"].map(|name| Raw::start(name, Mood::Good));
    let text = service(&upstreams, "sticky = { cookie = \"lb\", max_age = \"1h\" }");
    let mut edge = Edge::start(&text);
    edge.wait_healthy();
    let (first, set) = ask(&edge, None);
    let set = set.expect("a cookie");
    assert!(set.starts_with("lb="), "{set}");
    assert!(
        set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
        "{set}"
    );
    let cookie = pair(&set);
    let stays = |edge: &Edge, cookie: &str, with: &str| {
        for _ in 0..10 {
            let (who, set) = ask(edge, Some(cookie));
            assert_eq!((who.as_str(), set), (with, None));
        }
    };
    stays(&edge, &cookie, &first);
    // Over a restart too.
    edge.stop("-TERM");
    edge.spawn();
    edge.wait_healthy();
    stays(&edge, &cookie, &first);
    // Nobody chooses for himself.
    let (id, tag) = cookie.split_once('.').expect("two parts");
    for forged in [
        id.to_owned(),
        format!("{id}.AAAA"),
        format!("lb=0000000000000001.{tag}"),
    ] {
        let (_, set) = ask(&edge, Some(&forged));
        assert!(set.is_some(), "{forged} was believed");
    }
    // The other slot has upstreams of its own.
    let switched = edge.proxyctl(&["switch", "green"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    let (green, set) = ask(&edge, Some(&cookie));
    assert!(["c", "d"].contains(&green.as_str()), "{green}");
    let moved = pair(&set.expect("a new cookie"));
    assert_ne!(moved, cookie);
    stays(&edge, &moved, &green);
    // Both, as a browser with an older one on another path sends them.
    stays(&edge, &format!("{cookie}; {moved}"), &green);
    assert_eq!(edge.proxyctl(&["switch", "blue"]).code, 0);
    assert!(
        ask(&edge, Some(&moved)).1.is_some(),
        "green's cookie held in blue"
    );
    stays(&edge, &cookie, &first);
}

#[test]
fn the_cookie_has_the_services_name_unless_it_gets_another() {
    let upstreams = ["a", "b", "c", "d"].map(|name| Raw::start(name, Mood::Good));
    let edge = Edge::start(&service(&upstreams, ""));
    edge.wait_healthy();
    let (_, set) = ask(&edge, None);
    assert!(set.expect("a cookie").starts_with("cutover_web="));
}
