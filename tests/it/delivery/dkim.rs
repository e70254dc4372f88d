//! Signatures before other people's verifiers: dkimpy must take each one, and Mail::DKIM, which knows no Ed25519, those
//! by RSA, whatever the mail.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::skipped::{installed, skipped};
use postrider::mail::dkim::{Algorithm, BodyHash, Canonicalization, Key, Signer, record};

const DKIMPY: &str = "
import dkim, pathlib, sys
folder = pathlib.Path(sys.argv[1])
records = dict(line.split(' ', 1) for line in (folder / 'records').read_text().splitlines())
ask = lambda name, timeout=5: records.get(name.decode().rstrip('.'), '').encode()
for file in sorted(folder.glob('*.eml')):
    if not dkim.verify(file.read_bytes(), dnsfunc=ask):
        print(file.name)
";
const MAIL_DKIM: &str = r#"
use Mail::DKIM::Verifier;
my %records;
open my $list, '<', "$ARGV[0]/records" or die;
while (<$list>) { chomp; my ($name, $text) = split / /, $_, 2; $records{$name} = $text }
{
    package Answer;
    sub new { bless { text => $_[1] } } sub type { 'TXT' } sub txtdata { $_[0]{text} }
    sub char_str_list { ($_[0]{text}) }
}
no warnings 'redefine';
*Mail::DKIM::DNS::query = sub { my ($name) = @_; exists $records{$name} ? Answer->new($records{$name}) : () };
for my $file (sort glob "$ARGV[0]/*.rsa.*.eml") {
    open my $mail, '<:raw', $file or die;
    local $/;
    my $verifier = Mail::DKIM::Verifier->new;
    $verifier->PRINT(<$mail>);
    $verifier->CLOSE;
    my $result = $verifier->result;
    print "$file: ", $verifier->result_detail, "\n" if $result ne 'pass';
}
"#;

/// Mail as it stands in the queue, by name.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let header =
        "From: Me <me@example.com>\r\nTo: you@example.org\r\nSubject:  a  subject \r\n\twith folds\r\n";
    let bodies: [(&str, &[u8]); 12] = [
        ("empty", b""),
        ("one-empty-line", b"\r\n"),
        ("empty-lines", b"\r\n\r\n\r\n"),
        ("blank-lines", b" \r\n\t\t\r\n  \r\n"),
        ("trailing-blanks", b"a  \r\nb\t \r\n \t c\t\td  \r\n"),
        ("empty-lines-behind", b"a\r\n\r\n\r\n"),
        ("empty-lines-before", b"\r\n\r\na\r\n"),
        ("eight-bit", "grüße \u{a0} ü\r\n".as_bytes()),
        ("dots", b".\r\n..\r\n.a\r\n"),
        ("long-line", &[b'x'; 2000]),
        ("only-blanks-and-text", b"   a   b   c   \r\n   \r\n"),
        ("no-last-line-end", b"a\r\nb"),
    ];
    let mut mails: Vec<(String, Vec<u8>)> = bodies
        .iter()
        .map(|(name, body)| (format!("body-{name}"), [header.as_bytes(), b"\r\n", body].concat()))
        .collect();
    let headers = [
        ("twice", "From: me@example.com\r\nTo: a@b\r\nTo: c@d\r\nSubject: one\r\nSubject: two\r\n"),
        ("case", "fROM: me@example.com\r\nSUBJECT: x\r\nmessage-id:<1@example.com>\r\n"),
        ("folds", "From:\r\n me@example.com\r\nTo: a@b,\r\n\tc@d,\r\n   e@f\r\nSubject:\tx\t\ty\r\n"),
        ("empty-field", "From: me@example.com\r\nSubject:\r\nReferences: \r\n"),
        ("utf8", "From: M\u{fc}ller <me@example.com>\r\nSubject: gr\u{fc}\u{df}e\r\n"),
        (
            "many",
            "Received: x\r\nReturn-Path: <x@y>\r\nFrom: me@example.com\r\nX-A: b\r\nList-Unsubscribe: <https://example.com/u>\r\n",
        ),
    ];
    mails.extend(
        headers
            .iter()
            .map(|(name, header)| (format!("header-{name}"), [header.as_bytes(), b"\r\nbody\r\n"].concat())),
    );
    let long: String = (0..160_000).fold(String::new(), |mut text, line| {
        let _ = write!(text, "line {line}  with  blanks and so on and so on and so on and so on \t\r\n");
        text
    });
    mails.push(("ten-megabytes".to_owned(), [header.as_bytes(), b"\r\n", long.as_bytes()].concat()));
    mails
}

/// As it arrives.
fn signed(mail: &[u8], signer: &Signer) -> Vec<u8> {
    let header = postrider::mail::header::header_of(mail);
    let body = mail.get(header.len() + 2..).unwrap_or_default();
    let mut hash = BodyHash::new(signer.canonicalization.1);
    // As the queue has it: in pieces.
    body.chunks(777).for_each(|piece| hash.feed(piece));
    let field = signer.sign(header, &hash.finish(), 1_700_000_000).unwrap();
    // DATA ends the last line.
    let end: &[u8] = if mail.ends_with(b"\r\n") { b"" } else { b"\r\n" };
    [field.as_bytes(), mail, end].concat()
}

/// A folder with all mail, signed in each way, and the records of the keys.
fn signed_corpus(folder: &Path) -> usize {
    use Canonicalization::{Relaxed, Simple};
    let mut records = String::new();
    let mut count = 0;
    for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
        let key = Key::generate(algorithm).unwrap();
        let selector = algorithm.key_type().to_owned();
        let _ = writeln!(records, "{selector}._domainkey.example.com {}", record::text_of(&key));
        let mut signer = Signer {
            domain: "example.com".to_owned(),
            selector,
            key,
            canonicalization: (Relaxed, Relaxed),
            expires_after: None,
        };
        for pair in [(Relaxed, Relaxed), (Relaxed, Simple), (Simple, Relaxed), (Simple, Simple)] {
            signer.canonicalization = pair;
            for (name, mail) in corpus() {
                let (header, body) = (pair.0.as_str(), pair.1.as_str());
                let file = format!("{name}.{}.{header}.{body}.eml", algorithm.key_type());
                std::fs::write(folder.join(file), signed(&mail, &signer)).unwrap();
                count += 1;
            }
        }
    }
    std::fs::write(folder.join("records"), records).unwrap();
    count
}

fn verify(program: &str, script: &[&str], folder: &Path) -> Output {
    Command::new(program).args(script).arg(folder).output().unwrap()
}

#[test]
fn other_verifiers_take_every_signature() {
    let folder = tempfile::tempdir().unwrap();
    let judges = [
        ("/usr/bin/python3", ["-c", "import dkim, nacl"], ["-c", DKIMPY], "dkimpy"),
        ("perl", ["-e", "use Mail::DKIM::Verifier"], ["-e", MAIL_DKIM], "Mail::DKIM"),
    ];
    let count = signed_corpus(folder.path());
    assert!(count > 100);
    for (program, is_there, script, name) in judges {
        let there = installed(program.rsplit('/').next().unwrap())
            && Command::new(program).args(is_there).output().is_ok_and(|output| output.status.success());
        if !there {
            skipped(&format!("{name} is not installed"));
            continue;
        }
        let output = verify(program, &script, folder.path());
        let (refused, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {errors}");
        assert_eq!(refused, "", "{name} refuses these; {errors}");
    }
}
