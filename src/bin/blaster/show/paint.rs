//! Colors on a terminal, or none; lines that fit it, or any.

use crate::model::wrap::wrap;

/// Indent of a text after its first line.
const INDENT: usize = 2;

/// Puts escape codes around texts and breaks their lines, or leaves them as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    pub(crate) color: bool,
    /// Characters in a line of the terminal. `None`: there is no terminal, and lines are as long as they get.
    pub(crate) width: Option<usize>,
}

impl Paint {
    /// For files and pipes.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { color: false, width: None };

    /// For defects.
    pub(crate) fn bad(&self, text: &str) -> String {
        if self.color { format!("\x1b[31m{text}\x1b[0m") } else { text.into() }
    }

    /// For headings.
    pub(crate) fn head(&self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }

    /// A text that breaks at words. It has no escape codes: those would count as characters.
    pub(crate) fn wrap(&self, text: &str) -> String {
        wrap(text, self.width, INDENT)
    }

    /// A text after a mark of a defect, as in `! blaster was the bottleneck`.
    pub(crate) fn marked(&self, mark: &str, text: &str) -> String {
        let line = self.wrap(&format!("{mark} {text}"));
        format!("{}{}", self.bad(mark), &line[mark.len()..])
    }

    /// The outcome of a condition: the word says it, too, not the color alone.
    pub(crate) fn condition(&self, failed: bool, text: &str) -> String {
        if failed {
            self.marked("FAILED", &format!(" {text}"))
        } else {
            self.wrap(&format!("passed  {text}"))
        }
    }
}
