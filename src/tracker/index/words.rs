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
        // Each is found alone, too: it may be a word.
        if run.wide && run.chars.len() > 1 {
            for character in &run.chars {
                out.extend([character, &' ']);
            }
        }
    }
    out
}

/// A word of a query, as expressions of FTS5.
#[derive(Debug)]
pub(super) struct Term {
    /// Finds it whole, as the beginning of a word, or as a part of a title.
    pub(super) anywhere: String,
    /// Finds it in titles, and a title now and then that has its beginning and its end apart.
    pub(super) in_titles: String,
}

/// The words of a query. None: there is nothing in it that could be found.
pub(super) fn terms(query: &str) -> Vec<Term> {
    let mut terms = Vec::new();
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
        terms.push(Term::of(word, &runs));
    }
    terms
}

/// All of these together.
pub(super) fn all_of<'a>(expressions: impl IntoIterator<Item = &'a str>) -> String {
    expressions.into_iter().collect::<Vec<_>>().join(" AND ")
}

impl Term {
    fn of(word: &str, runs: &[Run]) -> Self {
        let mut words = String::new();
        push_words(&mut words, word);
        if runs.iter().any(|run| run.gram().is_none()) {
            return Self { in_titles: format!("title : {words}"), anywhere: words };
        }
        let (mut parts, mut ends) = (String::new(), String::new());
        for run in runs {
            push_phrase(&mut parts, run.grams());
            run.grams().next().into_iter().for_each(|gram| push_phrase(&mut ends, std::iter::once(gram)));
            run.grams().skip(1).last().into_iter().for_each(|gram| push_phrase(&mut ends, std::iter::once(gram)));
        }
        // One gram is found as a word is: it stands in a column of its own, and words are looked for in all.
        let one = runs.len() == 1 && runs[0].grams().count() == 1;
        Self { anywhere: if one { words } else { format!("({words} OR ({parts}))") }, in_titles: ends }
    }
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

/// Grams that follow one another in a title, beside what is wanted else.
fn push_phrase<'a>(out: &mut String, grams: impl Iterator<Item = &'a [char]>) {
    out.push_str(if out.is_empty() { "parts : \"" } else { " AND parts : \"" });
    for gram in grams {
        out.extend(gram);
        out.push(' ');
    }
    out.push('"');
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

    /// Its first gram, if it is long enough to be found by grams.
    fn gram(&self) -> Option<&[char]> {
        (self.wide || self.chars.len() >= GRAM).then(|| self.grams().next()).flatten()
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
        assert_eq!(grams("映画館2024"), "映画 画館 映 画 館 202 024 ");
        assert_eq!(grams("映"), "映 ");
        assert_eq!(grams("-- !"), "");
    }

    fn expressions(query: &str) -> Vec<[String; 2]> {
        terms(query).into_iter().map(|term| [term.anywhere, term.in_titles]).collect()
    }

    #[test]
    fn a_query_is_words_that_are_all_wanted() {
        for (query, anywhere, in_titles) in [
            ("big", r#""big "*"#, r#"parts : "big ""#),
            ("bunny", r#"("bunny "* OR (parts : "bun unn nny "))"#, r#"parts : "bun " AND parts : "nny ""#),
            ("24.04", r#""24 04 ""#, r#"title : "24 04 ""#),
            ("映", r#""映 ""#, r#"parts : "映 ""#),
            ("映画", r#""映画 ""#, r#"parts : "映画 ""#),
            ("映画館", r#"("映画館 "* OR (parts : "映画 画館 "))"#, r#"parts : "映画 " AND parts : "画館 ""#),
            (
                "big-one",
                r#"("big one "* OR (parts : "big " AND parts : "one "))"#,
                r#"parts : "big " AND parts : "one ""#,
            ),
            ("a a", r#""a ""#, r#"title : "a ""#),
        ] {
            assert_eq!(expressions(query), [[anywhere, in_titles]], "{query}");
        }
        let terms = terms("big b");
        assert_eq!(all_of(terms.iter().map(|term| term.anywhere.as_str())), r#""big "* AND "b ""#);
    }

    #[test]
    fn nothing_of_a_query_is_syntax() {
        for nothing in ["", "   ", "\"", "* ( ) : ^ - +", "''", "\0"] {
            assert!(terms(nothing).is_empty(), "{nothing:?}");
        }
        assert_eq!(expressions("AND")[0][0], r#""AND "*"#);
        assert_eq!(expressions("x\"*:{y}")[0][0], r#""x y ""#);
        let many = (0..100).map(|n| format!("w{n:03} ")).collect::<String>();
        assert_eq!(terms(&many).len(), MAX_WORDS);
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
