//! Refusals by policy: a host has our address on a block list, or takes nothing from where ours comes from.
//!
//! One recipient refused so is that recipient's line, a warning. Several senders or many recipients are the operator's
//! business: one ERROR line an hour, with a remedy, for the hosts of one organization, what they say and our address.
//! From there on the recipients' own lines are of level INFO: all of them stand in the log.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kit::bounded::TtlMap;
use crate::mail::{Attempt, Enhanced, Outcome, ReplySource};

/// Kinds of refusals that are counted at once; another one takes the place of the one that was quiet longest.
const KINDS_MAX: usize = 256;
/// More senders than these, or more recipients, are told of.
const SENDERS_MAX: usize = 3;
const RECIPIENTS_MAX: u64 = 20;
/// So long they are counted, and then the same is told again.
const TOLD_FOR: Duration = Duration::from_secs(60 * 60);

/// The hosts, the codes and our address. The codes stand for the words, which hosts like to make different each time.
type Kind = (String, u16, Option<Enhanced>, Option<IpAddr>);

/// What was refused lately.
pub(super) struct PolicyRefusals(Mutex<TtlMap<Kind, Counted, Instant>>);

struct Counted {
    began: Instant,
    /// One more than are told of, at most.
    senders: HashSet<String>,
    recipients: u64,
}

/// What a refusal is one of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// It was refused by policy.
    pub(super) is_by_policy: bool,
    /// The operator was told of it.
    pub(super) is_told: bool,
    /// So many senders and recipients are to be told of, now.
    pub(super) alert: Option<(usize, u64)>,
}

impl PolicyRefusals {
    pub(super) fn new() -> PolicyRefusals {
        PolicyRefusals(Mutex::new(TtlMap::new(KINDS_MAX, TOLD_FOR)))
    }

    /// Counts an attempt of this sender's mail, where it was refused by policy.
    pub(super) fn judge(&self, sender: &str, attempt: &Attempt, now: Instant) -> Judged {
        let Some(host) = attempt.mx.as_deref().filter(|_| is_by_policy(attempt)) else {
            return Judged::default();
        };
        let Attempt { reply, source, .. } = attempt;
        let kind = (hosts_of(host).to_owned(), reply.code, reply.enhanced, *source);
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = kinds.renew(kind, now, || Counted::new(now));
        if now.saturating_duration_since(counted.began) >= TOLD_FOR {
            *counted = Counted::new(now);
        }
        let was_told = counted.is_many();
        counted.recipients += 1;
        if counted.senders.len() <= SENDERS_MAX && !counted.senders.contains(sender) {
            counted.senders.insert(sender.to_owned());
        }
        let is_told = counted.is_many();
        let alert = (is_told && !was_told).then_some((counted.senders.len(), counted.recipients));
        Judged { is_by_policy: true, is_told, alert }
    }
}

impl Counted {
    fn new(began: Instant) -> Counted {
        Counted { began, senders: HashSet::new(), recipients: 0 }
    }

    fn is_many(&self) -> bool {
        self.senders.len() > SENDERS_MAX || self.recipients > RECIPIENTS_MAX
    }
}

/// What the hosts of an organization have in common: their names without the first label, where two are left.
fn hosts_of(host: &str) -> &str {
    host.split_once('.').map(|(_, rest)| rest).filter(|rest| rest.contains('.')).unwrap_or(host)
}

/// Words by which hosts say that they go by a list or a reputation.
const LISTED: [&str; 14] = [
    "blocked using",
    "block list",
    "blocklist",
    "blacklist",
    "black list",
    "dnsbl",
    "spamhaus",
    "spamcop",
    "barracudacentral",
    "sorbs.net",
    "is listed",
    "poor reputation",
    "bad reputation",
    "low reputation",
];

/// Whether a host refused what we send, rather than this recipient.
fn is_by_policy(attempt: &Attempt) -> bool {
    let reply = &attempt.reply;
    if reply.reply_source != ReplySource::Remote
        || !matches!(attempt.outcome, Outcome::Failed | Outcome::Deferred | Outcome::Expired)
    {
        return false;
    }
    // RFC 3463 §3.8: not authorized. RFC 7372: DKIM, SPF, reverse DNS. Above 500 Microsoft's own: banned addresses.
    let is_permanent = reply.code >= 500
        && matches!(reply.enhanced, Some(Enhanced(5, 7, detail)) if matches!(detail, 1 | 20..=27 | 500..));
    is_permanent || {
        let text = reply.text.to_ascii_lowercase();
        LISTED.iter().any(|words| text.contains(words))
    }
}

/// What to do about it; `domain` is that of the sender.
pub(super) fn remedy(attempt: &Attempt, domain: Option<&str>) -> String {
    let text = attempt.reply.text.replace('\n', " ");
    let is_end = |c: char| matches!(c, '.' | ',' | ';' | ':' | ')' | '>' | ']' | '"' | '\'');
    let word_at = |at: usize| text[at..].split_whitespace().next().map(|word| word.trim_end_matches(is_end));
    const USING: &str = "blocked using ";
    let list = text.to_ascii_lowercase().find(USING).and_then(|at| word_at(at + USING.len()));
    let list = list.filter(|list| list.contains('.'));
    let page = text.find("https://").or_else(|| text.find("http://")).and_then(word_at);
    let listed = match (list, page) {
        (Some(list), Some(page)) => format!("have our address taken off the list {list} ({page}), "),
        (Some(list), None) => format!("have our address taken off the list {list}, "),
        (None, Some(page)) => format!("see {page}, "),
        (None, None) => String::new(),
    };
    let domain = domain.unwrap_or("DOMAIN");
    let state = if attempt.outcome == Outcome::Deferred { "" } else { "--state failed " };
    let host = attempt.mx.as_deref().unwrap_or("HOST");
    format!(
        "{listed}look for what brought it there, and see to reverse DNS, SPF, DKIM and DMARC (postrider check --domain \
         {domain}); whose mail it is: postrider queue list {state}--mx {host}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Phase, Reply, TlsPolicy};

    const BLOCKED: &str = "Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org;\nhttps://check.spamhaus.org/192.0.2.1.";
    const AUTHORIZED: Option<Enhanced> = Some(Enhanced(5, 7, 1));

    fn refused(mx: &str, code: u16, enhanced: Option<Enhanced>, text: &'static str) -> Attempt {
        Attempt {
            at: 0,
            duration_ms: 1,
            mx: Some(mx.to_owned()),
            ip: None,
            tls: None,
            tls_policy: TlsPolicy::None,
            dkim: None,
            source: Some([192, 0, 2, 1].into()),
            phase: Phase::Rcpt,
            reply: Reply { enhanced, ..Reply::bare(code, text) }.from_remote(),
            outcome: if code >= 500 { Outcome::Failed } else { Outcome::Deferred },
        }
    }

    #[test]
    fn what_is_about_us_is_told_from_what_is_about_a_recipient() {
        for (code, enhanced, text, expected) in [
            (550, AUTHORIZED, "not authorized", true),
            (550, Some(Enhanced(5, 7, 25)), "no reverse DNS", true),
            (550, Some(Enhanced(5, 7, 606)), "Access denied, banned sending IP", true),
            (554, None, BLOCKED, true),
            (450, Some(Enhanced(4, 7, 1)), BLOCKED, true),
            (421, None, "Your address is listed", true),
            (450, Some(Enhanced(4, 7, 1)), "greylisted, come back later", false),
            (550, Some(Enhanced(5, 1, 1)), "no such user", false),
            (550, Some(Enhanced(5, 7, 8)), "log in", false),
            (552, Some(Enhanced(5, 2, 2)), "mailbox full", false),
        ] {
            assert_eq!(is_by_policy(&refused("mx.test", code, enhanced, text)), expected, "{code} {text}");
        }
        let mut own = refused("mx.test", 550, AUTHORIZED, "our own words");
        own.reply.reply_source = ReplySource::Local;
        assert!(!is_by_policy(&own));
        let taken = Attempt { outcome: Outcome::Delivered, ..refused("mx.test", 250, None, BLOCKED) };
        assert!(!is_by_policy(&taken));
    }

    #[test]
    fn the_remedy_names_list_page_and_commands() {
        for (code, text, domain, begin, end) in [
            (
                554,
                BLOCKED,
                Some("app.test"),
                "have our address taken off the list zen.spamhaus.org (https://check.spamhaus.org/192.0.2.1), look",
                "check --domain app.test); whose mail it is: postrider queue list --state failed --mx mx.test",
            ),
            (
                450,
                "Blocked using bl.test",
                None,
                "have our address taken off the list bl.test, look",
                "queue list --mx mx.test",
            ),
            (550, "see http://help.test/x)", None, "see http://help.test/x, look", "failed --mx mx.test"),
            (550, "Stra\u{df}e blocked using \u{e9}", None, "look for", "failed --mx mx.test"),
            (
                550,
                "not authorized",
                None,
                "look for",
                "check --domain DOMAIN); whose mail it is: postrider queue list --state failed --mx mx.test",
            ),
        ] {
            let remedy = remedy(&refused("mx.test", code, None, text), domain);
            assert!(remedy.starts_with(begin) && remedy.ends_with(end), "{remedy}");
        }
    }

    #[test]
    fn many_recipients_are_one_alert_an_hour() {
        let (refusals, begin) = (PolicyRefusals::new(), Instant::now());
        let judge = |mx: &str, secs| {
            let attempt = refused(mx, 550, AUTHORIZED, "no");
            refusals.judge("a@a.test", &attempt, begin + Duration::from_secs(secs))
        };
        // The hosts of an organization are one.
        let judged: Vec<Judged> = (0..2500).map(|at| judge(&format!("mx{}.a.test", at % 3), 1)).collect();
        assert_eq!(judged.iter().filter(|judged| !judged.is_told).count(), 20);
        let alerts: Vec<_> = judged.iter().filter_map(|judged| judged.alert).collect();
        assert_eq!(alerts, [(1, 21)]);
        let first = Judged { is_by_policy: true, ..Judged::default() };
        assert_eq!(judge("mx.b.test", 2), first, "another organization");
        assert_eq!(judge("mx1.a.test", 3599), Judged { is_by_policy: true, is_told: true, alert: None });
        let later: Vec<_> = (0..30).filter_map(|_| judge("mx1.a.test", 3700).alert).collect();
        assert_eq!(later, [(1, 21)], "an hour later it is told again");
    }

    #[test]
    fn more_than_a_few_senders_are_an_alert_for_each_address_of_ours() {
        let refusals = PolicyRefusals::new();
        let listed = |source: [u8; 4]| Attempt {
            source: Some(source.into()),
            ..refused("mx.test", 554, None, BLOCKED)
        };
        for source in [[192, 0, 2, 1], [192, 0, 2, 2]] {
            let judge = |sender: &str| refusals.judge(sender, &listed(source), Instant::now()).alert;
            let senders = ["a", "b", "a", "c", "b", "d", "e"].map(judge);
            assert_eq!(senders, [None, None, None, None, None, Some((4, 6)), None]);
        }
    }

    #[test]
    fn no_more_kinds_are_counted_than_may_be() {
        let refusals = PolicyRefusals::new();
        for number in 0..10 * KINDS_MAX {
            let attempt = refused(&format!("mx.a{number}.test"), 554, None, BLOCKED);
            for sender in 0..10 {
                refusals.judge(&sender.to_string(), &attempt, Instant::now());
            }
        }
        let mut kinds = refusals.0.lock().unwrap();
        assert!(kinds.count(Instant::now()) <= KINDS_MAX);
        assert!(kinds.iter_mut(Instant::now()).all(|(_, counted)| counted.senders.len() <= SENDERS_MAX + 1));
    }
}
