//! What is found by which words: the parts of a name that are indexed, and a person's query as an expression of FTS5.
//!
//! SQLite's `unicode61` splits a text into words and folds case and accents. Parts of words, and words of scripts that
//! put no blanks between them, are found by grams: overlapping runs of three characters (two in those scripts), kept as
//! words in a column of their own. There they can be asked for in one expression with the words, `(word OR part) AND …`,
//! which two tables, one with the tokenizer `trigram`, could not do when one word is found here and the other there.
//!
//! A query is text, never syntax: only letters and digits of it get into the expression, each run of them quoted.

use std::fmt::Write as _;

/// Most words of a query that are looked at.
pub(super) const MAX_WORDS: usize = 16;

/// The grams of a text, in order, with blanks between them.
pub(super) fn grams(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for run in runs(text) {
        for gram in run.grams() {
            out.extend(gram);
            out.push(' ');
        }
        // So that the last character is found alone, as all others are by the beginning of a gram.
        if run.wide && run.chars.len() > 1 {
            out.extend(run.chars.last());
            out.push(' ');
        }
    }
    out
}

/// A query as FTS5 takes it: all words, each whole, as the beginning of a word, or as a part of a title. `None`: there
/// is nothing in it that could be found.
pub(super) fn expression(query: &str) -> Option<String> {
    let mut out = String::new();
    let mut seen: Vec<&str> = Vec::new();
    for word in query.split_whitespace() {
        let runs = runs(word);
        if runs.is_empty() || seen.contains(&word) {
            continue;
        }
        if seen.len() == MAX_WORDS {
            break;
        }
        seen.push(word);
        if !out.is_empty() {
            out.push_str(" AND ");
        }
        out.push('(');
        push_words(&mut out, word);
        push_parts(&mut out, &runs);
        out.push(')');
    }
    (!out.is_empty()).then_some(out)
}

/// The same expression, found in titles alone.
pub(super) fn in_titles(expression: &str) -> String {
    format!("{{title parts}} : ({expression})")
}

/// As SQLite's tokenizer sees it: a phrase of words, the last of them perhaps unfinished.
fn push_words(out: &mut String, word: &str) {
    out.push('"');
    let mut last = 0;
    for run in word.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        last = run.chars().count();
        out.push_str(run);
        out.push(' ');
    }
    out.push('"');
    // Shorter beginnings fit half of all words.
    if last >= GRAM {
        out.push('*');
    }
}

/// As runs of grams in a title, where every run is long enough to have one.
fn push_parts(out: &mut String, runs: &[Run]) {
    if runs.iter().any(|run| !run.wide && run.chars.len() < GRAM) {
        return;
    }
    out.push_str(" OR (");
    for (at, run) in runs.iter().enumerate() {
        out.push_str(if at > 0 { " AND parts : \"" } else { "parts : \"" });
        for gram in run.grams() {
            out.extend(gram);
            out.push(' ');
        }
        out.push('"');
        if run.chars.len() == 1 {
            out.push('*');
        }
    }
    out.push(')');
}

/// Letters and digits without anything else between them, all of scripts with blanks or all of scripts without.
struct Run {
    chars: Vec<char>,
    wide: bool,
}

impl Run {
    fn grams(&self) -> impl Iterator<Item = &[char]> {
        let length = if self.wide { WIDE_GRAM } else { GRAM };
        self.chars.windows(length.min(self.chars.len()))
    }
}

fn runs(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut inside = false;
    for c in text.chars() {
        if !c.is_alphanumeric() {
            inside = false;
            continue;
        }
        let wide = is_wide(c);
        match runs.last_mut() {
            Some(run) if inside && run.wide == wide => run.chars.push(c),
            _ => runs.push(Run { chars: vec![c], wide }),
        }
        inside = true;
    }
    runs
}

/// Whether the character belongs to a script that is written without blanks between words: Thai, Lao, Burmese, Khmer,
/// kana, Chinese characters, Hangul.
fn is_wide(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Cuts a text to at most so many bytes, between two characters.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// Adds a line to a text that must not grow beyond `limit` bytes.
pub(super) fn push_line(text: &mut String, line: &str, limit: usize) {
    let left = limit.saturating_sub(text.len());
    let _ = writeln!(text, "{}", cut(line, left));
}

const GRAM: usize = 3;
const WIDE_GRAM: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grams_overlap_within_a_run() {
        assert_eq!(grams("Abcde.f"), "Abc bcd cde f ");
        assert_eq!(grams("映画館2024"), "映画 画館 館 202 024 ");
        assert_eq!(grams("映"), "映 ");
        assert_eq!(grams("-- !"), "");
    }

    #[test]
    fn a_query_is_words_that_are_all_wanted() {
        assert_eq!(
            expression("big bunny").unwrap(),
            "(\"big \"* OR (parts : \"big \")) AND (\"bunny \"* OR (parts : \"bun unn nny \"))"
        );
        assert_eq!(expression("24.04").unwrap(), "(\"24 04 \")");
        assert_eq!(expression("映").unwrap(), "(\"映 \" OR (parts : \"映 \"*))");
        assert_eq!(expression("a a").unwrap(), "(\"a \")");
    }

    #[test]
    fn nothing_of_a_query_is_syntax() {
        for nothing in ["", "   ", "\"", "* ( ) : ^ - +", "''", "\0"] {
            assert_eq!(expression(nothing), None, "{nothing:?}");
        }
        assert_eq!(expression("AND").unwrap(), "(\"AND \"* OR (parts : \"AND \"))");
        assert_eq!(expression("x\"*:{y}").unwrap(), "(\"x y \")");
        let many = (0..100).map(|n| format!("w{n:03} ")).collect::<String>();
        assert_eq!(expression(&many).unwrap().matches(" AND (").count(), MAX_WORDS - 1);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        let mut text = String::new();
        push_line(&mut text, "abc", 5);
        push_line(&mut text, "def", 5);
        assert_eq!(text, "abc\nd\n");
    }
}
