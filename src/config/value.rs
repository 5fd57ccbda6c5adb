//! Single values: text with variables, durations, rates, sizes, names out of a closed list.
//!
//! Each reader takes the default's place by returning `None` after it has reported what is wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::tree::{Node, kind, nearest};
use super::{IpSet, Secret};

impl Node<'_> {
    /// A text, with `${VAR}` and `${VAR:-default}` replaced and `$${` as a literal `${`.
    pub(super) fn text(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => self.expand(text),
            other => {
                self.error(format!("is {}, expected a string", kind(other)));
                None
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn filled(&self, form: &str) -> Option<String> {
        let text = self.text()?;
        if text.is_empty() {
            self.error(format!("is empty, expected {form}"));
            return None;
        }
        Some(text)
    }

    fn expand(&self, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}').map(|length| at + length) else {
                self.error("`${` without `}`, expected ${VAR} or ${VAR:-default}; $${ is literal");
                return None;
            };
            let inside = &rest[at + 2..end];
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            let valid = !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !valid {
                self.error(format!(
                    "`${{{inside}}}` names no variable, expected ${{VAR}} or ${{VAR:-default}}"
                ));
                return None;
            }
            // Empty counts as unset, as in the shell's `:-`.
            let value = self.cx.variable(name).filter(|value| !value.is_empty());
            match (value, default) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(default)) => out.push_str(default),
                (None, None) => {
                    self.error(format!(
                        "the environment variable `{name}` is not set and has no default"
                    ));
                    return None;
                }
            }
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    /// The text of a number, boolean or the like that a variable may stand for.
    fn variable(&self) -> Option<Option<String>> {
        match self.value {
            DeValue::String(text) if text.starts_with("${") && text.ends_with('}') => {
                Some(self.expand(text))
            }
            _ => None,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let text = match (self.value, self.variable()) {
            (DeValue::Boolean(value), _) => return Some(*value),
            (_, Some(text)) => text?,
            (other, None) => {
                self.error(format!("is {}, expected true or false", kind(other)));
                return None;
            }
        };
        match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.error(format!("`{text}` is not a boolean, expected true or false"));
                None
            }
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&self, least: u64, most: u64) -> Option<u64> {
        let form = if most == u64::MAX {
            format!("a whole number from {least}")
        } else {
            format!("a whole number from {least} to {most}")
        };
        let text = match (self.value, self.variable()) {
            (DeValue::Integer(number), _) if number.radix() == 10 => {
                number.as_str().replace('_', "")
            }
            (_, Some(text)) => text?,
            (other, None) => {
                self.error(format!("is {}, expected {form}", kind(other)));
                return None;
            }
        };
        match text.trim_start_matches('+').parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                self.error(format!("`{text}` is out of range, expected {form}"));
                None
            }
        }
    }

    /// A number as written, or one that a variable stands for.
    fn number(&self) -> Option<Option<f64>> {
        let text = match (self.value, self.variable()) {
            (DeValue::Integer(number), _) => number.as_str().replace('_', ""),
            (DeValue::Float(number), _) => number.as_str().replace('_', ""),
            (_, Some(text)) => match text {
                Some(text) => text,
                None => return Some(None),
            },
            _ => return None,
        };
        text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Some)
    }

    /// A number from `least` to `most`.
    pub(super) fn float(&self, least: f64, most: f64) -> Option<f64> {
        match self.number() {
            Some(None) => None,
            Some(Some(number)) if (least..=most).contains(&number) => Some(number),
            Some(Some(number)) => {
                self.error(format!(
                    "`{number}` is out of range, expected a number from {least} to {most}"
                ));
                None
            }
            None => {
                self.error(format!(
                    "is {}, expected a number from {least} to {most}",
                    kind(self.value)
                ));
                None
            }
        }
    }

    /// A share from 0 to 1: `1%` or `0.01`.
    pub(super) fn rate(&self) -> Option<f64> {
        const FORM: &str = "a rate such as 1% or 0.01";
        let rate = match self.number() {
            Some(None) => return None,
            Some(Some(number)) => Some(number),
            None => match self.value {
                DeValue::String(_) => self.text()?.strip_suffix('%').and_then(|percent| {
                    percent
                        .trim()
                        .parse::<f64>()
                        .ok()
                        .map(|percent| percent / 100.0)
                }),
                _ => None,
            },
        };
        match rate {
            Some(rate) if (0.0..=1.0).contains(&rate) => Some(rate),
            _ => {
                self.error(format!("{} is not a rate, expected {FORM}", self.shown()));
                None
            }
        }
    }

    /// A duration above zero.
    pub(super) fn duration(&self) -> Option<Duration> {
        let duration = self.duration_or_zero()?;
        if duration.is_zero() {
            self.error("must be longer than zero, expected a duration such as 500ms, 3s, 5m or 1h");
            return None;
        }
        Some(duration)
    }

    /// A duration, zero included.
    pub(super) fn duration_or_zero(&self) -> Option<Duration> {
        const FORM: &str = "a duration such as 500ms, 3s, 5m or 1h";
        let text = match self.value {
            DeValue::String(_) => self.text()?,
            other => {
                self.error(format!("is {}, expected {FORM}", kind(other)));
                return None;
            }
        };
        let parsed = parse_duration(&text);
        if parsed.is_none() {
            self.error(format!("`{text}` is not a duration, expected {FORM}"));
        }
        parsed
    }

    /// A size in bytes above zero.
    pub(super) fn size(&self) -> Option<usize> {
        const FORM: &str = "a size such as 64KiB or 10MB";
        let text = match (self.value, self.variable()) {
            (DeValue::Integer(number), _) => number.as_str().replace('_', ""),
            (DeValue::String(_), _) => self.text()?,
            (other, _) => {
                self.error(format!("is {}, expected {FORM}", kind(other)));
                return None;
            }
        };
        match parse_size(&text) {
            Some(size) if size > 0 => Some(size),
            _ => {
                self.error(format!("`{text}` is not a size, expected {FORM}"));
                None
            }
        }
    }

    /// One of a closed list.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = names.join(", ");
        self.error(match nearest(&text, names.iter().copied()) {
            Some(name) => {
                format!("`{text}` is not known, did you mean `{name}`? Expected {expected}")
            }
            None => format!("`{text}` is not known, expected {expected}"),
        });
        None
    }

    /// A value that parses from text; `form` says what is accepted.
    pub(super) fn parsed<T>(&self, form: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let error = T::Err::to_string(&error);
                let subject = if error.contains(&format!("`{text}`")) {
                    error
                } else {
                    format!("`{text}`: {error}")
                };
                self.error(if form.is_empty() {
                    subject
                } else {
                    format!("{subject}, expected {form}")
                });
                None
            }
        }
    }

    /// A path of a file or folder.
    pub(super) fn path_buf(&self) -> Option<PathBuf> {
        self.filled("a path").map(PathBuf::from)
    }

    /// An absolute path.
    pub(super) fn absolute(&self) -> Option<PathBuf> {
        let path = self.path_buf()?;
        if !path.is_absolute() {
            self.error(format!("`{}` is not an absolute path", path.display()));
            return None;
        }
        Some(path)
    }

    /// Networks and addresses.
    pub(super) fn networks(&self) -> IpSet {
        let nets = self.one_or_more().into_iter().filter_map(|node| {
            let text = node.text()?;
            let parsed = text
                .parse::<IpNet>()
                .ok()
                .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
            if parsed.is_none() {
                node.error(format!(
                    "`{text}` is not a network, expected an address or a CIDR such as 10.0.0.0/8"
                ));
            }
            parsed.map(|net| net.trunc())
        });
        IpSet(nets.collect())
    }

    /// Listen addresses, each once.
    pub(super) fn listeners(&self) -> Vec<SocketAddr> {
        let mut found: Vec<SocketAddr> = Vec::new();
        for node in self.elements() {
            let Some(addr) = node.listener() else {
                continue;
            };
            if found.contains(&addr) {
                node.error(format!("`{addr}` is listed twice"));
            } else {
                found.push(addr);
            }
        }
        found
    }

    /// One listen address.
    pub(super) fn listener(&self) -> Option<SocketAddr> {
        let text = self.text()?;
        let parsed = text.parse();
        if parsed.is_err() {
            self.error(format!(
                "`{text}` is not a listen address, expected IP:PORT such as 0.0.0.0:80 or [::]:80"
            ));
        }
        parsed.ok()
    }

    /// A secret out of a file; the file's last line end does not count.
    pub(super) fn secret_file(&self) -> Option<Secret> {
        use std::os::unix::fs::MetadataExt;
        let path = self.path_buf()?;
        let read = std::fs::metadata(&path)
            .and_then(|meta| std::fs::read_to_string(&path).map(|text| (meta, text)));
        match read {
            Ok((meta, text)) => {
                if meta.mode() & 0o004 != 0 {
                    self.warning(format!(
                        "`{}` holds a secret and can be read by everybody, chmod 600 it",
                        path.display()
                    ));
                }
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() {
                    self.error(format!("`{}` is empty", path.display()));
                    return None;
                }
                Some(Secret::new(text))
            }
            Err(error) => {
                self.error(format!("cannot read `{}`: {error}", path.display()));
                None
            }
        }
    }

    fn shown(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("`{text}`"),
            DeValue::Integer(number) => format!("`{}`", number.as_str()),
            DeValue::Float(number) => format!("`{}`", number.as_str()),
            other => kind(other).to_owned(),
        }
    }
}

/// `500ms`, `3s`, `5m`, `1h`; also several in a row, such as `1h30m`, and fractions.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |length| digits + length);
        let seconds = match &rest[digits..unit_end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit_end..];
    }
    // A century: longer is a mistake, and arithmetic on it might overflow.
    (total <= Duration::from_secs(100 * 366 * 86_400)).then_some(total)
}

/// `64KiB`, `10MB`, `512`: powers of 1024 with an `i`, of 1000 without.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: usize = text[..digits].parse().ok()?;
    let unit: usize = match text[digits..].trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_in_every_documented_form() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("3s"), Some(3_000));
        assert_eq!(ms("5m"), Some(300_000));
        assert_eq!(ms("1h"), Some(3_600_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("1.5s"), Some(1_500));
        assert_eq!(ms("0"), Some(0));
        for wrong in ["", "5", "5 s", "s", "-1s", "1x", "1e9h", "999999999h"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("10MB"), Some(10_000_000));
        assert_eq!(parse_size("512"), Some(512));
        for wrong in ["", "KiB", "1TB", "1.5MB", "-1"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
