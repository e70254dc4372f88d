//! An answer, with the fields that keep a browser from doing anything but to show it.

use crate::kit::text::date_field;

/// What a page may load: nothing, but for the style that it brings along (by its hash).
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: Status,
    content_type: &'static str,
    /// More fields, each with its line end.
    fields: String,
    /// What of style may be used, as a source of a policy; none: nothing.
    style: Option<String>,
    body: String,
}

/// The codes that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200.
    Ok,
    /// 400.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 408.
    Timeout,
    /// 421.
    Misdirected,
    /// 431.
    TooLarge,
    /// 503.
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::Unauthorized => "401 Unauthorized",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::Timeout => "408 Request Timeout",
            Status::Misdirected => "421 Misdirected Request",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

impl Response {
    /// Words for a person or a program.
    pub fn text(status: Status, body: impl Into<String>) -> Response {
        Response::of(status, "text/plain; charset=utf-8", body.into())
    }

    /// Of another type.
    pub fn of(status: Status, content_type: &'static str, body: String) -> Response {
        Response { status, content_type, fields: String::new(), style: None, body }
    }

    /// A page. `style` is what may stand behind `style-src`.
    pub fn html(status: Status, body: String, style: &str) -> Response {
        Response { style: Some(style.to_owned()), ..Response::of(status, "text/html; charset=utf-8", body) }
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Response {
        self.fields.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// As it goes out. `now`: Unix seconds.
    pub(super) fn bytes(&self, is_head: bool, now: i64) -> Vec<u8> {
        let Response { status, content_type, fields, style, body } = self;
        let style = style.as_ref().map_or_else(String::new, |style| format!("; style-src {style}"));
        // RFC 9110 §5.6.7 wants the zone by its name.
        let date = date_field(now).replace("+0000", "GMT");
        let mut bytes = format!(
            "HTTP/1.1 {}\r\nDate: {date}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Security-Policy: {POLICY}{style}\r\nReferrer-Policy: no-referrer\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nX-Frame-Options: DENY\r\n{fields}\r\n",
            status.line(),
            body.len(),
        );
        if !is_head {
            bytes.push_str(body);
        }
        bytes.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_head_has_all_but_the_body() {
        let response = Response::html(Status::Ok, "<p>\u{e9}</p>".to_owned(), "'sha256-x'").with("A", "b");
        let whole = String::from_utf8(response.bytes(false, 1_767_323_045)).unwrap();
        let head = String::from_utf8(response.bytes(true, 1_767_323_045)).unwrap();
        assert_eq!(whole, format!("{head}<p>\u{e9}</p>"));
        for line in [
            "Date: Fri, 02 Jan 2026 03:04:05 GMT",
            "Content-Length: 9",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "A: b",
            "Content-Security-Policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors \
             'none'; style-src 'sha256-x'",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
    }
}
