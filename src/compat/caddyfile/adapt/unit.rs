//! Times and sizes, from Go's forms to ours.

use super::super::lexer::Token;
use super::Cx;
use super::doc::Value;

impl Cx<'_> {
    /// A time such as `30s`, `1m30s`, `1.5h` or `2d`, in ours.
    pub(super) fn time(&self, word: &Token) -> Option<Value> {
        let milliseconds = milliseconds(&word.text);
        if milliseconds.is_none() {
            let message = format!("`{}` is not a time such as 30s or 1m30s", word.text);
            self.out.error(word.pos, message);
        }
        Some(Value::text(time_text(milliseconds?)).at(word.pos))
    }

    /// As [`Self::time`], but `0` and less mean that it is off, which is no value here.
    pub(super) fn some_time(&self, word: &Token) -> Option<Value> {
        if milliseconds(&word.text) == Some(0)
            && !word.text.trim_matches('0').is_empty()
            && word.text.bytes().all(|b| b.is_ascii_digit())
        {
            let message = format!("`{0}` has no unit; write {0}s for seconds", word.text);
            self.out.error(word.pos, message);
            return None;
        }
        if milliseconds(&word.text) == Some(0) || word.text.starts_with('-') {
            let message = "no time limit at all has no equivalent; leave it out or give a time";
            self.out.error(word.pos, message);
            return None;
        }
        self.time(word)
    }

    /// A size such as `10MB` or `1GiB`, in ours.
    pub(super) fn size(&self, word: &Token) -> Option<Value> {
        let bytes = bytes(&word.text);
        if bytes.is_none() {
            let message = format!("`{}` is not a size such as 10MB", word.text);
            self.out.error(word.pos, message);
        }
        Some(Value::text(size_text(bytes?)).at(word.pos))
    }
}

/// Go's `time.ParseDuration`, and `d` for days. A bare number is nanoseconds, as Caddy reads it.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    if let Ok(nanoseconds) = text.parse::<u64>() {
        return Some(nanoseconds / 1_000_000);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let number = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (amount, after) = rest.split_at(number);
        let unit = after
            .bytes()
            .take_while(|b| !b.is_ascii_digit() && *b != b'.')
            .count();
        let (unit, after) = after.split_at_checked(unit)?;
        let scale = match unit {
            "ns" => 1e-6,
            "us" | "µs" | "μs" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            "d" => 86_400e3,
            _ => return None,
        };
        total += amount.parse::<f64>().ok()? * scale;
        rest = after;
    }
    let fits = !text.is_empty() && total.is_finite() && (0.0..1e15).contains(&total);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range"
    )]
    fits.then_some(total.round() as u64)
}

/// In the largest unit that is whole.
pub(super) fn time_text(milliseconds: u64) -> String {
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds > 0 && milliseconds.is_multiple_of(size) {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    match milliseconds {
        0 => "0s".to_owned(),
        other => format!("{other}ms"),
    }
}

/// `10MB` (decimal), `10MiB`, `10m`, `10`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let number = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let (amount, unit) = text.split_at(number);
    let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "ki" | "kib" => 1024.0,
        "mi" | "mib" => 1_048_576.0,
        "gi" | "gib" => 1_073_741_824.0,
        "ti" | "tib" => 1_099_511_627_776.0,
        _ => return None,
    };
    let total = amount.parse::<f64>().ok()? * scale;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range"
    )]
    (0.0..9e15).contains(&total).then_some(total as u64)
}

fn size_text(bytes: u64) -> String {
    let units = [
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1000),
    ];
    for (unit, size) in units {
        if bytes > 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_keep_their_amount() {
        for (go, ours) in [
            ("30s", "30s"),
            ("1m30s", "90s"),
            ("1.5h", "90m"),
            ("2d", "48h"),
            ("250ms", "250ms"),
            ("0", "0s"),
            ("5000000000", "5s"),
            ("1h0m0s", "1h"),
        ] {
            assert_eq!(
                milliseconds(go).map(time_text).as_deref(),
                Some(ours),
                "{go}"
            );
        }
        for wrong in ["", "s", "1x", "-1s", "1h-", "1e9h", "é"] {
            assert_eq!(milliseconds(wrong), None, "{wrong}");
        }
        for (theirs, ours) in [
            ("10MB", "10MB"),
            ("10mb", "10MB"),
            ("1.5k", "1500B"),
            ("1MiB", "1MiB"),
            ("2048", "2KiB"),
            ("1GiB", "1GiB"),
            ("0", "0B"),
        ] {
            assert_eq!(
                bytes(theirs).map(size_text).as_deref(),
                Some(ours),
                "{theirs}"
            );
        }
        assert_eq!(bytes("ten"), None);
    }
}
