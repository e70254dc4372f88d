//! The MIME parts of a report, as lettre's types build them.

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body as Encoded, SinglePart};
use memchr::memmem;

use crate::queue::MessageId;

/// Plain text. ASCII is not encoded: lettre's builder would encode lines over 76 bytes, such as a quoted URL.
pub(super) fn plain(text: String) -> SinglePart {
    match text.is_ascii() {
        true => {
            let bytes = text.replace('\n', "\r\n").into_bytes();
            part("text/plain; charset=utf-8", ContentTransferEncoding::SevenBit, bytes)
        }
        false => SinglePart::plain(text),
    }
}

/// A part encoded as quoted-printable.
pub(super) fn quoted(mime: &str, bytes: &[u8]) -> SinglePart {
    SinglePart::builder()
        .header(content_type(mime))
        .header(ContentTransferEncoding::QuotedPrintable)
        .body(bytes.to_vec())
}

/// A part whose bytes are in this encoding already.
pub(super) fn part(mime: &str, encoding: ContentTransferEncoding, bytes: Vec<u8>) -> SinglePart {
    SinglePart::builder().header(content_type(mime)).body(Encoded::dangerous_pre_encoded(bytes, encoding))
}

pub(super) fn content_type(mime: &str) -> ContentType {
    // All callers pass a constant, or one with a boundary of letters, digits, `=`, `_` and `.` in quotes.
    ContentType::parse(mime).unwrap_or(ContentType::TEXT_PLAIN)
}

/// A boundary that none of the parts holds. `=_` occurs in no base64 and no quoted-printable (RFC 2045 §6.7), but an
/// original that quotes an older report may hold anything.
pub(super) fn boundary(id: MessageId, parts: &[SinglePart]) -> String {
    let mut boundary = format!("=_{id}");
    while parts.iter().any(|part| memmem::find(&part.formatted(), boundary.as_bytes()).is_some()) {
        boundary.push_str(".x");
    }
    boundary
}
