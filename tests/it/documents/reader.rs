//! What a document shows: its fenced blocks, and the code in its prose.

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// The first word behind the fence.
    pub info: String,
    /// What a comment above it says of why it is not run.
    pub not_run: Option<String>,
    pub text: String,
}

/// What is read of a document, and what is wrong with its form.
#[derive(Debug, Default)]
pub struct Document {
    pub blocks: Vec<Block>,
    /// Code between backticks, with the line it begins at.
    pub inline: Vec<(usize, String)>,
    pub wrong: Vec<String>,
}

/// Reads Markdown as it is written here: fences of three backticks at the start of a line.
pub fn read(text: &str) -> Document {
    let mut document = Document::default();
    let mut prose: Vec<(usize, &str)> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    while let Some((line, said)) = lines.next() {
        let Some(info) = said.strip_prefix("```") else {
            if said.trim_start().starts_with("```") {
                document.wrong.push(format!("{line}: a fence that is indented"));
            }
            if is_indented_block(&prose, said) {
                document.wrong.push(format!("{line}: a code block without fences"));
            }
            prose.push((line, said));
            continue;
        };
        let mark =
            prose.last().and_then(|(_, above)| above.strip_prefix("<!-- not run: ")?.strip_suffix(" -->"));
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        document.blocks.push(Block {
            line,
            info: info.trim().to_owned(),
            not_run: mark.map(str::to_owned),
            text: body.join("\n") + "\n",
        });
        prose.push((line, ""));
    }
    document.inline = inline(&prose);
    document
}

/// Four spaces behind an empty line begin a block of code, but in a list.
fn is_indented_block(above: &[(usize, &str)], line: &str) -> bool {
    let in_a_list = || {
        let text = above.iter().rev().find(|(_, above)| !above.is_empty() && !above.starts_with(' '));
        text.is_some_and(|(_, text)| {
            text.starts_with(['-', '*']) || text.starts_with(|c: char| c.is_ascii_digit())
        })
    };
    line.starts_with("    ") && above.last().is_none_or(|(_, above)| above.is_empty()) && !in_a_list()
}

/// The code spans of each paragraph; one may go over the end of a line.
fn inline(prose: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut spans = Vec::new();
    for paragraph in prose.split(|(_, line)| line.trim().is_empty()) {
        let mut open: Option<(usize, String)> = None;
        for (number, line) in paragraph {
            for (at, part) in line.split('`').enumerate() {
                if at > 0 {
                    match open.take() {
                        Some(span) => spans.push(span),
                        None => open = Some((*number, String::new())),
                    }
                }
                if let Some((_, text)) = &mut open {
                    let gap = if at == 0 && !text.is_empty() { " " } else { "" };
                    text.push_str(&format!("{gap}{}", part.replace("\\|", "|")));
                }
            }
        }
    }
    spans
}

/// The commands of a console block: what stands behind `$ `, and the lines that such a line goes on with.
pub fn console_commands(text: &str) -> String {
    let mut commands = String::new();
    let mut goes_on = false;
    for line in text.lines() {
        let command = if goes_on { Some(line) } else { line.strip_prefix("$ ") };
        goes_on = command.is_some_and(|command| command.ends_with('\\'));
        if let Some(command) = command {
            commands.push_str(&format!("{command}\n"));
        }
    }
    commands
}

/// The simple commands of a script, each as its words: without comments, `sudo` and redirections, with quotes undone.
pub fn simple_commands(script: &str) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        let ends_command = matches!(c, '\n' | ';' | '|' | '&');
        if c == '\\' && chars.next_if_eq(&'\n').is_some() {
            continue;
        }
        if c == '\'' || c == '"' {
            let quoted: String = chars.by_ref().take_while(|inside| *inside != c).collect();
            word.get_or_insert_default().push_str(&quoted);
        } else if c == '#' && word.is_none() {
            while chars.next_if(|c| *c != '\n').is_some() {}
        } else if c.is_whitespace() || ends_command {
            commands.last_mut().expect("one is open").extend(word.take());
            if ends_command {
                commands.push(Vec::new());
            }
        } else {
            word.get_or_insert_default().push(c);
        }
    }
    commands.last_mut().expect("one is open").extend(word.take());
    commands.iter_mut().for_each(drop_sudo);
    commands.retain(|words| !words.is_empty());
    commands
}

fn drop_sudo(words: &mut Vec<String>) {
    if words.first().is_some_and(|first| first == "sudo") {
        words.remove(0);
        if words.first().is_some_and(|first| first == "-u") {
            words.drain(..2);
        }
    }
}

/// The statements of some SQL, without comments.
pub fn statements(sql: &str) -> Vec<String> {
    let without_comments: Vec<&str> =
        sql.lines().map(|line| line.split_once("--").map_or(line, |(before, _)| before).trim_end()).collect();
    let statements = without_comments.join("\n");
    statements.split(';').map(str::trim).filter(|sql| !sql.is_empty()).map(str::to_owned).collect()
}

#[test]
fn blocks_marks_and_inline_code_are_found() {
    let text = "# A\n\nUse `a b` and `c\nd`.\n\n```sh\npostrider `x`\n```\n\n<!-- not run: needs root -->\n\
                ```sh\nsudo y\n```\n\n| `p \\| q` |\n";
    let document = read(text);
    assert_eq!(document.wrong, [""; 0]);
    let of = |at: usize| {
        let block = &document.blocks[at];
        (block.line, block.info.as_str(), block.not_run.as_deref(), block.text.as_str())
    };
    assert_eq!(of(0), (6, "sh", None, "postrider `x`\n"));
    assert_eq!(of(1), (11, "sh", Some("needs root"), "sudo y\n"));
    let inline: Vec<(usize, &str)> =
        document.inline.iter().map(|(line, code)| (*line, code.as_str())).collect();
    assert_eq!(inline, [(3, "a b"), (3, "c d"), (15, "p | q")]);
}

#[test]
fn code_without_fences_is_seen() {
    assert_eq!(read("Text:\n\n    code\n").wrong.len(), 1);
    assert_eq!(read("- Text:\n\n    more\n").wrong, [""; 0]);
    assert_eq!(read("- Text:\n  ```sh\n  x\n  ```\n").wrong.len(), 2);
}

#[test]
fn commands_are_taken_apart() {
    let script = "sudo -u postrider a 'b c' \\\n  --d=\"e f\" # g\nh | i && j; k\n";
    let commands = simple_commands(script);
    assert_eq!(commands[0], ["a", "b c", "--d=e f"]);
    assert_eq!(commands[1..].concat(), ["h", "i", "j", "k"]);
    assert_eq!(console_commands("$ a \\\n  b\nc\n$ d\n"), "a \\\n  b\nd\n");
    assert_eq!(statements("SELECT 1; -- one;\nSELECT\n2;\n"), ["SELECT 1", "SELECT\n2"]);
}
