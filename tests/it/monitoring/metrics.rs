//! `/metrics`: every gauge is what its SELECT in docs/monitoring.md says, every counter what happened; the docs, the
//! rules and the board name what there is, and Prometheus' own tool reads all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::client::Client;
use crate::harness::db::Db;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::http_client::{get, get_with};
use crate::harness::relay::{Config, Relay, World, free_port, mail, run_to_end, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};
use crate::harness::skipped::installed;

/// Series by their name and labels, in order.
type Scrape = BTreeMap<String, f64>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/monitoring.md")).unwrap()
}

/// A queue with every state, and the relay that has it.
struct Stage {
    relay: Relay,
    metrics: SocketAddr,
    _hosts: Vec<FakeMx>,
    _world: World,
    _session: Client,
}

impl Stage {
    fn new() -> Stage {
        let mut world = World::new();
        let hosts = vec![
            world.host(
                "a.test",
                Script::new()
                    .on(At::Rcpt("no@"), Act::Say("550 5.1.1 nobody here"))
                    .on(At::Rcpt("later@"), Act::Say("451 4.2.1 busy")),
            ),
            world.host("stalls.test", Script::new().on(At::Dot, Act::Stall)),
            world.host("app.test", Script::new()),
        ];
        world.closed_mx("down.test", 10, "mx.down.test");
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = Config::new().set("metrics.listen", format!("[\"{metrics}\"]"));
        let mut relay = Relay::prepare(world.configured(config));
        relay.add_user();
        relay.add_user_with("customer", &["--atrn", "shop.test"]);
        relay.spawn();
        relay.wait_until_ready();
        let session = relay.client();
        let stage = Stage { relay, metrics, _hosts: hosts, _world: world, _session: session };
        stage.fill();
        stage
    }

    fn fill(&self) {
        let relay = &self.relay;
        relay.submit(SENDER, &["yes@a.test", "no@a.test", "later@a.test"], &mail("three"));
        relay.submit(SENDER, &["held@shop.test", "fetched@shop.test"], &mail("for the customer"));
        relay.submit(SENDER, &["you@down.test"], &mail("first"));
        wait_for_end(relay, "yes@a.test", "delivered");
        wait_for_end(relay, "no@a.test", "failed");
        wait_for_end(relay, SENDER, "delivered");
        wait_for_attempts(relay, "later@a.test", "deferred", 1);
        wait_for_attempts(relay, "you@down.test", "deferred", 1);
        relay.wait_until("the lane to back off", SOON, |db| {
            (db.number("SELECT count(*) FROM backoffs WHERE lane = 'down.test'", []) == 1).then_some(())
        });
        // Due, and waits for its lane.
        relay.submit(SENDER, &["you@down.test"], &mail("second"));
        // Due, for as long as its host says nothing.
        relay.submit(SENDER, &["you@stalls.test"], &mail("stalls"));
        let db = relay.db_for_writing();
        db.0.execute_batch(ODD_ROWS).unwrap();
        let mut client = relay.client();
        for (command, reply) in [
            ("MAIL FROM:<me@app.test> SIZE=99999999999", "552"),
            ("RCPT TO:<you@a.test>", "503"),
            ("MAIL FROM:<me@app.test>", "250"),
            ("RCPT TO:<nobody>", "550"),
            ("RSET", "250"),
            ("QUIT", "221"),
        ] {
            client.expect(command, reply);
        }
        relay.client().expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535");
    }

    fn scrape(&self) -> Scrape {
        let answer = get(self.metrics, "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        parse(&answer.body)
    }
}

/// Rows of all ages and both states, of many domains, and of every small table; none of them is due.
const ODD_ROWS: &str = "
    INSERT INTO suspensions (kind, value, until) VALUES ('tag', 'one', NULL), ('user', 'two', unixepoch() + 9999),
                                                        ('user', 'over', unixepoch() - 9);
    CREATE TEMP TABLE ages (secs, state, received_at);
    INSERT INTO ages (secs, state) VALUES (30, 'held'), (1200, 'queued'), (1200, 'held'), (9000, 'queued'), (9000, 'held'),
                            (40000, 'queued'), (40000, 'held'), (200000, 'queued'), (200000, 'held');
    -- Once for all: the next second may begin between two statements.
    UPDATE ages SET received_at = unixepoch() - secs;
    INSERT INTO messages (id, queue_id, sender, received_at, expires_at, size, body, smtputf8)
        SELECT received_at * 1000000 + rowid, 'old' || rowid, '', received_at, 4000000000, 0, '7bit', 0
        FROM ages;
    INSERT INTO recipients (id, message_id, address, domain, state, next_attempt_at)
        SELECT received_at * 1000000 + 100 + rowid, received_at * 1000000 + rowid, 'you@old.test',
               'old.test', state, 4000000000
        FROM ages;
    WITH RECURSIVE each(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM each WHERE n < 60)
    INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
        SELECT received_at * 1000000 + 1000 + n, received_at * 1000000 + 2, 'you@d' || n || '.test',
               'd' || n || '.test', 4000000000
        FROM each, ages WHERE ages.rowid = 2;
    INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
        SELECT received_at * 1000000 + 2000, received_at * 1000000 + 2, 'you@other', 'other', 4000000000
        FROM ages WHERE rowid = 2;
    INSERT INTO host_settings (mx, setting, value, changed_at, retry_at)
        VALUES ('mx.a.test', 'connections', 2, unixepoch(), NULL),
               ('mx.a.test', 'messages_per_minute', 30, unixepoch(), NULL),
               ('mx.b.test', 'connections', 2, unixepoch(), NULL),
               ('mx.b.test', 'pipelining', 'off', unixepoch(), 4000000000),
               ('mx.c.test', 'tls', 'plaintext', unixepoch(), 1);
    INSERT INTO backoffs (lane, failures, backoff_until, last_reply, changed_at)
        VALUES ('over.test', 1, unixepoch() - 60, '421 no', unixepoch());
    INSERT INTO login_failures (network, name, failures, since, until)
        VALUES ('192.0.2.7', '', 9, unixepoch(), 4000000000), ('192.0.2.8', '', 9, 0, 1);
    INSERT INTO pending_reports (sender, return_path, at, queue_id, address, state, require_tls)
        VALUES ('x@y.test', 'x@y.test', 4000000000, 'x', 'you@a.test', 'failed', 0);
    UPDATE recipients SET state = 'held' WHERE address = 'held@shop.test';
    -- Due for a day, and suspended: by its user, with its domain's parent, by both.
    INSERT INTO suspensions (kind, value) VALUES ('domain', '*.stopped.test'), ('tag', 'both');
    INSERT INTO messages (id, queue_id, sender, user, received_at, expires_at, size, body, smtputf8)
        VALUES (unixepoch() * 1000000, 'stopped', '', 'two', unixepoch(), 4000000000, 0, '7bit', 0);
    INSERT INTO recipients (id, message_id, address, domain, next_attempt_at)
        SELECT m.id + length(d.column1), m.id, 'you@' || d.column1, d.column1, unixepoch() - 86400
        FROM messages m, (VALUES ('by-user.test'), ('a.stopped.test'), ('later.test')) d WHERE m.queue_id = 'stopped';
    UPDATE recipients SET next_attempt_at = 4000000000 WHERE domain = 'later.test';
    UPDATE messages SET tag = 'both' WHERE queue_id = 'stopped';";

/// Series of a text in either format.
fn parse(text: &str) -> Scrape {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        (in_order(series), value.parse().unwrap_or_else(|_| panic!("{line:?}")))
    });
    series.collect()
}

/// The labels in the order of their names: the formats have `le` in different places. No value here has a comma.
fn in_order(series: &str) -> String {
    let Some((name, labels)) = series.trim_end_matches('}').split_once('{') else { return series.to_owned() };
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// The statements of the page by the name of their series.
fn selects() -> BTreeMap<String, String> {
    let page = page();
    let (_, section) = page.split_once("### By SQL").expect("the section");
    let block = section.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let mut selects = BTreeMap::new();
    for statement in block.split("-- ").skip(1) {
        let (name, sql) = statement.split_once('\n').unwrap();
        let name = name.split(' ').next().unwrap().to_owned();
        selects.insert(name, sql.trim().trim_end_matches(';').to_owned());
    }
    selects
}

/// What a statement says: series by name and labels, which are its columns but for the last.
fn selected(db: &Db, name: &str, sql: &str) -> Scrape {
    let mut statement = db.0.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let labels: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let (_, labels) = labels.split_last().unwrap();
    let rows = statement.query_map([], |row| {
        let label = |(at, label): (usize, &String)| Ok(format!("{label}=\"{}\"", row.get::<_, String>(at)?));
        let pairs: rusqlite::Result<Vec<String>> = labels.iter().enumerate().map(label).collect();
        let pairs = pairs?.join(",");
        let shown = if pairs.is_empty() { pairs } else { format!("{{{pairs}}}") };
        Ok((in_order(&format!("{name}{shown}")), row.get::<_, i64>(labels.len())? as f64))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// What the page's statements say of the whole queue.
fn all_selected(db: &Db) -> Scrape {
    selects().iter().flat_map(|(name, sql)| selected(db, name, sql)).collect()
}

fn name_of(series: &str) -> &str {
    series.split('{').next().unwrap()
}

/// Of series with a statement those that are not 0.
fn with_select(scrape: &Scrape, selects: &BTreeMap<String, String>) -> Scrape {
    let wanted = |(series, value): &(&String, &f64)| selects.contains_key(name_of(series)) && **value != 0.0;
    scrape.iter().filter(wanted).map(|(series, value)| (series.clone(), *value)).collect()
}

#[test]
fn every_gauge_is_what_its_select_says() {
    let stage = Stage::new();
    let selects = selects();
    assert!(selects.len() >= 16, "{selects:?}");
    let db = stage.relay.db();
    let deadline = Instant::now() + SOON;
    let not_zero = |scrape: Scrape| with_select(&scrape, &selects);
    let scrape = loop {
        // The clock goes on, and so does what is under way: what changed in between is looked at once more.
        let before = not_zero(all_selected(&db));
        let scrape = stage.scrape();
        let after = not_zero(all_selected(&db));
        let connections = |way: &str| scrape[&format!("postrider_connections_open{{direction=\"{way}\"}}")];
        // Those of before are closed a moment after they are of no use any more.
        let is_quiet = connections("in") == 1.0 && connections("out") == 1.0;
        let is_fresh = scrape["postrider_queue_counted_age_seconds"] == 0.0 && is_quiet;
        if before == after && is_fresh && not_zero(scrape.clone()) == before {
            break scrape;
        }
        let differs: Vec<_> =
            before.iter().filter(|(series, value)| scrape.get(*series) != Some(value)).collect();
        assert!(Instant::now() < deadline, "the tables say {differs:#?}, and /metrics {scrape:#?}");
    };
    // Of each something is there, so that nothing is compared with nothing.
    for name in selects.keys() {
        let is_there = scrape.iter().any(|(series, value)| name_of(series) == name && *value > 0.0);
        assert!(is_there || name == "postrider_database_free_bytes", "{name} is 0");
    }
    for (series, value) in [
        ("postrider_lanes_backing_off", 1.0),
        ("postrider_queue_backing_off_recipients", 1.0),
        ("postrider_queue_due_recipients", 1.0),
        ("postrider_queue_recipients{age=\"86400\",state=\"held\"}", 1.0),
        ("postrider_queue_recipients{age=\"300\",state=\"queued\"}", 62.0),
        ("postrider_hosts_throttled", 2.0),
        ("postrider_hosts_with_workarounds", 1.0),
        ("postrider_login_locks", 1.0),
        ("postrider_suspensions", 4.0),
        ("postrider_queue_suspended_recipients", 3.0),
        ("postrider_ready", 1.0),
        ("postrider_config_generation", 1.0),
        ("postrider_log_lines_dropped_total", 0.0),
        // 4096-01-01, as the tests' certificate has it.
        ("postrider_certificate_not_after_timestamp_seconds", 67_090_118_400.0),
    ] {
        assert_eq!(scrape.get(series), Some(&value), "{series} in {scrape:#?}");
    }
    let domains = scrape.keys().filter(|series| name_of(series) == "postrider_queue_domain_recipients");
    assert_eq!(domains.count(), 51);
    let log = fs::metadata(stage.relay.path("queue.db-wal")).unwrap().len();
    assert_eq!(stage.scrape()["postrider_wal_bytes"], log as f64);
    let disk = rustix::fs::statvfs(stage.relay.path("")).unwrap();
    assert_eq!(scrape["postrider_disk_size_bytes"], (disk.f_blocks * disk.f_frsize) as f64);
    assert!(scrape["process_start_time_seconds"] > 1.7e9, "{scrape:?}");
}

#[test]
fn counters_count_what_happened() {
    let stage = Stage::new();
    let db = stage.relay.db();
    // A refusal is told of after the client has heard it.
    let scrape = wait_for("the last of it to be told", SOON, || {
        let scrape = stage.scrape();
        let is_told = scrape.contains_key("postrider_refused_total{class=\"5xx\",enhanced=\"5.1.1\"}");
        (is_told && scrape["postrider_auth_failures_total"] > 0.0).then_some(scrape)
    });
    let of = |series: &str| *scrape.get(series).unwrap_or_else(|| panic!("no {series} in {scrape:#?}"));
    let by = |outcome: &str| db.number("SELECT count(*) FROM attempts WHERE outcome = ?", [outcome]) as f64;
    for (series, expected) in [
        ("postrider_messages_accepted_total", 5.0),
        ("postrider_recipients_accepted_total", 8.0),
        // Two to a.test and app.test: the bounce is delivered, too.
        ("postrider_recipients_delivered_total{class=\"2xx\"}", by("delivered")),
        ("postrider_recipients_bounced_total{class=\"5xx\"}", 1.0),
        ("postrider_recipients_deferred_total{class=\"4xx\"}", by("deferred")),
        ("postrider_recipients_expired_total{class=\"4xx\"}", 0.0),
        ("postrider_policy_refusals_total", 0.0),
        ("postrider_domain_recipients_total{domain=\"a.test\",outcome=\"delivered\"}", 1.0),
        ("postrider_domain_recipients_total{domain=\"a.test\",outcome=\"bounced\"}", 1.0),
        (
            "postrider_domain_recipients_total{domain=\"down.test\",outcome=\"deferred\"}",
            by("deferred") - 1.0,
        ),
        ("postrider_attempts_total{outcome=\"failed\",phase=\"rcpt\"}", 1.0),
        ("postrider_attempt_duration_seconds_count{phase=\"rcpt\"}", 2.0),
        ("postrider_reports_queued_total{kind=\"bounce\"}", 1.0),
        ("postrider_refused_total{class=\"5xx\",enhanced=\"5.3.4\"}", 1.0),
        ("postrider_auth_failures_total", 1.0),
        ("postrider_clients_turned_away_total", 0.0),
        ("postrider_tls_handshake_failures_total", 0.0),
    ] {
        assert_eq!(of(series), expected, "{series}");
    }
    assert!(of("postrider_accepted_bytes_total") > 100.0 && of("postrider_sessions_total") >= 6.0);
    let commits = of("postrider_commit_duration_seconds_count");
    assert!(commits > 3.0 && of("postrider_commit_operations_sum") > 3.0, "{scrape:?}");
    // What an operator does, and a reload.
    stage.relay.run_ok(&["queue", "bounce", "--domain", "old.test"]);
    stage.relay.signal("HUP");
    stage.relay.wait_until("the bounces", SOON, |_| {
        let scrape = stage.scrape();
        let returned = scrape["postrider_recipients_returned_total"] == 9.0;
        (returned && scrape["postrider_config_generation"] == 2.0).then_some(())
    });
}

/// Names of metrics in a text: what looks like one.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_one = |word: &&str| word.starts_with("postrider_") || *word == "process_start_time_seconds";
    words.filter(is_one).map(str::to_owned).collect()
}

/// The families of a scrape, and what stands behind `# TYPE` of each.
fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

#[test]
fn what_the_page_the_rules_and_the_board_name_is_there_and_nothing_else() {
    let stage = Stage::new();
    let text = get(stage.metrics, "/metrics").body;
    let families = families(&text);
    let page = page();
    // One row of the table for each family, with its type.
    let rows: BTreeMap<String, String> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.trim_end_matches('`').to_owned();
            Some((name, cells.next()?.to_owned()))
        })
        .filter(|(name, _)| !named(name).is_empty())
        .collect();
    // The old format has no type for it.
    let documented = rows.iter().map(|(name, kind)| (name.clone(), kind.replace("info", "gauge")));
    assert_eq!(documented.collect::<BTreeMap<_, _>>(), families);
    let series = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        families.contains_key(name)
            || base.is_some_and(|base| families.get(base).is_some_and(|it| it == "histogram"))
    };
    for file in ["docs/monitoring.md", "docs/monitoring/alerts.yml", "docs/monitoring/grafana.json"] {
        let names = named(&fs::read_to_string(root().join(file)).unwrap());
        let missing: Vec<&String> = names.iter().filter(|name| !series(name)).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
        assert!(names.len() > 15, "{file}: {names:?}");
    }
    serde_json::from_str::<serde_json::Value>(
        &fs::read_to_string(root().join("docs/monitoring/grafana.json")).unwrap(),
    )
    .unwrap();
}

fn promtool(arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(root());
    let output = run_to_end(command, input);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn promtool_takes_the_scrape_the_rules_and_the_config_of_the_page() {
    if !installed("promtool") {
        return;
    }
    let stage = Stage::new();
    let plain = get(stage.metrics, "/metrics");
    assert!(
        plain.head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{}",
        plain.head
    );
    assert_eq!(promtool(&["check", "metrics"], plain.body.as_bytes()), "");
    let open = get_with(stage.metrics, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(open.head.contains(kind) && open.body.ends_with("# EOF\n"), "{}", open.head);
    // They write numbers differently, those of buckets too.
    let names = |text: &str| parse(text).keys().map(|series| name_of(series).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&plain.body), names(&open.body));
    promtool(&["check", "rules", "docs/monitoring/alerts.yml"], b"");
    promtool(&["test", "rules", "tests/prometheus/alerts.yml"], b"");
    let page = page();
    let config = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let rules = root().join("docs/monitoring/alerts.yml");
    let config =
        config.replace("/usr/share/doc/postrider/docs/monitoring/alerts.yml", &rules.display().to_string());
    let file = stage.relay.path("prometheus.yml");
    fs::write(&file, config).unwrap();
    promtool(&["check", "config", path_text(&file)], b"");
    // Each question of the board is one.
    let board: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root().join("docs/monitoring/grafana.json")).unwrap())
            .unwrap();
    let mut expressions = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        expressions.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    assert!(expressions.len() > 40, "{expressions:?}");
    let rule = |(number, expression): (usize, &String)| {
        let expression = expression.replace("$__rate_interval", "5m");
        format!("  - record: board:{number}\n    expr: '{}'\n", expression.replace('\'', "''"))
    };
    let rules: String = expressions.iter().enumerate().map(rule).collect();
    let file = stage.relay.path("board.yml");
    fs::write(&file, format!("groups:\n- name: board\n  rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", path_text(&file)], b"");
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}
