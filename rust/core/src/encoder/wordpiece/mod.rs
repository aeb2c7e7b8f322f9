//! BERT's uncased WordPiece: text to token ids.
//!
//! In: a text. Out: the ids that Hugging Face's `tokenizers` gives with `BertNormalizer` (clean
//! text, spaces around CJK, accents stripped, lower case), `BertPreTokenizer` and `WordPiece`, to
//! the last one. Steps, in this order: special tokens spelt out in the text are taken as they are;
//! control characters go, white space ends words; NFD, nonspacing marks go; lower case; punctuation
//! stands alone; each word is covered greedily by the longest pieces of the vocabulary, or is
//! unknown. Beside the ids, what they leave out is summed, so that a text can be counted (`count`).
//!
//! Written here because the whole library would bring regular expressions, a thread pool and four
//! models that a device never uses. The tables of character classes and of NFD are the ones that
//! library uses, since another version of Unicode would give other ids.

mod words;

use std::collections::HashMap;

use crate::base::error::{Error, Result};
use crate::encoder::count::Reading;
use crate::encoder::wordpiece::words::Words;
use foldhash::fast::RandomState;

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
        self.read(text).0
    }

    /// The same, and how many tokens the text counts for.
    pub fn encode_counted(&self, text: &str) -> (Vec<u32>, usize) {
        let (ids, reading) = self.read(text);
        (ids, reading.tokens())
    }

    fn read(&self, text: &str) -> (Vec<u32>, Reading) {
        let mut words = Words::new(self);
        words.text(text);
        let ids = words.ids.len();
        (words.ids, Reading { ids, bytes: text.len(), ..words.beside })
    }

    /// The same of a text's ends: `END_CHARS` characters from either side of a longer one, as if
    /// white space stood between them. Bounds the work, whatever comes.
    pub fn encode_ends(&self, text: &str) -> Vec<u32> {
        let mut words = Words::new(self);
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

    /// Ids of a word, given as UTF-8; false, and none, of one that the vocabulary cannot spell.
    fn word(&self, word: &[u8], ids: &mut Vec<u32>) -> bool {
        let (first, mut start) = (ids.len(), 0);
        while start < word.len() {
            let map = if start == 0 { &self.starts } else { &self.continuations };
            let mut end = boundary(word, start + self.longest);
            loop {
                if end <= start {
                    ids.truncate(first);
                    return false;
                }
                if let Some(id) = map.get(&word[start..end]) {
                    ids.push(*id);
                    start = end;
                    break;
                }
                end = boundary(word, end - 1);
            }
        }
        true
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

#[cfg(test)]
mod tests;
