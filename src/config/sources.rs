//! `[[source]]`: local addresses that have a name in EHLO, or users, of their own.
//!
//! Only mail of its users leaves from an address that has some, so no list of `source_addresses` may hold it; one
//! without users is of use only where such a list, or the system, can choose it.

use std::net::IpAddr;

use super::reading::{Reading, Section};
use super::settings::Source;
use super::value;

/// A `source_addresses`, and the table that it stands in.
pub(super) type List<'t> = (Section<'t>, Vec<IpAddr>);

/// All `[[source]]`. `lists` are those of `[delivery]`, which comes first, and of every `[[route]]`.
pub(super) fn read<'t>(reading: &mut Reading<'t>, root: &Section<'t>, lists: &[List<'t>]) -> Vec<Source> {
    let sections = reading.sections(root, "source").unwrap_or_default();
    let mut sources: Vec<(Section<'t>, Source)> = Vec::new();
    for section in sections {
        let Some(source) = source(reading, &section) else { continue };
        if let Some((earlier, _)) = sources.iter().find(|(_, other)| other.address == source.address) {
            let place = reading.place_of(earlier, "address");
            let text = format!("{} has a [[source]] already ({place}); put both into one", source.address);
            reading.problem(&section, "address", text);
        }
        check(reading, &section, &source, lists);
        sources.push((section, source));
    }
    let is_ours_alone = |(_, source): &&(Section<'t>, Source)| !source.users.is_empty();
    let anywhere = lists
        .first()
        .is_some_and(|(delivery, list)| list.is_empty() && !reading.is_bad(delivery, "source_addresses"));
    if anywhere && let Some((section, source)) = sources.iter().find(is_ours_alone) {
        let text = format!(
            "without source_addresses in [delivery] the system may choose {} for other mail too; list there what \
             other mail leaves from",
            source.address
        );
        reading.warning(section, "users", text);
    }
    sources.into_iter().map(|(_, source)| source).collect()
}

/// One `[[source]]`; none where it does not say which address, or says so badly.
fn source<'t>(reading: &mut Reading<'t>, section: &Section<'t>) -> Option<Source> {
    let address = reading.given(section, "address", value::address);
    let hostname = reading.given(section, "hostname", value::host);
    let users = reading.given(section, "users", value::list(value::plain)).unwrap_or_default();
    if !section.gives("address") {
        let text = "is missing; say which address of this machine this is about, such as \"192.0.2.10\"";
        reading.problem(section, "address", text.to_owned());
    } else if !section.gives("hostname") && !section.gives("users") {
        let text = "is missing, and users too; give one of them, or both";
        reading.problem(section, "hostname", text.to_owned());
    }
    Some(Source { address: address?, hostname, users })
}

fn check<'t>(reading: &mut Reading<'t>, section: &Section<'t>, source: &Source, lists: &[List<'t>]) {
    let address = source.address;
    let listed = lists.iter().find(|(_, list)| list.contains(&address));
    match listed {
        Some((list, _)) if !source.users.is_empty() => {
            let place = reading.place_of(list, "source_addresses");
            let text = format!(
                "only their mail leaves from {address}, but source_addresses on {place} has it for other mail; \
                 remove it there, or the users here"
            );
            reading.problem(section, "users", text);
        }
        None if section.gives("hostname")
            && !section.gives("users")
            && lists.first().is_some_and(|(_, list)| !list.is_empty()) =>
        {
            let text = format!(
                "nothing leaves from {address}, since no source_addresses has it; list it there, or name users here"
            );
            reading.problem(section, "address", text);
        }
        _ => {}
    }
}
