//! Who runs a command, for the record of changes.

/// The login name, and the uid as which the command runs: `sudo` and `su` change the uid, not the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) login: String,
    pub(super) uid: u32,
}

impl Who {
    /// Whoever runs this process.
    pub(super) fn runs_this() -> Who {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let uid = rustix::process::getuid().as_raw();
        let sudo = std::env::var("SUDO_USER").ok();
        let login = login(&read("/proc/self/loginuid"), sudo, uid, &read("/etc/passwd"));
        Who { login, uid }
    }
}

/// The kernel's word (pam_loginuid(8)) first, since nobody can change it; then `sudo`'s, then the uid.
fn login(loginuid: &str, sudo_user: Option<String>, uid: u32, passwd: &str) -> String {
    let by_kernel = loginuid.trim().parse().ok().filter(|uid| *uid != u32::MAX);
    match (by_kernel, sudo_user) {
        (Some(uid), _) => name_of(uid, passwd),
        (None, Some(name)) => name,
        (None, None) => name_of(uid, passwd),
    }
}

/// Users that stand elsewhere than in /etc/passwd have their number.
fn name_of(uid: u32, passwd: &str) -> String {
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    line.and_then(|line| line.split(':').next()).map_or_else(|| uid.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_outlives_sudo() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\npostrider:x:990:990::/:/bin/false\n";
        let unset = "4294967295";
        for (loginuid, sudo, uid, wanted) in [
            ("1000", None, 990, "ann"),
            ("1000\n", Some("bob"), 0, "ann"),
            (unset, Some("ann"), 990, "ann"),
            (unset, None, 990, "postrider"),
            ("", None, 0, "root"),
            ("", None, 4711, "4711"),
            ("4711", None, 0, "4711"),
        ] {
            assert_eq!(
                login(loginuid, sudo.map(str::to_owned), uid, passwd),
                wanted,
                "{loginuid} {sudo:?} {uid}"
            );
        }
    }
}
