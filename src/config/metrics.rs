//! `[metrics]`: where the relay can be watched, and who may.
//!
//! Whoever reads the status page sees who mails whom: on loopback and at sockets in the file system the machine itself
//! says who may, and anywhere else a token must.

use std::net::SocketAddr;
use std::path::Path;

use super::cross;
use super::guarded;
use super::listen::{ListenAddress, SocketAccess};
use super::reading::{Reading, Section};
use super::secret::first_line;
use super::settings::MetricsSettings;
use super::value;

/// Unlike mail, which every user of the machine may send, what is read here is not for all of them.
const SOCKET_MODE: u32 = 0o660;
/// A shorter token could be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Reads the table. `listen` are the addresses of `[[listen]]`.
pub(super) fn read<'t>(
    reading: &mut Reading<'t>,
    root: &Section<'t>,
    listen: &[ListenAddress],
) -> MetricsSettings {
    let section = reading.section(root, "metrics");
    let token_file =
        reading.given(&section, "token_file", value::file).map(|path| reading.beside_config(path));
    let settings = MetricsSettings {
        listen: reading.get(&section, "listen", value::list(value::socket)),
        access: SocketAccess {
            mode: reading.given(&section, "mode", value::mode).unwrap_or(SOCKET_MODE),
            group: reading.given(&section, "group", value::plain),
        },
        token_file,
    };
    if !reading.is_bad(&section, "listen") {
        addresses(reading, &section, &settings, listen);
    }
    if let Some(path) = &settings.token_file {
        token(reading, &section, path);
    }
    settings
}

fn addresses<'t>(
    reading: &mut Reading<'t>,
    section: &Section<'t>,
    settings: &MetricsSettings,
    others: &[ListenAddress],
) {
    for (at, address) in settings.listen.iter().enumerate() {
        let problem = match address {
            ListenAddress::Ip(ip) if !ip.ip().is_loopback() && !section.gives("token_file") => Some(format!(
                "{address} is not loopback, and whoever reaches it would see who mails whom; give token_file, or \
                 listen on 127.0.0.1 or at unix:PATH"
            )),
            ListenAddress::Unix(path) => path.parent().and_then(guarded::fault_of_directory),
            ListenAddress::Ip(_) => None,
        };
        let collides = |other: &&ListenAddress| collide(other, address);
        let taken = settings.listen[..at].iter().chain(others).find(collides).map(|other| match other {
            same if same == address => format!("{address} is listened on already; remove one"),
            wider => format!("{address} is listened on already, by {wider}; remove one, or change its port"),
        });
        problem.into_iter().chain(taken).for_each(|text| reading.problem(section, "listen", text));
    }
    let has_path = settings.listen.iter().any(|address| address.path().is_some());
    for key in ["mode", "group"].into_iter().filter(|key| section.gives(key) && !has_path) {
        let text = "is for a socket in the file system, and listen has none; remove it";
        reading.problem(section, key, text.to_owned());
    }
    let has_ip = settings.listen.iter().any(|address| address.ip().is_some());
    if section.gives("token_file") && !has_ip {
        let text = "is for IP addresses, and listen has none; remove it";
        reading.problem(section, "token_file", text.to_owned());
    }
}

/// Whether two sockets would want the same connections. `[::]` takes those of IPv4 too.
fn collide(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (Some(one), Some(other)) = (one.ip(), other.ip()) else { return one == other };
    let takes = |wide: SocketAddr, of: SocketAddr| {
        wide.ip() == of.ip() || wide.ip().is_unspecified() && (wide.is_ipv6() || of.is_ipv4())
    };
    one.port() != 0 && one.port() == other.port() && (takes(one, other) || takes(other, one))
}

/// Unlike the token of a route nobody else makes this one in time.
fn token<'t>(reading: &mut Reading<'t>, section: &Section<'t>, path: &Path) {
    let name = path.display();
    let text = match first_line(path) {
        Ok(Some(token)) if token.trim().len() >= TOKEN_BYTES_MIN => {
            return cross::readable_by_all(reading, section, "token_file", path);
        }
        Ok(Some(_)) => format!("the token in {name} is shorter than {TOKEN_BYTES_MIN} characters"),
        Ok(None) => format!("{name} has no token in its first line"),
        Err(error) => format!("{name} cannot be read: {error}"),
    };
    let text = format!("{text}; `openssl rand -hex 16` makes one");
    reading.problem(section, "token_file", text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_do_not_want_the_same_connections() {
        let at = |text: &str| match text.strip_prefix("unix:") {
            Some(path) => ListenAddress::Unix(path.into()),
            None => ListenAddress::Ip(text.parse().unwrap()),
        };
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:1", false),
        ] {
            assert_eq!(collide(&at(one), &at(other)), expected, "{one} {other}");
            assert_eq!(collide(&at(other), &at(one)), expected, "{other} {one}");
        }
    }
}
