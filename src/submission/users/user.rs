//! A user, and the line of the users file that says what it may do.

use std::num::{NonZeroU32, NonZeroU64};

use super::error::{NAME_CHARS_MAX, PASSWORD_BYTES_MAX, UsersError};
use super::verifier::Verifier;
use crate::config::{size_of, size_text};
use crate::mail::{Domain, Priority, address};
use crate::sasl::CramMd5;

/// A user of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// As given to AUTH; compared as it is.
    pub name: String,
    /// May use the private commands.
    pub operator: bool,
    /// Addresses and `*@domain`, domains in [`Domain`]'s form; empty: any sender.
    pub senders: Vec<String>,
    /// Domains whose mail waits for this user's ATRN (RFC 2645), in [`Domain`]'s form.
    pub atrn: Vec<String>,
    /// Domains whose mail this user may kick, whoever sent it, in [`Domain`]'s form.
    pub etrn: Vec<String>,
    /// Recipients an hour at most; none: any number.
    pub rate: Option<NonZeroU32>,
    /// Bytes of its mail that may be in the queue; none: any number.
    pub quota: Option<NonZeroU64>,
    /// MT-PRIORITY of mail that asks for none.
    pub priority: Option<Priority>,
    /// The highest MT-PRIORITY that its mail may ask for.
    pub priority_max: Option<Priority>,
    pub(crate) verifier: Verifier,
    /// Where CRAM-MD5 is allowed.
    pub(crate) cram_md5: Option<CramMd5>,
}

/// What a user may do beside logging in.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// As in [`User`].
    pub operator: bool,
    /// As typed: addresses and `*@domain`.
    pub senders: Vec<String>,
    /// As typed: domains.
    pub atrn: Vec<String>,
    /// As typed: domains.
    pub etrn: Vec<String>,
    /// As typed: `N/h`.
    pub rate: Option<String>,
    /// As typed: a size with its unit.
    pub quota: Option<String>,
    /// As in [`User`].
    pub priority: Option<Priority>,
    /// As in [`User`].
    pub priority_max: Option<Priority>,
    /// Store what CRAM-MD5 needs, which is as good as the password for CRAM-MD5.
    pub cram_md5: bool,
}

/// Limits of a user, as typed; those that are none stay as they are.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// `N/h`, or `off`.
    pub rate: Option<String>,
    /// A size with its unit, or `off`.
    pub quota: Option<String>,
}

impl User {
    /// A user as typed on the command line.
    ///
    /// # Errors
    /// What cannot be stored.
    pub(super) fn new(name: &str, password: &str, attributes: &Attributes) -> Result<User, UsersError> {
        if !is_name(name) {
            return Err(UsersError::Name(name.to_owned()));
        }
        let user = User {
            name: name.to_owned(),
            operator: attributes.operator,
            senders: attributes.senders.iter().map(|text| sender(text)).collect::<Result<_, _>>()?,
            atrn: attributes.atrn.iter().map(|text| domain(text)).collect::<Result<_, _>>()?,
            etrn: attributes.etrn.iter().map(|text| domain(text)).collect::<Result<_, _>>()?,
            rate: attributes.rate.as_deref().map(rate).transpose()?,
            quota: attributes.quota.as_deref().map(quota).transpose()?,
            priority: attributes.priority,
            priority_max: attributes.priority_max,
            verifier: Verifier::of(check_password(password)?).map_err(|_| UsersError::Random)?,
            cram_md5: attributes.cram_md5.then(|| CramMd5::of(password.as_bytes())),
        };
        if let (default, ceiling) = user.priorities()
            && default > ceiling
        {
            return Err(UsersError::Priority(default, ceiling));
        }
        Ok(user)
    }

    /// The same user with another password.
    ///
    /// # Errors
    /// The password cannot be stored.
    pub(super) fn with_password(&self, password: &str) -> Result<User, UsersError> {
        let attributes = Attributes { cram_md5: self.has_cram_md5(), ..Attributes::default() };
        let User { verifier, cram_md5, .. } = User::new(&self.name, password, &attributes)?;
        Ok(User { verifier, cram_md5, ..self.clone() })
    }

    /// The same user with other limits.
    ///
    /// # Errors
    /// A limit cannot be stored.
    pub(super) fn with_limits(&self, limits: &Limits) -> Result<User, UsersError> {
        let mut user = self.clone();
        if let Some(text) = &limits.rate {
            user.rate = unless_off(text, rate)?;
        }
        if let Some(text) = &limits.quota {
            user.quota = unless_off(text, quota)?;
        }
        Ok(user)
    }

    /// May log in with CRAM-MD5.
    pub fn has_cram_md5(&self) -> bool {
        self.cram_md5.is_some()
    }

    /// The priority of mail that asks for none, and the highest that may be asked for. Who was given no ceiling
    /// may step back and not push forward.
    pub(crate) fn priorities(&self) -> (Priority, Priority) {
        let default = self.priority.unwrap_or_default();
        (default, self.priority_max.unwrap_or_else(|| default.max(Priority::NORMAL)))
    }

    /// Its line in the file.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{} {}", self.name, self.verifier);
        if self.operator {
            line.push_str(" operator");
        }
        for (attribute, list) in [("senders", &self.senders), ("atrn", &self.atrn), ("etrn", &self.etrn)] {
            if !list.is_empty() {
                line.push_str(&format!(" {attribute}={}", list.join(",")));
            }
        }
        for (attribute, value) in [("priority", self.priority), ("priority-max", self.priority_max)] {
            line.extend(value.map(|value| format!(" {attribute}={value}")));
        }
        if let Some(rate) = self.rate {
            line.push_str(&format!(" rate={rate}/h"));
        }
        if let Some(quota) = self.quota {
            line.push_str(&format!(" quota={}", size_text(quota.get())));
        }
        if let Some(secret) = &self.cram_md5 {
            line.push_str(&format!(" cram-md5={secret}"));
        }
        line
    }

    /// Reads its line.
    ///
    /// # Errors
    /// What is wrong with the line, for a person.
    pub(super) fn read(line: &str) -> Result<User, String> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name)).ok_or("does not begin with a user's name")?;
        let verifier = words.next().unwrap_or_default().parse()?;
        let mut user = User { name: name.to_owned(), verifier, ..User::default() };
        for word in words {
            match word.split_once('=') {
                None if word == "operator" => user.operator = true,
                Some(("senders", list)) => {
                    user.senders = read_list(list, sender).map_err(|error| error.to_string())?;
                }
                Some(("atrn", list)) => {
                    user.atrn = read_list(list, domain).map_err(|error| error.to_string())?;
                }
                Some(("etrn", list)) => {
                    user.etrn = read_list(list, domain).map_err(|error| error.to_string())?;
                }
                Some(("rate", text)) => user.rate = Some(rate(text).map_err(|error| error.to_string())?),
                Some(("quota", text)) => user.quota = Some(quota(text).map_err(|error| error.to_string())?),
                Some(("cram-md5", text)) => user.cram_md5 = Some(text.parse()?),
                Some(("priority", value)) => user.priority = Some(priority(value)?),
                Some(("priority-max", value)) => user.priority_max = Some(priority(value)?),
                _ => return Err(format!("unknown attribute \"{word}\"")),
            }
        }
        match user.priorities() {
            (default, ceiling) if default > ceiling => {
                Err(format!("priority={default} is above priority-max={ceiling}"))
            }
            _ => Ok(user),
        }
    }
}

fn priority(value: &str) -> Result<Priority, String> {
    Priority::from_word(value).ok_or_else(|| format!("\"{value}\" is not a priority from -9 to 9"))
}

fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with('#')
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

fn check_password(password: &str) -> Result<&[u8], UsersError> {
    let what = match password {
        "" => "is empty",
        _ if password.len() > PASSWORD_BYTES_MAX => "is too long",
        // RFC 4013 §2.3 prohibits them, and no client sends them.
        _ if password.chars().any(char::is_control) => "holds a control character",
        _ => return Ok(password.as_bytes()),
    };
    Err(UsersError::Password(what))
}

fn read_list(list: &str, item: fn(&str) -> Result<String, UsersError>) -> Result<Vec<String>, UsersError> {
    list.split(',').map(item).collect()
}

/// `local@domain` or `*@domain`, with the domain in the form it is compared in.
fn sender(text: &str) -> Result<String, UsersError> {
    let read = || {
        let (local, domain) = text.rsplit_once('@')?;
        let domain = Domain::parse(domain).ok()?;
        // A quoted local part could hold what separates here.
        let fits = !text.contains(|c: char| c == ',' || c.is_whitespace()) && address::parse(text).is_ok();
        fits.then(|| format!("{local}@{domain}"))
    };
    read().ok_or_else(|| UsersError::Sender(text.to_owned()))
}

fn domain(text: &str) -> Result<String, UsersError> {
    match Domain::parse(text) {
        Ok(domain) if domain.ip().is_none() => Ok(domain.to_string()),
        _ => Err(UsersError::Domain(text.to_owned())),
    }
}

/// `N/h`.
fn rate(text: &str) -> Result<NonZeroU32, UsersError> {
    let number = text.strip_suffix("/h").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| UsersError::Rate(text.to_owned()))
}

/// A size with its unit.
fn quota(text: &str) -> Result<NonZeroU64, UsersError> {
    size_of(text).and_then(NonZeroU64::new).ok_or_else(|| UsersError::Quota(text.to_owned()))
}

fn unless_off<T>(text: &str, read: fn(&str) -> Result<T, UsersError>) -> Result<Option<T>, UsersError> {
    if text == "off" { Ok(None) } else { read(text).map(Some) }
}
