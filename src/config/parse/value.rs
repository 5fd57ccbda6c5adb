//! Single values: what people may write for a duration, a rate, a size, a network, ...
//!
//! Every function takes a value and gives it typed, or says what was expected and what was
//! found. None knows where the value stands.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Method;
use ipnet::{IpNet, Ipv4Net};

use super::tree::{Value, quoted};

/// A value, or what is wrong with it.
pub(super) type Parsed<T> = Result<T, String>;

const DURATION: &str = r#"a duration such as "500ms", "3s", "5m" or "1h""#;
const RATE: &str = r#"a rate from 0 to 1, such as "1%" or 0.01"#;
const SIZE: &str = r#"a size such as "64KiB" or "10MB""#;
const STATUS: &str = r#"a status such as "200", or a range such as "200-299""#;
const NETWORK: &str = r#"an address or a network such as "10.0.0.0/8""#;
const LISTEN: &str = r#"an IP address with a port, such as "0.0.0.0:80" or "[::]:80""#;

/// Longest duration: a year. Longer ones overflow deadlines sooner than they are of use.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn wrong<T>(expected: impl Display, found: &Value) -> Parsed<T> {
    Err(format!("expected {expected}, found {}", found.describe()))
}

/// Any text.
pub(super) fn text(value: &Value) -> Parsed<String> {
    match value {
        Value::Text { text, .. } => Ok(text.clone()),
        other => wrong("a text", other),
    }
}

/// A text with something in it and no control characters.
pub(super) fn words(value: &Value) -> Parsed<String> {
    let text = text(value)?;
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} has a control character", quoted(&text)));
    }
    Ok(text)
}

/// A path of the file system.
pub(super) fn path(value: &Value) -> Parsed<PathBuf> {
    words(value).map(PathBuf::from)
}

/// A path, or nothing for the empty text.
pub(super) fn optional_path(value: &Value) -> Parsed<Option<PathBuf>> {
    match value {
        Value::Text { text, .. } if text.is_empty() => Ok(None),
        other => path(other).map(Some),
    }
}

/// A name for services and stacks: safe in a metrics label and on a command line.
pub(super) fn name(value: &Value) -> Parsed<String> {
    let text = text(value)?;
    if is_name(&text) {
        Ok(text)
    } else {
        Err(format!(
            "{} is not a name: up to 253 letters, digits and - _ . : *",
            quoted(&text)
        ))
    }
}

/// Whether [`name`] takes it. `*` and `:` are there for services named after a host.
pub(super) fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:*".contains(&b))
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Parsed<bool> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Text { text, is_variable } if *is_variable => match text.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => wrong("true or false", value),
        },
        other => wrong("true or false", other),
    }
}

/// A whole number of `range`.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&Value) -> Parsed<T>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let number = match value {
            Value::Integer(number) => T::try_from(*number).ok(),
            Value::Text { text, is_variable } if *is_variable => text
                .parse::<i64>()
                .ok()
                .and_then(|number| T::try_from(number).ok()),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Ok(number),
            _ => {
                let (from, to) = (range.start(), range.end());
                wrong(format!("a whole number from {from} to {to}"), value)
            }
        }
    }
}

/// A number of `range`, whole or not.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Parsed<f64> {
    move |value| match plain_number(value) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let (from, to) = (range.start(), range.end());
            wrong(format!("a number from {from} to {to}"), value)
        }
    }
}

fn plain_number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        #[allow(clippy::cast_precision_loss, reason = "ranges are far below 2^53")]
        Value::Integer(number) => Some(*number as f64),
        Value::Text { text, is_variable } if *is_variable => text.parse().ok(),
        _ => None,
    }
}

/// `500ms`, `3s`, `5m`, `1h`; zero too.
pub(super) fn duration(value: &Value) -> Parsed<Duration> {
    let text = match value {
        Value::Text { text, .. } => text,
        Value::Integer(number) => {
            return Err(format!("{number} has no unit; write {DURATION}, in quotes"));
        }
        other => return wrong(DURATION, other),
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return wrong(DURATION, value);
    }
    let milliseconds_each = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("{} has no unit; write {DURATION}", quoted(text))),
        _ => return wrong(DURATION, value),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds_each))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("{} is longer than a year (8760h)", quoted(text)))
}

/// A duration above zero.
pub(super) fn some_time(value: &Value) -> Parsed<Duration> {
    match duration(value)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// `1%` or 0.01, from 0 to 1.
pub(super) fn rate(value: &Value) -> Parsed<f64> {
    let number = match value {
        Value::Text { text, .. } => match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok().map(|p| p / 100.0),
            None => text.parse().ok(),
        },
        other => plain_number(other),
    };
    match number {
        Some(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => wrong(RATE, value),
    }
}

/// A rate that is neither 0 nor 1.
pub(super) fn inner_rate(value: &Value) -> Parsed<f64> {
    match rate(value)? {
        rate if rate > 0.0 && rate < 1.0 => Ok(rate),
        _ => Err("must be above 0 and below 1 (100%)".to_owned()),
    }
}

/// `64KiB`, `10MB` or a number of bytes, within `range`.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&Value) -> Parsed<usize> {
    move |value| {
        let bytes = match value {
            Value::Integer(bytes) => usize::try_from(*bytes).ok(),
            Value::Text { text, .. } => parse_size(text),
            _ => None,
        };
        match bytes {
            Some(bytes) if range.contains(&bytes) => Ok(bytes),
            Some(bytes) => {
                let (from, to) = (range.start(), range.end());
                Err(format!("{bytes} bytes is not from {from} to {to}"))
            }
            None => wrong(SIZE, value),
        }
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let each: usize = match unit.trim_start() {
        "B" | "" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(each)
}

/// `200`, `"200"` or `"200-299"`: both ends included.
pub(super) fn status(value: &Value) -> Parsed<(u16, u16)> {
    let code = |text: &str| {
        let code = text.trim().parse::<u16>().ok()?;
        (100..=599).contains(&code).then_some(code)
    };
    let range = match value {
        Value::Integer(number) => code(&number.to_string()).map(|code| (code, code)),
        Value::Text { text, .. } => match text.split_once('-') {
            Some((from, to)) => code(from).zip(code(to)),
            None => code(text).map(|code| (code, code)),
        },
        _ => None,
    };
    match range {
        Some((from, to)) if from <= to => Ok((from, to)),
        Some((from, to)) => Err(format!("the range is upside down; write \"{to}-{from}\"")),
        None => wrong(STATUS, value),
    }
}

/// A network, or an address as a network of one. An IPv4 network written in its IPv6-mapped
/// form (RFC 4291 §2.5.5.2) is the IPv4 one, as addresses are compared that way.
pub(super) fn network(value: &Value) -> Parsed<IpNet> {
    let Value::Text { text, .. } = value else {
        return wrong(NETWORK, value);
    };
    let bare = || text.parse::<IpAddr>().map(IpNet::from);
    let Ok(net) = text.parse::<IpNet>().or_else(|_| bare()) else {
        return wrong(NETWORK, value);
    };
    if net.trunc() != net {
        return Err(format!(
            "{} has address bits below its prefix; write \"{}\"",
            quoted(text),
            net.trunc()
        ));
    }
    Ok(match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        _ => net,
    })
}

/// An address to bind. Port 0 lets the system choose.
pub(super) fn listen(value: &Value) -> Parsed<SocketAddr> {
    let Value::Text { text, .. } = value else {
        return wrong(LISTEN, value);
    };
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let port = text.strip_prefix(':').unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Err(format!(
            "{} has no IP address; write \"0.0.0.0:{port}\" or \"[::]:{port}\"",
            quoted(text)
        )),
        Err(_) => wrong(LISTEN, value),
    }
}

/// `http://` or `https://` with a host. The text itself is in no message: it may be a secret.
pub(super) fn web_url(text: &str) -> Parsed<()> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let good = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && text.chars().all(|c| c.is_ascii_graphic());
    if good {
        Ok(())
    } else {
        Err("expected a URL that begins with https:// or http://".to_owned())
    }
}

/// Whatever its own `FromStr` takes; `form` is what is accepted.
pub(super) fn parsed<T>(form: &'static str) -> impl Fn(&Value) -> Parsed<T>
where
    T: FromStr,
    T::Err: Display,
{
    move |value| match value {
        Value::Text { text, .. } => text
            .parse()
            .map_err(|error: T::Err| match error.to_string() {
                said if said.contains(form) || form.is_empty() => said,
                said => format!("{said} in {}; expected {form}", quoted(text)),
            }),
        other if form.is_empty() => wrong("a text", other),
        other => wrong(form, other),
    }
}

/// A method, in upper case.
pub(super) fn method(value: &Value) -> Parsed<Method> {
    let text = words(value)?;
    match Method::from_bytes(text.as_bytes()) {
        Ok(_) if text.bytes().any(|b| b.is_ascii_lowercase()) => Err(format!(
            "methods have upper case; write \"{}\"",
            text.to_ascii_uppercase()
        )),
        Ok(method) => Ok(method),
        Err(_) => Err(format!("{} is not a method such as \"GET\"", quoted(&text))),
    }
}

/// One of a few words.
pub(super) fn word<T: Clone>(choices: &[(&'static str, T)]) -> impl Fn(&Value) -> Parsed<T> {
    move |value| {
        let found = match value {
            Value::Text { text, .. } => choices.iter().find(|(name, _)| name == text),
            _ => None,
        };
        match found {
            Some((_, choice)) => Ok(choice.clone()),
            None => wrong(one_of(choices.iter().map(|(name, _)| *name), value), value),
        }
    }
}

/// `"a", "b" or "c"`, the one most like `value` marked.
pub(super) fn one_of<'n>(names: impl Iterator<Item = &'n str> + Clone, value: &Value) -> String {
    let mut list: Vec<String> = names.clone().map(|name| format!("\"{name}\"")).collect();
    let last = list.pop().unwrap_or_default();
    let all = match list.is_empty() {
        true => last,
        false => format!("{} or {last}", list.join(", ")),
    };
    let near = match value {
        Value::Text { text, .. } if text.len() <= 32 => names
            .map(|name| {
                (
                    strsim::damerau_levenshtein(&text.to_ascii_lowercase(), name),
                    name,
                )
            })
            .min()
            .filter(|(distance, _)| *distance <= 2),
        _ => None,
    };
    match near {
        Some((_, near)) => format!("{all} (did you mean \"{near}\"?)"),
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_value(text: &str) -> Value {
        Value::Text {
            text: text.to_owned(),
            is_variable: false,
        }
    }

    #[test]
    fn durations_have_one_number_and_one_unit() {
        let read = |text| duration(&text_value(text)).ok();
        assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(read("3s"), Some(Duration::from_secs(3)));
        assert_eq!(read("5m"), Some(Duration::from_secs(300)));
        assert_eq!(read("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(read("0s"), Some(Duration::ZERO));
        assert_eq!(read("8760h"), Some(LONGEST));
        assert_eq!(read("90d"), Some(Duration::from_secs(90 * 86_400)));
        for wrong in [
            "",
            "3",
            "s",
            "-3s",
            "3 s",
            "1.5s",
            "366d",
            "3S",
            "8761h",
            "99999999999999999999s",
            "1h30m",
            "٣s",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates_are_shares_or_percents() {
        let read = |text| rate(&text_value(text)).ok();
        assert_eq!(read("1%"), Some(0.01));
        assert_eq!(read("0.5 %"), Some(0.005));
        assert_eq!(read("0.01"), Some(0.01));
        assert_eq!(read("100%"), Some(1.0));
        for wrong in ["101%", "-1%", "2", "NaN", "nan%", "inf", "%", "1%%"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_and_never_overflow() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("10MB"), Some(10_000_000));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
        assert_eq!(parse_size("512"), Some(512));
        for wrong in ["", "KiB", "1kib", "1K", "-1B", "99999999999999999999GiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_ipv4_network_in_ipv6_clothes_is_an_ipv4_network() {
        let read = |text| network(&text_value(text)).map(|net| net.to_string()).ok();
        assert_eq!(read("::ffff:10.0.0.0/104").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(read("10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(read("::1").as_deref(), Some("::1/128"));
        assert_eq!(read("10.0.0.1/8"), None);
        assert_eq!(read("10.0.0.0/33"), None);
    }
}
