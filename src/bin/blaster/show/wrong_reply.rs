//! A wrong reply in one line: where it went, where it came from, and which bytes differ.

use std::fmt::{self, Write};

use crate::model::results::{Example, SentMessage};
use crate::model::units::counted;

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.sentence())
    }
}

impl Example {
    /// Everything but its kind.
    pub(super) fn sentence(&self) -> String {
        let from = self.came_from.map_or("an unknown address".into(), |from| from.to_string());
        let of_another = self.bytes_of.map_or(String::new(), |other| {
            format!(" with the bytes of flow {}, number {}", other.flow, other.sequence)
        });
        let number = |sent: &SentMessage| format!("(flow {}, number {})", sent.flow, sent.sequence);
        let came_bytes = self.came_bytes;
        if let Some(sent) = &self.answers {
            let (bytes, difference) = (bytes(sent.sent_bytes), self.difference(sent));
            let sent_to = sent.sent_to;
            return format!(
                "{bytes} to {sent_to}, {came_bytes} from {from}{of_another}{difference} {}",
                number(sent)
            );
        }
        let mut text = format!("{} from {from}{of_another}", bytes(came_bytes));
        if !self.came_first.is_empty() {
            let _ = write!(text, ": {}", shown(&self.came_first, came_bytes));
        }
        if let Some(sent) = &self.in_flight {
            let first = shown(&sent.sent_first, sent.sent_bytes);
            let _ = write!(
                text,
                "; in flight: {} to {}: {first} {}",
                bytes(sent.sent_bytes),
                sent.sent_to,
                number(sent)
            );
        }
        text
    }

    /// The difference between the reply and the message that it answers.
    fn difference(&self, sent: &SentMessage) -> String {
        if let Some(before) = sent.bytes_before {
            let before_ours = &self.came_first[..before.min(self.came_first.len())];
            return format!(", {} before ours: {}", bytes(before), shown(before_ours, before));
        }
        let Some(at) = sent.differs_at else {
            let more = self.came_bytes.saturating_sub(sent.sent_bytes);
            return if more > 0 { format!(", {} too many", bytes(more)) } else { String::new() };
        };
        let mut text = format!(", byte {at} differs");
        if let (Some(sent_byte), Some(came_byte)) = (sent.sent_byte, sent.came_byte) {
            let _ = write!(text, ": sent {sent_byte:#04x}, got {came_byte:#04x}");
        }
        // one byte is told already
        let differing = self.came_first.iter().zip(&sent.sent_first).filter(|(came, sent)| came != sent);
        if differing.count() > 1 {
            let _ = write!(
                text,
                "; sent {}, got {}",
                shown(&sent.sent_first, sent.sent_bytes),
                shown(&self.came_first, self.came_bytes)
            );
        }
        text
    }
}

fn bytes(number: usize) -> String {
    counted(number as u64, "byte")
}

/// The first bytes of `all`, and as letters if they are letters: `68 69 20 00 … "hi "`.
fn shown(first: &[u8], all: usize) -> String {
    let mut text = first.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    if first.len() < all {
        text.push_str(" …");
    }
    let is_letter = |byte: &&u8| byte.is_ascii_graphic() || **byte == b' ';
    let letters = first.iter().take_while(is_letter).count();
    if letters >= 3 {
        let _ = write!(text, " \"{}\"", String::from_utf8_lossy(&first[..letters]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::results::{MessageNumber, first_bytes};

    const NUMBER: MessageNumber = MessageNumber { flow: 3, sequence: 9 };

    fn sent(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|nth| nth as u8).collect()
    }

    fn reply(kind: &str, came: &[u8]) -> Example {
        Example {
            kind: kind.into(),
            came_from: Some("127.0.0.1:7".parse().unwrap()),
            came_bytes: came.len(),
            came_first: first_bytes(came),
            answers: None,
            in_flight: None,
            bytes_of: None,
        }
    }

    fn compared(came: &[u8]) -> SentMessage {
        SentMessage::new("127.0.0.2:8".parse().unwrap(), NUMBER, &sent(64), came)
    }

    #[test]
    fn one_reading_is_enough() {
        let mut flipped = sent(64);
        flipped[63] ^= 1;
        let mut other = sent(64);
        other[..3].copy_from_slice(b"abc");
        let longer = [sent(64), vec![0]].concat();
        let greeting = [b"hi ".to_vec(), sent(64)].concat();
        let answers = |came: &[u8]| Example { answers: Some(compared(came)), ..reply("corrupted", came) };
        let before = SentMessage { bytes_before: Some(3), ..compared(&greeting) };
        let ours = "sent 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f …";
        let table = [
            (answers(&flipped), "64 from 127.0.0.1:7, byte 63 differs: sent 0x3f, got 0x3e (flow 3".to_string()),
            (answers(&sent(63)), "64 bytes to 127.0.0.2:8, 63 from 127.0.0.1:7 (flow 3, number 9)".into()),
            (answers(&longer), "65 from 127.0.0.1:7, 1 byte too many (flow 3, number 9)".into()),
            (
                answers(&other),
                format!("byte 0 differs: sent 0x00, got 0x61; {ours}, got 61 62 63 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f … \"abc\" (flow"),
            ),
            (
                Example { answers: Some(before), ..reply("corrupted", &greeting) },
                "67 from 127.0.0.1:7, 3 bytes before ours: 68 69 20 \"hi \" (flow 3, number 9)".into(),
            ),
            (reply("unattributed", b"x"), "unattributed: 1 byte from 127.0.0.1:7: 78".into()),
            (
                Example { in_flight: Some(compared(b"hello")), ..reply("unattributed", b"hello") },
                "5 bytes from 127.0.0.1:7: 68 65 6c 6c 6f \"hello\"; in flight: 64 bytes to 127.0.0.2:8: 00 01".into(),
            ),
            (
                Example { bytes_of: Some(MessageNumber { flow: 8, sequence: 1 }), ..reply("crossed", &sent(64)) },
                "crossed: 64 bytes from 127.0.0.1:7 with the bytes of flow 8, number 1: 00 01".into(),
            ),
        ];
        for (example, words) in table {
            assert!(example.to_string().contains(&words), "{example}: {words}");
        }
    }

    #[test]
    fn no_byte_of_a_stranger_reaches_the_terminal() {
        let evil = b"abc\x1b[31m\xff";
        let text = reply("unattributed", evil).to_string();
        assert!(text.ends_with("61 62 63 1b 5b 33 31 6d ff \"abc\""), "{text}");
    }
}
