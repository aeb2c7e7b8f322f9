//! A text's words, cleaned, and their ids.
//!
//! In: a vocabulary and a text. Out: ids, and what they leave out. ASCII goes by a table, other texts
//! by Unicode's.

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use crate::encoder::count::{Reading, of_unknown};
use crate::encoder::wordpiece::{MAX_WORD_CHARS, SPECIAL, WordPiece};

/// What becomes of an ASCII character: one of the three below, or its lower case as part of a word.
const ASCII: [u8; 128] = {
    let mut table = [DROPPED; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'\t' | b'\n' | b'\r' | b' ' => SPACE,
            0..=0x1f | 0x7f => DROPPED,
            _ if byte.is_ascii_punctuation() => ALONE,
            _ => byte.to_ascii_lowercase(),
        };
        byte += 1;
    }
    table
};
const DROPPED: u8 = 0;
const SPACE: u8 = 1;
const ALONE: u8 = 2;

/// A text on its way to ids, one word at a time.
pub struct Words<'a> {
    vocabulary: &'a WordPiece,
    word: String,
    chars: usize,
    /// Bytes of its characters beyond [`MAX_WORD_CHARS`], which are not kept.
    over: usize,
    pub ids: Vec<u32>,
    /// What ids leave out.
    pub beside: Reading,
}

impl<'a> Words<'a> {
    pub fn new(vocabulary: &'a WordPiece) -> Self {
        Self {
            vocabulary,
            word: String::new(),
            chars: 0,
            over: 0,
            ids: Vec::new(),
            beside: Reading::default(),
        }
    }

    pub fn text(&mut self, mut text: &str) {
        while let Some((at, which)) = next_special(text) {
            self.plain(&text[..at]);
            self.ids.push(self.vocabulary.special[which]);
            text = &text[at + SPECIAL[which].len()..];
        }
        self.plain(text);
    }

    pub fn plain(&mut self, text: &str) {
        if text.is_ascii() {
            return self.ascii(text.as_bytes());
        }
        let mut hidden = 0;
        let kept = text.chars().filter(|c| {
            let dropped = is_dropped(*c);
            hidden += if dropped { c.len_utf8() } else { 0 };
            !dropped
        });
        let cleaned = kept.flat_map(|c| {
            let cjk = is_cjk(c);
            let c = if c.is_whitespace() { ' ' } else { c };
            [cjk.then_some(' '), Some(c), cjk.then_some(' ')].into_iter().flatten()
        });
        let mut marks = 0;
        for (c, added) in cleaned.nfd() {
            if c.is_mark_nonspacing() {
                // One that NFD took off a letter is no character of the text.
                marks += if added == 0 { c.len_utf8() } else { 0 };
                continue;
            }
            for c in c.to_lowercase() {
                if c.is_whitespace() {
                    self.flush();
                } else {
                    self.push(c, c.is_ascii_punctuation() || c.is_punctuation());
                }
            }
        }
        self.flush();
        self.beside.hidden += hidden + marks;
    }

    /// The same of ASCII, where a character is a byte and a table says what becomes of it.
    fn ascii(&mut self, text: &[u8]) {
        let mut word = [0; MAX_WORD_CHARS];
        let (mut chars, mut hidden) = (0, 0);
        for byte in text {
            match ASCII[usize::from(byte & 0x7f)] {
                DROPPED => hidden += 1,
                SPACE => self.ascii_word(&word, &mut chars),
                ALONE => {
                    self.ascii_word(&word, &mut chars);
                    self.spell(&[*byte]);
                }
                letter => {
                    if let Some(slot) = word.get_mut(chars) {
                        *slot = letter;
                    }
                    chars += 1;
                }
            }
        }
        self.ascii_word(&word, &mut chars);
        self.beside.hidden += hidden;
    }

    fn ascii_word(&mut self, word: &[u8], chars: &mut usize) {
        match word.get(..*chars) {
            Some([]) => {}
            Some(word) => self.spell(word),
            // Longer than any that is known.
            None => self.unknown(*chars),
        }
        *chars = 0;
    }

    fn spell(&mut self, word: &[u8]) {
        if !self.vocabulary.word(word, &mut self.ids) {
            self.unknown(word.len());
        }
    }

    /// A word of so many bytes that is unknown.
    fn unknown(&mut self, bytes: usize) {
        self.ids.push(self.vocabulary.special[1]);
        self.beside.beyond += of_unknown(bytes) - 1;
    }

    fn push(&mut self, c: char, alone: bool) {
        if alone {
            self.flush();
        }
        self.chars += 1;
        // A word that is too long is unknown whatever else it holds.
        if self.chars <= MAX_WORD_CHARS {
            self.word.push(c);
        } else {
            self.over += c.len_utf8();
        }
        if alone {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.chars > MAX_WORD_CHARS {
            self.unknown(self.word.len() + self.over);
            self.over = 0;
        } else if self.chars > 0 && !self.vocabulary.word(self.word.as_bytes(), &mut self.ids) {
            self.unknown(self.word.len());
        }
        self.word.clear();
        self.chars = 0;
    }
}

/// Place of the first special token, and which.
fn next_special(text: &str) -> Option<(usize, usize)> {
    text.match_indices('[').find_map(|(at, _)| {
        let which = SPECIAL.iter().position(|s| text[at..].starts_with(s))?;
        Some((at, which))
    })
}

fn is_dropped(c: char) -> bool {
    let control = !matches!(c, '\t' | '\n' | '\r') && c.is_other();
    c == '\0' || c == '\u{fffd}' || control
}

fn is_cjk(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
