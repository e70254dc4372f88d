//! DKIM keys for tests, and a verifier of signatures (RFC 6376 §6): written as near to the words of the RFC as can be,
//! and nothing of it is Postrider's own code but the making of keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::relay::write_secret;
use postrider::mail::dkim::{Algorithm, Key, record};

/// Keys in files, and their records as DNS would have them.
pub struct Keys {
    folder: tempfile::TempDir,
    /// By name: `s1._domainkey.example.com`.
    pub records: BTreeMap<String, String>,
}

impl Keys {
    pub fn new() -> Keys {
        Keys { folder: tempfile::tempdir().unwrap(), records: BTreeMap::new() }
    }

    /// Makes a key; gives the lines of its `[[dkim]]`.
    pub fn add(&mut self, domain: &str, selector: &str, algorithm: Algorithm) -> String {
        let key = Key::generate(algorithm).unwrap();
        self.records.insert(format!("{selector}._domainkey.{domain}"), record::text_of(&key));
        let file = self.file(domain, selector);
        write_secret(&file, &key.to_pem().unwrap());
        format!("domain = \"{domain}\"\nselector = \"{selector}\"\nkey = {file:?}\n")
    }

    pub fn file(&self, domain: &str, selector: &str) -> PathBuf {
        self.folder.path().join(format!("{domain}.{selector}.pem"))
    }

    /// The signatures of a message from the top, each as `domain/selector`, all of which must hold.
    pub fn verified(&self, mail: &[u8]) -> Vec<String> {
        let judged = judge(mail, &self.records);
        let held = judged.into_iter().map(|(name, verdict)| match verdict {
            Ok(()) => name,
            Err(why) => panic!("{name}: {why}\n{}", String::from_utf8_lossy(&mail[..mail.len().min(4000)])),
        });
        held.collect()
    }
}

/// Each signature, from the top, and whether it holds.
pub fn judge(mail: &[u8], records: &BTreeMap<String, String>) -> Vec<(String, Result<(), String>)> {
    let (header, body) = parts(mail);
    let fields = fields(header);
    let signatures = fields.iter().filter(|field| name_of(field) == "dkim-signature");
    signatures
        .map(|signature| {
            let tags = tags_of(signature);
            let name = format!("{}/{}", tags["d"], tags["s"]);
            (name, verify(signature, &tags, &fields, body, records))
        })
        .collect()
}

fn verify(
    signature: &[u8],
    tags: &BTreeMap<String, String>,
    fields: &[Vec<u8>],
    body: &[u8],
    records: &BTreeMap<String, String>,
) -> Result<(), String> {
    let name = format!("{}._domainkey.{}", tags["s"], tags["d"]);
    let record = records.get(&name).ok_or_else(|| format!("{name} has no record"))?;
    let (_, public) = record.split_once("p=").ok_or("no p=")?;
    let public = STANDARD.decode(public).map_err(|error| error.to_string())?;
    let (header_way, body_way) = tags["c"].split_once('/').ok_or("no c=")?;
    let hash = STANDARD.encode(digest(&SHA256, &body_text(body, body_way == "relaxed")));
    if hash != tags["bh"] {
        return Err(format!("the body's hash is {hash}, not {}", tags["bh"]));
    }
    // RFC 6376 §5.4.2: of fields of one name the last counts first.
    let mut left: Vec<&Vec<u8>> = fields.iter().collect();
    let mut data = Vec::new();
    for name in tags["h"].split(':') {
        let at = left.iter().rposition(|field| name_of(field) == name.to_lowercase());
        if let Some(at) = at {
            data.extend(field_text(left.remove(at), header_way == "relaxed"));
        }
    }
    data.extend(field_text(&without_signature(signature), header_way == "relaxed"));
    data.truncate(data.len() - 2);
    let made = STANDARD.decode(&tags["b"]).map_err(|error| error.to_string())?;
    let holds = match tags["a"].as_str() {
        "rsa-sha256" => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(&data, &made),
        _ => UnparsedPublicKey::new(&ED25519, public).verify(digest(&SHA256, &data).as_ref(), &made),
    };
    holds.map_err(|_| format!("{} does not hold", tags["a"]))
}

/// Header and body; the empty line is in neither.
fn parts(mail: &[u8]) -> (&[u8], &[u8]) {
    let end = mail.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or((mail, &[]), |end| (&mail[..end + 2], &mail[end + 4..]))
}

fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for byte in text {
        line.push(*byte);
        if line.ends_with(b"\r\n") {
            lines.push(std::mem::take(&mut line));
        }
    }
    lines.extend(Some(line).filter(|line| !line.is_empty()));
    lines
}

/// Each with its folded lines.
fn fields(header: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in lines(header) {
        match fields.last_mut() {
            Some(field) if line.starts_with(b" ") || line.starts_with(b"\t") => field.extend(line),
            _ => fields.push(line),
        }
    }
    fields
}

fn name_of(field: &[u8]) -> String {
    let name = field.split(|byte| *byte == b':').next().unwrap_or_default();
    String::from_utf8_lossy(name).trim().to_lowercase()
}

fn tags_of(field: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(field);
    let (_, value) = text.split_once(':').unwrap();
    let value: String = value.split_ascii_whitespace().collect();
    value
        .split(';')
        .filter_map(|tag| tag.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// RFC 6376 §3.7: with an empty b=.
fn without_signature(field: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(field);
    let tags = text.split(';').map(|tag| match tag.split_once('=') {
        Some((name, _)) if name.trim() == "b" => format!("{name}="),
        _ => tag.to_owned(),
    });
    let tags: Vec<String> = tags.collect();
    tags.join(";").into_bytes()
}

fn field_text(field: &[u8], relaxed: bool) -> Vec<u8> {
    let field = field.strip_suffix(b"\r\n").unwrap_or(field);
    if !relaxed {
        return [field, b"\r\n"].concat();
    }
    let colon = field.iter().position(|byte| *byte == b':').unwrap();
    let unfolded: Vec<u8> = lines(&field[colon + 1..])
        .iter()
        .flat_map(|line| line.strip_suffix(b"\r\n").unwrap_or(line).to_vec())
        .collect();
    let words: Vec<&[u8]> =
        unfolded.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
    [name_of(field).as_bytes(), b":", &words.join(&b' '), b"\r\n"].concat()
}

fn body_text(body: &[u8], relaxed: bool) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = lines(body)
        .into_iter()
        .map(|line| {
            let line = line.strip_suffix(b"\r\n").unwrap_or(&line).to_vec();
            if relaxed { one_space(&line) } else { line }
        })
        .collect();
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    if lines.is_empty() && !relaxed {
        lines.push(Vec::new());
    }
    lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat()).collect()
}

/// Runs of blanks as one space, none at the end.
fn one_space(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in line {
        match byte {
            b' ' | b'\t' if out.last() == Some(&b' ') => {}
            b' ' | b'\t' => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    if out.last() == Some(&b' ') {
        out.pop();
    }
    out
}
