//! The table of all config keys: one place per key for its name, kind, range, default and doc. It is cut by topic: a
//! key stands in one of the files below, beside the others of its table.
//!
//! What [`load`](super::load) accepts, what the reference prints and what the error messages say
//! all come from here; nothing about a single key is written anywhere else. Checks that need two
//! keys are in `cross.rs`.

mod delivery;
mod destinations;
mod intake;
mod log;
mod own_domain;
mod watching;

pub(super) use super::kind::{Def, Kind, Preset};

/// A table whose keys the operator chooses, so that no [`Def`] names them: local name = list of
/// addresses.
pub(super) const ALIASES: &str = "aliases";
/// What the reference says about it.
pub(super) const ALIASES_DOC: &str = "Local names and where their mail goes, for VRFY, EXPN and cron \
mail: name = list of addresses.";
/// What the reference shows of it.
pub(super) const ALIASES_EXAMPLE: &str = "root = [\"ops@example.com\"]";

/// The tables of the file that may stand several times, written `[[listen]]`.
pub(super) const REPEATED: [&str; 6] = ["listen", "source", "route", "destination", "retry.rule", "dkim"];

/// Every key, in the order of the reference.
pub(super) fn all() -> impl Iterator<Item = &'static Def> {
    [intake::KEYS, delivery::KEYS, destinations::KEYS, own_domain::KEYS, log::KEYS, watching::KEYS]
        .into_iter()
        .flatten()
}

/// The key of that dotted name.
pub(super) fn find(name: &str) -> Option<&'static Def> {
    all().find(|def| def.name == name)
}

/// The tables, in the order of the reference.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = Vec::new();
    for section in all().map(Def::section).filter(|section| !section.is_empty()) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections.push(ALIASES);
    sections
}
