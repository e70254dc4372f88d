//! The arguments of VRFY, EXPN, ETRN, ATRN and the commands of operators. Pure.

use crate::mail::Domain;
use crate::queue::Kick;

use crate::submission::syntax::command::{
    ATRN_USAGE, ETRN_USAGE, NameQuery, Node, OPERATOR_USAGE, OperatorCommand, SyntaxError,
};

/// Of `#lane`: a lane is `route:` and a pattern at most. Our replies repeat it.
const LANE_BYTES_MAX: usize = 300;
/// The argument of VRFY or EXPN. RFC 6531 §3.7.4.2: they may end in SMTPUTF8.
pub(in crate::submission) fn name_query(
    arguments: &str,
    usage: &'static str,
) -> Result<NameQuery, SyntaxError> {
    let (name, utf8) = match arguments.rsplit_once(' ') {
        Some((name, last)) if last.eq_ignore_ascii_case("SMTPUTF8") => (name, true),
        _ => (arguments, false),
    };
    match name.trim_matches(' ') {
        "" => Err(SyntaxError::Usage(usage)),
        name => Ok(NameQuery { name: name.to_owned(), utf8 }),
    }
}

/// The argument of ETRN (RFC 1985 §5.1).
pub(in crate::submission) fn etrn(arguments: &str) -> Result<Node, SyntaxError> {
    let usage = SyntaxError::Usage(ETRN_USAGE);
    let node = arguments.trim_start_matches(' ');
    let domain = |text: &str| Domain::parse(text).map_err(|_| usage.clone());
    match node.as_bytes().first() {
        Some(b'#') if (2..=LANE_BYTES_MAX).contains(&node.len()) && !node.contains(' ') => {
            Ok(Node::Lane(node[1..].to_owned()))
        }
        Some(b'@') => Ok(Node::Kick(Kick::DomainAndBelow(domain(&node[1..])?))),
        _ => Ok(Node::Kick(Kick::Domain(domain(node)?))),
    }
}

/// The argument of ATRN: `domain,domain…`; none: all that the user has.
pub(in crate::submission) fn atrn(arguments: &str) -> Result<Vec<Domain>, SyntaxError> {
    let arguments = arguments.trim_start_matches(' ');
    if arguments.is_empty() {
        return Ok(Vec::new());
    }
    let domains: Result<Vec<Domain>, _> = arguments.split(',').map(Domain::parse).collect();
    domains.map_err(|_| SyntaxError::Usage(ATRN_USAGE))
}

/// The arguments of `verb`, one of [`OPERATOR_USAGE`].
pub(in crate::submission) fn operator(verb: &str, arguments: &str) -> OperatorCommand {
    let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
    let lane = || words.first().map(|lane| (*lane).to_owned());
    match (verb, words.as_slice()) {
        ("XADR", [address]) => OperatorCommand::Xadr((*address).to_owned()),
        ("XSTA", [] | [_]) => OperatorCommand::Xsta(lane()),
        ("XCIR", [] | [_]) => OperatorCommand::Xcir(lane()),
        ("XGEN", []) => OperatorCommand::Xgen,
        _ => OperatorCommand::Misused(
            OPERATOR_USAGE.iter().find(|(name, _)| *name == verb).map_or("HELP", |(_, usage)| usage),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_domain_and_lane_are_told_apart() {
        let domain = Domain::parse("example.com").unwrap();
        assert_eq!(etrn("Example.com"), Ok(Node::Kick(Kick::Domain(domain.clone()))));
        assert_eq!(etrn("@example.com"), Ok(Node::Kick(Kick::DomainAndBelow(domain))));
        assert_eq!(etrn("#news"), Ok(Node::Lane("news".into())));
    }

    #[test]
    fn domains_stand_between_commas_and_nothing_else() {
        let read = |text: &str| {
            atrn(text).map(|domains| domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(read("").as_deref(), Ok(""));
        assert_eq!(read("Example.COM").as_deref(), Ok("example.com"));
        assert_eq!(read("example.org,bücher.example").as_deref(), Ok("example.org xn--bcher-kva.example"));
        for bad in
            ["a.example,", ",a.example", "a.example b.example", "a.example, b.example", "@a.example", "a..b"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
