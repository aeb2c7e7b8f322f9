//! BERT's uncased WordPiece: text to token ids.
//!
//! In: a text. Out: the ids that Hugging Face's `tokenizers` gives with `BertNormalizer` (clean
//! text, spaces around CJK, accents stripped, lower case), `BertPreTokenizer` and `WordPiece`, to
//! the last one. Steps, in this order: special tokens spelt out in the text are taken as they are;
//! control characters go, white space ends words; NFD, nonspacing marks go; lower case; punctuation
//! stands alone; each word is covered greedily by the longest pieces of the vocabulary, or is
//! unknown.
//!
//! Written here because the whole library would bring regular expressions, a thread pool and four
//! models that a device never uses. The tables of character classes and of NFD are the ones that
//! library uses, since another version of Unicode would give other ids.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use crate::base::error::{Error, Result};

/// Longer words are unknown, as in BERT.
const MAX_WORD_CHARS: usize = 100;
/// Tokens of a vocabulary, at most.
const MAX_TOKENS: usize = 1 << 20;
/// Of a longer text this many characters from either end are read.
pub const END_CHARS: usize = 16_384;
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Ids of pieces. They are the file's, not a caller's: the hash need not withstand anybody.
/// Found by their bytes, which are UTF-8.
type Pieces = HashMap<Box<[u8]>, u32, RandomState>;

/// A vocabulary, ready to tokenise.
#[derive(Clone, Debug)]
pub struct WordPiece {
    starts: Pieces,
    /// Pieces that continue a word, without their "##".
    continuations: Pieces,
    /// Bytes of the longest piece.
    longest: usize,
    special: [u32; 5],
    len: usize,
}

impl WordPiece {
    /// From the vocabulary: a token a line, the first has id 0.
    pub fn new(vocabulary: &str) -> Result<Self> {
        let tokens: Vec<&str> = vocabulary.split('\n').collect();
        if tokens.len() > MAX_TOKENS {
            return Err(Error::artifact(format!("at most {MAX_TOKENS} tokens"), tokens.len()));
        }
        let (mut starts, mut continuations) = (Pieces::default(), Pieces::default());
        let mut longest = 0;
        for (id, token) in tokens.iter().enumerate() {
            let (map, piece) = match token.strip_prefix("##") {
                Some(rest) if !rest.is_empty() => (&mut continuations, rest),
                _ => (&mut starts, *token),
            };
            longest = longest.max(piece.len());
            if piece.is_empty() || map.insert(piece.as_bytes().into(), id as u32).is_some() {
                return Err(Error::artifact(
                    "a vocabulary of different tokens",
                    format!("{token:?} as token {id}"),
                ));
            }
        }
        let mut special = [0; 5];
        for (name, id) in SPECIAL.iter().zip(&mut special) {
            *id = *starts.get(name.as_bytes()).ok_or_else(|| {
                Error::artifact(format!("a BERT vocabulary with {name}"), "one without")
            })?;
        }
        Ok(Self { starts, continuations, longest, special, len: tokens.len() })
    }

    /// Tokens in the vocabulary.
    #[allow(clippy::len_without_is_empty)] // There are always special tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Id of `[CLS]`.
    pub fn cls(&self) -> u32 {
        self.special[2]
    }

    /// Id of `[SEP]`.
    pub fn sep(&self) -> u32 {
        self.special[3]
    }

    /// Ids of a whole text, none added at its ends.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut words = Words { vocabulary: self, word: String::new(), chars: 0, ids: Vec::new() };
        words.text(text);
        words.ids
    }

    /// The same of a text's ends: [`END_CHARS`] characters from either side of a longer one, as if
    /// white space stood between them. Bounds the work, whatever comes.
    pub fn encode_ends(&self, text: &str) -> Vec<u32> {
        let mut words = Words { vocabulary: self, word: String::new(), chars: 0, ids: Vec::new() };
        match ends(text) {
            None => words.text(text),
            Some((head, tail)) => {
                words.text(head);
                words.text(tail);
            }
        }
        words.ids
    }

    /// Whether [`Self::encode_ends`] of a text reads less than the whole text.
    pub fn reads_ends(text: &str) -> bool {
        ends(text).is_some()
    }

    /// Ids of a word, given as UTF-8.
    fn word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let (first, mut start) = (ids.len(), 0);
        while start < word.len() {
            let map = if start == 0 { &self.starts } else { &self.continuations };
            let mut end = boundary(word, start + self.longest);
            loop {
                if end <= start {
                    ids.truncate(first);
                    ids.push(self.special[1]);
                    return;
                }
                if let Some(id) = map.get(&word[start..end]) {
                    ids.push(*id);
                    start = end;
                    break;
                }
                end = boundary(word, end - 1);
            }
        }
    }
}

/// The last place up to `at` where a character begins, or the end.
fn boundary(word: &[u8], at: usize) -> usize {
    let begins = |i: &usize| word.get(*i).is_none_or(|byte| byte & 0xc0 != 0x80);
    (0..=at.min(word.len())).rev().find(begins).unwrap_or(0)
}

/// Both ends of a text of more than 2·[`END_CHARS`] characters.
fn ends(text: &str) -> Option<(&str, &str)> {
    // No text has more characters than bytes.
    if text.len() <= 2 * END_CHARS {
        return None;
    }
    let (head, _) = text.char_indices().nth(END_CHARS)?;
    let (tail, _) = text.char_indices().rev().nth(END_CHARS - 1)?;
    (head < tail).then(|| (&text[..head], &text[tail..]))
}

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
struct Words<'a> {
    vocabulary: &'a WordPiece,
    word: String,
    chars: usize,
    ids: Vec<u32>,
}

impl Words<'_> {
    fn text(&mut self, mut text: &str) {
        while let Some((at, which)) = next_special(text) {
            self.plain(&text[..at]);
            self.ids.push(self.vocabulary.special[which]);
            text = &text[at + SPECIAL[which].len()..];
        }
        self.plain(text);
    }

    fn plain(&mut self, text: &str) {
        if text.is_ascii() {
            return self.ascii(text.as_bytes());
        }
        let cleaned = text.chars().filter(|c| !is_dropped(*c)).flat_map(|c| {
            let cjk = is_cjk(c);
            let c = if c.is_whitespace() { ' ' } else { c };
            [cjk.then_some(' '), Some(c), cjk.then_some(' ')].into_iter().flatten()
        });
        for (c, _) in cleaned.nfd().filter(|(c, _)| !c.is_mark_nonspacing()) {
            for c in c.to_lowercase() {
                if c.is_whitespace() {
                    self.flush();
                } else {
                    self.push(c, c.is_ascii_punctuation() || c.is_punctuation());
                }
            }
        }
        self.flush();
    }

    /// The same of ASCII, where a character is a byte and a table says what becomes of it.
    fn ascii(&mut self, text: &[u8]) {
        let mut word = [0; MAX_WORD_CHARS];
        let mut chars = 0;
        for byte in text {
            match ASCII[usize::from(byte & 0x7f)] {
                DROPPED => {}
                SPACE => self.ascii_word(&word, &mut chars),
                ALONE => {
                    self.ascii_word(&word, &mut chars);
                    self.vocabulary.word(&[*byte], &mut self.ids);
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
    }

    fn ascii_word(&mut self, word: &[u8], chars: &mut usize) {
        match word.get(..*chars) {
            Some([]) => {}
            Some(word) => self.vocabulary.word(word, &mut self.ids),
            // Longer than any that is known.
            None => self.ids.push(self.vocabulary.special[1]),
        }
        *chars = 0;
    }

    fn push(&mut self, c: char, alone: bool) {
        if alone {
            self.flush();
        }
        self.chars += 1;
        // A word that is too long is unknown whatever else it holds.
        if self.chars <= MAX_WORD_CHARS {
            self.word.push(c);
        }
        if alone {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.chars > MAX_WORD_CHARS {
            self.ids.push(self.vocabulary.special[1]);
        } else if self.chars > 0 {
            self.vocabulary.word(self.word.as_bytes(), &mut self.ids);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> WordPiece {
        WordPiece::new("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##aff\n##able\n!\n[\ncls\n日\nb")
            .expect("a vocabulary")
    }

    #[test]
    fn longest_pieces_first_and_a_word_without_cover_is_unknown() {
        let v = vocabulary();
        assert_eq!(v.encode("unaffable"), [5, 6, 7]);
        assert_eq!(v.encode(" UNaffáble!\tunx !!"), [5, 6, 7, 8, 1, 8, 8]);
        assert_eq!(v.encode("un日b\u{0}\u{200d}b"), [5, 11, 1]);
        assert_eq!(v.encode("b[CLS]b[CLS"), [12, 2, 12, 9, 10]);
        assert_eq!(v.encode(&"b".repeat(101)), [1]);
        assert!(v.encode("\u{1}").is_empty());
    }

    #[test]
    fn ascii_is_read_as_other_texts_are() {
        let v = vocabulary();
        let slow = |text: &str| {
            let mut words =
                Words { vocabulary: &v, word: String::new(), chars: 0, ids: Vec::new() };
            // A nonspacing mark that stands first goes, and takes the text off the fast way.
            words.plain(&format!("\u{301}{text}"));
            words.ids
        };
        let all: String = (0..128_u8).map(char::from).collect();
        for byte in 0..128_u8 {
            let c = char::from(byte);
            for text in [format!("un{c}able"), format!("{c}{c}b{c}"), format!("B{c}UN{all}")] {
                assert_eq!(v.encode(&text), slow(&text), "{text:?}");
            }
        }
        for n in 98..104 {
            let text = format!("un {}!b", "b".repeat(n));
            assert_eq!(v.encode(&text), slow(&text), "{n}");
        }
    }

    #[test]
    fn ends_of_a_long_text_alone_are_read() {
        let v = vocabulary();
        let text = "b ".repeat(END_CHARS) + "un!";
        assert_eq!(v.encode(&text).len(), END_CHARS + 2);
        let ids = v.encode_ends(&text);
        assert_eq!(ids.len(), END_CHARS);
        assert_eq!(ids[ids.len() - 2..], [5, 8]);
        let exact = "é".repeat(2 * END_CHARS);
        assert_eq!(v.encode_ends(&exact), [1]);
        assert_eq!(v.encode_ends(&(exact + "é")), [1, 1]);
    }

    #[test]
    fn a_vocabulary_must_be_one() {
        for bad in ["", "a\nb", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na", "[PAD]\n\n[UNK]"] {
            assert!(matches!(WordPiece::new(bad), Err(Error::Artifact { .. })), "{bad:?}");
        }
    }
}
