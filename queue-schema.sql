-- Postrider's queue: the schema that the binary embeds and applies.
--
-- Look with `postrider sql` or `sqlite3 -readonly queue.db` at any time, also while the relay runs. Start with
--     SELECT * FROM queue;              what is waiting, for whom, and why
--     SELECT * FROM queue_by_domain;    how much waits for each domain, by age
--     SELECT * FROM failures;           which replies keep mail from being delivered, the most frequent first
--     SELECT * FROM backoffs;           destinations in trouble: until when they are not tried, and their last reply
--     SELECT * FROM suspensions;        what an operator has suspended: until when, and why
--     SELECT * FROM host_settings;      limits of hosts, and features that do not work with them
--     SELECT * FROM tls_sessions;       TLS in sessions with hosts, day by day: what held, and what failed
--     SELECT * FROM pending_reports;    failures not yet reported; each sender gets one summary
--     SELECT * FROM stuck;              always empty; a row here means a bug or a mistaken manual edit
-- and for what is finished, the latest mail first: SELECT * FROM history ORDER BY message_id DESC LIMIT 20;
-- You may also write, with `postrider sql --write` (or sqlite3 3.51.3 or newer: older ones can corrupt a database that
-- two processes write to): UPDATE recipients SET next_attempt_at = unixepoch() WHERE domain = '…' makes its mail due now;
-- where the lane backs off, its row in backoffs has to be deleted too (`postrider queue kick` does both). SET state =
-- 'held' holds, 'queued' releases; SET bounce_requested_at = unixepoch() returns to the sender. Postrider notices
-- within two seconds.
--
-- Times are Unix seconds (UTC) in the tables; the views show them readable too.
-- What a column cannot hold is refused at the prompt, and the message says what it wants.
-- Ids are microseconds since 1970 at which the id was given out, so that they sort by time; none
-- is used twice. A message's queue id is its id written in base 32 (11 characters).
-- PRAGMA user_version is the version of this schema.
--
-- The relay inserts and deletes each message once, thousands a second: every index below costs that much, and is there
-- for a question that it asks all the time, or (of history, kicks and operator_log) for what people ask and for what is
-- forgotten in time. Foreign keys are documentation (they are not enforced; the view `stuck` shows what would break them).

-- A message and its envelope sender; the row lives until its last recipient is finished.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY,
    queue_id    TEXT NOT NULL,             -- as in the 250 reply, the log and the Received field
    sender      TEXT NOT NULL,             -- envelope sender; '' is the null sender <> of bounces
    user        TEXT,                      -- who authenticated; NULL: trusted network, or our own bounce
    client      TEXT,                      -- IP address it came from, or unix:UID; NULL: our own bounce
    helo        TEXT,                      -- what the client called itself
    received_at INTEGER NOT NULL,
    expires_at  INTEGER,                   -- still undelivered then: bounce. NULL, as nearly always: when its lifetime
                                           -- is over, as [queue] has it now; the view message_ends says when that is
    size        INTEGER NOT NULL,          -- bytes of content
    body        TEXT NOT NULL,             -- 7bit, 8bitmime, binarymime (RFC 6152, RFC 3030)
    smtputf8    INTEGER NOT NULL,          -- 1: needs SMTPUTF8 (RFC 6531)
    ret         TEXT,                      -- FULL or HDRS: what a bounce returns (RFC 3461)
    envid       TEXT,                      -- ENVID, xtext as given (RFC 3461)
    priority    INTEGER NOT NULL DEFAULT 0, -- -9 to 9, higher goes first (RFC 6710); its recipients have it too
    require_tls INTEGER NOT NULL DEFAULT 0, -- 1: only over verified TLS to hosts that keep it (RFC 8689)
    tls_optional INTEGER NOT NULL DEFAULT 0, -- 1: no policy of a destination stops it (TLS-Required: No, RFC 8689)
    release_at  INTEGER,                   -- not tried before (FUTURERELEASE, RFC 4865), while its state is queued;
                                           -- lifetime and delays count from it
    lifetime_from INTEGER AS (max(received_at, coalesce(release_at, 0))) VIRTUAL,
    release_asked TEXT,                    -- 'for;seconds' or 'until;time', as it was asked for
    deliver_by  INTEGER,                   -- BY (RFC 2852); NULL: not given
    deliver_by_mode TEXT,                  -- R returns it then, N notifies the sender; T: each hop reports
    header_message_id TEXT,                -- its Message-ID field, without the angle brackets
    subject     TEXT,                      -- with [log] subject = true: its Subject, decoded, the first 200 characters
    tag         TEXT,                      -- the application's own label: its X-Postrider-Tag field
    CONSTRAINT "id is a time in microseconds" CHECK (id BETWEEN 0 AND 36028797018963967),
    CONSTRAINT "received_at is a time in Unix seconds" CHECK (received_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "expires_at is a time in Unix seconds" CHECK (expires_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "size counts bytes" CHECK (size >= 0),
    CONSTRAINT "body is 7bit, 8bitmime or binarymime" CHECK (body IN ('7bit', '8bitmime', 'binarymime')),
    CONSTRAINT "smtputf8 is 0 or 1" CHECK (smtputf8 IN (0, 1)),
    CONSTRAINT "ret is FULL or HDRS" CHECK (ret IN ('FULL', 'HDRS')),
    CONSTRAINT "priority is -9 to 9" CHECK (priority BETWEEN -9 AND 9),
    CONSTRAINT "require_tls is 0 or 1" CHECK (require_tls IN (0, 1)),
    CONSTRAINT "tls_optional is 0 or 1" CHECK (tls_optional IN (0, 1)),
    CONSTRAINT "release_at is a time in Unix seconds" CHECK (release_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "deliver_by_mode is R, N, RT or NT" CHECK (deliver_by_mode IN ('R', 'N', 'RT', 'NT'))
) STRICT;
CREATE INDEX messages_expiring ON messages (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX messages_by_age ON messages (sender = '', lifetime_from) WHERE expires_at IS NULL;

-- One row for each recipient that is not finished; a finished one moves to history.
CREATE TABLE recipients (
    id              INTEGER PRIMARY KEY,
    message_id      INTEGER NOT NULL REFERENCES messages (id),
    address         TEXT NOT NULL,
    domain          TEXT NOT NULL,         -- lower case, A-labels: what routing looks at
    notify          TEXT,                  -- NOTIFY as given (RFC 3461); NULL: not given
    orcpt           TEXT,                  -- ORCPT as given (RFC 3461)
    expanded        TEXT,                  -- aliases that led here and whose expansion is to be reported (RFC 3461):
                                           -- one a line, a tab before ORCPT
    state           TEXT NOT NULL DEFAULT 'queued', -- queued, or held: until released
    priority        INTEGER NOT NULL DEFAULT 0, -- the message's, for the order in which they are tried
    attempts        INTEGER NOT NULL DEFAULT 0,
    kicked_attempts INTEGER NOT NULL DEFAULT 0, -- those of them that a kick asked for: they take no step of the schedule
    next_attempt_at INTEGER NOT NULL,      -- not before; later still while its lane backs off
    last_attempt_at INTEGER,
    last_reply      TEXT,                  -- of the last attempt, codes first
    last_mx         TEXT,                  -- the host that was asked
    last_reply_source TEXT,                -- whether last_reply came from the host ('remote') or from Postrider ('local')
    warned_at       INTEGER,               -- when the sender got the delay warning
    in_doubt_since  INTEGER,               -- in_doubt = hold | assume-delivered: the final dot was about to be sent; or
                                           -- restored from a backup, and held: it may have been sent since
    bounce_requested_at INTEGER,           -- when an operator asked to return it to the sender; done at once
    held_by         TEXT,                  -- while it is held: operator, rule ([[retry.rule]]), in-doubt, restore, recover,
                                           -- or fault (it cannot be sent as it is); NULL: somebody with SQL
    held_reason     TEXT,                  -- which rule; which operator, and why; otherwise what is wrong
    CONSTRAINT "id is a time in microseconds" CHECK (id BETWEEN 0 AND 36028797018963967),
    CONSTRAINT "state is queued or held" CHECK (state IN ('queued', 'held')),
    CONSTRAINT "priority is -9 to 9" CHECK (priority BETWEEN -9 AND 9),
    CONSTRAINT "attempts counts tries" CHECK (attempts BETWEEN 0 AND 4294967295),
    CONSTRAINT "kicked_attempts counts tries" CHECK (kicked_attempts BETWEEN 0 AND 4294967295),
    CONSTRAINT "next_attempt_at is a time in Unix seconds" CHECK (next_attempt_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "last_attempt_at is a time in Unix seconds" CHECK (last_attempt_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "last_reply_source is remote or local" CHECK (last_reply_source IN ('remote', 'local')),
    CONSTRAINT "warned_at is a time in Unix seconds" CHECK (warned_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "in_doubt_since is a time in Unix seconds" CHECK (in_doubt_since BETWEEN 0 AND 253402300799),
    CONSTRAINT "bounce_requested_at is a time in Unix seconds" CHECK (bounce_requested_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "held_by is operator, rule, in-doubt, restore, recover or fault"
        CHECK (held_by IN ('operator', 'rule', 'in-doubt', 'restore', 'recover', 'fault'))
) STRICT;
CREATE INDEX recipients_of_message ON recipients (message_id);
CREATE INDEX recipients_due ON recipients (next_attempt_at) WHERE state = 'queued';
CREATE INDEX recipients_of_domain ON recipients (domain, state, priority, next_attempt_at);
-- Mail of ordinary priority is not in this one.
CREATE INDEX recipients_ranked ON recipients (priority, next_attempt_at) WHERE state = 'queued' AND priority <> 0;
CREATE INDEX recipients_before_dot ON recipients (message_id) WHERE in_doubt_since IS NOT NULL;
CREATE INDEX recipients_to_bounce ON recipients (id) WHERE bounce_requested_at IS NOT NULL;
CREATE INDEX recipients_held ON recipients (held_by) WHERE state = 'held';

-- The content of messages as it is sent (CR LF line ends, dots not doubled), in chunks of at most 256 KiB.
-- Whole:
--     SELECT group_concat(CAST(data AS TEXT), '') FROM (SELECT data FROM content WHERE message_id = … ORDER BY seq);
CREATE TABLE content (
    message_id INTEGER NOT NULL,
    seq        INTEGER NOT NULL,           -- 0, 1, 2 …
    data       BLOB NOT NULL,
    PRIMARY KEY (message_id, seq)          -- not WITHOUT ROWID: each look for a chunk would read others whole
) STRICT;

-- Messages of several chunks whose last chunk has not arrived yet. They are not accepted; their content so far is
-- deleted when the relay starts.
CREATE TABLE partial_messages (
    message_id INTEGER PRIMARY KEY
) STRICT;

-- Log of attempts, one row for each recipient of an attempt: which host answered what, and what it meant.
CREATE TABLE attempts (
    id           INTEGER PRIMARY KEY,      -- like all ids: microseconds, here of when the attempt was recorded
    recipient_id INTEGER NOT NULL,         -- recipients.id, and history.recipient_id afterwards
    at           INTEGER NOT NULL,
    duration_ms  INTEGER NOT NULL,
    mx           TEXT,                     -- name of the host
    ip           TEXT,
    tls          TEXT,                     -- 'none', or version, and 'verified' or 'signature not checked (why)'
    tls_policy   TEXT NOT NULL DEFAULT 'none', -- which policy said what TLS had to be: none dane sts-testing
                                           -- sts-enforce requiretls route
    dkim         TEXT,                     -- the DKIM keys that signed: 'example.com/s1,example.com/s2'; NULL: none
    phase        TEXT NOT NULL,            -- dns connect greeting ehlo starttls auth mail rcpt data end_of_data
    code         INTEGER NOT NULL,
    enhanced     TEXT,
    reply        TEXT NOT NULL,            -- codes and text on one line, the first 512 bytes
    reply_source TEXT NOT NULL DEFAULT 'remote', -- 'local': our own error, since the host gave no reply
    outcome      TEXT NOT NULL,            -- delivered relayed deferred failed expired in_doubt
    reply_id     INTEGER,                  -- replies.id, where the reply is longer
    source_address TEXT,                   -- our address on the connection
    dialogue_id  INTEGER                   -- dialogues.id: what was said; NULL where it did not fail
) STRICT;
CREATE INDEX attempts_of_recipient ON attempts (recipient_id);

-- What was said on the connections of failed attempts, a line each, with the milliseconds since the connection stood
-- ("C:" Postrider, "S:" the host, "--" what happened); the last 10,000. One row for all recipients of an attempt. Nothing
-- of the content is in it, and no password. A row is kept until its message is finished, and then as long as history;
-- `postrider queue remove` takes it along. Of each recipient of a message the last that is kept (an attempt that failed
-- before any host was asked has none):
--     SELECT r.address, d.dialogue FROM recipients r JOIN dialogues d ON d.id = (SELECT max(a.dialogue_id)
--     FROM attempts a WHERE a.recipient_id = r.id) WHERE r.message_id = …;
CREATE TABLE dialogues (
    id         INTEGER PRIMARY KEY,        -- like all ids: microseconds
    message_id INTEGER NOT NULL,
    dialogue   TEXT NOT NULL
) STRICT;
CREATE INDEX dialogues_of_message ON dialogues (message_id); -- and to count them without their texts

-- The whole of replies longer than 512 bytes, each text once. The last 1,000 are kept.
CREATE TABLE replies (
    id    INTEGER PRIMARY KEY,             -- 1, 2, 3 …
    reply TEXT NOT NULL UNIQUE
) STRICT;

-- Finished recipients, kept as long as [queue] history says, their attempts with them. In the order in
-- which the messages came: WHERE message_id >= (unixepoch() - 3600) * 1000000 is the last hour's mail.
-- Why mail came back:
--     SELECT count(*), reply_source, reply FROM history WHERE state IN ('failed', 'expired') GROUP BY 2, 3 ORDER BY 1 DESC;
CREATE TABLE history (
    message_id   INTEGER NOT NULL,
    recipient_id INTEGER NOT NULL,
    queue_id     TEXT NOT NULL,
    sender       TEXT NOT NULL,
    address      TEXT NOT NULL,
    state        TEXT NOT NULL,            -- delivered, relayed, failed, expired or removed
    received_at  INTEGER NOT NULL,
    finished_at  INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    reply        TEXT,
    mx           TEXT,
    reply_source TEXT,                     -- whether the reply came from the host ('remote') or from Postrider ('local')
    user         TEXT,                     -- who authenticated, and where the message came from: as in messages
    client       TEXT,
    tls          TEXT,                     -- of the attempt that ended it: as attempts.tls and attempts.source_address
    source_address TEXT,
    header_message_id TEXT,                -- what the message can be found by: as in messages
    subject      TEXT,
    tag          TEXT,
    finished_by  TEXT,                     -- operator: queue remove, queue bounce; outcome: what hosts said, or the end
                                           -- of its lifetime
    part         INTEGER NOT NULL DEFAULT 0, -- a thousand rows that were finished one after the other
                                           -- have the same number
    PRIMARY KEY (message_id, recipient_id),
    CONSTRAINT "state is delivered, relayed, failed, expired or removed"
        CHECK (state IN ('delivered', 'relayed', 'failed', 'expired', 'removed')),
    CONSTRAINT "finished_by is operator or outcome" CHECK (finished_by IN ('operator', 'outcome'))
) WITHOUT ROWID, STRICT;
-- For `postrider report`, and for `postrider queue find` by Message-ID, Subject and tag. Message-IDs and Subjects come in no
-- order: without the part before them each message would write a page of the index that no other one writes, now and when
-- it is forgotten.
CREATE INDEX history_by_end ON history (finished_at);
CREATE INDEX history_by_message_id ON history (part, header_message_id);
CREATE INDEX history_by_subject ON history (part, subject COLLATE NOCASE) WHERE subject IS NOT NULL;
CREATE INDEX history_by_tag ON history (tag) WHERE tag IS NOT NULL;

-- Which parts there are: with them a Message-ID is found by a step in each part, and not in each row.
--     SELECT * FROM history WHERE part IN (SELECT part FROM history_parts) AND header_message_id = '…';
CREATE VIEW history_parts AS
WITH RECURSIVE parts (part) AS (
    SELECT min(part) FROM history
    UNION ALL
    SELECT (SELECT min(part) FROM history WHERE part > parts.part) FROM parts WHERE part IS NOT NULL)
SELECT part FROM parts WHERE part IS NOT NULL;

-- Lanes (destinations) in trouble; a healthy lane has no row. A row goes when the lane's host takes a message, or about
-- six hours after the backoff is over: backoff_until <= unixepoch() means that the lane is tried again. Lanes
-- 'atrn:DOMAIN' stand here too: their mail is not sent, but waits until a user fetches it with ATRN (last_reply says
-- who may).
CREATE TABLE backoffs (
    lane          TEXT PRIMARY KEY,        -- a domain, 'route:' and a route's domain pattern, or 'atrn:' and a domain
    failures      INTEGER NOT NULL,        -- in a row
    backoff_until INTEGER NOT NULL,
    last_reply    TEXT NOT NULL,           -- '(local) ' before it: Postrider's own words, no host said them
    changed_at    INTEGER NOT NULL,
    CONSTRAINT "failures counts failures" CHECK (failures BETWEEN 0 AND 4294967295),
    CONSTRAINT "backoff_until is a time in Unix seconds" CHECK (backoff_until BETWEEN 0 AND 253402300799),
    CONSTRAINT "changed_at is a time in Unix seconds" CHECK (changed_at BETWEEN 0 AND 253402300799)
) WITHOUT ROWID, STRICT;

-- Suspensions: what waits, and what comes, for a domain, of a user or with a tag is not tried until its row is deleted or
-- its time is over; then all of it goes as if nothing had been. Rows of recipients are not touched, and lifetimes go on.
-- `postrider queue suspend`, `resume` and `suspensions` write and show them; you may also insert, change and delete rows:
-- the relay notices within two seconds. What waits behind each is in the view `suspended`. At most 1,000 are in force.
CREATE TABLE suspensions (
    kind   TEXT NOT NULL,                  -- domain, user or tag
    value  TEXT NOT NULL,                  -- of recipients.domain (*.example.com: those below it; *: all), messages.user
                                           -- or messages.tag
    since  INTEGER NOT NULL DEFAULT (unixepoch()),
    until  INTEGER,                        -- over then; NULL: until somebody resumes it
    reason TEXT,
    login  TEXT NOT NULL DEFAULT '',       -- who suspended it, as in operator_log
    PRIMARY KEY (kind, value),
    CONSTRAINT "kind is domain, user or tag" CHECK (kind IN ('domain', 'user', 'tag')),
    CONSTRAINT "the value of a suspension is not empty, and that of a domain is as in recipients.domain, *.domain or *"
        CHECK (value <> '' AND (kind <> 'domain' OR value = '*' OR value GLOB '[[][0-9]*]' OR value GLOB '[[]IPv6:*]'
            OR substr(value, iif(value GLOB '[*].*', 3, 1)) NOT GLOB '*[^-_a-z0-9.]*'
               AND value NOT GLOB '*..*' AND value NOT GLOB '.*' AND value NOT GLOB '*.')),
    CONSTRAINT "since is a time in Unix seconds" CHECK (since BETWEEN 0 AND 253402300799),
    CONSTRAINT "until is a time in Unix seconds" CHECK (until BETWEEN 0 AND 253402300799)
) WITHOUT ROWID, STRICT;
CREATE TRIGGER suspensions_max BEFORE INSERT ON suspensions
WHEN (NEW.until IS NULL OR NEW.until > unixepoch())
     AND (SELECT count(*) FROM suspensions WHERE (until IS NULL OR until > unixepoch())
              AND (kind <> NEW.kind OR value <> NEW.value)) >= 1000
BEGIN
    SELECT RAISE(ABORT, '1,000 suspensions are in force, and there cannot be more');
END;
CREATE TRIGGER suspensions_max_again BEFORE UPDATE ON suspensions
WHEN OLD.until <= unixepoch() AND (NEW.until IS NULL OR NEW.until > unixepoch())
     AND (SELECT count(*) FROM suspensions WHERE (until IS NULL OR until > unixepoch())
              AND (kind <> OLD.kind OR value <> OLD.value)) >= 1000
BEGIN
    SELECT RAISE(ABORT, '1,000 suspensions are in force, and there cannot be more');
END;

-- Which lane a domain's mail waits in, for the views here: the [[route]]s of the config in use, as they stood when
-- the relay started or last read its config. The first that matches wins; without one a domain is its own lane.
CREATE TABLE routes (
    position INTEGER PRIMARY KEY,          -- 1, 2, 3 …
    domain   TEXT NOT NULL,                -- example.com, *.example.com (those below it) or *
    lane     TEXT,                         -- as in backoffs; NULL: the domain's own, since the route has no relay
    relay    TEXT                          -- the smarthosts, in the order in which they are tried; NULL: by MX
) STRICT;

-- What was learnt of a host: limits, and features that do not work with it. A limit is halved when the host says "too
-- many", rises after each minute without that, and then the row goes; [[destination]] in the config overrules it. A
-- feature is not used until retry_at and then tried again: success deletes the row, failure renews it. You may insert,
-- change and delete rows; the relay notices within two seconds. Where a route requires TLS, 'plaintext' has no effect. A row
-- that nobody needed for 30 days goes, and beyond 10,000 hosts those that changed the longest ago.
CREATE TABLE host_settings (
    mx         TEXT NOT NULL,              -- the host's name; a relay's with its port
    setting    TEXT NOT NULL,              -- connections, messages_per_minute, tls, pipelining, chunking, single_write, reuse
    value      ANY NOT NULL,               -- limits: a number; tls: no-post-quantum or plaintext; the others: off
    last_reply TEXT,                       -- the reply that led to the setting; '(local) ' before it: Postrider's own words
    changed_at INTEGER NOT NULL,
    retry_at   INTEGER,                    -- when the feature is tried again; NULL: a limit
    PRIMARY KEY (mx, setting),
    CONSTRAINT "changed_at is a time in Unix seconds" CHECK (changed_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "retry_at is a time in Unix seconds" CHECK (retry_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "setting is connections, messages_per_minute, tls, pipelining, chunking, single_write or reuse"
        CHECK (setting IN ('connections', 'messages_per_minute', 'tls', 'pipelining', 'chunking', 'single_write', 'reuse')),
    CONSTRAINT "the value of a limit is a number above 0"
        CHECK (setting NOT IN ('connections', 'messages_per_minute') OR typeof(value) = 'integer' AND value > 0),
    CONSTRAINT "the value of tls is no-post-quantum or plaintext"
        CHECK (setting <> 'tls' OR value IN ('no-post-quantum', 'plaintext')),
    CONSTRAINT "the value of pipelining, chunking, single_write and reuse is off"
        CHECK (setting NOT IN ('pipelining', 'chunking', 'single_write', 'reuse') OR value = 'off'),
    CONSTRAINT "a feature has a retry_at" CHECK (setting IN ('connections', 'messages_per_minute') OR retry_at IS NOT NULL)
) WITHOUT ROWID, STRICT;

-- MTA-STS policies of domains (RFC 8461), as they were fetched: which hosts mail may go to, over TLS with a certificate
-- that holds, until expires_at. Used ones are fetched again once a day, or when the id in DNS changes. To drop one:
-- DELETE FROM mta_sts_policies WHERE domain = '…'; the relay notices within two seconds, and fetches the policy anew
-- before the next mail to the domain. A row whose time is over goes, and beyond 10,000 those that enforce
-- nothing and then those used the longest ago.
CREATE TABLE mta_sts_policies (
    domain     TEXT PRIMARY KEY,           -- the recipients', in lower case and A-labels
    id         TEXT NOT NULL,              -- of the TXT record _mta-sts.DOMAIN by which it was found
    mode       TEXT NOT NULL,              -- enforce, testing or none
    max_age    INTEGER NOT NULL,           -- seconds that it holds after it was fetched
    fetched_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,           -- when mail went by it last, to a day
    tried_at   INTEGER NOT NULL DEFAULT 0, -- when it was fetched last, or could not be
    mx         TEXT NOT NULL,              -- hosts, a space between; *. in front stands for one label
    last_error TEXT,                       -- why it could not be fetched again since; NULL: nothing failed
    CONSTRAINT "mode is enforce, testing or none" CHECK (mode IN ('enforce', 'testing', 'none')),
    CONSTRAINT "max_age is a number of seconds" CHECK (max_age BETWEEN 0 AND 31557600),
    CONSTRAINT "fetched_at is a time in Unix seconds" CHECK (fetched_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "expires_at is a time in Unix seconds" CHECK (expires_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "used_at is a time in Unix seconds" CHECK (used_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "tried_at is a time in Unix seconds" CHECK (tried_at BETWEEN 0 AND 253402300799)
) WITHOUT ROWID, STRICT;
CREATE INDEX mta_sts_policies_tried ON mta_sts_policies (tried_at);
CREATE INDEX mta_sts_policies_ending ON mta_sts_policies (expires_at);

-- Log of queue kicks (ETRN of RFC 1985, `postrider queue kick`): who, when, how many recipients. Kept as long as
-- history.
CREATE TABLE kicks (
    id         INTEGER PRIMARY KEY,        -- 1, 2, 3 …
    at         INTEGER NOT NULL,
    node       TEXT NOT NULL,              -- example.com; @example.com and all below it; #lane; a queue id; 'all'
    user       TEXT,                       -- who authenticated; NULL: a trusted network, or the command line
    client     TEXT,                       -- IP address it was asked from, or unix:UID; NULL: the command line
    recipients INTEGER NOT NULL,           -- how many waited
    login      TEXT                        -- who used the command line, as in operator_log; NULL: ETRN
) STRICT;
CREATE INDEX kicks_by_time ON kicks (at);

-- Log of what people changed with `postrider queue`, `user` and `restore`: who, when, what, how many; `postrider queue
-- log` shows it. Kept as long as history. Changes that are made with SQL are not in it; a client's ETRN is in kicks.
CREATE TABLE operator_log (
    id     INTEGER PRIMARY KEY,            -- 1, 2, 3 …
    at     INTEGER NOT NULL,
    action TEXT NOT NULL,                  -- kick hold release remove bounce, suspend resume; restore; user add, passwd,
                                           -- set, remove, lift
    target TEXT NOT NULL,                  -- a queue id, a domain, 'all' or filters; a user's name, an address or a network;
                                           -- what is suspended, as 'domain example.com'
    count  INTEGER NOT NULL,               -- recipients, users, or rows of login_failures
    login  TEXT NOT NULL,                  -- who logged in to the machine, also where sudo or su changed the uid
    uid    INTEGER NOT NULL,               -- as which the command ran
    logged INTEGER NOT NULL DEFAULT 0,     -- 1: a relay has written it to its log; 2: the change is under way, and count
                                           -- says how far it came
    reason TEXT                            -- --reason, where one was given
) STRICT;
CREATE INDEX operator_log_new ON operator_log (id) WHERE logged <> 1;
CREATE INDEX operator_log_by_time ON operator_log (at);

-- Failed logins that have an effect now: a network whose logins are refused, a user's name by which logins are slow, or
-- (both columns) logins by that name from a client that is known by it, which are slow too. The relay writes them at most
-- once a second and reads them when it starts. Delete a row to lift it (`postrider user failures --lift` does that); the
-- relay notices within a second.
CREATE TABLE login_failures (
    network  TEXT NOT NULL,                -- an address, an IPv6 /64, a /24 or a /48; '': from anywhere
    name     TEXT NOT NULL,                -- a user's; '': by any name
    failures INTEGER NOT NULL,             -- within ten minutes
    since    INTEGER NOT NULL,             -- when the first of them was
    until    INTEGER NOT NULL,             -- when it is over, if no more come
    PRIMARY KEY (network, name),
    CONSTRAINT "failures counts failures" CHECK (failures BETWEEN 0 AND 4294967295),
    CONSTRAINT "since is a time in Unix seconds" CHECK (since BETWEEN 0 AND 253402300799),
    CONSTRAINT "until is a time in Unix seconds" CHECK (until BETWEEN 0 AND 253402300799)
) WITHOUT ROWID, STRICT;

-- Which user has logged in from where within 30 days: failures of others there do not keep it out. At most 10,000; a row
-- that is deleted is forgotten.
CREATE TABLE known_logins (
    network TEXT NOT NULL,                 -- an address or an IPv6 /64
    name    TEXT NOT NULL,                 -- the user's
    last_at INTEGER NOT NULL,              -- to a day
    PRIMARY KEY (network, name),
    CONSTRAINT "last_at is a time in Unix seconds" CHECK (last_at BETWEEN 0 AND 253402300799)
) WITHOUT ROWID, STRICT;

-- Bounces, delay warnings and delivery reports, and what they are about. [delivery] bounces_per_sender counts those of
-- the last hour. Kept as long as history.
CREATE TABLE reports (
    id     INTEGER PRIMARY KEY,            -- the report's message id
    sender TEXT NOT NULL,                  -- whom it is for, in lower case
    at     INTEGER NOT NULL,
    kind   TEXT,                           -- bounce, delay warning or delivery report
    about  INTEGER                         -- the message id of what it reports on
) STRICT;
CREATE INDEX reports_about ON reports (about) WHERE about IS NOT NULL;
CREATE INDEX reports_to_sender ON reports (sender, at);

-- Failures beyond [delivery] bounces_per_sender, not yet reported. One hour after a sender's first one, a single summary
-- reports all of them and they are deleted here. They stay in history as long as any other.
CREATE TABLE pending_reports (
    id          INTEGER PRIMARY KEY,       -- 1, 2, 3 …
    sender      TEXT NOT NULL,             -- who gets the summary, in lower case as in reports
    return_path TEXT NOT NULL,             -- the same as the message had it
    at          INTEGER NOT NULL,
    queue_id    TEXT NOT NULL,
    address     TEXT NOT NULL,             -- the recipient; an alias where the state is expanded
    state       TEXT NOT NULL,             -- failed expired relayed expanded
    reply       TEXT,
    require_tls INTEGER NOT NULL           -- 1: the summary goes only over verified TLS, too (RFC 8689)
) STRICT;
CREATE INDEX pending_reports_of_sender ON pending_reports (sender, at);

-- TLS in sessions with hosts: how many there were of each kind on a day, in UTC. What a session came to counts, however
-- many messages went over it; connections that failed before TLS are none. The view tls_sessions shows it. A domain
-- has at most 200 rows a day with host and addresses, and all domains 10,000; what is beyond them is counted without. At
-- most 20,000 rows a day in all; what is beyond them is counted under the domain '*'. Kept as long as history, six days
-- at least.
CREATE TABLE tls_results (
    day         INTEGER NOT NULL,          -- when it began
    domain      TEXT NOT NULL,             -- the recipients', or a smarthost's name; '*': sessions beyond the bound
    policy      TEXT NOT NULL,             -- which policy was in force: as attempts.tls_policy
    mx          TEXT NOT NULL,             -- name of the host; '': none was asked, or the domain has too many
    ip          TEXT NOT NULL,             -- its address where it failed, otherwise ''
    source      TEXT NOT NULL,             -- and ours
    result      TEXT NOT NULL,             -- success, or a result type of RFC 8460 section 4.3
    sessions    INTEGER NOT NULL,
    reason      TEXT NOT NULL,             -- what the last of them failed with; may be ''
    policy_text TEXT NOT NULL,             -- the policy itself as it was last, for the report; may be ''
    tlsa_base   TEXT NOT NULL,             -- DANE: the name that has the TLSA records, without _25._tcp.; may be ''
    PRIMARY KEY (day, domain, policy, mx, ip, source, result),
    CONSTRAINT "day is a time in Unix seconds" CHECK (day BETWEEN 0 AND 253402300799),
    CONSTRAINT "sessions counts sessions" CHECK (sessions BETWEEN 0 AND 4294967295)
) WITHOUT ROWID, STRICT;

-- Daily reports on it to the domains that ask for them (TLSRPT, RFC 8460; [tlsrpt] in the config): which are planned, and
-- what came of them. UPDATE tls_reports SET next_attempt_at = 1 WHERE state = 'planned' sends now.
CREATE TABLE tls_reports (
    day             INTEGER NOT NULL,      -- the day it is about: when that began
    domain          TEXT NOT NULL,         -- whom it is about
    rua             TEXT NOT NULL,         -- where it goes; '': the domain was not asked yet, or wants none
    state           TEXT NOT NULL,         -- planned; queued: the mail is in the queue; sent: POST was answered with
                                           -- 2xx; not-asked: the domain wants none; failed: given up
    attempts        INTEGER NOT NULL,
    next_attempt_at INTEGER,               -- while it is planned
    last_reply      TEXT,
    message_id      INTEGER,               -- of the mail
    changed_at      INTEGER,
    PRIMARY KEY (day, domain, rua),
    CONSTRAINT "day is a time in Unix seconds" CHECK (day BETWEEN 0 AND 253402300799),
    CONSTRAINT "state is planned, queued, sent, not-asked or failed"
        CHECK (state IN ('planned', 'queued', 'sent', 'not-asked', 'failed')),
    CONSTRAINT "attempts counts tries" CHECK (attempts BETWEEN 0 AND 4294967295),
    CONSTRAINT "next_attempt_at is a time in Unix seconds" CHECK (next_attempt_at BETWEEN 0 AND 253402300799),
    CONSTRAINT "what is planned has a next_attempt_at" CHECK ((state = 'planned') = (next_attempt_at IS NOT NULL))
) WITHOUT ROWID, STRICT;
CREATE INDEX tls_reports_due ON tls_reports (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX tls_reports_by_mail ON tls_reports (message_id) WHERE message_id IS NOT NULL;

-- The relay's own notes. last_id: no id up to this one is ever given out again. time: when the relay wrote last, by the
-- clock that it trusts. lifetime and bounce_lifetime: [queue] of the config in use, in seconds.
-- mail_refused_since: the disk has no more room for new mail. checkpoints_of_litestream: [queue] checkpoints.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- Messages and when each ends (ends_at): undelivered then, it goes back to its sender.
CREATE VIEW message_ends AS
SELECT m.*,
       coalesce(m.expires_at, m.lifetime_from + (SELECT value FROM meta
                                                 WHERE key = iif(m.sender = '', 'bounce_lifetime', 'lifetime')))
           AS ends_at
FROM messages m;

-- The lane of each waiting recipient (mail for ATRN apart): joins recipients to backoffs.
CREATE VIEW recipient_lanes AS
SELECT r.*,
       coalesce((SELECT coalesce(t.lane, r.domain) FROM routes t
                 WHERE t.domain IN (r.domain, '*')
                    OR t.domain LIKE '*.%' AND length(r.domain) >= length(t.domain)
                       AND substr(r.domain, 1 - length(t.domain)) = substr(t.domain, 2)
                 ORDER BY t.position LIMIT 1), r.domain) AS lane
FROM recipients r;

-- Which recipients wait behind which suspension; one that is under several has a row for each.
CREATE VIEW suspended AS
SELECT s.kind, s.value, s.since, s.until, s.reason, r.id AS recipient_id, r.message_id, r.address
FROM recipients r
CROSS JOIN messages m ON m.id = r.message_id
-- A few look-ups for a recipient, however many suspensions there are.
CROSS JOIN suspensions s ON s.kind = 'user' AND s.value = m.user
    OR s.kind = 'tag' AND s.value = m.tag
    OR s.kind = 'domain' AND s.value IN (r.domain, '*')
    OR s.kind = 'domain' AND s.value IN (  -- *.b.test and *.test for a.b.test
        WITH RECURSIVE below (value, rest) AS (
            SELECT NULL, r.domain
            WHERE EXISTS (SELECT 1 FROM suspensions WHERE kind = 'domain' AND value BETWEEN '*.' AND '*/')
            UNION ALL
            SELECT '*' || substr(rest, instr(rest, '.')), substr(rest, instr(rest, '.') + 1)
            FROM below WHERE instr(rest, '.') > 0)
        SELECT value FROM below)
WHERE EXISTS (SELECT 1 FROM suspensions)
  AND (s.until IS NULL OR s.until > unixepoch())
  AND r.state = 'queued' AND r.bounce_requested_at IS NULL;

-- Waiting recipients, one row each, with readable times.
CREATE VIEW queue AS
SELECT m.queue_id,
       m.sender,
       r.address AS recipient,
       r.state,
       r.attempts,
       CASE WHEN r.bounce_requested_at IS NOT NULL THEN 'bounce'
            WHEN r.state = 'held' THEN 'held'
            WHEN EXISTS (SELECT 1 FROM suspended s WHERE s.recipient_id = r.id) THEN 'suspended'
            WHEN a.lane IS NOT NULL THEN 'ATRN'  -- no time: it goes when a user fetches it
            ELSE datetime(max(r.next_attempt_at, coalesce(l.backoff_until, 0)), 'unixepoch') END AS next_attempt,
       r.last_reply,
       datetime(m.received_at, 'unixepoch') AS received,
       unixepoch() - m.received_at AS age,  -- seconds
       m.size,
       r.last_mx,
       CASE WHEN r.last_reply IS NOT NULL THEN r.last_reply_source END AS last_reply_source,
       r.domain,
       coalesce(a.lane, r.lane) AS lane,
       r.message_id,
       r.id AS recipient_id,
       datetime(m.ends_at, 'unixepoch') AS expires,
       coalesce(a.last_reply, l.last_reply) AS lane_reply, -- why its lane waits, whatever became of this recipient
       CASE WHEN r.state = 'held' THEN coalesce(r.held_by, 'operator') END AS held_by,
       CASE WHEN r.state = 'held' THEN r.held_reason END AS held_reason
FROM recipient_lanes r
JOIN message_ends m ON m.id = r.message_id
LEFT JOIN backoffs l ON l.lane = r.lane AND l.backoff_until > unixepoch()
LEFT JOIN backoffs a ON a.lane = 'atrn:' || r.domain;

-- How many recipients wait for each domain, by the age of their messages (qshape in SQL).
CREATE VIEW queue_by_domain AS
SELECT d.domain,
       d.total,
       d.under_5m,
       d.under_1h,
       d.under_6h,
       d.under_1d,
       d.older,
       d.held,
       datetime(d.oldest, 'unixepoch') AS oldest,
       CASE WHEN EXISTS (SELECT 1 FROM backoffs a WHERE a.lane = 'atrn:' || d.domain) THEN 'ATRN'
            WHEN d.next_attempt IS NULL AND d.suspended > 0 THEN 'suspended'  -- all that is not held
            ELSE datetime(max(d.next_attempt, coalesce(l.backoff_until, 0)), 'unixepoch') END AS next_attempt,
       d.suspended
FROM (SELECT r.domain,
             count(*) AS total,
             sum(unixepoch() - m.received_at < 300) AS under_5m,
             sum(unixepoch() - m.received_at BETWEEN 300 AND 3599) AS under_1h,
             sum(unixepoch() - m.received_at BETWEEN 3600 AND 21599) AS under_6h,
             sum(unixepoch() - m.received_at BETWEEN 21600 AND 86399) AS under_1d,
             sum(unixepoch() - m.received_at >= 86400) AS older,
             sum(r.state = 'held') AS held,
             min(m.received_at) AS oldest,
             count(s.recipient_id) AS suspended,
             min(CASE WHEN r.state = 'queued' AND s.recipient_id IS NULL THEN r.next_attempt_at END) AS next_attempt
      FROM recipients r
      JOIN messages m ON m.id = r.message_id
      LEFT JOIN (SELECT DISTINCT recipient_id FROM suspended) s ON s.recipient_id = r.id
      GROUP BY r.domain) d
LEFT JOIN backoffs l ON l.lane = (SELECT w.lane FROM recipient_lanes w WHERE w.domain = d.domain LIMIT 1)
    AND l.backoff_until > unixepoch()
ORDER BY d.total DESC, d.domain;

-- The attempts of the last day that did not end in delivery, grouped by code, phase and the words of the reply: those
-- with a digit or an @ in them (ids, addresses, numbers) stand as "…". mx is one of the hosts, last_reply a whole reply.
-- `postrider queue failures`, `postrider report` and the status page also leave out names of hosts and ids without a
-- digit, which SQL cannot tell from words: they have fewer lines. They count recipients, this view counts attempts too.
CREATE VIEW failures AS
SELECT sum(e.times) AS times,
       sum(e.recipients) AS recipients,
       e.outcome,
       e.phase,
       e.code,
       e.enhanced,
       count(DISTINCT e.mx) AS hosts,
       min(e.mx) AS mx,
       e.reply,
       e.reply_source,
       datetime(max(e.last), 'unixepoch') AS last,
       min(e.last_reply) AS last_reply
FROM (SELECT d.times, d.recipients, d.outcome, d.phase, d.code, d.enhanced, d.mx, d.reply_source, d.last,
             d.reply AS last_reply,
             (WITH RECURSIVE words(word, rest) AS (
                  SELECT '', substr(d.reply, 1, 200) || ' '
                  UNION ALL
                  SELECT substr(rest, 1, instr(rest, ' ') - 1), substr(rest, instr(rest, ' ') + 1) FROM words
                  WHERE rest <> '')
              SELECT group_concat(CASE WHEN word IN (CAST(d.code AS TEXT), d.enhanced) THEN word
                                       WHEN word GLOB '*[0-9@]*' THEN '…' ELSE word END, ' ')
              FROM words WHERE word <> '') AS reply
      FROM (SELECT count(*) AS times, count(DISTINCT recipient_id) AS recipients, outcome, phase, code, enhanced, mx,
                   reply, reply_source, max(at) AS last
            FROM attempts
            WHERE id >= (unixepoch() - 86400) * 1000000 AND outcome NOT IN ('delivered', 'relayed')
            GROUP BY outcome, phase, code, enhanced, mx, reply, reply_source) d) e
GROUP BY e.outcome, e.phase, e.code, e.enhanced, e.reply, e.reply_source
ORDER BY times DESC, last DESC;

-- TLS in sessions with hosts, a line for each kind of session and day: what the daily reports are made from.
CREATE VIEW tls_sessions AS
SELECT date(t.day, 'unixepoch') AS day,
       t.domain,
       t.policy,
       t.mx,
       t.result,
       t.sessions,
       t.reason,
       t.ip,
       t.source,
       (SELECT group_concat(r.state, ', ') FROM tls_reports r WHERE r.day = t.day AND r.domain = t.domain) AS report
FROM tls_results t
ORDER BY t.day DESC, t.domain, t.sessions DESC;

-- Rows that break an invariant. Always empty; a row here means a bug or a mistaken manual edit.
CREATE VIEW stuck AS
SELECT 'recipient without a message' AS problem, r.id AS recipient_id, r.message_id
FROM recipients r LEFT JOIN messages m ON m.id = r.message_id WHERE m.id IS NULL
UNION ALL
SELECT 'message without recipients', NULL, m.id
FROM messages m WHERE NOT EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = m.id)
UNION ALL
SELECT 'message without content', NULL, m.id
FROM messages m WHERE m.size > 0 AND NOT EXISTS (SELECT 1 FROM content c WHERE c.message_id = m.id)
UNION ALL
SELECT 'both waiting and finished', r.id, r.message_id
FROM recipients r JOIN history h ON h.message_id = r.message_id AND h.recipient_id = r.id
UNION ALL
SELECT 'a value that cannot be read', r.id, r.message_id
FROM recipients r
WHERE r.state NOT IN ('queued', 'held')
   OR r.state = 'queued' AND (typeof(r.next_attempt_at) <> 'integer' OR typeof(r.priority) <> 'integer')
UNION ALL
SELECT 'an hour past its lifetime', r.id, m.id
FROM message_ends m CROSS JOIN recipients r ON r.message_id = m.id
WHERE r.state = 'queued' AND m.ends_at < unixepoch() - 3600;
