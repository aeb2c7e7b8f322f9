//! Sixteen numbers of a text, counted in one pass over its characters.
//!
//! In: a text. Out: the features of [`TEXT_FEATURES`], in their order. Classes of characters are ranges
//! of code points that stand here, so that no version of Unicode moves a number; a count n goes in as
//! log(1 + n), a share is of all characters, and the features of an empty text are zeros.
//!
//! A word is a run of letters, digits and underscores; a piece, which stands for a token, is six
//! characters of a word or fewer, or a mark outside of words; an option is a line such as `A. Rome`,
//! `(b) Rome` or `C: Rome`; a turn is a line that begins with the name of a chat's role.

/// The set of features of this build, as artifacts name it: another set gets another name.
pub const TEXT_SET: &str = "text/1";

/// Names of the features, in their order.
pub const TEXT_FEATURES: [&str; 16] = [
    "pieces",
    "words",
    "lines",
    "options",
    "numbers",
    "digits",
    "symbols",
    "capitals",
    "question_marks",
    "word_length",
    "code_fences",
    "accented",
    "other_script",
    "east_asian",
    "turns",
    "tools",
];

/// Characters of a word that count as one piece.
const PIECE: usize = 6;
/// Lines that are options, counted up to this many.
const MOST_OPTIONS: usize = 26;
const ROLES: [&str; 6] = ["user:", "assistant:", "system:", "human:", "tool:", "<|im_start|>"];
const TOOLS: [&str; 3] = ["\"tool", "\"function", "<tool"];

/// What a character is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Digit,
    Capital,
    Small,
    /// Letters of Latin script beyond ASCII.
    Accented,
    /// Letters of scripts that are neither Latin nor East Asian.
    Other,
    /// Chinese, Japanese, Korean.
    EastAsian,
    /// `_`, in words as letters are.
    Underscore,
    Mark,
}

impl Class {
    fn of(c: char) -> Self {
        match u32::from(c) {
            0x09..=0x0d
            | 0x20
            | 0x85
            | 0xa0
            | 0x2000..=0x200a
            | 0x2028
            | 0x2029
            | 0x202f
            | 0x3000 => Self::Space,
            0x30..=0x39 => Self::Digit,
            0x41..=0x5a => Self::Capital,
            0x61..=0x7a => Self::Small,
            0x5f => Self::Underscore,
            0xd7 | 0xf7 => Self::Mark,
            0xc0..=0x24f | 0x1e00..=0x1eff => Self::Accented,
            0x2e80..=0x2fff
            | 0x3005..=0x3007
            | 0x3040..=0x31ff
            | 0x3400..=0x4dbf
            | 0x4e00..=0xa4cf
            | 0xac00..=0xd7af
            | 0xf900..=0xfaff
            | 0x20000..=0x3ffff => Self::EastAsian,
            0x250..=0x1fff
            | 0x2c00..=0x2dff
            | 0xa4d0..=0xabff
            | 0xfb00..=0xfdff
            | 0xfe70..=0xfeff
            | 0x10000..=0x1efff => Self::Other,
            _ => Self::Mark,
        }
    }

    fn is_word(self) -> bool {
        !matches!(self, Self::Space | Self::Mark)
    }
}

/// Features of a text, in the order of [`TEXT_FEATURES`].
pub fn text_features(text: &str) -> [f32; TEXT_FEATURES.len()] {
    let (mut chars, mut pieces, mut words, mut word_chars, mut word) = (0, 0, 0, 0, 0);
    let (mut digits, mut numbers, mut in_number) = (0, 0, false);
    let (mut symbols, mut capitals, mut questions) = (0, 0, 0);
    let (mut accented, mut other, mut east_asian) = (0, 0, 0);
    for c in text.chars() {
        let class = Class::of(c);
        chars += 1;
        if class.is_word() {
            words += usize::from(word == 0);
            pieces += usize::from(word % PIECE == 0);
            word_chars += 1;
            word += 1;
        } else {
            pieces += usize::from(class == Class::Mark);
            word = 0;
        }
        numbers += usize::from(class == Class::Digit && !in_number);
        in_number = class == Class::Digit;
        digits += usize::from(in_number);
        capitals += usize::from(class == Class::Capital);
        accented += usize::from(class == Class::Accented);
        other += usize::from(class == Class::Other);
        east_asian += usize::from(class == Class::EastAsian);
        symbols += usize::from("=+-*/^\\$<>_{}".contains(c));
        questions += usize::from(matches!(c, '?' | '\u{61f}' | '\u{ff1f}'));
    }
    let (mut lines, mut options, mut turns) = (0, 0, 0);
    for line in text.split('\n') {
        let line = line.trim_start_matches([' ', '\t']);
        lines += 1;
        options += usize::from(is_option(line));
        turns += usize::from(ROLES.iter().any(|role| starts_with(line, role)));
    }
    let tools: usize = TOOLS.iter().map(|tool| text.matches(tool).count()).sum();
    let log = |n: usize| libm::log1p(n as f64) as f32;
    let part = |n: usize, of: usize| (n as f64 / of.max(1) as f64) as f32;
    [
        log(pieces),
        log(words),
        log(lines - 1),
        options.min(MOST_OPTIONS) as f32,
        log(numbers),
        part(digits, chars),
        part(symbols, chars),
        part(capitals, chars),
        log(questions),
        part(word_chars, words),
        log(text.matches("```").count()),
        part(accented, chars),
        part(other, chars),
        part(east_asian, chars),
        log(turns),
        log(tools),
    ]
}

/// Whether a line, without the space before it, begins as an option does.
fn is_option(line: &str) -> bool {
    let line = line.strip_prefix('(').unwrap_or(line).as_bytes();
    matches!(line, [letter, b'.' | b':' | b')', b' ' | b'\t', ..] if letter.is_ascii_alphabetic())
}

/// Whether a line begins with a word in small letters, whatever its own letters are.
fn starts_with(line: &str, word: &str) -> bool {
    line.as_bytes().get(..word.len()).is_some_and(|l| l.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, name: &str) -> f32 {
        let at = TEXT_FEATURES.iter().position(|n| *n == name).expect("a feature");
        text_features(text)[at]
    }

    #[test]
    fn each_feature_counts_what_its_name_says() {
        assert_eq!(text_features(""), [0.0; TEXT_FEATURES.len()]);
        let log = |n: u32| libm::log1p(f64::from(n)) as f32;
        let text = "Which of 12 cities?\nA. Rome\n(b) Los Angeles\n C: 3 + 4\n\nAll. Of them";
        for (name, expected) in [
            ("options", 3.0),
            ("lines", log(5)),
            ("numbers", log(3)),
            ("question_marks", log(1)),
            ("words", log(15)),
            ("turns", 0.0),
        ] {
            assert_eq!(of(text, name), expected, "{name}");
        }
        assert_eq!(of("USER: hi\n assistant:ok\nuser", "turns"), log(2));
        assert_eq!(of("```\nx\n```", "code_fences"), log(2));
        assert_eq!(of("{\"tools\": [{\"type\": \"function\"}]}", "tools"), log(2));
        assert_eq!(of("été Ωδ 東京 ab", "accented"), 2.0 / 12.0);
        assert_eq!(of("été Ωδ 東京 ab", "other_script"), 2.0 / 12.0);
        assert_eq!(of("été Ωδ 東京 ab", "east_asian"), 2.0 / 12.0);
        assert_eq!(of("abcdefg!", "pieces"), log(3));
        assert_eq!(of("ABc D", "capitals"), 3.0 / 5.0);
        assert_eq!(of("ab abcd", "word_length"), 3.0);
    }
}
