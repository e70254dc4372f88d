//! `postrider queue find`: mail by what it is known by outside.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::mail::labels;
use crate::queue::admin::Wanted;

/// Arguments of `postrider queue find`.
#[derive(Debug, Args)]
pub(super) struct FindArgs {
    #[command(flatten)]
    wanted: Known,
    /// At most this many lines
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Known {
    /// The Message-ID of its header, with or without angle brackets
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    message_id: Option<String>,
    /// How its Subject begins; or a pattern, as in '*4711*'. Upper and lower case are the same for a to z only
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    subject: Option<String>,
    /// Its label: X-Postrider-Tag; * stands for anything, as in 'shop/*'
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    tag: Option<String>,
}

impl FindArgs {
    pub(super) fn wanted(&self) -> Wanted {
        match &self.wanted {
            Known { tag: Some(tag), .. } => Wanted::Tag(tag.clone()),
            Known { subject: Some(text), .. } => Wanted::Subject(text.clone()),
            Known { message_id, .. } => {
                let id = message_id.as_deref().unwrap_or_default();
                Wanted::MessageId(labels::message_id(id.as_bytes()).unwrap_or_default())
            }
        }
    }
}

/// What to do where nothing was found.
pub(super) fn nothing(wanted: &Wanted) -> String {
    match wanted {
        Wanted::MessageId(id) => format!(
            "no message <{id}> waits, or was finished within [queue] history: it was refused or never came here (the \
             application has the reply), or it is older (look in the log for message-id=<{id}>)"
        ),
        Wanted::Subject(text) => format!(
            "no subject is like {text:?}: subjects are kept only with [log] subject = true, of mail that came since; \
             letters beyond a to z are found as they are written, and * stands for anything, as in '*{text}*'"
        ),
        Wanted::Tag(tag) => format!(
            "no message is tagged {tag}: the field is X-Postrider-Tag; postrider report --by tag shows which tags there \
             are"
        ),
    }
}
