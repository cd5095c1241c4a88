//! Lines that break at words.

/// Breaks `text` at spaces, so that no line has more than `width` characters. Lines after a break begin with `indent`
/// spaces. A number stays beside its unit, and a word that is wider than a line stays whole. `None`: nothing breaks.
///
/// Not textwrap: it takes hyphens for places to break at, as in `--fail-if`, and separates numbers from units.
pub(crate) fn wrap(text: &str, width: Option<usize>, indent: usize) -> String {
    let Some(width) = width else { return text.into() };
    let lines: Vec<String> = text.split('\n').map(|line| wrap_line(line, width, indent)).collect();
    lines.join("\n")
}

fn wrap_line(line: &str, width: usize, indent: usize) -> String {
    let mut wrapped = String::with_capacity(line.len() + 8);
    // characters of the current line, and spaces before the next word
    let (mut used, mut spaces) = (0, 0);
    for piece in pieces(line) {
        let wide = piece.chars().count();
        if piece.is_empty() {
            spaces += 1;
            continue;
        }
        if used > 0 && used + spaces + wide > width {
            wrapped.push('\n');
            (used, spaces) = (0, indent);
        }
        wrapped.extend(std::iter::repeat_n(' ', spaces));
        wrapped.push_str(piece);
        used += spaces + wide;
        spaces = 1;
    }
    wrapped
}

/// The text between spaces. A unit and the number before it are one piece.
fn pieces(line: &str) -> Vec<&str> {
    const UNITS: [&str; 12] =
        ["%", "ns", "µs", "ms", "s", "min", "h", "×", "kbit/s", "Mbit/s", "Gbit/s", "bytes"];
    let mut pieces: Vec<&str> = Vec::new();
    let mut begin = 0;
    for word in line.split(' ') {
        let end = begin + word.len();
        let is_unit = UNITS.contains(&word.trim_end_matches([',', '.', ';', ':', ')', '?']));
        match pieces.last_mut() {
            Some(number) if is_unit && number.ends_with(|last: char| last.is_ascii_digit()) => {
                *number = &line[begin - 1 - number.len()..end];
            }
            _ => pieces.push(word),
        }
        begin = end + 1;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_words_and_keep_their_columns() {
        let table: [(&str, usize, &str); 7] = [
            ("one two three", 13, "one two three"),
            ("one two three", 12, "one two\n  three"),
            ("one two three", 7, "one two\n  three"),
            ("  a name        12   of many words", 24, "  a name        12   of\n  many words"),
            ("took 5.42 ms, or more", 12, "took\n  5.42 ms,\n  or more"),
            ("an-unbreakable-word here", 4, "an-unbreakable-word\n  here"),
            ("first line\nsecond line", 8, "first\n  line\nsecond\n  line"),
        ];
        for (text, width, wanted) in table {
            assert_eq!(wrap(text, Some(width), 2), wanted, "{text:?} at {width}");
        }
        assert_eq!(wrap("as it is  ", None, 2), "as it is  ");
    }

    #[test]
    fn no_line_is_too_wide_and_no_word_is_lost() {
        let text = "blaster was the bottleneck: one datagram in a hundred left 5.42 ms late or more (--threads 4, 98 %)";
        for width in 16..110 {
            let wrapped = wrap(text, Some(width), 2);
            assert!(wrapped.lines().all(|line| line.chars().count() <= width), "{wrapped}");
            assert!(!wrapped.contains("5.42\n") && !wrapped.contains("98\n"), "{wrapped}");
            assert_eq!(
                wrapped.split_whitespace().collect::<Vec<_>>(),
                text.split_whitespace().collect::<Vec<_>>()
            );
        }
    }
}
