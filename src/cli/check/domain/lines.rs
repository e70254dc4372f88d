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

/// Each finding with its lines where they must stand.
pub(super) fn placed(names: &InTime<'_>, findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().map(|finding| of(names, finding)).collect()
}

fn of(names: &InTime<'_>, mut finding: Finding) -> Finding {
    let lines = finding.remove.iter().chain(&finding.add);
    let owners: BTreeSet<String> = lines.filter_map(|line| owner(line)).map(str::to_owned).collect();
    for name in owners {
        // Nobody has a record at this name: what is found there is of a wildcard.
        let beside = name.split_once('.').filter(|(_, parent)| parent.contains('.'));
        let beside = beside.map(|(_, parent)| format!("_postrider-check.{parent}"));
        let target = names.alias(&name).ok();
        let wild_target = beside.as_deref().filter(|_| target.is_some()).and_then(|it| names.alias(it).ok());
        match target {
            Some(target) if wild_target.as_ref() == Some(&target) => {
                take_place(&mut finding, &name, |_| true);
            }
            Some(target) => lead_to(&mut finding, &name, &target),
            None if finding.remove.iter().any(|line| line.contains(" IN TXT ")) => {
                let wild = beside.and_then(|it| names.txt(&it).ok()).unwrap_or_default();
                let wild: Vec<String> = wild.iter().map(|text| txt_line(&name, text)).collect();
                take_place(&mut finding, &name, |line| wild.iter().any(|one| one == line));
            }
            None => {}
        }
    }
    finding
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
