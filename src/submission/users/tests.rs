//! The users file and the passwords checked against it, with a hand-moved clock.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::mail::Priority;

impl Users {
    /// The user, if this is the password.
    fn right_at(&self, name: &str, password: &[u8], now: Instant) -> Option<Arc<User>> {
        match self.verify_at(name, password, LoginSource::Known, now) {
            PasswordCheck::Right(user) => Some(user),
            PasswordCheck::Wrong => None,
            PasswordCheck::Busy => panic!("nobody else is here"),
        }
    }
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("users")
    }

    fn add(&self, name: &str, password: &str) {
        add(&self.path(), name, password, &Attributes::default()).unwrap();
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    fn mode(&self) -> u32 {
        std::fs::metadata(self.path()).unwrap().permissions().mode() & 0o777
    }
}

/// RFC 7677's password "pencil", cheap to check.
const LINE: &str = "user SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

#[test]
fn a_user_is_added_verified_and_removed() {
    let dir = Dir::new();
    let users = Users::load(&dir.path()).unwrap();
    let now = Instant::now();
    assert!(users.right_at("app", b"secret", now).is_none(), "no file, no users");
    dir.add("app", "secret");
    users.reload().unwrap();
    assert_eq!(users.right_at("app", b"secret", now).unwrap().name, "app");
    for (name, password) in [("app", "Secret"), ("app", ""), ("App", "secret"), ("", ""), ("app2", "secret")]
    {
        assert!(users.right_at(name, password.as_bytes(), now).is_none(), "{name} {password}");
    }
    remove(&dir.path(), "app").unwrap();
    users.reload().unwrap();
    assert!(users.right_at("app", b"secret", now).is_none(), "a removed user is not remembered");
    assert!(!dir.text().contains("\napp "));
}

#[test]
fn a_right_password_is_remembered_for_five_minutes_and_a_wrong_one_never() {
    let dir = Dir::new();
    dir.write(&format!("{LINE}\n"));
    let users = Users::load(&dir.path()).unwrap();
    let start = Instant::now();
    let remembered = |password: &[u8], now| {
        let verifier = users.find("user").unwrap().verifier.clone();
        users.remembers("user", &users.tag("user", password), &verifier, now)
    };
    assert!(users.right_at("user", b"pen", start).is_none());
    assert!(!remembered(b"pen", start));
    assert!(users.right_at("user", b"pencil", start).is_some());
    assert!(remembered(b"pencil", start + REMEMBERED - Duration::from_nanos(1)));
    assert!(!remembered(b"pencil", start + REMEMBERED));
    assert!(!remembered(b"pen", start));
    assert!(users.right_at("user", b"pen", start).is_none(), "a wrong one beside a remembered one");
}

#[test]
fn a_new_verifier_ends_what_was_remembered() {
    let dir = Dir::new();
    dir.write(&format!("{LINE}\n"));
    let users = Users::load(&dir.path()).unwrap();
    let start = Instant::now();
    assert!(users.right_at("user", b"pencil", start).is_some());
    remove(&dir.path(), "user").unwrap();
    dir.add("user", "crayon");
    assert!(users.right_at("user", b"pencil", start).is_none(), "read again without being told");
    assert!(users.right_at("user", b"crayon", start).is_some());
}

/// A client that looks at what is offered must not keep who has just been added waiting.
#[test]
fn the_file_is_looked_at_by_every_login_and_by_others_once_a_second() {
    let dir = Dir::new();
    let users = Arc::new(Users::load(&dir.path()).unwrap());
    let start = Instant::now();
    users.glance(start);
    dir.add("app", "secret");
    users.glance(start);
    assert_eq!(users.count(), 0);
    users.glance(start + LOOKED_AT_EVERY);
    assert_eq!(users.count(), 1);
    users.glance(start + 2 * LOOKED_AT_EVERY);
    dir.add("other", "secret");
    assert!(users.with_scram("other").user.is_some());
}

#[test]
fn a_broken_file_leaves_the_users_of_before() {
    let dir = Dir::new();
    dir.write(&format!("{LINE}\n"));
    let users = Users::load(&dir.path()).unwrap();
    dir.write("nonsense\n");
    let start = Instant::now();
    assert!(users.right_at("user", b"pencil", start).is_some());
    let error = users.reload().unwrap_err().to_string();
    assert!(error.contains("users:1: the verifier is not SCRAM-SHA-256$"), "{error}");
    assert!(users.right_at("user", b"pencil", start + REMEMBERED).is_some());
}

#[test]
fn an_unknown_name_costs_as_many_iterations_as_a_known_one() {
    let dir = Dir::new();
    dir.write(&format!("{LINE}\n"));
    let users = Users::load(&dir.path()).unwrap();
    assert_eq!(users.decoy("nobody").iterations.get(), 4096);
    assert!(!users.decoy("nobody").accepts(b"pencil"));
    assert!(!users.decoy("nobody").accepts(b""));
}

#[test]
fn a_rewrite_keeps_comments_attributes_and_mode() {
    let dir = Dir::new();
    dir.add("first", "secret");
    assert_eq!(dir.mode(), 0o640, "a new file is not for everybody");
    assert!(dir.text().starts_with("# Postrider's users"), "the file explains itself");
    let added = format!(
        "{}# mine\n{LINE} operator senders=a@b.example,*@c.example atrn=d.example\n\n# end\n",
        dir.text()
    );
    dir.write(&added);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    dir.add("last", "secret");
    assert!(dir.text().starts_with(&format!("{added}last SCRAM-SHA-256$")), "{}", dir.text());
    remove(&dir.path(), "first").unwrap();
    assert_eq!(dir.mode(), 0o600);
    let users = list(&dir.path()).unwrap();
    assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["user", "last"]);
    assert!(users[0].operator);
    assert_eq!((users[0].senders.len(), users[0].atrn.len()), (2, 1));
    assert!(dir.text().contains("# mine\n") && dir.text().contains("# end\n"));
    assert_eq!(std::fs::read_dir(dir.0.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn what_cannot_be_stored_is_refused_and_nothing_is_written() {
    let dir = Dir::new();
    let list = |text: &str| vec![text.to_owned()];
    let add = |name: &str, password: &str, senders: &[String], atrn: &[String]| {
        let attributes =
            Attributes { senders: senders.to_vec(), atrn: atrn.to_vec(), ..Attributes::default() };
        super::add(&dir.path(), name, password, &attributes).unwrap_err().to_string()
    };
    for name in ["", "a b", "a:b", "#a", "a\nb", "ä", &"x".repeat(65)] {
        assert!(add(name, "secret", &[], &[]).contains("cannot be a user's name"), "{name}");
    }
    assert!(add("app", "", &[], &[]).contains("is empty"));
    assert!(add("app", "a\u{7}", &[], &[]).contains("control character"));
    assert!(add("app", &"x".repeat(1025), &[], &[]).contains("too long"));
    for rate in ["", "10", "0/h", "-1/h", "+1/h", "1/d", "1 /h", "4294967296/h"] {
        let attributes = Attributes { rate: Some(rate.to_owned()), ..Attributes::default() };
        let error = super::add(&dir.path(), "app", "secret", &attributes).unwrap_err().to_string();
        assert!(error.contains("is not a rate; write recipients an hour such as 100/h"), "{error}");
    }
    for sender in ["nobody", "*", "@x", "\"a,b\"@c", "\"a b\"@c", "a@b,c@d", "a@b\n"] {
        assert!(add("app", "secret", &list(sender), &[]).contains("is not a sender"), "{sender}");
    }
    for domain in ["", "*", "a,b", "a b", "[192.0.2.1]"] {
        assert!(add("app", "secret", &[], &list(domain)).contains("is not a domain"), "{domain}");
    }
    assert!(!dir.path().exists());
    dir.add("app", "secret");
    let before = dir.text();
    assert!(add("app", "other", &[], &[]).contains("user app exists already"));
    let missing = remove(&dir.path(), "nobody").unwrap_err().to_string();
    assert!(missing.contains("there is no user nobody"), "{missing}");
    assert_eq!(dir.text(), before);
}

#[test]
fn a_broken_line_is_named() {
    let dir = Dir::new();
    for (text, what) in [
        (format!("{LINE}\n{LINE}"), "users:2: user user is there twice"),
        (format!("# x\n\n{LINE} admin"), "users:3: unknown attribute \"admin\""),
        (format!("{LINE} senders="), "users:1: \"\" is not a sender"),
        (format!("{LINE} operator=yes"), "users:1: unknown attribute"),
        (format!("{LINE} rate=10"), "users:1: \"10\" is not a rate"),
        (format!("{LINE} cram-md5=00"), "users:1: cram-md5= is not 64 hexadecimal digits"),
        (format!("\n:decoy-secret x\n{LINE}"), "users:2: the decoy secret is not base64 of 32 bytes"),
        (format!(":other\n{LINE}"), "users:1: does not begin with a user's name"),
        ("user".to_owned(), "users:1: the verifier is not"),
        (LINE.replace("user", "us:er"), "users:1: does not begin with a user's name"),
    ] {
        dir.write(&(text + "\n"));
        let error = list(&dir.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn senders_and_domains_are_kept_in_the_form_they_are_compared_in() {
    let dir = Dir::new();
    let attributes = Attributes {
        operator: true,
        senders: ["App@Example.com", "*@bücher.example"].map(str::to_owned).to_vec(),
        atrn: vec!["Customer.example.".to_owned()],
        priority: Priority::new(-5),
        priority_max: Priority::new(3),
        ..Attributes::default()
    };
    add(&dir.path(), "app", "secret", &attributes).unwrap();
    let user = list(&dir.path()).unwrap().remove(0);
    assert_eq!(user.senders, ["App@example.com", "*@xn--bcher-kva.example"]);
    assert_eq!(user.atrn, ["customer.example"]);
    assert!(user.operator);
    assert_eq!(user.priorities(), (Priority::clamped(-5), Priority::clamped(3)));
}

#[test]
fn without_a_ceiling_a_user_may_step_back_and_not_push_forward() {
    let user = |priority: Option<i64>| User { priority: priority.map(Priority::clamped), ..User::default() };
    let of = |priority| user(priority).priorities();
    assert_eq!(of(None), (Priority::NORMAL, Priority::NORMAL));
    assert_eq!(of(Some(-4)), (Priority::clamped(-4), Priority::NORMAL));
    assert_eq!(of(Some(4)), (Priority::clamped(4), Priority::clamped(4)));
}

#[test]
fn a_priority_above_its_ceiling_is_refused() {
    let dir = Dir::new();
    let attributes =
        Attributes { priority: Priority::new(5), priority_max: Priority::new(3), ..Attributes::default() };
    let error = add(&dir.path(), "app", "secret", &attributes).unwrap_err();
    assert!(error.to_string().starts_with("the priority 5 is above"), "{error}");
    assert!(!dir.path().exists());
}

#[test]
fn a_decoy_stays_the_same_over_restarts_and_other_users() {
    let dir = Dir::new();
    dir.add("app", "secret");
    let decoy = || Arc::new(Users::load(&dir.path()).unwrap()).with_scram("nobody");
    let first = decoy();
    assert!(first.user.is_none());
    dir.add("other", "secret");
    remove(&dir.path(), "app").unwrap();
    assert_eq!(decoy().verifier, first.verifier);
    assert_eq!(dir.text().matches("\n:decoy-secret ").count(), 1);
    // A file written by hand gets the secret when it is next added to.
    dir.write(&format!("{LINE}\n"));
    let without = decoy().verifier;
    assert_ne!(decoy().verifier, without, "as long as it has none decoys change with each start");
    dir.add("app", "secret");
    assert_eq!(decoy().verifier, decoy().verifier);
}

#[test]
fn a_user_who_is_known_has_their_own_verifier_and_cram_md5_if_it_was_asked_for() {
    let dir = Dir::new();
    dir.write(&format!("{LINE}\n"));
    let users = Arc::new(Users::load(&dir.path()).unwrap());
    assert_eq!(users.with_scram("user").verifier, users.find("user").unwrap().verifier);
    assert!(!users.has_cram_md5());
    let attributes = Attributes { cram_md5: true, rate: Some("10/h".into()), ..Attributes::default() };
    add(&dir.path(), "tim", "tanstaaftanstaaf", &attributes).unwrap();
    users.reload().unwrap();
    assert!(users.has_cram_md5());
    let tim = users.find("tim").unwrap();
    assert_eq!((tim.rate.map(|rate| rate.get()), tim.has_cram_md5()), (Some(10), true));
    // RFC 2195 §2.
    let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
    let digest = 0xb913a602c7eda7a495b4e6e7334d3890_u128.to_be_bytes();
    assert_eq!(users.with_cram_md5("tim", challenge, &digest).unwrap().name, "tim");
    assert!(users.with_cram_md5("user", challenge, &digest).is_none());
    assert!(users.with_cram_md5("nobody", challenge, &digest).is_none());
    // What stands in for a secret is no secret.
    let digest = CramMd5::default().digest(challenge);
    assert!(users.with_cram_md5("user", challenge, &digest).is_none());
    assert!(users.with_cram_md5("nobody", challenge, &digest).is_none());
    remove(&dir.path(), "tim").unwrap();
    users.reload().unwrap();
    assert!(!users.has_cram_md5());
}

#[test]
fn a_random_password_can_be_used_and_is_new_each_time() {
    let dir = Dir::new();
    let password = random_password().unwrap();
    assert_eq!(password.len(), 20);
    assert_ne!(password, random_password().unwrap());
    dir.add("app", &password);
    assert!(Users::load(&dir.path()).unwrap().right_at("app", password.as_bytes(), Instant::now()).is_some());
}

/// What is no list of users, and what the file was before.
#[test]
fn a_file_that_is_no_list_leaves_the_users_of_before() {
    let dir = Dir::new();
    let path = dir.path();
    dir.add("app", "secret");
    let whole = dir.text();
    let users = Arc::new(Users::load(&path).unwrap());
    let troubles: [(&str, &dyn Fn()); 6] = [
        ("gone", &|| std::fs::remove_file(&path).unwrap()),
        ("empty", &|| dir.write("")),
        ("blank", &|| dir.write(" \n\n")),
        ("half a line", &|| dir.write(&whole[..whole.len() - 20])),
        ("a directory", &|| {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        }),
        ("no text", &|| std::fs::write(&path, b"app \xff\xfe").unwrap()),
    ];
    for (what, make) in troubles {
        make();
        assert!(users.reload().is_err(), "{what}");
        for _ in 0..2 {
            assert!(users.is_available(), "{what}");
            assert!(users.right_at("app", b"secret", Instant::now()).is_some(), "{what}");
        }
        assert!(lock(&users.trouble).said.is_some(), "{what}: nobody was told");
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        }
        // What is right again counts at once, and is told of.
        std::fs::write(dir.0.path().join("new"), &whole).unwrap();
        std::fs::rename(dir.0.path().join("new"), &path).unwrap();
        users.look_again();
        assert!(lock(&users.trouble).said.is_none(), "{what}: nobody was told that it is over");
    }
    // With a comment it is a list, of nobody.
    std::fs::write(dir.0.path().join("new"), "# nobody\n").unwrap();
    std::fs::rename(dir.0.path().join("new"), &path).unwrap();
    assert!(users.right_at("app", b"secret", Instant::now()).is_none());
    assert!(users.is_available());
}

#[test]
fn where_there_never_was_a_list_nobody_is_wrong() {
    let dir = Dir::new();
    let users = Arc::new(Users::load(&dir.path()).unwrap());
    assert!(!users.is_available() && !users.is_available());
    dir.write("");
    assert!(!Arc::new(Users::load(&dir.path()).unwrap()).is_available());
    assert!(!users.is_available());
    std::fs::remove_file(dir.path()).unwrap();
    dir.add("app", "secret");
    assert!(users.is_available());
    assert!(users.right_at("app", b"secret", Instant::now()).is_some());
}

/// A file that an editor writes in place has only its first users for a moment.
#[test]
fn users_that_are_missing_from_a_file_being_written_are_not_gone_yet() {
    let dir = Dir::new();
    dir.add("one", "secret");
    dir.add("two", "secret");
    let whole = dir.text();
    let users = Users::load(&dir.path()).unwrap();
    let half = &whole[..whole.find("\ntwo ").unwrap() + 1];
    dir.write(half);
    users.look_again();
    assert_eq!(users.count(), 2);
    dir.write(&whole);
    users.look_again();
    dir.write(half);
    let begin = Instant::now();
    while users.count() == 2 {
        assert!(begin.elapsed() < Duration::from_secs(10), "it is never believed");
        std::thread::sleep(Duration::from_millis(20));
        users.look_again();
    }
    // Replaced as a whole it counts at once.
    dir.add("three", "secret");
    users.look_again();
    remove(&dir.path(), "three").unwrap();
    users.look_again();
    assert_eq!(users.count(), 1);
}

/// A full disk, or a copy that ends too early. Half a line may be a whole one to read: of a user who may send as
/// anybody.
#[test]
fn a_file_that_is_cut_anywhere_leaves_the_users_of_before_or_whole_ones_of_it() {
    let dir = Dir::new();
    let last = format!("{} senders=a@a.test,b@a.test rate=100/h etrn=a.test", LINE.replace("user", "last"));
    let whole = format!("{LINE} operator\n# a comment\n{last}\n");
    let lines: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
    dir.write(&whole);
    let users = Users::load(&dir.path()).unwrap();
    for cut in 1..whole.len() {
        dir.write(&whole[..cut]);
        let read = users.reload();
        assert_eq!(read.is_ok(), lines.contains(&cut), "cut at {cut}: {read:?}");
        if !lines.contains(&cut) {
            assert_eq!(users.find("last").map(|user| user.senders.len()), Some(2), "cut at {cut}");
            assert!(list(&dir.path()).is_err(), "cut at {cut}: a start would believe it");
        }
        dir.write(&whole);
        users.reload().unwrap();
    }
    dir.write(&whole[..whole.len() - 1]);
    let error = users.reload().unwrap_err().to_string();
    assert!(error.contains("users:3: the last line has no line end, as in a file that was cut"), "{error}");
}

#[test]
fn another_file_that_is_no_list_leaves_the_users_of_before() {
    let dir = Dir::new();
    let other = dir.0.path().join("other");
    dir.add("app", "secret");
    let users = Users::load(&dir.path()).unwrap();
    for (text, what) in
        [(None, "is gone"), (Some(""), "is empty"), (Some("app"), "no line end"), (Some("app\n"), "verifier")]
    {
        text.iter().for_each(|text| std::fs::write(&other, text).unwrap());
        let (moved, trouble) = users.moved_to(&other).unwrap();
        let trouble = trouble.map(|error| error.to_string()).unwrap_or_default();
        assert!(trouble.contains("other") && trouble.contains(what), "{text:?}: {trouble}");
        assert_eq!(moved.path(), other);
        assert!(moved.verify("app", b"secret").is_some(), "{text:?}");
        // The file of before is nobody's business any more; this one counts once it is right.
        std::fs::write(&other, format!("{LINE}\n")).unwrap();
        moved.look_again();
        assert!(moved.find("app").is_none() && moved.find("user").is_some(), "{text:?}");
    }
    let (moved, trouble) = users.moved_to(&other).unwrap();
    assert!(trouble.is_none() && moved.find("user").is_some());
}

/// The relay takes a blank file for trouble, and keeps the users of before.
#[test]
fn the_last_user_of_a_file_without_a_comment_can_be_removed() {
    let dir = Dir::new();
    dir.write(&format!("{LINE}\n"));
    let users = Arc::new(Users::load(&dir.path()).unwrap());
    remove(&dir.path(), "user").unwrap();
    users.reload().unwrap();
    assert!(users.find("user").is_none());
}

#[test]
fn no_more_passwords_are_remembered_than_may_be() {
    let dir = Dir::new();
    dir.add("app", "secret");
    let users = Users::load(&dir.path()).unwrap();
    let now = Instant::now();
    let known = users.right_at("app", b"secret", now).unwrap();
    for number in 0..REMEMBERED_USERS_MAX + 500 {
        // As after a right password: so many hashes would take minutes.
        let name = format!("u{number}");
        let remembered =
            Remembered { password: users.tag(&name, b"secret"), verifier: known.verifier.clone() };
        lock(&users.remembered).insert(name, remembered, now);
    }
    let kept = lock(&users.remembered).count(now);
    assert!((REMEMBERED_USERS_MAX * 3 / 4..=REMEMBERED_USERS_MAX).contains(&kept), "{kept}");
}

#[test]
fn there_are_no_more_users_than_the_file_has() {
    let dir = Dir::new();
    let count = |users: &Users| users.table.read().unwrap().users.len();
    let lines = |from: usize| {
        dir.add("app", "secret");
        let line = dir.text().lines().find(|line| line.starts_with("app")).unwrap().to_owned();
        (from..from + 300).map(|n| line.replacen("app", &format!("u{n}"), 1) + "\n").collect::<String>()
    };
    let first = lines(0);
    dir.write(&first);
    let users = Users::load(&dir.path()).unwrap();
    for round in 1..5 {
        std::fs::remove_file(dir.path()).unwrap();
        let others = lines(round * 300);
        std::fs::remove_file(dir.path()).unwrap();
        dir.write(&others);
        users.reload().unwrap();
        assert_eq!(count(&users), 300, "those of before are gone");
    }
}

#[test]
fn limits_are_changed_without_the_password_and_all_else_stays() {
    let dir = Dir::new();
    let attributes = Attributes {
        operator: true,
        rate: Some("10/h".into()),
        quota: Some("2 GiB".into()),
        cram_md5: true,
        ..Attributes::default()
    };
    add(&dir.path(), "app", "secret", &attributes).unwrap();
    add(&dir.path(), "other", "secret", &Attributes::default()).unwrap();
    let user = || list(&dir.path()).unwrap()[0].clone();
    let limits = |user: &User| (user.rate.map(|rate| rate.get()), user.quota.map(|quota| quota.get()));
    let set = |rate: Option<&str>, quota: Option<&str>| {
        let limits = Limits { rate: rate.map(str::to_owned), quota: quota.map(str::to_owned) };
        set_limits(&dir.path(), "app", &limits)
    };
    let first = user();
    assert_eq!(limits(&first), (Some(10), Some(2 << 30)));
    assert!(dir.text().contains(" quota=2GiB"), "{}", dir.text());
    set(None, Some("5MB")).unwrap();
    assert_eq!(limits(&user()), (Some(10), Some(5_000_000)));
    set(Some("off"), None).unwrap();
    assert_eq!(limits(&user()), (None, Some(5_000_000)));
    set(Some("7/h"), Some("off")).unwrap();
    assert_eq!(*user(), User { rate: Some(7.try_into().unwrap()), quota: None, ..(*first).clone() });
    for bad in ["", "0B", "5", "much", "99999999999GiB", "-1B"] {
        let error = set(None, Some(bad)).unwrap_err().to_string();
        assert_eq!(error, format!("\"{bad}\" is not a quota; write a size such as 2GiB"));
    }
    assert!(
        set_limits(&dir.path(), "nobody", &Limits::default())
            .unwrap_err()
            .to_string()
            .contains("no user nobody")
    );
    assert_eq!(list(&dir.path()).unwrap().len(), 2);
}
