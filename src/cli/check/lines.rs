//! Where the lines of a finding must stand. Beside a CNAME there can be no other record (RFC 1034 §3.6.2): lines for an
//! alias are for the name that it leads to, which may be a provider's. What a wildcard gives stands nowhere under the
//! name that was asked for, so it cannot be removed there; a record of the name itself takes its place (RFC 4592 §2.1).

use std::collections::BTreeSet;

use super::Finding;
use super::finding::{mx_line, txt_line};
use crate::delivery::route::lookup::Lookup;

/// The name that a line is for.
fn owner(line: &str) -> Option<&str> {
    line.split_once(". IN ").map(|(owner, _)| owner)
}

fn is_mx(line: &str) -> bool {
    line.split_once(". IN ").is_some_and(|(_, rest)| rest.starts_with("MX "))
}

/// How a name stands in DNS.
pub(in crate::cli) enum Standing {
    /// It is no alias. These lines are what a wildcard would give it.
    Own(Vec<String>),
    /// It is an alias by a wildcard: what is added takes the place of that.
    WildAlias,
    /// It is an alias, and this is where it leads to.
    Alias(String),
}

impl Standing {
    /// Where nothing can be asked any more a name counts as its own.
    pub(in crate::cli) fn of(names: &dyn Lookup, name: &str) -> Standing {
        Standing::among(names, name, false)
    }

    /// The same, MX records of a wildcard too where `with_mx`.
    fn among(names: &dyn Lookup, name: &str, with_mx: bool) -> Standing {
        // Nobody has a record at this name: what is found there is of a wildcard.
        let beside = name.split_once('.').filter(|(_, parent)| parent.contains('.'));
        let beside = beside.map(|(_, parent)| format!("_postrider-check.{parent}"));
        let Ok(target) = names.alias(name) else {
            let of_mx = |beside: &String| names.mx(beside).map(|records| records.hosts).unwrap_or_default();
            let hosts = beside.as_ref().filter(|_| with_mx).map(of_mx).unwrap_or_default();
            let texts = beside.and_then(|beside| names.txt(&beside).ok()).unwrap_or_default();
            let texts = texts.iter().map(|text| txt_line(name, text));
            let wild = texts.chain(hosts.iter().map(|(preference, host)| mx_line(name, *preference, host)));
            return Standing::Own(wild.collect());
        };
        match beside.and_then(|beside| names.alias(&beside).ok()) {
            Some(wild) if wild == target => Standing::WildAlias,
            _ => Standing::Alias(target),
        }
    }

    /// The finding with its lines for this name where they must stand.
    pub(in crate::cli) fn place(&self, name: &str, finding: &mut Finding) {
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
pub(in crate::cli) fn placed(names: &dyn Lookup, mut findings: Vec<Finding>) -> Vec<Finding> {
    for finding in &mut findings {
        let with_mx = finding.remove.iter().any(|line| is_mx(line));
        let lines = finding.remove.iter().chain(&finding.add);
        let owners: BTreeSet<String> = lines.filter_map(|line| owner(line)).map(str::to_owned).collect();
        for name in owners {
            Standing::among(names, &name, with_mx).place(&name, finding);
        }
    }
    findings
}

/// Lines of a wildcard are none to remove.
fn take_place(finding: &mut Finding, name: &str, is_wild: impl Fn(&str) -> bool) {
    let before = finding.remove.len();
    finding.remove.retain(|line| owner(line) != Some(name) || !is_wild(line));
    if finding.remove.len() == before {
        return;
    }
    finding.text += &match finding.add.iter().any(|line| owner(line) == Some(name)) {
        true => format!(
            "; what is found at {name} is of a wildcard (*), and what is added takes its place there, for all types of \
             records"
        ),
        false => format!("; what is found at {name} is of a wildcard (*): it has to be changed there"),
    };
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
