//! HTML in the making. What was said or typed by others goes in by [`Html::text`] alone, which leaves nothing of it
//! that a browser would take for markup, and nothing that cannot be seen: controls, and what hides or turns text.

use crate::kit::text::printable;

/// A page, or a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

impl Html {
    /// Our own markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Html {
        self.0.push_str(markup);
        self
    }

    /// Anybody's text, between tags or between double quotes.
    pub(super) fn text(&mut self, text: &str) -> &mut Html {
        for c in printable(text.as_bytes()).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    /// A number with its thousands apart.
    pub(super) fn number(&mut self, number: u64) -> &mut Html {
        self.0.push_str(&grouped(number));
        self
    }

    /// An element with a class and a text.
    pub(super) fn classed(&mut self, class: &'static str, text: &str) -> &mut Html {
        self.raw("<span class=\"").raw(class).raw("\">").text(text).raw("</span>")
    }

    /// Another part behind this one.
    pub(super) fn append(&mut self, other: Html) -> &mut Html {
        self.0.push_str(&other.0);
        self
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 recipient`, `2 recipients`.
pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// `40 s`, `3 min`, `5 h`, `2 d`: the two greatest units where the first is small.
pub(super) fn span(secs: i64) -> String {
    let secs = secs.max(0);
    match secs {
        ..60 => format!("{secs} s"),
        60..3600 => format!("{} min", secs / 60),
        3600..36_000 if secs % 3600 >= 60 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        3600..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_hostile_text_is_markup_or_unseen() {
        let mut html = Html::default();
        let hostile =
            "<script>alert(1)</script>\" onload='x' &amp; \u{202e}txt\u{0}\u{1b}[2J\r\n\u{200b}\u{e0041}";
        html.raw("<p title=\"").text(hostile).raw("\">").text(hostile).raw("</p>");
        let text = html.into_string();
        let inside = text.strip_prefix("<p title=\"").and_then(|text| text.strip_suffix("</p>")).unwrap();
        assert_eq!(inside.matches(['<', '>', '"', '\'']).count(), 2, "our own \"> alone: {inside}");
        assert!(inside.contains("&lt;script&gt;") && inside.contains("&amp;amp;"));
        assert!(inside.is_ascii() && !inside.chars().any(char::is_control), "{inside}");
        assert!(inside.contains("\\xE2\\x80\\xAEtxt"));
    }

    #[test]
    fn numbers_and_spans_are_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!((counted(1, "lane"), counted(2, "lane")), ("1 lane".to_owned(), "2 lanes".to_owned()));
        for (secs, text) in [
            (-1, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (3660, "1 h 1 min"),
            (86_400, "24 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(span(secs), text);
        }
    }
}
