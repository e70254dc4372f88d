//! What is typed at the prompt of `postrider sql`, line by line, until it is a command or a whole statement. Pure.

/// What a line has made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// Nothing yet.
    Unfinished,
    /// A command, such as `.help`.
    Command(String),
    /// One statement or more.
    Statements(String),
}

/// The lines of a statement that has not ended.
#[derive(Debug, Default)]
pub(super) struct Input(String);

impl Input {
    /// Whether nothing was begun.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what was begun.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The next line.
    pub(super) fn line(&mut self, line: &str) -> Typed {
        let word = line.trim();
        if self.is_empty() {
            // What people type at other prompts; none of it begins a statement.
            let is_word = ["quit", "exit", "help"].contains(&word.trim_end_matches(';'));
            if is_word {
                return Typed::Command(format!(".{}", word.trim_end_matches(';')));
            }
            if word.starts_with('.') {
                return Typed::Command(word.to_owned());
            }
            if word.is_empty() {
                return Typed::Unfinished;
            }
        }
        self.0.push_str(line);
        self.0.push('\n');
        if is_complete(&self.0) { Typed::Statements(std::mem::take(&mut self.0)) } else { Typed::Unfinished }
    }
}

/// Whether the last of it that is no comment is a `;` outside of text and names.
fn is_complete(statements: &str) -> bool {
    let (mut rest, mut complete) = (statements, false);
    while let Some(first) = rest.chars().next() {
        let closing = match first {
            '\'' | '"' | '`' => Some(first),
            '[' => Some(']'),
            _ => None,
        };
        let length = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let Some(end) = comment.find("*/") else { return false };
            end + 4
        } else if let Some(closing) = closing {
            complete = false;
            let Some(end) = rest[1..].find(closing) else { return false };
            end + 2
        } else {
            if !first.is_whitespace() {
                complete = first == ';';
            }
            first.len_utf8()
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_a_semicolon_and_what_cannot_be_part_of_it() {
        for whole in [
            "SELECT 1;",
            "SELECT 1 ;  ",
            "SELECT * FROM queue;             -- what waits: a line a recipient",
            "SELECT 1; /* one */ ",
            "SELECT ';';",
            "SELECT 'it''s';",
            "SELECT [a;b], `c;`, \"d;\" FROM t;",
            "SELECT 'ü'; -- ß",
        ] {
            assert_eq!(Input::default().line(whole), Typed::Statements(format!("{whole}\n")), "{whole}");
        }
        for part in
            ["SELECT 1", "SELECT ';", "SELECT 1 -- ;", "SELECT 1; /* ", "SELECT 1; SELECT", "-- x", "'a;"]
        {
            assert_eq!(Input::default().line(part), Typed::Unfinished, "{part}");
        }
    }

    #[test]
    fn lines_come_together_and_commands_stand_alone() {
        let mut input = Input::default();
        for (line, typed) in [
            ("", Typed::Unfinished),
            (" .tables ", Typed::Command(".tables".to_owned())),
            ("exit", Typed::Command(".exit".to_owned())),
            ("quit;", Typed::Command(".quit".to_owned())),
            ("SELECT 1", Typed::Unfinished),
            (".tables", Typed::Unfinished),
            ("", Typed::Unfinished),
            (";", Typed::Statements("SELECT 1\n.tables\n\n;\n".to_owned())),
            ("help", Typed::Command(".help".to_owned())),
        ] {
            assert_eq!(input.line(line), typed, "{line:?}");
        }
    }
}
