//! Bad configs: one folder each, with the exact message expected.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use assert_cmd::cargo::cargo_bin_cmd;

const FOLDERS_MIN: usize = 40;

#[test]
fn every_bad_config_is_refused_with_its_message() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs");
    let mut wrong = String::new();
    let mut folders = 0;
    for folder in std::fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().display().to_string();
        let expected = std::fs::read_to_string(folder.join("expected")).unwrap();
        let copy = copy_of(&folder);
        let output = cargo_bin_cmd!("postrider")
            .args(["check", "--config", "postrider.toml"])
            .current_dir(copy.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if said != expected || output.status.code() != Some(2) || !output.stdout.is_empty() {
            wrong +=
                &format!("== {name}: exit {:?}\nexpected:\n{expected}said:\n{said}", output.status.code());
        }
        folders += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(folders >= FOLDERS_MIN, "{folders} folders");
}

/// A copy that only we may write to: a checkout may be its group's to write, and a config must not be.
fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        let to = copy.path().join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
        } else {
            std::fs::copy(file.path(), &to).unwrap();
        }
        let mode = std::fs::metadata(&to).unwrap().permissions().mode();
        std::fs::set_permissions(&to, Permissions::from_mode(mode & !0o022)).unwrap();
    }
    copy
}

/// A message is one line: file, line, key, what is wrong; what to do.
#[test]
fn every_message_names_its_place_and_a_remedy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs");
    for folder in std::fs::read_dir(root).unwrap() {
        let expected = std::fs::read_to_string(folder.unwrap().path().join("expected")).unwrap();
        assert!(!expected.is_empty());
        for line in expected.lines() {
            let rest = line.strip_prefix("postrider.toml:").unwrap_or_else(|| panic!("{line}"));
            let (number, text) = rest.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            assert!(number.parse::<usize>().is_ok_and(|number| number > 0), "{line}");
            assert!(text.contains("; "), "{line}");
        }
    }
}
