//! Local names (`[aliases]`): expanding them and answering VRFY about them. Pure.
//!
//! A name is local where it has no domain or the domain is our own; a name at our own domain
//! that is no alias is an address like any other and goes where its MX records say.

use std::collections::{BTreeMap, HashSet};

use crate::mail::{Address, Domain};

/// The local names of one host.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct Aliases<'a> {
    /// Name (lower case) to where it leads.
    pub(in crate::submission) names: &'a BTreeMap<String, Vec<Address>>,
    /// The domain that is ours.
    pub(in crate::submission) hostname: &'a Domain,
}

impl<'a> Aliases<'a> {
    /// Where the alias `name` leads in the end, in order and each address once; empty where its
    /// aliases only lead to one another. None where it is no alias. Bounded by what `[aliases]` holds.
    pub(in crate::submission) fn expand(&self, name: &str) -> Option<Vec<Address>> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut visited = HashSet::from([name.to_lowercase()]);
        let mut waiting: Vec<&Address> = self.members(name)?.iter().rev().collect();
        while let Some(address) = waiting.pop() {
            match self.alias_of(address) {
                Some(name) if visited.contains(&name) => {}
                Some(name) => {
                    waiting.extend(self.members(&name).into_iter().flatten().rev());
                    visited.insert(name);
                }
                None if seen.insert((address.user(), address.domain().to_ascii_lowercase())) => {
                    found.push(address.clone())
                }
                None => {}
            }
        }
        Some(found)
    }

    /// Where an alias leads by one step.
    pub(in crate::submission) fn members(&self, name: &str) -> Option<&'a [Address]> {
        self.names.get(&name.to_lowercase()).map(Vec::as_slice)
    }

    /// The name of the alias that `address` is at our own domain.
    pub(in crate::submission) fn alias_of(&self, address: &Address) -> Option<String> {
        let name = address.user().to_lowercase();
        (self.names.contains_key(&name) && Domain::of(address) == *self.hostname).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    fn expand(aliases: &[(&str, &[&str])], name: &str) -> Option<Vec<String>> {
        let read = |text: &&str| address::parse(text).unwrap();
        let names =
            aliases.iter().map(|(name, to)| ((*name).to_owned(), to.iter().map(read).collect())).collect();
        let hostname = Domain::parse("relay.example").unwrap();
        let found = Aliases { names: &names, hostname: &hostname }.expand(name)?;
        Some(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn aliases_lead_on_and_name_each_address_once() {
        let aliases: &[(&str, &[&str])] = &[
            ("root", &["ops@relay.example", "boss@example.com"]),
            ("ops", &["a@example.com", "Root@RELAY.example", "boss@example.com", "b@example.com"]),
        ];
        let expected = ["a@example.com", "boss@example.com", "b@example.com"].map(str::to_owned).to_vec();
        assert_eq!(expand(aliases, "ROOT"), Some(expected));
        assert_eq!(expand(aliases, "nobody"), None);
    }

    #[test]
    fn a_loop_leads_nowhere_and_ends() {
        let aliases: &[(&str, &[&str])] = &[("a", &["b@relay.example"]), ("b", &["a@relay.example"])];
        assert_eq!(expand(aliases, "a"), Some(vec![]));
    }

    #[test]
    fn our_own_address_that_is_no_alias_is_kept() {
        let aliases: &[(&str, &[&str])] = &[("a", &["someone@relay.example"])];
        assert_eq!(expand(aliases, "a"), Some(vec!["someone@relay.example".to_owned()]));
    }
}
