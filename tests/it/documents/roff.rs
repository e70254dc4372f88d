//! Manual pages in man(7), as `mandoc -Tlint` wants them: no line beyond 80 bytes, no paragraph without text.

/// Where a line of text is broken; mandoc remarks on more.
const LINE_BYTES_MAX: usize = 79;

/// A page while it is written.
pub struct Page(Vec<String>);

impl Page {
    /// Begins with title and NAME.
    pub fn new(name: &str, section: u8, date: &str, manual: &str, about: &str) -> Page {
        let title = format!(".TH {} {section} {date} \"\" {manual}", escaped(&name.to_uppercase()));
        let mut page = Page(vec![title]);
        page.section("NAME");
        page.raw(&folded(&[&format!("{} \\- {}", escaped(name), escaped(about))]));
        page
    }

    /// A heading.
    pub fn section(&mut self, title: &str) {
        self.macro_line(&format!(".SH {}", escaped(title)));
    }

    /// One item of a list; its text follows.
    pub fn item(&mut self, head: &str) {
        self.macro_line(".TP");
        self.0.push(head.to_owned());
    }

    /// A line of the formatter's own. A paragraph that has no text yet is not begun twice.
    pub fn macro_line(&mut self, line: &str) {
        let is_paragraph = |line: &str| matches!(line, ".PP" | ".br" | ".sp");
        if self.0.last().is_some_and(|last| is_paragraph(last)) {
            self.0.pop();
        }
        let follows_heading = self.0.last().is_some_and(|last| last.starts_with(".S"));
        if !(is_paragraph(line) && follows_heading) {
            self.0.push(line.to_owned());
        }
    }

    /// A paragraph, `code` in bold.
    pub fn text(&mut self, paragraph: &str) {
        let pieces = paragraph.split('`').map(escaped).enumerate();
        let text: String =
            pieces.map(|(at, text)| if at % 2 == 1 { format!("\\fB{text}\\fR") } else { text }).collect();
        self.raw(&folded(&[&text]));
    }

    /// Lines as they stand, indented.
    pub fn verbatim<'t>(&mut self, lines: impl IntoIterator<Item = &'t str>) {
        self.macro_line(".PP");
        self.macro_line(".RS 2");
        self.macro_line(".nf");
        for line in lines {
            self.0.push(guarded(&escaped(line.trim_end())));
        }
        self.0.extend([".fi".to_owned(), ".RE".to_owned()]);
    }

    /// What is in this form already.
    pub fn raw(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if line.starts_with('.') {
                self.macro_line(line);
            } else {
                self.0.push(line.to_owned());
            }
        }
    }

    /// The other pages: `postrider(1)`.
    pub fn see_also(&mut self, pages: &[&str]) {
        self.section("SEE ALSO");
        let last = pages.len() - 1;
        for (at, page) in pages.iter().enumerate() {
            let (name, section) = page.split_once('(').expect("a page has a section");
            let comma = if at == last { "" } else { "," };
            self.0.push(format!(".BR {} ({section}{comma}", escaped(name)));
        }
    }

    /// The text of the page.
    pub fn finish(self) -> String {
        self.0.join("\n") + "\n"
    }
}

/// Text in which nothing means anything to the formatter.
pub fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\`");
    ascii(&text)
}

/// With names for what is not ASCII.
fn ascii(text: &str) -> String {
    let one = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    text.chars().map(one).collect()
}

/// A line that begins like a request is none.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// Lines of text broken at spaces; requests stay as they are.
pub fn folded(lines: &[&str]) -> String {
    let mut out = String::new();
    for line in lines {
        if line.starts_with('.') {
            out.push_str(line);
        } else {
            let mut length = 0;
            for word in ascii(line).split_whitespace() {
                if length > 0 && length + 1 + word.len() > LINE_BYTES_MAX {
                    out.push('\n');
                    length = 0;
                }
                let word = if length == 0 { guarded(word) } else { format!(" {word}") };
                out.push_str(&word);
                length += word.len();
            }
        }
        out.push('\n');
    }
    out
}
