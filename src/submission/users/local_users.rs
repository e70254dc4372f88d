//! Users of this machine, who need no password at a socket in the file system: the kernel knows who they are.
//!
//! They are in one list with those of the users file: who has the name of one there has its senders, rate, quota,
//! priorities and domains for ETRN. To be an operator and to fetch mail (ATRN) take a login: a package may make an
//! account of any name on a machine.

use nix::unistd::Uid;

use super::User;
use crate::mail::Peer;

/// The name of who connected, where that is a user of this machine. One without a name that could stand in a log or
/// a header is `uid:` and its number; no user of the file can be called so.
pub(in crate::submission) fn name_of(client: Peer) -> Option<String> {
    let Peer::Unix(uid) = client else { return None };
    let user = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
    Some(user.map(|user| user.name).filter(|name| is_plain(name)).unwrap_or_else(|| format!("uid:{uid}")))
}

/// Of these names useradd(8) makes users.
fn is_plain(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$' | b'@' | b'+');
    (1..=super::NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(plain)
}

/// What a user of this machine may do; `listed` is who has that name in the users file.
pub(super) fn rights(name: &str, listed: Option<&User>) -> User {
    match listed {
        Some(user) => User { operator: false, atrn: Vec::new(), ..user.clone() },
        None => User { name: name.to_owned(), ..User::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_name_is_a_number_and_an_address_is_nobody() {
        assert_eq!(name_of(Peer::Unix(0)).as_deref(), Some("root"));
        assert_eq!(name_of(Peer::Unix(3_999_999_999)).as_deref(), Some("uid:3999999999"));
        assert_eq!(name_of(Peer::Ip([127, 0, 0, 1].into())), None);
        for (name, plain) in
            [("www-data", true), ("a b", false), ("a)b", false), ("", false), ("uid:0", false)]
        {
            assert_eq!(is_plain(name), plain, "{name}");
        }
    }

    #[test]
    fn what_takes_a_login_is_left_out() {
        let listed = User {
            name: "app".to_owned(),
            operator: true,
            atrn: vec!["a.example".to_owned()],
            senders: vec!["app@a.example".to_owned()],
            rate: 5.try_into().ok(),
            ..User::default()
        };
        let user = rights("app", Some(&listed));
        assert_eq!(user, User { operator: false, atrn: Vec::new(), ..listed });
        assert_eq!(rights("cron", None), User { name: "cron".to_owned(), ..User::default() });
    }
}
