//! The options by which `postrider queue` selects recipients: the same for all its commands.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::config::duration_of;
use crate::queue::MessageId;
use crate::queue::admin::{Filter, HELD_BY, Pattern};

/// The options' ids: what they select excludes `--all` and queue ids.
pub(super) const NAMES: [&str; 11] =
    ["user", "sender", "recipient", "domain", "mx", "lane", "reply", "older", "tag", "held_by", "state"];
/// Of the states `queued` and `held`.
const ALL_WAITING: &str = "waiting";
/// What a recipient that waits, or one that is finished, can be.
pub(super) const STATES: [&str; 8] =
    ["queued", "held", "delivered", "relayed", "failed", "expired", "removed", "finished"];

/// One of these. Also by the words that reports and metrics have (`bounced`), and by what is all that waits, which no
/// state at all selects.
pub(super) fn state(states: &'static [&'static str]) -> impl TypedValueParser<Value = String> {
    let possible = states.iter().map(|name| match *name {
        "failed" => PossibleValue::new("failed").alias("bounced"),
        "queued" => PossibleValue::new("queued"),
        name => PossibleValue::new(name),
    });
    let all = PossibleValue::new(ALL_WAITING).aliases(["queued,held", "held,queued"]);
    PossibleValuesParser::new(possible.chain([all.hide(true)])).map(|name| match name.as_str() {
        "bounced" => "failed".to_owned(),
        "queued,held" | "held,queued" => ALL_WAITING.to_owned(),
        _ => name,
    })
}

/// Several together select what has all of it.
#[derive(Debug, Args)]
#[group(skip)]
#[command(
    next_help_heading = "Filters (* stands for anything; case matters in users and tags; several select what has all of it)"
)]
pub(super) struct Filters {
    /// Only mail that this user submitted ('' for what nobody did: from trusted networks, and bounces)
    #[arg(long, value_parser = Pattern::parse)]
    user: Option<Pattern>,
    /// Only mail of this envelope sender ('' for bounces)
    #[arg(long, value_name = "ADDRESS", value_parser = sender)]
    sender: Option<Pattern>,
    /// Only this recipient
    #[arg(long, value_name = "ADDRESS", value_parser = Pattern::parse)]
    recipient: Option<Pattern>,
    /// Only recipients of this domain ('*.example.com' for all below it)
    #[arg(long, value_parser = Pattern::domain)]
    domain: Option<Pattern>,
    /// Only what this host was asked to take last ('' for what was not tried yet)
    #[arg(long, value_name = "HOST", value_parser = Pattern::parse)]
    mx: Option<Pattern>,
    /// Only what waits in this lane: a domain, 'route:' and a route's domain, or 'atrn:' and a domain
    #[arg(long, value_parser = Pattern::parse)]
    lane: Option<Pattern>,
    /// Only where the last reply has this text in it
    #[arg(long, value_name = "TEXT", value_parser = Pattern::within)]
    reply: Option<Pattern>,
    /// Only mail that came so long ago or earlier, such as 30m, 2h or 3d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    older: Option<i64>,
    /// Only mail with this tag ('' for mail without one)
    #[arg(long, value_parser = Pattern::parse)]
    tag: Option<Pattern>,
    /// Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a
    /// fault of its own
    #[arg(long, value_name = "WHAT", value_parser = HELD_BY)]
    held_by: Option<String>,
}

impl Filters {
    pub(super) fn filter(&self, ids: &[MessageId], state: Option<String>) -> Filter {
        let Filters { user, sender, recipient, domain, mx, lane, reply, older, tag, held_by } = self;
        Filter {
            messages: ids.to_vec(),
            user: user.clone(),
            sender: sender.clone(),
            recipient: recipient.clone(),
            domain: domain.clone(),
            mx: mx.clone(),
            lane: lane.clone(),
            reply: reply.clone(),
            older_secs: *older,
            tag: tag.clone(),
            state: state.filter(|state| state != ALL_WAITING),
            held_by: held_by.clone(),
        }
    }
}

/// Also in angle brackets, as a list shows it.
fn sender(text: &str) -> Result<Pattern, String> {
    let bare = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    Pattern::parse(bare.unwrap_or(text))
}

fn seconds(text: &str) -> Result<i64, String> {
    duration_of(text).map(|duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}
