//! Real and odd messages go in over DATA and come out at the receiving host: the body byte for byte, the header
//! with only the changes of docs/guarantees.md (RFC 6409 §8, RFC 5321 §4.4).
//!
//! What must come out is worked out here a second time, and plainly: lines are split, fields are dropped, the rest
//! is compared. None of it is Postrider's own code.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::fakemx::Script;
use crate::harness::relay::{Config, HOSTNAME, World};
use crate::harness::skipped::{installed, skipped};

const ALL_MAX: Duration = Duration::from_secs(60);

#[test]
fn our_own_mails_come_out_as_they_went_in() {
    let files = our_mails();
    assert!(files.len() >= 12, "{files:?}");
    // Line ends and all: these show what the relay makes of bare CR and LF.
    pass_through(files.iter().map(|file| (name(file), std::fs::read(file).unwrap())).collect());
}

#[test]
fn our_own_mails_from_a_client_that_sends_proper_lines_come_out_too() {
    pass_through(
        our_mails().iter().map(|file| (name(file), proper_lines(&std::fs::read(file).unwrap()))).collect(),
    );
}

#[test]
fn the_sample_mails_of_cpython_come_out_as_they_went_in() {
    let files = cpython_mails();
    if files.is_empty() {
        skipped("this python3 came without its test mails (test/test_email/data)");
        return;
    }
    assert!(files.len() >= 40, "{} files", files.len());
    pass_through(
        files.iter().map(|file| (name(file), proper_lines(&std::fs::read(file).unwrap()))).collect(),
    );
}

/// The repository's odd mails.
pub fn our_mails() -> Vec<PathBuf> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails"), "eml")
}

/// Those of CPython's tests; none where this python3 came without them.
pub fn cpython_mails() -> Vec<PathBuf> {
    if !installed("python3") {
        return Vec::new();
    }
    let script = "import os, test.test_email as t; print(os.path.join(os.path.dirname(t.__file__), 'data'))";
    let output = Command::new("python3").arg("-c").arg(script).output().unwrap();
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { files(Path::new(&folder), "txt") } else { Vec::new() }
}

pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

pub fn name(file: &Path) -> String {
    file.file_stem().expect("a file of that folder").to_string_lossy().into_owned()
}

/// Sends each mail to a recipient of its own and compares what arrives.
fn pass_through(mails: Vec<(String, Vec<u8>)>) {
    let mut world = World::new();
    let mx = world.host("mails.test", Script::new());
    let relay = world.relay(Config::new());
    let mut client = relay.client();
    let ids: Vec<String> = mails
        .iter()
        .map(|(name, content)| client.submit("shop@app.test", &[&format!("{name}@mails.test")], content))
        .collect();
    let mut arrived = mx.wait_for_messages(mails.len(), ALL_MAX);
    // All is settled: nothing more will come, and nothing that hid in a mail has become one.
    relay.wait_until_empty();
    assert_eq!(mx.messages().len(), mails.len());
    let mut wrong = Vec::new();
    for ((name, sent), id) in mails.iter().zip(&ids) {
        let at = arrived.iter().position(|message| message.rcpts[0].contains(&format!("<{name}@")));
        let message = arrived.swap_remove(at.unwrap_or_else(|| panic!("{name} did not arrive")));
        // What DATA carried: a client whose mail has no last line end must add one.
        let mut carried = sent.clone();
        if !carried.ends_with(b"\r\n") {
            carried.extend_from_slice(b"\r\n");
        }
        if let Err(problem) = compare(&proper_lines(&carried), &message.content, id) {
            wrong.push(format!("{name}: {problem}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every line ended by CR LF: a bare LF is one, a bare CR is a space.
pub fn proper_lines(content: &[u8]) -> Vec<u8> {
    let mut proper = Vec::with_capacity(content.len() + content.len() / 32);
    for (at, byte) in content.iter().enumerate() {
        match byte {
            b'\r' if content.get(at + 1) == Some(&b'\n') => {}
            b'\r' => proper.push(b' '),
            b'\n' => proper.extend_from_slice(b"\r\n"),
            byte => proper.push(*byte),
        }
    }
    proper
}

/// A message as the lines of its header, each with its folded lines and line ends, and all that follows the last one.
struct Parsed<'a> {
    fields: Vec<&'a [u8]>,
    rest: &'a [u8],
}

/// The header ends at the empty line, whatever its lines are; there is none where the first line is no field.
fn parse(content: &[u8]) -> Parsed<'_> {
    let mut fields: Vec<&[u8]> = Vec::new();
    let mut field_start = 0;
    let mut at = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let folded = at > 0 && (line[0] == b' ' || line[0] == b'\t');
        // A mailbox's separator in front of a header; without one behind it, it is text.
        let next = content[at + line.len()..].split_inclusive(|byte| *byte == b'\n').next();
        let separator =
            at == 0 && line.starts_with(b"From ") && next.is_some_and(|next| field_name(next).is_some());
        let begins_body = at == 0 && !separator && field_name(line).is_none();
        if line == b"\r\n" || begins_body {
            break;
        }
        if !folded {
            field_start = at;
            fields.push(&[]);
        }
        at += line.len();
        *fields.last_mut().expect("a first line is never folded") = &content[field_start..at];
    }
    Parsed { fields, rest: &content[at..] }
}

/// In lower case.
fn field_name(line: &[u8]) -> Option<String> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii_end();
    let good = !name.is_empty() && name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    good.then(|| String::from_utf8_lossy(name).to_lowercase())
}

fn is(field: &[u8], name: &str) -> bool {
    field_name(field).as_deref() == Some(name)
}

/// Whether `out` is `sent` with the changes that must be, and no other.
fn compare(sent: &[u8], out: &[u8], queue_id: &str) -> Result<(), String> {
    let (sent, out) = (parse(sent), parse(out));
    let mut fields = out.fields.clone();
    // A mailbox's separator is no field: it may go or stay in front, but in the middle it would end the header.
    let separator = sent.fields.first().filter(|field| field.starts_with(b"From "));
    if separator.is_some() && fields.first() == separator {
        fields.remove(0);
    }

    let received = if fields.is_empty() { &[] } else { fields.remove(0) };
    let text = String::from_utf8_lossy(received);
    let by = format!("by {HOSTNAME}");
    if !is(received, "received")
        || ![by.as_str(), queue_id, "[127.0.0.1]", "; "].iter().all(|part| text.contains(part))
    {
        return Err(format!("the first field is no Received of ours: {text:?}"));
    }
    for (name, must_hold) in [("date", " +0000\r\n"), ("message-id", ">\r\n")] {
        if sent.fields.iter().any(|field| is(field, name)) {
            continue;
        }
        let Some(at) = fields.iter().position(|field| is(field, name)) else {
            return Err(format!("{name} was missing and was not added"));
        };
        let added = String::from_utf8_lossy(fields.remove(at));
        if !added.ends_with(must_hold) {
            return Err(format!("{added:?} was added"));
        }
    }
    let dropped = |field: &[u8]| {
        ["bcc", "resent-bcc", "return-path"].iter().any(|name| is(field, name)) || Some(&field) == separator
    };
    let kept: Vec<&[u8]> = sent.fields.iter().copied().filter(|field| !dropped(field)).collect();
    if fields != kept {
        let show =
            |fields: &[&[u8]]| fields.iter().map(|field| String::from_utf8_lossy(field)).collect::<String>();
        return Err(format!("the header is\n{}\nand should be\n{}", show(&fields), show(&kept)));
    }
    // A message that is all body gets the empty line without which its first line would be taken for a field.
    let all_body = sent.fields.is_empty() && !sent.rest.is_empty() && !sent.rest.starts_with(b"\r\n");
    let rest = if all_body { [b"\r\n", sent.rest].concat() } else { sent.rest.to_vec() };
    if out.rest != rest {
        let at = out.rest.iter().zip(&rest).take_while(|(one, other)| one == other).count();
        let near = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(40)..bytes.len().min(at + 40)]).into_owned()
        };
        return Err(format!(
            "the body differs at byte {at}: {:?}, should be {:?}",
            near(out.rest),
            near(&rest)
        ));
    }
    Ok(())
}

#[test]
fn the_comparison_sees_what_it_must_see() {
    let sent = b"Subject: a\r\nBcc: b\r\n c\r\nDate: d\r\n\r\nbody\r\n";
    let good = "Received: from x ([127.0.0.1])\r\n\tby relay.test with ESMTP id 01K6GXFMRQ0; now\r\n\
        Message-ID: <1@relay.test>\r\nSubject: a\r\nDate: d\r\n\r\nbody\r\n";
    let verdict = |out: &str| compare(sent, out.as_bytes(), "01K6GXFMRQ0");
    assert_eq!(verdict(good), Ok(()));
    assert!(verdict(&good.replace("Date: d\r\n", "")).is_err());
    assert!(verdict(&good.replace("Message-ID: <1@relay.test>\r\n", "")).is_err());
    assert!(verdict(&good.replace("Subject: a", "Subject:  a")).is_err());
    assert!(verdict(&good.replace("Date: d", "Bcc: b\r\n c\r\nDate: d")).is_err());
    assert!(verdict(&good.replace("body\r\n", "body\r\n\r\n")).is_err());
    assert!(verdict(&good.replace("Received", "X-Received")).is_err());
    let broken = b"Subject: a\r\nno field\r\nBcc: b\r\nDate: d\r\n\r\nbody\r\n";
    let good = good.replace("Date: d", "no field\r\nDate: d");
    assert_eq!(compare(broken, good.as_bytes(), "01K6GXFMRQ0"), Ok(()));
    assert!(
        compare(broken, good.replace("no field", "no field\r\nBcc: b").as_bytes(), "01K6GXFMRQ0").is_err()
    );
    assert_eq!(proper_lines(b"a\nb\r\nc\rd\r"), b"a\r\nb\r\nc d ");
}
