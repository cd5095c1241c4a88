//! Colors on a terminal, or none.

/// Puts escape codes around texts, or leaves them as they are.
#[derive(Debug)]
pub(crate) struct Paint {
    pub(crate) color: bool,
}

impl Paint {
    /// For defects.
    pub(crate) fn bad(&self, text: &str) -> String {
        if self.color { format!("\x1b[31m{text}\x1b[0m") } else { text.into() }
    }

    /// For headings.
    pub(crate) fn head(&self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }
}
