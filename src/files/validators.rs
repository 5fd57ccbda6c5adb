//! Validators of a file and the conditions of a request (RFC 9110 §8.8, §13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, Method, header};

/// What stands for a version of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Validators {
    /// Strong, with its quotes.
    pub(super) etag: Option<String>,
    /// To the second.
    pub(super) modified: Option<SystemTime>,
}

impl Validators {
    /// Of a file that was changed `seconds` after the epoch. The entity tag is Caddy's: both
    /// numbers with base 36. Times that tools write where they know none (0 and 1) say nothing
    /// about the contents, so such a file has neither validator.
    pub(super) fn new(seconds: i64, size: u64) -> Self {
        let Some(seconds) = u64::try_from(seconds).ok().filter(useful) else {
            return Self::default();
        };
        let mut etag = String::with_capacity(24);
        etag.push('"');
        base36(&mut etag, seconds);
        base36(&mut etag, size);
        etag.push('"');
        Self {
            etag: Some(etag),
            modified: Some(UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }
}

/// A time that says something, and that an HTTP date can say.
const fn useful(seconds: &u64) -> bool {
    *seconds > 1 && *seconds < LAST_SECOND
}

/// The year 10000.
const LAST_SECOND: u64 = 253_402_300_800;

fn base36(text: &mut String, mut number: u64) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let start = text.len();
    loop {
        text.insert(start, char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
        if number == 0 {
            return;
        }
    }
}

/// What the conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer, a range of it if one is asked for.
    Send,
    /// Answer with the whole: the range is of another version.
    SendWhole,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Weighs the conditions in the order of RFC 9110 §13.2.2.
pub(super) fn weigh(method: &Method, headers: &HeaderMap, validators: &Validators) -> Verdict {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let etag = validators.etag.as_deref();
    let holds = match list(headers, &header::IF_MATCH, etag, strong) {
        Some(holds) => holds,
        None => !changed_since(headers, &header::IF_UNMODIFIED_SINCE, validators).unwrap_or(false),
    };
    if !holds {
        return Verdict::Failed;
    }
    match list(headers, &header::IF_NONE_MATCH, etag, weak) {
        Some(true) if reads => return Verdict::NotModified,
        Some(true) => return Verdict::Failed,
        Some(false) => {}
        None => {
            let changed = changed_since(headers, &header::IF_MODIFIED_SINCE, validators);
            if reads && changed == Some(false) {
                return Verdict::NotModified;
            }
        }
    }
    match headers.get(header::IF_RANGE) {
        Some(value) if !same_version(value.as_bytes(), validators) => Verdict::SendWhole,
        _ => Verdict::Send,
    }
}

/// Whether one of the listed tags is `etag`, or the list is a star; `None`: no such field.
fn list(
    headers: &HeaderMap,
    field: &HeaderName,
    etag: Option<&str>,
    same: fn(&str, &str) -> bool,
) -> Option<bool> {
    let mut fields = headers.get_all(field).iter().peekable();
    fields.peek()?;
    let values = fields.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    let found = values.into_iter().any(|value| {
        let mut rest = value;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.starts_with('*') {
                return true;
            }
            let Some((tag, after)) = first_tag(rest) else {
                return false;
            };
            if etag.is_some_and(|etag| same(tag, etag)) {
                return true;
            }
            rest = after;
        }
    });
    Some(found)
}

/// An entity tag at the start of the text, with its `W/`, and what is after it.
fn first_tag(text: &str) -> Option<(&str, &str)> {
    let weak = if text.starts_with("W/") { 2 } else { 0 };
    let opaque = text[weak..].strip_prefix('"')?;
    let length = opaque.find('"')?;
    let legal = |byte: u8| byte == 0x21 || byte >= 0x23 && byte != 0x7f;
    let end = weak + 1 + length + 1;
    opaque[..length]
        .bytes()
        .all(legal)
        .then(|| text.split_at(end))
}

fn strong(sent: &str, own: &str) -> bool {
    sent == own && !sent.starts_with("W/")
}

fn weak(sent: &str, own: &str) -> bool {
    sent.strip_prefix("W/").unwrap_or(sent) == own.strip_prefix("W/").unwrap_or(own)
}

/// Whether the file was changed after the field's time; `None`: no such field, or no time in it.
fn changed_since(headers: &HeaderMap, field: &HeaderName, own: &Validators) -> Option<bool> {
    let since = date(headers.get(field)?.as_bytes())?;
    Some(own.modified? > since)
}

/// `If-Range` (RFC 9110 §13.1.5): a strong tag, or exactly the time.
fn same_version(value: &[u8], own: &Validators) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    match first_tag(text) {
        Some((tag, _)) => own.etag.as_deref().is_some_and(|etag| strong(tag, etag)),
        None => own.modified.is_some() && own.modified == date(value),
    }
}

fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn file() -> Validators {
        Validators::new(784_111_777, 10)
    }

    fn said(method: &Method, fields: &[(HeaderName, &str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().expect("a value"));
        }
        weigh(method, &headers, &file())
    }

    fn get(fields: &[(HeaderName, &str)]) -> Verdict {
        said(&Method::GET, fields)
    }

    #[test]
    fn the_tag_is_time_and_size_in_base_36() {
        assert_eq!(file().etag.as_deref(), Some("\"cyu8ipa\""));
        assert_eq!(Validators::new(36, 0).etag.as_deref(), Some("\"100\""));
    }

    #[test]
    fn times_that_mean_nothing_make_no_validators() {
        for seconds in [i64::MIN, -1, 0, 1, 253_402_300_800, i64::MAX] {
            assert_eq!(Validators::new(seconds, 5), Validators::default());
        }
    }

    #[test]
    fn an_unchanged_file_is_not_sent_again() {
        for tag in ["\"cyu8ipa\"", "W/\"cyu8ipa\"", "\"x\", \"cyu8ipa\"", "*"] {
            let verdict = get(&[(header::IF_NONE_MATCH, tag)]);
            assert_eq!(verdict, Verdict::NotModified, "{tag}");
        }
        assert_eq!(get(&[(header::IF_NONE_MATCH, "\"x\"")]), Verdict::Send);
        assert_eq!(get(&[(header::IF_NONE_MATCH, "cyu8ipa")]), Verdict::Send);
        let since = |time| get(&[(header::IF_MODIFIED_SINCE, time)]);
        assert_eq!(since(TIME), Verdict::NotModified);
        assert_eq!(since(LATER), Verdict::NotModified);
        assert_eq!(since(EARLIER), Verdict::Send);
        assert_eq!(since("yesterday"), Verdict::Send);
    }

    #[test]
    fn a_tag_counts_more_than_a_time() {
        let fields = [
            (header::IF_NONE_MATCH, "\"x\""),
            (header::IF_MODIFIED_SINCE, TIME),
        ];
        assert_eq!(get(&fields), Verdict::Send);
        let fields = [
            (header::IF_MATCH, "\"cyu8ipa\""),
            (header::IF_UNMODIFIED_SINCE, EARLIER),
        ];
        assert_eq!(get(&fields), Verdict::Send);
    }

    #[test]
    fn a_changed_file_fails_what_was_meant_for_the_old_one() {
        assert_eq!(get(&[(header::IF_MATCH, "\"x\"")]), Verdict::Failed);
        let weak = get(&[(header::IF_MATCH, "W/\"cyu8ipa\"")]);
        assert_eq!(weak, Verdict::Failed, "weak tags never match strongly");
        assert_eq!(get(&[(header::IF_MATCH, "*")]), Verdict::Send);
        let since = |time| get(&[(header::IF_UNMODIFIED_SINCE, time)]);
        assert_eq!(since(EARLIER), Verdict::Failed);
        assert_eq!(since(TIME), Verdict::Send);
        let post = said(&Method::POST, &[(header::IF_NONE_MATCH, "*")]);
        assert_eq!(post, Verdict::Failed);
    }

    #[test]
    fn a_range_of_another_version_is_not_sent() {
        for same in ["\"cyu8ipa\"", TIME] {
            assert_eq!(get(&[(header::IF_RANGE, same)]), Verdict::Send, "{same}");
        }
        for other in ["\"x\"", "W/\"cyu8ipa\"", EARLIER, LATER, "nonsense"] {
            let verdict = get(&[(header::IF_RANGE, other)]);
            assert_eq!(verdict, Verdict::SendWhole, "{other}");
        }
    }
}
