//! Lines with colors, cut to a width; numbers and times as people read them.

use std::fmt::Write;

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
    Warn,
    Blue,
    Green,
}

impl Style {
    /// Select Graphic Rendition parameters (ECMA-48 §8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "31;1",
            Self::Warn => "33",
            Self::Blue => "34;1",
            Self::Green => "32;1",
        }
    }
}

/// One line of output, without its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line(Vec<(Style, String)>);

impl Line {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a piece. Control characters become `\u{fffd}`: much of what is shown was said by an
    /// upstream, and must not move the cursor or set the title of somebody's terminal.
    #[must_use]
    pub(crate) fn with(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push((style, printable(text.as_ref())));
        self
    }

    #[must_use]
    pub(crate) fn plain(self, text: impl AsRef<str>) -> Self {
        self.with(Style::Plain, text)
    }

    /// This line and then `other`.
    #[must_use]
    pub(crate) fn append(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The text as it is written out. `width`: in characters; what does not fit ends in `…`.
    pub(crate) fn paint(&self, color: bool, width: Option<usize>) -> String {
        let length: usize = self.0.iter().map(|(_, text)| text.chars().count()).sum();
        let fits = width.is_none_or(|width| length <= width);
        let mut left = match width {
            Some(width) if !fits => width.saturating_sub(1),
            _ => usize::MAX,
        };
        let mut out = String::new();
        for (style, text) in &self.0 {
            let piece: String = text.chars().take(left).collect();
            left -= piece.chars().count().min(left);
            if !color || *style == Style::Plain || piece.is_empty() {
                out.push_str(&piece);
            } else {
                // Writing to a String cannot fail.
                let _ = write!(out, "\x1b[{}m{piece}\x1b[0m", style.code());
            }
        }
        if !fits {
            out.push('…');
        }
        out
    }
}

pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `850ms`, `12s`, `2m10s`, `3h4m`, `2d5h`.
pub(crate) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let two = |high: u64, high_unit: char, low: u64, low_unit: char| match low {
        0 => format!("{high}{high_unit}"),
        _ => format!("{high}{high_unit}{low}{low_unit}"),
    };
    match seconds {
        0 if millis > 0 => format!("{millis}ms"),
        0..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, 'm', seconds % 60, 's'),
        3_600..86_400 => two(seconds / 3_600, 'h', seconds % 3_600 / 60, 'm'),
        _ => two(seconds / 86_400, 'd', seconds % 86_400 / 3_600, 'h'),
    }
}

/// A latency given in milliseconds: `2.4ms`, `80ms`, `1.25s`.
pub(crate) fn latency(millis: Option<f64>) -> String {
    match millis {
        None => DASH.to_owned(),
        Some(ms) if !ms.is_finite() => DASH.to_owned(),
        Some(ms) if ms < 9.95 => format!("{ms:.1}ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.2}s", ms / 1000.0),
    }
}

/// A share, 0–1, as `0.12%` or `12.3%`.
pub(crate) fn percent(share: Option<f64>) -> String {
    match share.map(|share| share * 100.0) {
        Some(percent) if percent < 9.995 => format!("{percent:.2}%"),
        Some(percent) if percent.is_finite() => format!("{percent:.1}%"),
        _ => DASH.to_owned(),
    }
}

/// `41.2` or `1234`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 99.95 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

/// `1 request`, `2 requests`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// What a cell shows when there is nothing to show.
pub(crate) const DASH: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_width_without_counting_colors() {
        let line = Line::new().with(Style::Good, "abc").plain("defgh");
        assert_eq!(line.paint(false, None), "abcdefgh");
        assert_eq!(line.paint(false, Some(8)), "abcdefgh");
        assert_eq!(line.paint(false, Some(5)), "abcd…");
        assert_eq!(line.paint(true, Some(5)), "\x1b[32mabc\x1b[0md…");
        assert_eq!(line.paint(true, Some(2)), "\x1b[32ma\x1b[0m…");
    }

    #[test]
    fn what_an_upstream_said_cannot_steer_the_terminal() {
        let line = Line::new().plain("a\x1b]0;title\x07\r\nb\u{9b}31m");
        assert_eq!(
            line.paint(true, None),
            "a\u{fffd}]0;title\u{fffd}\u{fffd}\u{fffd}b\u{fffd}31m"
        );
    }

    #[test]
    fn numbers_have_as_many_digits_as_matter() {
        let spans: Vec<_> = [0, 850, 12_900, 60_000, 130_000, 11_040_000, 190_800_000]
            .map(span)
            .into();
        assert_eq!(spans, ["0s", "850ms", "12s", "1m", "2m10s", "3h4m", "2d5h"]);
        assert_eq!(
            [None, Some(2.44), Some(9.97), Some(80.4), Some(1254.0)].map(latency),
            ["-", "2.4ms", "10ms", "80ms", "1.25s"]
        );
        assert_eq!(
            [None, Some(0.0), Some(0.00123), Some(0.123), Some(f64::NAN)].map(percent),
            ["-", "0.00%", "0.12%", "12.3%", "-"]
        );
        assert_eq!([41.23, 1234.5].map(rate), ["41.2", "1234"]);
    }
}
