//! The pages in a browser and out of it: hostile mail, a long queue, and a writer that nobody holds.
//!
//! `TEST_ROWS=1000000` runs the long queue at its full length; `TEST_SCREENSHOTS=DIR` keeps the pictures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::http_client::{address, get, watched};
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;
use crate::harness::skipped::installed;

use postrider::queue::MessageId;

/// What a page may take.
const PAGE_MAX: Duration = Duration::from_millis(100);
/// Recipients that wait in the ordinary run.
const ROWS: u64 = 20_000;

/// Until the numbers are there.
fn counted(at: SocketAddr) -> String {
    wait_for("the page to be counted", SOON, || {
        let page = get(at, "/");
        assert_eq!(page.status, 200, "{page:?}");
        (!page.body.contains("is being counted")).then_some(page.body)
    })
}

#[test]
fn what_hosts_and_clients_said_is_on_the_pages_and_none_of_it_is_markup() {
    let mut world = World::new();
    let hostile = "450 4.7.1 <script>alert(1)</script> \"'&\u{202e}\u{1b}[2J </section>";
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say(hostile)));
    let at = address();
    let mut relay = world.relay(watched(Config::new(), &[at]).set("log.subject", "true"));
    let content =
        b"Subject: <em>\xe2\x80\xae\x1b[2J</em><script>\r\nFrom: \"<i>\" <me@app.test>\r\n\r\nhello\r\n";
    let (sender, recipient) = ("\"<u>&'\"@app.test", "\"<s>'&\"@a.test");
    let id = relay.submit(sender, &[recipient], content);
    relay.wait_until("the attempt", SOON, |db| (db.attempts(recipient, "deferred") == 1).then_some(()));
    let status = wait_for("the page to tell of it", SOON, || {
        let page = counted(at);
        page.contains("450 4.7.1").then_some(page)
    });
    let message = get(at, &format!("/message/{id}"));
    assert_eq!(message.status, 200, "{message:?}");
    for (name, page) in [("status", &status), ("message", &message.body)] {
        for part in
            ["<script", "<em>", "<i>", "<u>", "<s>", "\u{202e}", "\u{1b}", "http:", "https:", " style="]
        {
            assert!(!page.contains(part), "{name}: {part:?}: {page}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("\\xE2\\x80\\xAE"), "{name}: {page}");
    }
    assert!(status.contains("1 in the last hour") && status.contains(&format!("/message/{id}")), "{status}");
    for words in [
        "waiting",
        "1 attempt",
        "at rcpt",
        "&lt;s&gt;&#39;&amp;",
        "&lt;u&gt;",
        "<h2>Header</h2>",
        "<details><summary>",
        "C: RCPT TO:",
    ] {
        assert!(message.body.contains(words), "{words}: {}", message.body);
    }
    for path in ["/message/", "/message/../../etc/passwd", "/message/00000000001", "/message/%3Cscript%3E"] {
        let answer = get(at, path);
        assert!(answer.status == 404 && !answer.body.contains("script"), "{path}: {answer:?}");
    }
    // A finished one, too.
    relay.run_ok(&["queue", "remove", &id]);
    let gone = get(at, &format!("/message/{id}")).body;
    assert!(gone.contains("finished") && gone.contains("removed") && gone.contains("&lt;u&gt;"), "{gone}");
    in_a_browser(&format!("http://{at}/"), "hostile");
    in_a_browser(&format!("http://{at}/message/{id}"), "message");
    relay.stop();
}

/// Loads a page as a phone and as a desk has it, by day and by night: it is drawn, and nothing on it is refused by its
/// own policy, or runs.
fn in_a_browser(url: &str, name: &str) {
    if !installed("chromium") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("TEST_SCREENSHOTS").map(PathBuf::from);
    let to = keep.as_deref().unwrap_or(folder.path());
    for (size, scheme) in
        [("390,844", "light"), ("390,844", "dark"), ("1280,900", "light"), ("1280,900", "dark")]
    {
        let picture = to.join(format!("{name}-{}-{scheme}.png", size.split(',').next().unwrap()));
        let said = chromium(folder.path(), size, scheme, &format!("--screenshot={}", picture.display()), url);
        assert!(!said.contains("Content Security Policy") && !said.contains("Refused"), "{said}");
        let bytes = std::fs::metadata(&picture).map_or(0, |file| file.len());
        assert!(bytes > 5_000, "{size} {scheme}: {bytes} bytes: {said}");
    }
    let dom = chromium(folder.path(), "390,844", "light", "--dump-dom", url);
    assert!(dom.contains("Postrider") && !dom.contains("<script"), "{dom}");
}

/// What it printed.
fn chromium(folder: &Path, size: &str, scheme: &str, what: &str, url: &str) -> String {
    let dark = if scheme == "dark" { "preferredColorScheme=0" } else { "preferredColorScheme=1" };
    let mut command = Command::new("chromium");
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]);
    command.arg(format!("--blink-settings={dark}")).arg(format!("--window-size={size}"));
    command.arg(format!("--user-data-dir={}", folder.join("profile").display())).args([what, url]);
    let output = command.env("HOME", folder).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A relay with so many recipients that wait, a part of them held, and an hour of attempts behind it.
fn with_rows(world: &World, at: SocketAddr, rows: u64) -> Relay {
    let mut relay = world.relay(watched(Config::new(), &[at]));
    relay.stop();
    let fill = format!(
        "BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows} - 1)
         INSERT INTO messages (id, queue_id, sender, received_at, size, body, smtputf8)
         SELECT (unixepoch() - 86400) * 1000000 + i * (86000000000 / {rows}), printf('1K%09d', i),
                'app' || (i % 1000) || '@app.example', unixepoch() - 86400 + i * 86000 / {rows}, 0, '8bitmime', 0 FROM n;
         INSERT INTO recipients (id, message_id, address, domain, state, attempts, next_attempt_at, last_reply, last_mx,
                                 last_reply_source)
         SELECT id + 1, id, 'user' || rowid || '@d' || (id / 1000003 * 7 % 5003 % (1 + id / 1000003 % 500)) || '.example',
                'd' || (id / 1000003 * 7 % 5003 % (1 + id / 1000003 % 500)) || '.example', iif(id / 1000003 % 50 = 0, 'held', 'queued'), 1,
                unixepoch() + 7200 + id / 1000003 % 7200, '450 4.7.1 greylisted, come back later', 'mx.d.example', 'remote'
         FROM messages;
         INSERT INTO attempts (id, recipient_id, at, duration_ms, mx, ip, phase, code, enhanced, reply, outcome)
         SELECT id + 7, id, id / 1000000, 120, 'mx1.' || domain, '192.0.2.1', 'rcpt', 450, '4.7.1',
                '450 4.7.1 greylisted ' || (id / 1000003 % 97) || ', come back later', iif(id / 1000003 % 3 = 0, 'deferred', 'delivered')
         FROM recipients WHERE id > (unixepoch() - 3600) * 1000000;
         INSERT INTO backoffs VALUES ('d1.example', 4, unixepoch() + 600, '421 4.7.0 try again later', unixepoch());
         INSERT INTO host_settings VALUES ('mx1.d1.example', 'connections', 2, '421 4.7.0 too many', unixepoch(), NULL),
             ('mx1.d2.example', 'chunking', 'off', '503 5.5.1 what', unixepoch(), unixepoch() + 86400);
         INSERT INTO tls_results VALUES (unixepoch() / 86400 * 86400, 'd1.example', 'dane', '', '', '', 'success', 12, '', '', '');
         COMMIT;"
    );
    relay.db_for_writing().0.execute_batch(&fill).unwrap();
    relay.start_again();
    relay
}

#[test]
fn a_long_queue_costs_a_page_nothing_and_nobody_holds_the_writer() {
    let rows = std::env::var("TEST_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(ROWS);
    let (world, at) = (World::new(), address());
    let mut relay = with_rows(&world, at, rows);
    let began = Instant::now();
    get(at, "/");
    let first = began.elapsed();
    let page = wait_for("the page to be counted", 6 * SOON, || {
        let body = counted(at);
        body.contains("recipients wait").then_some(body)
    });
    for words in ["d1.example", "backs off for", "421 4.7.0 too many", "chunking off", "DANE", "12 sessions"]
    {
        assert!(page.contains(words), "{words}: {}", &page[page.find("<header").unwrap_or(0)..]);
    }
    // While pages are asked for without a pause, mail is committed.
    let (mut pages, mut commits) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            (0..40)
                .map(|_| {
                    let began = Instant::now();
                    get(at, "/");
                    began.elapsed()
                })
                .collect::<Vec<_>>()
        });
        let mut client = relay.client();
        while !looks.is_finished() || commits.len() < 20 {
            let began = Instant::now();
            let reply = client.transact(SENDER, "", &["you@a.test"], &mail("beside it")).unwrap();
            assert_eq!(reply.code, 250, "{reply:?}");
            commits.push(began.elapsed());
        }
        pages = looks.join().unwrap();
    });
    let id = relay.db().number("SELECT id FROM messages ORDER BY id LIMIT 1 OFFSET 100", []);
    let began = Instant::now();
    let shown = get(at, &format!("/message/{}", MessageId(id)));
    let message = began.elapsed();
    assert!(shown.status == 200 && shown.body.contains("450 4.7.1 greylisted"), "{shown:?}");
    pages.sort();
    commits.sort();
    let (middle, last) = (pages[pages.len() / 2], commits[commits.len() - 1]);
    println!(
        "{rows} rows: first page {first:?}, a page {middle:?} (slowest {:?}), message {message:?}, commit {:?} (slowest {last:?})",
        pages[pages.len() - 1],
        commits[commits.len() / 2],
    );
    assert!(middle < PAGE_MAX, "{middle:?}");
    assert!(last < Duration::from_secs(2), "{last:?}");
    in_a_browser(&format!("http://{at}/"), "long");
    relay.stop();
}
