//! The queue's database as anybody opens it: what the tests ask of it.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::harness::fakemx::SOON;

/// The database, as anybody opens it.
pub struct Db(pub Connection);

impl Db {
    pub fn open(path: &Path, flags: OpenFlags) -> Db {
        let connection = Connection::open_with_flags(path, flags).unwrap();
        connection.busy_timeout(SOON).unwrap();
        Db(connection)
    }

    /// One number; 0 for NULL or no row.
    pub fn number(&self, sql: &str, parameters: impl rusqlite::Params) -> i64 {
        match self.0.query_row(sql, parameters, |row| row.get::<_, Option<i64>>(0)) {
            Ok(number) => number.unwrap_or(0),
            Err(rusqlite::Error::QueryReturnedNoRows) => 0,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// All rows, each as its columns joined by `|`, as `sqlite3` prints them.
    pub fn rows(&self, sql: &str, parameters: impl rusqlite::Params) -> Vec<String> {
        let mut statement = self.0.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = statement.column_count();
        let rows = statement.query_map(parameters, |row| {
            let cells: rusqlite::Result<Vec<String>> =
                (0..columns).map(|at| row.get_ref(at).map(shown)).collect();
            Ok(cells?.join("|"))
        });
        rows.unwrap().map(|row| row.unwrap_or_else(|error| panic!("{sql}: {error}"))).collect()
    }

    /// The first row, if there is one.
    pub fn row(&self, sql: &str, parameters: impl rusqlite::Params) -> Option<String> {
        self.rows(sql, parameters).into_iter().next()
    }

    /// Writes; how many rows changed.
    pub fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> usize {
        self.0.execute(sql, parameters).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The state in which a finished recipient ended.
    pub fn ended(&self, address: &str) -> Option<String> {
        self.row("SELECT state FROM history WHERE address = ?", [address])
    }

    /// How many tries of an outcome there were for an address, finished or not.
    pub fn attempts(&self, address: &str, outcome: &str) -> i64 {
        self.number(
            "SELECT count(*) FROM attempts WHERE outcome = ?2 AND recipient_id IN \
             (SELECT id FROM recipients WHERE address = ?1 UNION SELECT recipient_id FROM history WHERE address = ?1)",
            [address, outcome],
        )
    }

    /// What a person would want to see when a test fails.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for sql in [
            "SELECT * FROM queue",
            "SELECT * FROM backoffs",
            "SELECT queue_id, sender, address, state, attempts, reply, mx FROM history",
            "SELECT recipient_id, mx, ip, tls, phase, reply, outcome FROM attempts",
            "SELECT * FROM stuck",
        ] {
            text.push_str(&format!("  {sql}\n"));
            self.rows(sql, []).iter().for_each(|row| text.push_str(&format!("    {row}\n")));
        }
        text
    }
}

fn shown(cell: ValueRef<'_>) -> String {
    match cell {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}
