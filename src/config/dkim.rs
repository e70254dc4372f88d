//! `[[dkim]]`: the keys that sign mail, read with the config, so that a key that is no good stops the start.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::guarded;
use super::reading::{Reading, Section};
use super::value;
use crate::mail::Domain;
use crate::mail::dkim::{Canonicalization, Key, KeyError, Keyring, Signer, SigningKey};

/// Bytes of a key's file that are looked at; RSA of 8192 bits has some 6,000.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// All `[[dkim]]`, and who signs for others (`[delivery] sign_as`).
pub(super) fn read<'t>(reading: &mut Reading<'t>, root: &Section<'t>, delivery: &Section<'t>) -> Keyring {
    let sections = reading.sections(root, "dkim").unwrap_or_default();
    let mut domains: Vec<Domain> = Vec::new();
    let mut keys: Vec<(Section<'t>, SigningKey)> = Vec::new();
    for section in sections {
        let domain = name(reading, &section, "domain", "the domain that signs, such as \"example.com\"");
        domains.extend(domain.clone());
        let Some(key) = signing_key(reading, &section, domain) else { continue };
        if let Some((earlier, _)) = keys.iter().find(|(_, other)| other.name() == key.name()) {
            let place = reading.place_of(earlier, "selector");
            let text = format!(
                "{} has a [[dkim]] already ({place}); each key of a domain has a selector of its own",
                key.name()
            );
            reading.problem(&section, "selector", text);
        }
        keys.push((section, key));
    }
    let sign_as = reading.given(delivery, "sign_as", value::host);
    if let Some(domain) = &sign_as
        && !domains.contains(domain)
    {
        let text = format!("{domain} has no [[dkim]]; add one, or name a domain that has a key");
        reading.problem(delivery, "sign_as", text);
    }
    let keys = keys.into_iter().map(|(_, key)| key).collect();
    Keyring::new(keys, sign_as.map(|domain| domain.to_string()))
}

/// One `[[dkim]]`; none where something of it is bad or missing, which is told.
fn signing_key<'t>(
    reading: &mut Reading<'t>,
    section: &Section<'t>,
    domain: Option<Domain>,
) -> Option<SigningKey> {
    let selector = name(reading, section, "selector", "the name of the key in DNS, such as \"s1\"");
    let key = key(reading, section, domain.as_ref());
    let from = reading.given(section, "from", value::time);
    let until = reading.given(section, "until", value::time);
    if let (Some(from), Some(until)) = (from, until)
        && from >= until
    {
        reading.problem(section, "until", "is not after from; the key would never sign".to_owned());
    }
    let canonicalization = match reading.get(section, "canonicalization", value::choice) {
        "relaxed/simple" => (Canonicalization::Relaxed, Canonicalization::Simple),
        "simple/relaxed" => (Canonicalization::Simple, Canonicalization::Relaxed),
        "simple/simple" => (Canonicalization::Simple, Canonicalization::Simple),
        _ => (Canonicalization::Relaxed, Canonicalization::Relaxed),
    };
    let expires_after: Option<Duration> =
        reading.get(section, "expires_after", value::or_off(value::duration));
    let skip_signed = reading.get(section, "skip_signed", value::flag);
    let signer = Signer {
        domain: domain?.to_string(),
        selector: selector?.to_string(),
        key: key?,
        canonicalization,
        expires_after: expires_after.map(|after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX)),
    };
    Some(SigningKey { signer, from, until, skip_signed })
}

/// A key that holds a name of DNS, and must be there.
fn name<'t>(reading: &mut Reading<'t>, section: &Section<'t>, key: &str, what: &str) -> Option<Domain> {
    if !section.gives(key) {
        reading.problem(section, key, format!("is missing; say {what}"));
        return None;
    }
    let domain = reading.given(section, key, value::host)?;
    if domain.ip().is_some() {
        reading.problem(section, key, format!("{domain} is an address; say {what}"));
        return None;
    }
    Some(domain)
}

/// The private key, which must be of the kind that `algorithm` says.
fn key<'t>(reading: &mut Reading<'t>, section: &Section<'t>, domain: Option<&Domain>) -> Option<Key> {
    let remedy = format!("`postrider dkim new {}` makes one", domain.map_or("DOMAIN", Domain::as_str));
    let wanted = reading.given(section, "algorithm", value::choice);
    if !section.gives("key") {
        let text = format!("is missing; name the file of the private key; {remedy}");
        reading.problem(section, "key", text);
        return None;
    }
    let path = reading.given(section, "key", value::file)?;
    let path = reading.beside_config(path);
    let shown = path.display();
    // Who may write to it decides who signs for us.
    if let Some(fault) = guarded::fault(&path) {
        reading.problem(section, "key", fault);
        return None;
    }
    let key = match text(&path) {
        Err(error) => {
            reading.problem(section, "key", format!("{shown} cannot be read: {error}; {remedy}"));
            return None;
        }
        Ok(text) => match Key::from_pem(&text) {
            Err(error) => {
                let remedy = if error == KeyError::Encrypted { String::new() } else { format!("; {remedy}") };
                reading.problem(section, "key", format!("{shown}: {error}{remedy}"));
                return None;
            }
            Ok(key) => key,
        },
    };
    let is = key.algorithm().key_type();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != is) {
        let text =
            format!("{shown} has an {is} key, not {wanted}; write \"{is}\", or name another file in key");
        reading.problem(section, "algorithm", text);
    }
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0) {
        let text = format!(
            "{shown} can be read by every user of this machine, who can sign as you then; chmod o= {shown}"
        );
        reading.warning(section, "key", text);
    }
    Some(key)
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    guarded::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
