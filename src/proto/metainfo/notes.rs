//! Oddities of a torrent, collected as warnings: a line for each kind, with an example and a count.

/// Warnings in the making.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

#[derive(Debug)]
struct Note {
    what: &'static str,
    example: String,
    more: usize,
}

impl Notes {
    /// Notes one case of `what`; the first example of each kind is kept. It must be safe for a terminal.
    pub(super) fn add(&mut self, what: &'static str, example: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|note| note.what == what) {
            Some(note) => note.more += 1,
            None => self.0.push(Note { what, example: example(), more: 0 }),
        }
    }

    /// A line for each kind.
    pub(super) fn into_lines(self) -> Vec<String> {
        let line = |note: Note| match (note.example.as_str(), note.more) {
            ("", _) => note.what.to_owned(),
            (example, 0) => format!("{}: {example}", note.what),
            (example, more) => format!("{}: {example}, and {more} more", note.what),
        };
        self.0.into_iter().map(line).collect()
    }
}
