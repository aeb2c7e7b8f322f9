//! How many tokens a text counts for: the one rule, of which prices, limits, lengths and logs all have theirs.
//!
//! In: what a tokenizer made of a text. Out: an estimate of what a model's own tokenizer makes of the text.
//!
//! An encoder reads less than a model does. Its WordPiece has one token for a word of more than 100 characters,
//! and for a word that its vocabulary cannot spell (a text without spaces, base64, a script that the vocabulary
//! lacks, symbols), and none for white space, control and format characters, and accents. With `r` the tokens
//! of words that it knows, `u` the unknown words, `h` the bytes that it drops, and `b` those of the text:
//!
//! > tokens = max(r + Σ_u ⌈bytes(u) / 3⌉, ⌊h / 3⌋ + ⌊(b − h) / 16⌋, 1 if b > 0)
//!
//! Three published tokenizers of models have 1 to 8 bytes per token where words are unknown (1.3 for base64, 3 to 6
//! for Thai and kana, 8 for one repeated letter), and 1 to 6 for what is dropped: [`UNKNOWN_BYTES`] is in their
//! middle. They have 16 spaces and more in a token, and ordinary text, columns of spaces included, stays above a
//! token per [`MOST_BYTES`], so that the second sum is only ever the greater one where a text hides something.

/// Bytes per token of what an encoder cannot read.
const UNKNOWN_BYTES: usize = 3;
/// No text has more bytes per token.
const MOST_BYTES: usize = 16;
/// Bytes per token of a text that nobody counts: prose has four to five, code three.
const USUAL_BYTES: usize = 4;

/// What a tokenizer made of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Tokens that it gave, one of them for each unknown word.
    pub ids: usize,
    /// Tokens that unknown words count for beyond that one.
    pub beyond: usize,
    /// Bytes of the characters that it dropped, white space aside.
    pub hidden: usize,
    /// Bytes of the text.
    pub bytes: usize,
}

impl Reading {
    /// Tokens that the text counts for.
    pub fn tokens(self) -> usize {
        let others = self.bytes.saturating_sub(self.hidden) / MOST_BYTES;
        let least = (self.hidden / UNKNOWN_BYTES + others).max(usize::from(self.bytes > 0));
        (self.ids + self.beyond).max(least)
    }
}

/// Tokens that an unknown word of so many bytes counts for.
pub fn of_unknown(bytes: usize) -> usize {
    bytes.div_ceil(UNKNOWN_BYTES)
}

/// Tokens of `bytes` bytes of text, of which a server saw `sent` and counted `counted`: as many per byte.
///
/// A server may cut a text without a word, or count an unknown word as one token. A count of fewer tokens than
/// any text has says nothing; without a count that does, tokens are a quarter of the bytes.
pub fn scaled(counted: Option<u64>, sent: usize, bytes: usize) -> u64 {
    let bytes = bytes as u64;
    match counted.filter(|n| sent > 0 && *n >= (sent / MOST_BYTES) as u64) {
        Some(n) => {
            let all = u128::from(n) * u128::from(bytes);
            u64::try_from(all.div_ceil(sent as u128)).unwrap_or(u64::MAX)
        }
        None => bytes.div_ceil(USUAL_BYTES as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_counts_unless_it_is_too_little() {
        let tokens = |ids, beyond, hidden, bytes| Reading { ids, beyond, hidden, bytes }.tokens();
        assert_eq!(tokens(0, 0, 0, 0), 0);
        assert_eq!(tokens(0, 0, 0, 1), 1, "a text is something");
        assert_eq!(tokens(12, 4, 0, 60), 16);
        assert_eq!(tokens(2, 0, 0, 40), 2, "40 bytes are two tokens at least");
        assert_eq!(tokens(2, 0, 0, 1_000_000), 62_500, "white space");
        assert_eq!(tokens(2, 0, 900_000, 1_000_000), 306_250, "zero-width characters");
        assert_eq!(tokens(1, 0, 9, 6), 3, "marks that came out of six bytes");
        assert_eq!([0, 1, 3, 4].map(of_unknown), [0, 1, 1, 2]);
    }

    #[test]
    fn a_servers_count_scales_with_bytes() {
        assert_eq!(scaled(Some(10), 40, 40), 10);
        assert_eq!(scaled(Some(10), 40, 41), 11);
        assert_eq!(scaled(None, 0, 9), 3);
        assert_eq!(scaled(Some(u64::MAX), 1, usize::MAX), u64::MAX);
    }

    #[test]
    fn a_servers_count_of_next_to_nothing_is_none() {
        assert_eq!(scaled(Some(2), 47, 47), 2, "two long words");
        assert_eq!(scaled(Some(3), 32_768, 1_000_000), 250_000, "one unknown word");
        assert_eq!(scaled(Some(512), 32_768, 32_768), 8_192, "cut to 512");
        assert_eq!(scaled(Some(2_048), 32_768, 32_768), 2_048);
    }
}
