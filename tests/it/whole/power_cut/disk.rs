//! A disk that forgets what was not synced, wholly or in part.
//!
//! What POSIX promises and no more: the content of a file lasts from its fsync on, a name from the fsync of its folder
//! on. Of what came later each write may have reached the disk or not, in any order, and each sector of it for itself.

use std::collections::BTreeMap;
use std::path::Path;

use super::record::Event;

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Default)]
struct File {
    /// As of the last sync.
    synced: Vec<u8>,
    /// What was done since.
    since: Vec<Change>,
}

enum Change {
    Write { at: usize, data: Vec<u8> },
    Truncate(usize),
}

/// A change to the names in the folder.
enum Renaming {
    Made { name: String, file: usize },
    Gone(String),
}

/// The queue's folder.
#[derive(Default)]
pub(super) struct Disk {
    files: Vec<File>,
    /// The names as every program sees them; and as of the last sync of the folder, with what was done since.
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    since: Vec<Renaming>,
}

/// What lasts of the changes that were not synced.
#[derive(Clone, Copy)]
enum Lasting {
    Nothing,
    Everything,
    /// Up to some moment.
    UpTo(usize),
    /// Each by chance.
    Some,
    /// Each sector by chance.
    Torn,
}

impl Disk {
    pub(super) fn happens(&mut self, event: &Event) {
        match event {
            Event::Created(name) => {
                if !self.names.contains_key(name) {
                    self.files.push(File::default());
                    let file = self.files.len() - 1;
                    self.names.insert(name.clone(), file);
                    self.since.push(Renaming::Made { name: name.clone(), file });
                }
            }
            Event::Write { name, at, data } => {
                self.file(name).since.push(Change::Write { at: *at, data: data.clone() });
            }
            Event::Truncate { name, length } => self.file(name).since.push(Change::Truncate(*length)),
            Event::Sync(name) => {
                let file = self.file(name);
                for change in std::mem::take(&mut file.since) {
                    change.apply(&mut file.synced, |_| true);
                }
            }
            Event::Unlink(name) => {
                self.names.remove(name);
                self.since.push(Renaming::Gone(name.clone()));
            }
            Event::SyncFolder => {
                self.synced_names.clone_from(&self.names);
                self.since.clear();
            }
            Event::Acknowledged(_) => {}
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        let file = self.names.get(name).unwrap_or_else(|| panic!("{name} was never made"));
        &mut self.files[*file]
    }

    /// Whether a cut has anything to forget.
    pub(super) fn has_unsynced(&self) -> bool {
        !self.since.is_empty() || self.names.values().any(|file| !self.files[*file].since.is_empty())
    }

    /// Writes to `folder` what a cut now leaves.
    pub(super) fn cut(&self, folder: &Path, random: &mut fastrand::Rng) {
        let mut names = self.synced_names.clone();
        // Names are journalled: they last in the order in which they came.
        let lasting = random.usize(0..=self.since.len());
        for renaming in &self.since[..lasting] {
            match renaming {
                Renaming::Made { name, file } => drop(names.insert(name.clone(), *file)),
                Renaming::Gone(name) => drop(names.remove(name)),
            }
        }
        for (name, file) in names {
            let file = &self.files[file];
            let mut content = file.synced.clone();
            let lasting_part = match random.u8(..8) {
                0 => Lasting::Nothing,
                1 => Lasting::Everything,
                2 | 3 => Lasting::UpTo(random.usize(0..=file.since.len())),
                4 | 5 => Lasting::Some,
                _ => Lasting::Torn,
            };
            for (at, change) in file.since.iter().enumerate() {
                let whole = match lasting_part {
                    Lasting::Nothing => false,
                    Lasting::Everything | Lasting::Torn => true,
                    Lasting::UpTo(moment) => at < moment,
                    Lasting::Some => random.bool(),
                };
                if whole {
                    change.apply(&mut content, |_| !matches!(lasting_part, Lasting::Torn) || random.bool());
                }
            }
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
}

impl Change {
    /// Makes the change, of a write those sectors that `lasts`.
    fn apply(&self, content: &mut Vec<u8>, mut lasts: impl FnMut(usize) -> bool) {
        match self {
            Change::Truncate(length) => {
                if lasts(0) {
                    content.resize(*length, 0);
                }
            }
            Change::Write { at, data } => {
                let end = at + data.len();
                let mut from = *at;
                while from < end {
                    let to = end.min((from / SECTOR + 1) * SECTOR);
                    if lasts(from) {
                        if content.len() < to {
                            content.resize(to, 0);
                        }
                        content[from..to].copy_from_slice(&data[from - at..to - at]);
                    }
                    from = to;
                }
            }
        }
    }
}

#[test]
fn what_was_synced_lasts_and_nothing_else_has_to() {
    let write = |at, data: &[u8]| Event::Write { name: "a".to_owned(), at, data: data.to_vec() };
    let mut disk = Disk::default();
    let first =
        [Event::Created("a".to_owned()), write(0, b"old"), Event::Sync("a".to_owned()), Event::SyncFolder];
    first.iter().for_each(|event| disk.happens(event));
    assert!(!disk.has_unsynced());
    disk.happens(&write(1, b"ew"));
    disk.happens(&Event::Created("b".to_owned()));
    let mut seen = std::collections::BTreeSet::new();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        disk.cut(folder.path(), &mut random);
        let a = std::fs::read_to_string(folder.path().join("a")).unwrap();
        seen.insert((a, folder.path().join("b").exists()));
    }
    let both = |a: &str| [(a.to_owned(), false), (a.to_owned(), true)];
    assert_eq!(seen, [both("oew"), both("old")].concat().into_iter().collect());
}
