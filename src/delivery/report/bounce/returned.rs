//! What a report returns of the original: the message, its header, or nothing (RFC 3461 §4.3, RFC 6522 §4).

use lettre::message::SinglePart;
use lettre::message::header::ContentTransferEncoding;
use memchr::memmem;

use crate::mail::{Body, Ret, header};

use crate::delivery::report::bounce::charset::Charset;
use crate::delivery::report::bounce::parts::{part, quoted};
use crate::delivery::report::bounce::{RETURNED_BYTES_MAX, ReportContext, ReportKind};

/// RFC 5322 §2.1.1.
const LINE_BYTES_MAX: usize = 998;

/// What RET asks for (RFC 3461 §4.3): the whole message in a bounce, if it was asked for, fits and can be part of
/// another message; otherwise the header.
pub(super) fn original(
    kind: ReportKind,
    charset: Charset,
    context: &ReportContext<'_>,
) -> Option<SinglePart> {
    let (message, original) = (context.message, context.original);
    let header = returned_header(original);
    // RFC 6532 §3: a header in UTF-8 is valid only under SMTPUTF8.
    let global = message.smtputf8 && !header.is_ascii() && std::str::from_utf8(header).is_ok();
    let whole = original.len() as u64 == message.size && original.len() <= RETURNED_BYTES_MAX;
    // RFC 8689 §5: of a message that requires TLS only the header, whatever RET says. RFC 2045 §6.4: binary content
    // cannot be inside a part that is not binary.
    let full = message.ret == Some(Ret::Full)
        && !message.handling.require_tls
        && message.body != Body::BinaryMime
        && kind == ReportKind::Bounce;
    if full && whole && has_lines(original) && (header.is_ascii() || global) {
        let kind = if global { "message/global" } else { "message/rfc822" };
        let part = returned(kind, charset, global, original);
        if part.raw_body().len() <= RETURNED_BYTES_MAX {
            return Some(part);
        }
    }
    if header.is_empty() {
        return None;
    }
    if !has_lines(header) || !(header.is_ascii() || global) {
        // RFC 6522 §4: text/rfc822-headers may be encoded, and a broken header has to be.
        return Some(quoted("text/rfc822-headers", header));
    }
    let kind = if global { "message/global-headers" } else { "text/rfc822-headers" };
    Some(returned(kind, charset, global, header))
}

/// The bytes as they came. Encoded only where the part must be ASCII (RFC 6533 §4.5) and may be encoded (never
/// `message/rfc822`: RFC 2046 §5.2.1).
fn returned(mime: &str, charset: Charset, global: bool, bytes: &[u8]) -> SinglePart {
    let encoding = match (bytes.is_ascii(), charset) {
        (true, _) => ContentTransferEncoding::SevenBit,
        (false, Charset::Ascii) if global => return quoted(mime, bytes),
        (false, _) => ContentTransferEncoding::EightBit,
    };
    part(mime, encoding, bytes.to_vec())
}

/// The header without the empty line behind it; whole lines, at most [`RETURNED_BYTES_MAX`] bytes.
fn returned_header(content: &[u8]) -> &[u8] {
    let header = header::header_of(&content[..content.len().min(RETURNED_BYTES_MAX)]);
    &header[..memmem::rfind(header, b"\r\n").map_or(0, |at| at + 2)]
}

/// Whether the bytes can be sent as 8bit text: all lines end with CR LF and fit, no NUL, no bare CR or LF.
pub(super) fn has_lines(content: &[u8]) -> bool {
    content.ends_with(b"\r\n")
        && content.split_inclusive(|&byte| byte == b'\n').all(|line| {
            line.strip_suffix(b"\r\n").is_some_and(|text| {
                text.len() <= LINE_BYTES_MAX && !text.iter().any(|byte| matches!(byte, 0 | b'\r'))
            })
        })
}
