use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;

use super::*;
use crate::config::{
    AccessLog, Acme, Config, IpSet, Limits, Listen, Log, Route, Site, Timeouts, ValueMatch,
};

struct Request {
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    client: IpAddr,
}

impl Request {
    fn get(path: &str) -> Self {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        Self {
            method: Method::GET,
            path: path.to_owned(),
            query,
            headers: HeaderMap::new(),
            client: IpAddr::from([192, 0, 2, 1]),
        }
    }
}

impl RequestView for Request {
    fn path(&self) -> &str {
        &self.path
    }
    fn method(&self) -> &Method {
        &self.method
    }
    fn any_header(&self, name: &HeaderName, accept: &dyn Fn(&str) -> bool) -> bool {
        let values = self.headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(accept)
    }
    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
    fn client_ip(&self) -> IpAddr {
        self.client
    }
}

fn route(path: Option<&str>, service: usize) -> Route {
    Route {
        path: path.map(|path| path.parse().expect("a valid pattern")),
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        client_ip: IpSet::default(),
        steps: Vec::new(),
        service: Some(ServiceIndex(service)),
    }
}

fn site(hosts: &[&str], default: bool, routes: Vec<Route>, service: Option<usize>) -> Site {
    Site {
        hosts: hosts
            .iter()
            .map(|host| host.parse().expect("a valid host"))
            .collect(),
        default,
        tls: Tls::Off,
        min_version: crate::config::TlsVersion::V1_2,
        client_auth: None,
        hsts: None,
        access_log: None,
        redirect: true,
        port: None,
        steps: Vec::new(),
        errors: Vec::new(),
        routes,
        service: service.map(ServiceIndex),
    }
}

fn routes(sites: Vec<Site>) -> Routes {
    let second = Duration::from_secs(1);
    Routes::new(&Config {
        state_dir: PathBuf::new(),
        shutdown_grace: second,
        shutdown_delay: second,
        listen: Listen {
            http: vec![([0, 0, 0, 0], 80).into(), ([0, 0, 0, 0], 8081).into()],
            https: Vec::new(),
            ops: ([127, 0, 0, 1], 0).into(),
            ops_allow: IpSet::default(),
            admin: PathBuf::new(),
            trusted_proxies: IpSet::default(),
            proxy_protocol: IpSet::default(),
        },
        timeouts: Timeouts {
            tls_handshake: second,
            request_head: second,
            request_body: second,
            keep_alive: second,
            client_write: second,
            connect: second,
            upstream_read: second,
            upstream_write: second,
            upstream_idle: second,
            stream_idle: second,
        },
        history: crate::config::History::default(),
        deploy: crate::config::Deploy::default(),
        jobs: Vec::new(),
        maintenance: crate::config::Maintenance::default(),
        limits: Limits {
            request_head_bytes: 1,
            request_target_bytes: 1,
            connections: 1,
            upstream_keep_alive: 1,
            attempts: 1,
            ..Limits::default()
        },
        log: Log {
            access: Arc::new(AccessLog {
                enabled: false,
                ..AccessLog::default()
            }),
            redact_query: Vec::new(),
            redact_headers: Vec::new(),
        },
        acme: Acme::default(),
        docker: None,
        notify: Vec::new(),
        sites,
        services: Vec::new(),
        secret_files: Vec::new(),
        rollback: crate::config::Rollback::default(),
        warnings: Vec::new(),
    })
}

fn taken(routes: &Routes, host: &str, request: &Request) -> Option<usize> {
    let found = routes.site(host, 80)?.find(request)?;
    Some(found.service.expect("a service").0)
}

#[test]
fn hosts_match_exactly_then_by_one_label_then_by_default() {
    let table = routes(vec![
        site(&["example.com"], false, Vec::new(), Some(1)),
        site(&["*.example.com"], false, Vec::new(), Some(2)),
        site(&["a.example.com"], false, Vec::new(), Some(3)),
    ]);
    let request = Request::get("/");
    assert_eq!(taken(&table, "example.com", &request), Some(1));
    assert_eq!(taken(&table, "b.example.com", &request), Some(2));
    assert_eq!(taken(&table, "a.example.com", &request), Some(3));
    assert_eq!(taken(&table, "c.b.example.com", &request), None);
    assert_eq!(taken(&table, "other.org", &request), None);

    let with_default = routes(vec![site(&[], true, Vec::new(), Some(9))]);
    assert_eq!(taken(&with_default, "anything", &request), Some(9));
    assert_eq!(taken(&with_default, "", &request), Some(9));
}

#[test]
fn the_most_specific_path_wins_whatever_the_order_of_the_file() {
    let table = routes(vec![site(
        &["h"],
        false,
        vec![
            route(None, 1),
            route(Some("/api/*"), 2),
            route(Some("/api/v1/*"), 3),
            route(Some("/api/v1/users"), 4),
            route(Some("/api/*.json"), 5),
            route(Some("/api/**/deep/file.json"), 6),
        ],
        Some(0),
    )]);
    let service = |path| taken(&table, "h", &Request::get(path));
    assert_eq!(service("/"), Some(1));
    assert_eq!(service("/api"), Some(1));
    assert_eq!(service("/api/x"), Some(2));
    assert_eq!(service("/api/x.json"), Some(5));
    assert_eq!(service("/api/v1/x"), Some(3));
    assert_eq!(service("/api/v1/users"), Some(4));
    assert_eq!(service("/api/v1/a/deep/file.json"), Some(6));
}

#[test]
fn conditions_narrow_a_path_and_a_failed_one_falls_through() {
    let mut posts = route(Some("/api/*"), 2);
    posts.methods = vec![Method::POST];
    let mut beta = route(Some("/api/*"), 3);
    beta.headers = vec![(
        HeaderName::from_static("x-beta"),
        ValueMatch::Exact("1".into()),
    )];
    let mut searched = route(Some("/api/*"), 4);
    searched.query = vec![("q".into(), ValueMatch::Prefix("a b".into()))];
    let mut inside = route(Some("/admin/*"), 5);
    inside.client_ip = IpSet(vec!["10.0.0.0/8".parse().unwrap()]);
    let table = routes(vec![site(
        &["h"],
        false,
        vec![route(Some("/api/*"), 1), posts, beta, searched, inside],
        None,
    )]);
    let mut request = Request::get("/api/x");
    assert_eq!(taken(&table, "h", &request), Some(1));
    request.headers.append("x-beta", "0".parse().unwrap());
    assert_eq!(taken(&table, "h", &request), Some(1));
    request.headers.append("x-beta", "1".parse().unwrap());
    assert_eq!(taken(&table, "h", &request), Some(3));
    request.headers.clear();
    request.method = Method::POST;
    assert_eq!(taken(&table, "h", &request), Some(2));
    assert_eq!(
        taken(&table, "h", &Request::get("/api/x?z=1&q=a%20bc")),
        Some(4)
    );
    assert_eq!(taken(&table, "h", &Request::get("/api/x?q=a+bc")), Some(4));
    assert_eq!(taken(&table, "h", &Request::get("/api/x?q=b")), Some(1));
    let mut admin = Request::get("/admin/x");
    assert_eq!(taken(&table, "h", &admin), None);
    admin.client = IpAddr::from([10, 1, 2, 3]);
    assert_eq!(taken(&table, "h", &admin), Some(5));
}

#[test]
fn explain_names_every_route_and_why_it_was_not_taken() {
    let mut posts = route(Some("/api/*"), 2);
    posts.methods = vec![Method::POST];
    let table = routes(vec![site(
        &["h"],
        false,
        vec![
            route(Some("/api/*"), 1),
            posts,
            route(Some("/x"), 3),
            route(None, 4),
        ],
        None,
    )]);
    let request = Request::get("/api/a");
    let site = table.site("h", 80).unwrap();
    let told: Vec<String> = site
        .candidates(&request)
        .into_iter()
        .map(|c| format!("{} {}: {}", c.number, c.path, c.verdict))
        .collect();
    assert_eq!(
        told,
        [
            "2 /x: another path",
            "1 /api/*: another method",
            "0 /api/*: taken",
            "3 any path: matches, but a more specific one was taken",
        ]
    );
}

#[test]
fn hosts_are_looked_up_without_port_case_brackets_and_final_dot() {
    let mut buffer = [0; 255];
    let mut of = |text: &str| host_of(text, &mut buffer).map(str::to_owned);
    assert_eq!(of("Example.COM:8080"), Some("example.com".to_owned()));
    assert_eq!(of("example.com."), Some("example.com".to_owned()));
    assert_eq!(of("[::1]:443"), Some("::1".to_owned()));
    for wrong in [
        "", "a:b:c", "a b", "[::1", "[x]:1", "a:999999", "a/b", "a\"b",
    ] {
        assert_eq!(of(wrong), None, "{wrong}");
    }
}

#[test]
fn a_port_that_is_named_belongs_to_the_sites_that_name_it_unless_it_is_the_first() {
    let on = |port: u16, site: Site| Site {
        port: Some(port),
        ..site
    };
    let table = routes(vec![
        site(&["a.test"], false, Vec::new(), Some(0)),
        site(&["*.b.test"], false, Vec::new(), Some(1)),
        on(80, site(&[], true, Vec::new(), Some(2))),
        on(8081, site(&["status.test"], false, Vec::new(), Some(3))),
    ]);
    let port = |host: &str, port: u16| table.site(host, port).and_then(|site| site.port);
    for host in ["a.test", "x.b.test"] {
        assert!(table.site(host, 80).is_some(), "{host}");
        assert_eq!(port(host, 80), None, "{host}: redirects are at home there");
        assert!(table.site(host, 8081).is_none(), "{host}");
    }
    assert_eq!(port("other.test", 80), Some(80));
    assert_eq!(port("status.test", 8081), Some(8081));
    assert!(table.site("other.test", 8081).is_none());
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof!["[ab]{1,2}", Just("*".to_owned())];
    (
        prop::collection::vec(segment, 1..4),
        prop_oneof![Just(""), Just("/*"), Just("/")],
    )
        .prop_map(|(segments, end)| format!("/{}{end}", segments.join("/")))
}

proptest! {
    /// The indexed search takes what a plain walk over all routes takes.
    #[test]
    fn the_index_agrees_with_a_walk_over_all_routes(
        patterns in prop::collection::vec(pattern(), 0..12),
        paths in prop::collection::vec("(/[ab]{0,2}){1,4}", 1..8),
    ) {
        let list: Vec<Route> = patterns
            .iter()
            .enumerate()
            .map(|(n, text)| route(Some(text), n))
            .collect();
        let table = routes(vec![site(&["h"], false, list.clone(), None)]);
        for path in &paths {
            let best = list
                .iter()
                .enumerate()
                .filter(|(_, route)| route.path.as_ref().is_some_and(|p| p.matches(path)))
                .map(|(n, route)| (route.path.as_ref().map(PathPattern::specificity), n))
                .max_by_key(|(specificity, _)| *specificity)
                .map(|(specificity, _)| specificity);
            let found = taken(&table, "h", &Request::get(path))
                .map(|n| list[n].path.as_ref().map(PathPattern::specificity));
            prop_assert_eq!(found, best, "{}", path);
        }
    }
}
