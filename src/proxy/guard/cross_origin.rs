//! What browsers of other origins are told (WHATWG Fetch §3.2).
//!
//! The step is the authority: what the application says about other origins itself is replaced,
//! so that no page reads what only the application would have let it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::step::Cors;

/// What an application may have said about it.
const OWN: [HeaderName; 3] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// What kind of request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Look {
    /// A browser asks whether it may send another one: these fields are the answer.
    Preflight(Vec<(HeaderName, HeaderValue)>),
    /// Any other one: its answer is changed so.
    Actual(CrossOrigin),
}

/// What the answer to a request says about other origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct CrossOrigin {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// Whether another origin would be told something else.
    varies: bool,
}

impl CrossOrigin {
    /// The fields that the answer gets.
    pub(in crate::proxy) fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// The fields that it replaces, set anew or not.
    pub(in crate::proxy) const fn replaces() -> [HeaderName; 3] {
        OWN
    }

    /// Whether `Vary: Origin` is to be added to an answer that has these fields.
    pub(in crate::proxy) fn adds_vary(&self, headers: &HeaderMap) -> bool {
        let listed = headers.get_all(VARY).iter();
        let mut listed = listed
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        let named = |name: &str| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin");
        self.varies && !listed.any(named)
    }
}

impl Look {
    /// Looks at a request.
    pub(in crate::proxy) fn at(cors: &Cors, method: &Method, headers: &HeaderMap) -> Self {
        let anybody = cors.origins.iter().any(|origin| origin == "*");
        let origin = origin(headers).filter(|origin| is_allowed(cors, origin));
        let varies = !anybody || cors.credentials;
        let mut fields = Vec::new();
        if let Some(origin) = origin {
            let told = if varies {
                origin.clone()
            } else {
                HeaderValue::from_static("*")
            };
            fields.push((ACCESS_CONTROL_ALLOW_ORIGIN, told));
            if cors.credentials {
                let yes = HeaderValue::from_static("true");
                fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
            }
        }
        let asks = *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if asks {
            if origin.is_some() {
                preflight(cors, headers, &mut fields);
            }
            let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
            fields.push((VARY, HeaderValue::from_static(vary)));
            return Self::Preflight(fields);
        }
        if origin.is_some() && !cors.expose.is_empty() {
            list(&mut fields, ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose);
        }
        Self::Actual(CrossOrigin { fields, varies })
    }
}

/// What a preflight of an allowed origin learns beside the origin.
fn preflight(cors: &Cors, headers: &HeaderMap, fields: &mut Vec<(HeaderName, HeaderValue)>) {
    list(fields, ACCESS_CONTROL_ALLOW_METHODS, &cors.methods);
    // A star is no star for a request with credentials, so that is answered with what was asked.
    let as_asked = cors.headers.is_empty() || cors.headers.iter().any(|name| name == "*");
    if !as_asked {
        list(fields, ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers);
    } else if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        fields.push((ACCESS_CONTROL_ALLOW_HEADERS, asked.clone()));
    }
    fields.push((ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().into()));
}

fn list(fields: &mut Vec<(HeaderName, HeaderValue)>, name: HeaderName, values: &[String]) {
    if let Ok(value) = HeaderValue::try_from(values.join(", ")) {
        fields.push((name, value));
    }
}

/// The origin that a request names; more than one field is none.
fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut named = headers.get_all(ORIGIN).iter();
    let origin = named.next()?;
    named.next().is_none().then_some(origin)
}

fn is_allowed(cors: &Cors, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    cors.origins.iter().any(|allowed| match allowed.as_str() {
        // With credentials a star stands for nobody (the configuration refuses it).
        "*" => !cors.credentials,
        allowed => match allowed.split_once("://*.") {
            Some((scheme, domain)) => is_below(origin, scheme, domain),
            None => origin.eq_ignore_ascii_case(allowed),
        },
    })
}

/// Whether it is an origin of `scheme` with at least one label before `domain`, which may end in
/// a port.
fn is_below(origin: &str, scheme: &str, domain: &str) -> bool {
    let Some((asked, host)) = origin.split_once("://") else {
        return false;
    };
    let Some(cut) = host.len().checked_sub(domain.len() + 1) else {
        return false;
    };
    // Compared as bytes: the cut may lie anywhere.
    let (labels, rest) = host.as_bytes().split_at(cut);
    let is_label = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    asked.eq_ignore_ascii_case(scheme)
        && rest.first() == Some(&b'.')
        && rest[1..].eq_ignore_ascii_case(domain.as_bytes())
        && !labels.is_empty()
        && labels.iter().all(is_label)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Cors {
            origins: texts(origins),
            methods: texts(&["GET", "PUT"]),
            headers: Vec::new(),
            expose: texts(&["X-Total"]),
            credentials,
            max_age: Duration::from_secs(600),
        }
    }

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn told(fields: &[(HeaderName, HeaderValue)]) -> Vec<String> {
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", value.to_str().expect("ascii"))
        };
        fields.iter().map(line).collect()
    }

    fn actual(cors: &Cors, origin: &str) -> (Vec<String>, bool) {
        match Look::at(cors, &Method::GET, &head(&[("origin", origin)])) {
            Look::Actual(answer) => (told(answer.fields()), answer.adds_vary(&HeaderMap::new())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_allowed_origin_is_named_and_others_are_told_nothing() {
        let cors = cors(&["https://a.example"], true);
        let yes = [
            "access-control-allow-origin: https://a.example",
            "access-control-allow-credentials: true",
            "access-control-expose-headers: X-Total",
        ];
        assert_eq!(
            actual(&cors, "https://a.example"),
            (yes.map(str::to_owned).into(), true)
        );
        for other in [
            "https://b.example",
            "http://a.example",
            "null",
            "https://a.example.evil",
            "https://a.example:8443",
        ] {
            assert_eq!(actual(&cors, other), (vec![], true), "{other}");
        }
        let two = head(&[
            ("origin", "https://a.example"),
            ("origin", "https://b.example"),
        ]);
        let Look::Actual(answer) = Look::at(&cors, &Method::GET, &two) else {
            panic!("no preflight");
        };
        assert!(answer.fields().is_empty(), "an ambiguous origin is none");
    }

    #[test]
    fn everybody_is_a_star_that_does_not_vary_and_never_with_credentials() {
        let (fields, varies) = actual(&cors(&["*"], false), "null");
        assert_eq!(fields[0], "access-control-allow-origin: *");
        assert!(!varies);
        assert_eq!(
            actual(&cors(&["*"], true), "https://a.example"),
            (vec![], true)
        );
    }

    #[test]
    fn a_wildcard_takes_whole_labels_of_its_domain_and_port() {
        let cors = cors(&["https://*.example.com", "http://*.local:8080"], false);
        let is_allowed = |origin| !actual(&cors, origin).0.is_empty();
        for good in [
            "https://a.example.com",
            "https://a.b.EXAMPLE.com",
            "http://x.local:8080",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "http://a.example.com",
            "https://a.example.com:444",
            "https://a.example.com.evil.org",
            "https://evil.org/.example.com",
            "https://evil.org#.example.com",
            "https://u@evil.org?.example.com",
            "http://x.local",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_preflight_is_answered_with_what_may_be_sent() {
        let mut cors = cors(&["https://a.example"], false);
        let asks = head(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one, x-two"),
        ]);
        let answer = |cors: &Cors, asks: &HeaderMap| match Look::at(cors, &Method::OPTIONS, asks) {
            Look::Preflight(fields) => told(&fields),
            other => panic!("{other:?}"),
        };
        let vary = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        let said = [
            "access-control-allow-origin: https://a.example",
            "access-control-allow-methods: GET, PUT",
            "access-control-allow-headers: x-one, x-two",
            "access-control-max-age: 600",
            vary,
        ];
        assert_eq!(answer(&cors, &asks), said);
        cors.headers = vec!["X-Own".to_owned()];
        assert_eq!(
            answer(&cors, &asks)[2],
            "access-control-allow-headers: X-Own"
        );
        let mut foreign = asks;
        foreign.insert("origin", HeaderValue::from_static("https://b.example"));
        assert_eq!(
            answer(&cors, &foreign),
            [vary],
            "told nothing, and no cache mixes it up"
        );
    }

    #[test]
    fn options_without_the_fields_of_a_preflight_is_an_ordinary_request() {
        let cors = cors(&["*"], false);
        for fields in [
            head(&[("origin", "https://a.example")]),
            head(&[("access-control-request-method", "PUT")]),
        ] {
            assert!(matches!(
                Look::at(&cors, &Method::OPTIONS, &fields),
                Look::Actual(_)
            ));
        }
    }

    #[test]
    fn vary_is_added_once() {
        let answer = CrossOrigin {
            fields: Vec::new(),
            varies: true,
        };
        assert!(answer.adds_vary(&head(&[("vary", "Accept-Encoding")])));
        assert!(!answer.adds_vary(&head(&[("vary", "accept, ORIGIN")])));
        assert!(!answer.adds_vary(&head(&[("vary", "*")])));
    }
}
