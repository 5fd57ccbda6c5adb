//! Keys of sites and routes that stand for steps, in the order in which they run.

use super::Scope;
use super::scan::named;
use crate::config::parse::section::Section;
use crate::config::parse::tree::{Value, quoted};
use crate::config::parse::value;
use crate::config::schema;
use crate::config::step::{
    Action, Files, Matcher, MatcherSet, Part, Pattern, Redirect, Rewrite, Step, Template, Var,
};
use crate::model::HostPattern;

/// Before the steps that are written one by one.
const EARLY: &[&str] = &[
    "access",
    "concurrency",
    "rate_limit",
    "cors",
    "basic_auth",
    "forward_auth",
    "body_limit",
    "request_header",
    "response_header",
    "security_headers",
    "encode",
    "rewrite",
    "root",
];

/// What a site or route does with a request itself.
pub(in crate::config::parse) struct Handlers {
    /// The keys, then `[[...handle]]`.
    pub(in crate::config::parse) steps: Vec<Step>,
    /// What answers after that: `try_files` and one of `redirect`, `respond` and `files`.
    pub(in crate::config::parse) endpoint: Vec<Step>,
}

impl<'a> Scope<'_, 'a> {
    /// The handlers of a site or route.
    pub(in crate::config::parse) fn handlers(&self, at: &Section<'a>) -> Handlers {
        let early = EARLY.iter().filter_map(|key| {
            at.entry(key)?;
            self.action(at, key)
        });
        let mut steps: Vec<_> = early.map(Step::always).collect();
        if at.entry("handle").is_some() {
            steps.extend(self.steps(at, "handle"));
        }
        Handlers {
            steps,
            endpoint: self.endpoint(at),
        }
    }

    fn endpoint(&self, at: &Section<'a>) -> Vec<Step> {
        let try_files = self.if_written(at, "try_files");
        let mut answers: Vec<(&str, Action)> = Vec::new();
        for key in ["redirect", "respond", "files"] {
            let is_answer = match at.entry(key).map(|entry| &entry.node.value) {
                // Whether plain HTTP is sent to https, which is no answer of the site.
                Some(Value::Boolean(_)) => key != "redirect" || !at.is(&schema::SITE),
                Some(_) => true,
                None => false,
            };
            if is_answer && let Some(action) = self.action(at, key) {
                answers.push((key, action));
            }
        }
        let service = ["service", "upstream"]
            .into_iter()
            .find(|key| at.entry(key).is_some());
        if let [(first, _), (second, _), ..] = answers[..] {
            at.error(
                second,
                format!("{first} answers everything; remove one of them"),
            );
        }
        if let (Some((first, action)), Some(service)) = (answers.first(), service) {
            let passes = matches!(action, Action::Files(files) if files.pass_thru);
            if !passes {
                let more = match *first {
                    "files" => ", or write files = { pass_thru = true } to try it first",
                    _ => "",
                };
                let message = format!("{first} answers everything; remove one of them{more}");
                at.error(service, message);
            }
        }
        let answer = answers.into_iter().next().map(|(_, action)| action);
        // Files are meant where nothing else is.
        let files = || Action::Files(Files::usual());
        let answer = match (&try_files, answer, service) {
            (Some(_), None, None) => Some(files()),
            (_, answer, _) => answer,
        };
        try_files
            .into_iter()
            .chain(answer)
            .map(Step::always)
            .collect()
    }

    fn if_written(&self, at: &Section<'a>, key: &'static str) -> Option<Action> {
        at.entry(key)?;
        self.action(at, key)
    }

    /// `canonical_host = "example.com"`: other hosts of the site are sent there, port and all.
    pub(in crate::config::parse) fn canonical_host(
        &self,
        site: &Section<'a>,
        hosts: &[HostPattern],
    ) -> Option<Step> {
        let wanted = site.value("canonical_host", super::super::site::host)?;
        let HostPattern::Exact(name) = &wanted else {
            site.error("canonical_host", "is one host, without a star");
            return None;
        };
        if !hosts.contains(&wanted) {
            let near = self.out.nearest(
                name,
                hosts.iter().filter_map(|host| match host {
                    HostPattern::Exact(name) => Some(name.as_str()),
                    HostPattern::Wildcard(_) => None,
                }),
            );
            let near = near.map_or_else(String::new, |near| {
                format!("; did you mean {}?", quoted(near))
            });
            site.error(
                "canonical_host",
                format!("{} is not among the hosts of this site{near}", quoted(name)),
            );
            return None;
        }
        let port = Pattern::new("(:[0-9]+)?$").ok()?;
        let shown = match name.contains(':') {
            true => format!("[{name}]"),
            false => name.clone(),
        };
        let capture = Var::Capture("canonical".to_owned(), "1".to_owned());
        let to = vec![
            Part::Var(Var::Scheme),
            Part::Text(format!("://{shown}")),
            Part::Var(capture),
            Part::Var(Var::OriginalUri),
        ];
        let is_canonical = Matcher(vec![MatcherSet {
            host: vec![wanted],
            ..MatcherSet::default()
        }]);
        let host = Template(vec![Part::Var(Var::HostPort)]);
        Some(Step {
            when: Some(Matcher(vec![MatcherSet {
                not: vec![is_canonical],
                vars_regexp: vec![("canonical".to_owned(), host, port)],
                ..MatcherSet::default()
            }])),
            group: None,
            action: Action::Redirect(Redirect {
                to: Template(to),
                status: http::StatusCode::PERMANENT_REDIRECT,
                html: false,
            }),
        })
    }

    /// `error_pages = { "404" = "/srv/404.html", "5xx" = "..." }`: the narrowest range first.
    pub(in crate::config::parse) fn error_pages(&self, site: &Section<'a>) -> Vec<Step> {
        let mut pages = Vec::new();
        for entry in site.table("error_pages").unwrap_or_default() {
            let path = super::path_of(site, "error_pages", entry);
            let status = super::headers::status_range(&named(&entry.name));
            let page = site.read(&entry.node, &path, |value| {
                let file = value::path(value)?;
                match (
                    file.parent(),
                    file.file_name().and_then(|name| name.to_str()),
                ) {
                    (Some(folder), Some(name)) => {
                        Ok((folder.display().to_string(), name.to_owned()))
                    }
                    _ => Err("expected a file such as \"/srv/404.html\"".to_owned()),
                }
            });
            match (status, page) {
                (Err(error), _) => site.out.error(entry.at, &path, error),
                (Ok(range), Some((folder, name))) if range.0 >= 400 => {
                    pages.push((range, page_step(range, folder, &name)));
                }
                (Ok(_), Some(_)) => {
                    let message = "only errors have pages: 400 to 599".to_owned();
                    site.out.error(entry.at, &path, message);
                }
                (Ok(_), None) => {}
            }
        }
        pages.sort_by_key(|((from, to), _)| (to - from, *from));
        pages.into_iter().map(|(_, step)| step).collect()
    }
}

/// Answers errors of a range with a file, under their own status.
fn page_step(range: (u16, u16), folder: String, name: &str) -> Step {
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let name = name
        .to_string()
        .replace("%2E", ".")
        .replace("%2D", "-")
        .replace("%5F", "_");
    let rewrite = Rewrite {
        to: Some(Template::text(format!("/{name}"))),
        ..Rewrite::default()
    };
    let files = Files {
        root: Some(Template::text(folder)),
        status: Some(Template(vec![Part::Var(Var::ErrorStatus)])),
        canonical: false,
        ..Files::usual()
    };
    Step {
        when: Some(Matcher(vec![MatcherSet {
            error_status: vec![range],
            ..MatcherSet::default()
        }])),
        group: None,
        action: Action::Steps(vec![
            Step::always(Action::Rewrite(rewrite)),
            Step::always(Action::Files(files)),
        ]),
    }
}
