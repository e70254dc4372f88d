//! Keys of how the relay is watched.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::{Example, Is};

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[
    def(
        "metrics.listen",
        List(0, &Socket),
        Is("[]"),
        "Where metrics, health checks and the status page can be read over HTTP, such as \"127.0.0.1:9587\", or a \
         socket in the file system, \"unix:/run/postrider/metrics.sock\". Nowhere by default: whoever reads them sees \
         who mails whom. An address that is not loopback needs token_file.",
    ),
    def(
        "metrics.token_file",
        File,
        Example("\"/etc/postrider/metrics-token\""),
        "Whoever asks at an IP address must know the token in the first line of this file, 16 characters at least: \
         Authorization: Bearer TOKEN, or the token as the password of any user, for browsers. It is read at the start \
         and at a reload. It goes over the network in the clear, so put a proxy with TLS before it where others listen in.",
    ),
    def(
        "metrics.mode",
        Mode,
        Example("\"0640\""),
        "Who may connect to such a socket in the file system: its rights. No token is asked for there. Default: \"0660\".",
    ),
    def(
        "metrics.group",
        Text,
        Example("\"prometheus\""),
        "The group of such a socket. Default: the relay's own.",
    ),
];
