//! The page of all keys: made from the table of keys, so that it cannot say anything else.

use std::path::Path;

/// With `WRITE_PAGE` in the environment this test writes the page.
#[test]
fn the_page_of_the_configuration_is_as_the_table_of_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = postrider::config::page();
    if std::env::var_os("WRITE_PAGE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let line = written.lines().zip(page.lines()).position(|(written, made)| written != made);
    assert!(
        written == page,
        "docs/configuration.md is not as src/config/defs/ has it, from line {} on: \
         WRITE_PAGE=1 cargo test --test it config::page writes it",
        line.unwrap_or(0) + 1
    );
}
