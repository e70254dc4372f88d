//! How people and programs renew a pair: at each step of it the pair in use is the old one or the new one.

use super::*;

use std::fs;

use std::os::unix::fs::symlink;

const NOW: i64 = 1_767_323_045;

/// A pair as two texts in PEM.
struct Pem {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

/// Two certificates in the file, as there are from a CA: the leaf and one more.
fn pem() -> Pem {
    pem_of("relay.example", 2020, 2030)
}

/// For this name, from one year to another.
fn pem_of(name: &str, from: i32, until: i32) -> Pem {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let leaf = params.self_signed(&key).unwrap();
    Pem { certificate: leaf.pem() + &leaf.pem(), key: key.serialize_pem(), der: leaf.der().clone() }
}

struct Stage {
    folder: tempfile::TempDir,
    old: Pem,
    new: Pem,
    certificate: Certificate,
}

impl Stage {
    /// With the old pair in use.
    fn new() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (pem(), pem());
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::write(&certificate, &old.certificate).unwrap();
        fs::write(&key, &old.key).unwrap();
        let hostname = Domain::parse("relay.example").unwrap();
        let certificate = Certificate::read(&certificate, &key, &hostname, NOW).unwrap();
        Stage { folder, old, new, certificate }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Some looks later the old pair is in use, and nothing was told.
    fn assert_old(&self, what: &str) {
        for _ in 0..4 {
            assert!(matches!(self.certificate.look(NOW), Look::Same), "{what}");
        }
        assert_eq!(self.certificate.in_use().cert[0], self.old.der, "{what}");
    }

    /// At the second look the new pair is in use, whole.
    fn assert_new(&self, what: &str) {
        assert!(matches!(self.certificate.look(NOW), Look::Same), "{what}: only once it stood still");
        assert_eq!(self.certificate.in_use().cert[0], self.old.der, "{what}");
        assert!(matches!(self.certificate.look(NOW), Look::Replaced), "{what}");
        let in_use = self.certificate.in_use();
        assert_eq!((&in_use.cert[0], in_use.cert.len()), (&self.new.der, 2), "{what}");
        assert!(matches!(self.certificate.look(NOW), Look::Same), "{what}");
    }
}

#[test]
fn the_files_of_a_pair_may_come_in_any_order() {
    let stage = Stage::new();
    stage.write("cert.pem", &stage.new.certificate);
    stage.assert_old("the certificate came first");
    stage.write("key.pem", &stage.new.key);
    stage.assert_new("then the key");

    let stage = Stage::new();
    stage.write("key.pem", &stage.new.key);
    stage.assert_old("the key came first");
    stage.write("cert.pem", &stage.new.certificate);
    stage.assert_new("then the certificate");
}

/// What a renewal that went wrong puts there: clients would refuse it, and do not refuse the one of before.
#[test]
fn a_worse_pair_never_replaces_a_good_one() {
    for (pem, said) in [
        (pem_of("relay.example", 2020, 2021), "has expired"),
        (pem_of("relay.example", 2029, 2030), "is not valid yet"),
        (pem_of("other.example", 2020, 2030), "is not for relay.example"),
    ] {
        let stage = Stage::new();
        stage.write("key.pem", &pem.key);
        stage.write("cert.pem", &pem.certificate);
        assert!(matches!(stage.certificate.look(NOW), Look::Same), "{said}");
        match stage.certificate.look(NOW) {
            Look::Worse(fault) => assert_eq!(fault, said),
            other => panic!("{said}: {other:?}"),
        }
        stage.assert_old(said);
        stage.certificate.read_again(NOW).unwrap();
        stage.assert_old("nor at a reload");
        stage.write("key.pem", &stage.new.key);
        stage.write("cert.pem", &stage.new.certificate);
        stage.assert_new("the right one");
    }
    let in_2031 = 1_924_992_000;
    for (pem, why) in [
        (pem_of("relay.example", 2020, 2021), "both have expired"),
        (pem_of("other.example", 2020, 2040), "one that is over is worse than any other"),
    ] {
        let stage = Stage::new();
        stage.write("key.pem", &pem.key);
        stage.write("cert.pem", &pem.certificate);
        assert!(matches!(stage.certificate.look(in_2031), Look::Same), "{why}");
        assert!(matches!(stage.certificate.look(in_2031), Look::Replaced), "{why}");
    }
}

/// The watch goes on: whatever comes behind the FIFO is taken.
#[test]
fn a_fifo_in_the_place_of_a_key_holds_nobody_up() {
    let stage = Stage::new();
    fs::remove_file(stage.path("key.pem")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, stage.path("key.pem"), rustix::fs::Mode::RWXU).unwrap();
    stage.assert_old("a FIFO");
    fs::remove_file(stage.path("key.pem")).unwrap();
    stage.write("key.pem", &stage.new.key);
    stage.write("cert.pem", &stage.new.certificate);
    stage.assert_new("after the FIFO");
}

#[test]
fn a_half_written_file_is_not_used() {
    let stage = Stage::new();
    stage.write("key.pem", &stage.new.key);
    for part in [0, 40, stage.new.certificate.len() / 2 - 20] {
        stage.write("cert.pem", &stage.new.certificate[..part]);
        stage.assert_old("in the middle of the first certificate");
    }
    // The leaf alone would be a pair with the key. It is gone by the next look.
    let half = stage.new.certificate.len() / 2;
    stage.write("cert.pem", &stage.new.certificate[..half]);
    assert!(matches!(stage.certificate.look(NOW), Look::Same));
    stage.write("cert.pem", &stage.new.certificate);
    stage.assert_new("all of it");
    let stage = Stage::new();
    stage.write("cert.pem", &stage.new.certificate);
    stage.write("key.pem", &stage.new.key[..50]);
    stage.assert_old("half a key");
    stage.write("key.pem", &stage.new.key);
    stage.assert_new("all of it");
}

#[test]
fn a_renewal_by_symbolic_links_is_seen() {
    let stage = Stage::new();
    for (name, pem) in [("1", &stage.old), ("2", &stage.new)] {
        stage.write(&format!("cert{name}.pem"), &pem.certificate);
        stage.write(&format!("key{name}.pem"), &pem.key);
    }
    let point = |name: &str, to: &str| {
        symlink(to, stage.path("link")).unwrap();
        fs::rename(stage.path("link"), stage.path(name)).unwrap();
    };
    point("cert.pem", "cert1.pem");
    point("key.pem", "key1.pem");
    stage.assert_old("the same pair behind links");
    // As certbot does: privkey.pem after cert.pem.
    point("cert.pem", "cert2.pem");
    stage.assert_old("one link of two");
    point("key.pem", "key2.pem");
    stage.assert_new("both");
}

#[test]
fn a_file_that_is_gone_for_a_while_changes_nothing() {
    let stage = Stage::new();
    fs::rename(stage.path("key.pem"), stage.path("away")).unwrap();
    stage.assert_old("without a key");
    fs::rename(stage.path("away"), stage.path("key.pem")).unwrap();
    stage.assert_old("it is back");
    fs::remove_file(stage.path("cert.pem")).unwrap();
    stage.assert_old("without a certificate");
    stage.write("key.pem", &stage.new.key);
    stage.write("cert.pem", &stage.new.certificate);
    stage.assert_new("another pair");
}

#[test]
fn a_pair_that_stays_broken_is_told_once() {
    let stage = Stage::new();
    stage.write("cert.pem", &stage.new.certificate);
    stage.assert_old("without its key");
    assert!(matches!(stage.certificate.look(NOW + 59), Look::Same));
    let Look::Broken(error) = stage.certificate.look(NOW + 60) else { panic!("not told") };
    assert!(error.to_string().contains("the key must belong to the first certificate"), "{error}");
    assert!(matches!(stage.certificate.look(NOW + 120), Look::Same));
    stage.write("key.pem", &stage.new.key);
    stage.assert_new("its key came");
    fs::remove_file(stage.path("key.pem")).unwrap();
    assert!(matches!(stage.certificate.look(NOW), Look::Same));
    assert!(matches!(stage.certificate.look(NOW + 1), Look::Same));
    assert!(matches!(stage.certificate.look(NOW + 60), Look::Broken(_)), "another trouble is told again");
}

#[test]
fn the_end_is_told_once_a_day_from_14_days_before() {
    let stage = Stage::new();
    let end = stage.certificate.ends_at().unwrap();
    assert_eq!(crate::kit::text::utc(end), "2030-01-01 00:00:00");
    let told = |at| stage.certificate.end_to_tell(at);
    assert_eq!(told(NOW + 1), None, "a start has said it");
    assert_eq!(told(end - ENDS_SOON_SECS), None);
    let first = end - ENDS_SOON_SECS + DAY_SECS;
    assert_eq!(told(first), Some(end));
    assert_eq!(told(first + DAY_SECS - 1), None);
    assert_eq!(told(first + DAY_SECS), Some(end));
    assert_eq!(told(end + DAY_SECS), Some(end), "and after it");
    assert_eq!(told(end), Some(end), "a clock that was set back silences nothing");
}
