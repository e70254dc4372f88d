//! Signatures before other people's verifiers, whatever the mail: dkimpy and OpenDKIM must take each one, and
//! Mail::DKIM, which knows no Ed25519, those by RSA. What one of them does not take for a reason of its own is written
//! down in `exception`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::fakemx::SOON;
use crate::harness::milter::Milter;
use crate::harness::relay::wait_for;
use crate::harness::skipped::{installed, skipped};
use crate::whole::mails::{cpython_mails, files, name, our_mails, proper_lines};
use postrider::mail::dkim::{Algorithm, BodyHash, Canonicalization, Key, Signer, record};
use postrider::mail::header::{fields, header_of};

const DKIMPY: &str = "
import dkim, pathlib, sys
folder = pathlib.Path(sys.argv[1])
records = dict(line.split(' ', 1) for line in (folder / 'records').read_text().splitlines())
ask = lambda name, timeout=5: records.get(name.decode().rstrip('.'), '').encode()
files = sorted(folder.glob('*.eml'))
for file in files:
    try:
        if not dkim.verify(file.read_bytes(), dnsfunc=ask):
            print(file.name)
    except dkim.DKIMException as error:
        print(f'{file.name}: {error}')
print(f'judged {len(files)}')
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
my @files = sort grep { /\.rsa\./ } glob "$ARGV[0]/*.eml";
for my $file (@files) {
    open my $mail, '<:raw', $file or die;
    local $/;
    my $verifier = Mail::DKIM::Verifier->new;
    $verifier->PRINT(<$mail>);
    $verifier->CLOSE;
    my $result = $verifier->result;
    print "$file: ", $verifier->result_detail, "\n" if $result ne 'pass';
}
print 'judged ', scalar @files, "\n";
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
    mails.extend(odd_mails());
    mails.push(("ten-megabytes".to_owned(), [header.as_bytes(), b"\r\n", long.as_bytes()].concat()));
    mails
}

/// The repository's and CPython's, as the queue has them: every line ended by CR LF, a lone CR a space.
fn odd_mails() -> Vec<(String, Vec<u8>)> {
    let mails = cpython_mails().into_iter().chain(our_mails());
    mails.map(|file| (format!("odd-{}", name(&file)), proper_lines(&std::fs::read(file).unwrap()))).collect()
}

/// As it arrives.
fn signed(mail: &[u8], signer: &Signer) -> Vec<u8> {
    let header = header_of(mail);
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
    let corpus = corpus();
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
            for (name, mail) in &corpus {
                let (header, body) = (pair.0.as_str(), pair.1.as_str());
                let file = format!("{name}.{}.{header}.{body}.eml", algorithm.key_type());
                std::fs::write(folder.join(file), signed(mail, &signer)).unwrap();
                count += 1;
            }
        }
    }
    std::fs::write(folder.join("records"), records).unwrap();
    count
}

/// The names of the files whose signatures a judge refuses, with what it says; none where it is not there.
fn refused(judge: &str, folder: &Path) -> Option<BTreeMap<String, String>> {
    let output = match judge {
        "dkimpy" => script("/usr/bin/python3", ["-c", "import dkim, nacl"], ["-c", DKIMPY], folder)?,
        "Mail::DKIM" => script("perl", ["-e", "use Mail::DKIM::Verifier"], ["-e", MAIL_DKIM], folder)?,
        _ => return opendkim(folder),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // One that looked at nothing would refuse nothing.
    let is_for_it = |file: &&PathBuf| judge != "Mail::DKIM" || file.to_string_lossy().contains(".rsa.");
    let wanted = files(folder, "eml").iter().filter(is_for_it).count();
    let (said, judged) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    assert!(wanted > 0 && judged == format!("judged {wanted}"), "{judge} {judged} of {wanted}");
    let of_line = |line: &str| {
        let (file, why) = line.split_once(": ").unwrap_or((line, ""));
        let file = file.rsplit('/').next().unwrap_or_default();
        (file.to_owned(), why.to_owned())
    };
    Some(said.lines().map(of_line).collect())
}

fn script(program: &str, is_there: [&str; 2], script: [&str; 2], folder: &Path) -> Option<Output> {
    let there = installed(program.rsplit('/').next().unwrap())
        && Command::new(program).args(is_there).output().is_ok_and(|output| output.status.success());
    let output = there.then(|| Command::new(program).args(script).arg(folder).output().unwrap())?;
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

/// OpenDKIM as a mail server's filter, with the records in a file: its own test mode alters the blank behind a colon.
/// Gives what it says of each mail that it does not take.
fn opendkim(folder: &Path) -> Option<BTreeMap<String, String>> {
    const PROGRAM: &str = "/usr/sbin/opendkim";
    if !Path::new(PROGRAM).exists() {
        return None;
    }
    let (config, socket) = (folder.join("opendkim.conf"), folder.join("socket"));
    let settings = format!(
        "TestPublicKeys {}\nSocket local:{}\nMode v\nSyslog no\nBackground no\nAlwaysAddARHeader yes\n\
         AuthservID judge\nMaximumHeaders 0\n",
        folder.join("records").display(),
        socket.display(),
    );
    std::fs::write(&config, settings).unwrap();
    let mut filter = Command::new(PROGRAM).arg("-f").arg("-x").arg(&config).spawn().unwrap();
    let stream = wait_for("OpenDKIM to listen", SOON, || UnixStream::connect(&socket).ok());
    let mut milter = Milter::greet(stream);
    let refused = files(folder, "eml").into_iter().filter_map(|file| {
        let said = milter.added(&std::fs::read(&file).unwrap()).join("\n");
        let holds = said.starts_with("Authentication-Results ") && said.contains("dkim=pass ");
        (!holds).then(|| (file.file_name().unwrap().to_string_lossy().into_owned(), said))
    });
    let refused = refused.collect();
    filter.kill().unwrap();
    filter.wait().unwrap();
    Some(refused)
}

/// Why a judge may refuse a mail that others take; none of it is about the signature.
fn exception(judge: &str, mail: &[u8]) -> Option<&'static str> {
    let header = header_of(mail);
    let text = String::from_utf8_lossy(header);
    let is_field = |line: &str| {
        let name = line.split_once(':').map_or("", |(name, _)| name);
        line.starts_with([' ', '\t']) || !name.is_empty() && !name.contains([' ', '\t'])
    };
    let has_no_field = !text.split_terminator("\r\n").all(is_field);
    let body = &mail[header.len()..];
    let count = |bytes: &[u8]| memchr::memmem::find_iter(body, bytes).count();
    let ends = count(b"\r\n");
    let is_binary = count(b"\r") != ends || count(b"\n") != ends;
    let has_no_last_end = !body.ends_with(b"\r\n");
    let all = fields(header);
    let authors = all.iter().filter(|field| field.is("From") && field.value().contains(&b'@'));
    match judge {
        "dkimpy" if has_no_field => {
            Some("it stops at a line of the header that is no field as it knows them")
        }
        "dkimpy" if is_binary => Some("a lone LF is the end of a line for it"),
        // RFC 6376 §3.4.3 gives it one.
        "Mail::DKIM" if has_no_last_end && text.contains("/simple;") => {
            Some("it hashes a last line without a line end as it is")
        }
        "OpenDKIM" if has_no_last_end => Some("it wants a line end behind the last line"),
        "OpenDKIM" if has_no_field => Some("the header ends for it at a line that is no field"),
        "OpenDKIM" if is_binary => Some("it does not take a lone CR or LF in a body for the byte that it is"),
        "OpenDKIM" if authors.count() != 1 => Some("it wants one From with an address (RFC 5322 §3.6)"),
        _ => None,
    }
}

/// Each judge on all mail in a folder. None may refuse what is no `exception`.
pub(crate) fn assert_verified(folder: &Path) {
    let mut unknown = Vec::new();
    let judges = ["dkimpy", "Mail::DKIM", "OpenDKIM"];
    let judged = std::thread::scope(|scope| {
        let begun = judges.map(|judge| scope.spawn(move || refused(judge, folder)));
        begun.map(|judge| judge.join().unwrap())
    });
    for (judge, refused) in judges.into_iter().zip(judged) {
        let Some(refused) = refused else {
            skipped(&format!("{judge} is not installed"));
            continue;
        };
        let is_known = |file: &str| exception(judge, &std::fs::read(folder.join(file)).unwrap()).is_some();
        let refused = refused.into_iter().filter(|(file, _)| !is_known(file));
        unknown.extend(refused.map(|(file, why)| format!("{judge}: {file}: {why}")));
    }
    assert!(unknown.is_empty(), "refused:\n{}", unknown.join("\n"));
}

#[test]
fn other_verifiers_take_every_signature() {
    let folder = tempfile::tempdir().unwrap();
    assert!(signed_corpus(folder.path()) > 100);
    assert_verified(folder.path());
}
