//! The TXT record of `_mta-sts` (RFC 8461 §3.1): that there is a policy, and when it changed. Pure.

/// Characters of an `id`.
const ID_MAX: usize = 32;
/// What each record begins with that counts.
const VERSION: &str = "v=STSv1";

/// Where the record of a domain is.
pub fn name_of(domain: &str) -> String {
    format!("_mta-sts.{domain}")
}

/// Why text records say nothing of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// None of them is an MTA-STS record.
    #[error("no TXT record begins with v=STSv1;")]
    None,
    /// Nobody could say which counts.
    #[error("several TXT records begin with v=STSv1;")]
    Several,
    /// Without an id nobody could say whether the policy changed.
    #[error("the TXT record has no id of 1 to 32 letters and digits")]
    NoId,
    /// What is between two semicolons is no `name=value`.
    #[error("the TXT record has a field that is not name=value")]
    BadField,
}

/// The `id` in these TXT records.
///
/// # Errors
/// RFC 8461 §3.1: where not exactly one counts, or it cannot be read, the domain has no policy to be found. One that
/// is known goes on.
pub fn id(texts: &[String]) -> Result<String, RecordError> {
    let mut fields = texts.iter().filter_map(|text| fields_of(text));
    let one = fields.next().ok_or(RecordError::None)?;
    if fields.next().is_some() {
        return Err(RecordError::Several);
    }
    let mut found = None;
    // The last delimiter may have nothing behind it.
    let one = one.trim_end_matches(blank);
    for field in one.strip_suffix(';').unwrap_or(one).split(';') {
        let (name, value) = field.trim_matches(blank).split_once('=').ok_or(RecordError::BadField)?;
        let is_value = |byte: u8| (b'!'..=b'~').contains(&byte) && byte != b'=';
        if name.is_empty() || value.is_empty() || !value.bytes().all(is_value) {
            return Err(if name == "id" { RecordError::NoId } else { RecordError::BadField });
        }
        if name == "id" && found.is_none() {
            found = Some(value);
        }
    }
    let is_id = |id: &&str| id.len() <= ID_MAX && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    found.filter(is_id).map(str::to_owned).ok_or(RecordError::NoId)
}

/// What is behind the version, where it is the one we know. Other versions, and other text at the name, do not count.
fn fields_of(text: &str) -> Option<&str> {
    text.strip_prefix(VERSION)?.trim_start_matches(blank).strip_prefix(';')
}

fn blank(one: char) -> bool {
    matches!(one, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_with_an_id_counts_and_nothing_else() {
        use RecordError::{BadField, NoId, None, Several};
        let long = format!("v=STSv1; id={};", "a".repeat(33));
        let many = format!("v=STSv1; id=1; {}", "x=y; ".repeat(800));
        for (texts, found) in [
            (&["v=STSv1; id=20160831085700Z;"][..], Ok("20160831085700Z")),
            (&["v=STSv1;id=1"], Ok("1")),
            (&["v=STSv1 ; \tid=1 ; more=a:b ; "], Ok("1")),
            (&["v=STSv1; more=1; id=2; id=3;"], Ok("2")),
            (&[many.as_str()], Ok("1")),
            (&["v=spf1 -all", "v=STSv1; id=1", "v=STSv2; id=2", "v=STSv1"], Ok("1")),
            (&[], Err(None)),
            (&["v=STSv1"], Err(None)),
            (&["v=stsv1; id=1"], Err(None)),
            (&[" v=STSv1; id=1"], Err(None)),
            (&["v=STSv1x; id=1"], Err(None)),
            (&["v=STSv1; id=1", "v=STSv1; id=1"], Err(Several)),
            (&["v=STSv1; id=1", "v=STSv1; nonsense"], Err(Several)),
            (&["v=STSv1;"], Err(BadField)),
            (&["v=STSv1; id"], Err(BadField)),
            (&["v=STSv1; id=1;; more=1"], Err(BadField)),
            (&["v=STSv1; id=1; more=a b"], Err(BadField)),
            (&["v=STSv1; id=1\r\nmore=1"], Err(NoId)),
            (&["v=STSv1; id="], Err(NoId)),
            (&["v=STSv1; id=1-2"], Err(NoId)),
            (&["v=STSv1; id=\u{fffd}"], Err(NoId)),
            (&["v=STSv1; more=1"], Err(NoId)),
            (&[long.as_str()], Err(NoId)),
        ] {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(id(&texts), found.map(str::to_owned), "{texts:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        /// Whatever DNS says: what is found is an id, and the record that has it alone says the same.
        #[test]
        fn what_is_found_reads_back(
            texts in proptest::collection::vec(
                "(v=STSv1|v=STSv2|)[ \t]{0,2}(;| |)([ -~\t\r\n\u{fc}]{0,6}|(id|more)=[a-z0-9-]{0,40})(;[ -~]{0,6}|)", 0..4),
        ) {
            if let Ok(found) = id(&texts) {
                proptest::prop_assert!((1..=ID_MAX).contains(&found.len()), "{found}");
                proptest::prop_assert_eq!(texts.iter().filter(|text| fields_of(text).is_some()).count(), 1);
                proptest::prop_assert_eq!(id(&[format!("v=STSv1; id={found};")]), Ok(found));
            }
        }
    }
}
