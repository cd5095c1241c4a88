//! Colors on a terminal, or none.

/// Escape codes, or nothing.
#[derive(Debug)]
pub(crate) struct Paint {
    /// Whether there are any.
    pub(crate) color: bool,
}

impl Paint {
    /// What should not be.
    pub(crate) fn bad(&self, text: &str) -> String {
        if self.color { format!("\x1b[31m{text}\x1b[0m") } else { text.into() }
    }

    /// A heading.
    pub(crate) fn head(&self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }
}
