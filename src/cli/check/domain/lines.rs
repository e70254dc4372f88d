//! Where the lines of a finding must stand. Beside a CNAME there can be no other record (RFC 1034 §3.6.2): lines for an
//! alias are for the name that it leads to, which may be a provider's. What a wildcard gives stands nowhere under the
//! name that was asked for, so it cannot be removed there; a record of the name itself takes its place (RFC 4592 §2.1).

use std::collections::BTreeSet;

use super::super::Finding;
use super::super::finding::txt_line;
use super::lookups::InTime;
use crate::delivery::route::lookup::Lookup as _;

/// The name that a line is for.
fn owner(line: &str) -> Option<&str> {
    line.split_once(". IN ").map(|(owner, _)| owner)
}

/// How a name stands in DNS.
pub(super) enum Standing {
    /// It is no alias. These lines are what a wildcard would give it.
    Own(Vec<String>),
    /// It is an alias by a wildcard: what is added takes the place of that.
    WildAlias,
    /// It is an alias, and this is where it leads to.
    Alias(String),
}

impl Standing {
    /// Where nothing can be asked any more a name counts as its own.
    pub(super) fn of(names: &InTime<'_>, name: &str) -> Standing {
        // Nobody has a record at this name: what is found there is of a wildcard.
        let beside = name.split_once('.').filter(|(_, parent)| parent.contains('.'));
        let beside = beside.map(|(_, parent)| format!("_postrider-check.{parent}"));
        let Ok(target) = names.alias(name) else {
            let texts = beside.and_then(|beside| names.txt(&beside).ok()).unwrap_or_default();
            return Standing::Own(texts.iter().map(|text| txt_line(name, text)).collect());
        };
        match beside.and_then(|beside| names.alias(&beside).ok()) {
            Some(wild) if wild == target => Standing::WildAlias,
            _ => Standing::Alias(target),
        }
    }

    /// The finding with its lines for this name where they must stand.
    pub(super) fn place(&self, name: &str, finding: &mut Finding) {
        if !finding.remove.iter().chain(&finding.add).any(|line| owner(line) == Some(name)) {
            return;
        }
        match self {
            Standing::Own(wild) => take_place(finding, name, |line| wild.iter().any(|one| one == line)),
            Standing::WildAlias => take_place(finding, name, |_| true),
            Standing::Alias(target) => lead_to(finding, name, target),
        }
    }
}

/// Each finding with its lines where they must stand.
pub(super) fn placed(names: &InTime<'_>, mut findings: Vec<Finding>) -> Vec<Finding> {
    for finding in &mut findings {
        let lines = finding.remove.iter().chain(&finding.add);
        let owners: BTreeSet<String> = lines.filter_map(|line| owner(line)).map(str::to_owned).collect();
        for name in owners {
            Standing::of(names, &name).place(&name, finding);
        }
    }
    findings
}

/// Lines of a wildcard are none to remove.
fn take_place(finding: &mut Finding, name: &str, is_wild: impl Fn(&str) -> bool) {
    let before = finding.remove.len();
    finding.remove.retain(|line| owner(line) != Some(name) || !is_wild(line));
    if finding.remove.len() < before {
        finding.text += &format!(
            "; what is found at {name} is of a wildcard (*), and what is added takes its place there"
        );
    }
}

fn lead_to(finding: &mut Finding, name: &str, target: &str) {
    for line in finding.remove.iter_mut().chain(&mut finding.add) {
        if owner(line) == Some(name) {
            *line = format!("{target}{}", &line[name.len()..]);
        }
    }
    finding.text += &format!(
        "; {name} is an alias (CNAME) of {target}, and nothing can stand beside a CNAME: the lines are for {target}; where \
         that is a provider's, have it done there, or put the record in the place of the CNAME"
    );
}
