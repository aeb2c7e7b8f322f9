//! Any text: our tokenizer gives the ids that the `tokenizers` library gives with the same vocabulary.

#![no_main]

use std::sync::LazyLock;

use cr2fast_core::WordPiece;
use libfuzzer_sys::fuzz_target;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// Words that begin and go on in many scripts, some of them longer than a character.
static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter();
    let ranges = ['!'..='~', '\u{a1}'..='\u{17f}', 'α'..='ω', 'а'..='я', '一'..='丿', '가'..='갏'];
    let letters: Vec<char> = ranges.into_iter().flatten().collect();
    let starts = letters.iter().map(char::to_string);
    let later = letters.iter().map(|c| format!("##{c}"));
    let pairs = ["th", "##th", "in", "##ing", "e\u{301}", "##e\u{301}"].map(String::from);
    let mut seen = std::collections::HashSet::new();
    let all = special.chain(starts).chain(later).chain(pairs);
    all.filter(|word| seen.insert(word.clone())).collect()
});
static OURS: LazyLock<WordPiece> = LazyLock::new(|| WordPiece::new(&WORDS.join("\n")).unwrap());
static THEIRS: LazyLock<Tokenizer> = LazyLock::new(|| {
    let words = WORDS.iter().cloned().zip(0_u32..);
    let model = tokenizers::models::wordpiece::WordPiece::builder()
        .vocab(words.collect::<ahash::AHashMap<String, u32>>())
        .unk_token("[UNK]".into())
        .build()
        .unwrap();
    let mut made = Tokenizer::new(model);
    let normalizer = BertNormalizer::new(true, true, None, true);
    made.with_normalizer(Some(NormalizerWrapper::from(normalizer))).unwrap();
    made.with_pre_tokenizer(Some(PreTokenizerWrapper::from(BertPreTokenizer)));
    made
});

fuzz_target!(|text: &str| {
    // A vocabulary's special words stand for themselves in the library.
    if !text.contains('[') {
        let (ids, tokens) = OURS.encode_counted(text);
        assert!(tokens >= ids.len() && tokens + 1 >= text.len() / 16, "{text:?}: {tokens}");
        assert_eq!(ids, THEIRS.encode(text, false).unwrap().get_ids(), "{text:?}");
    }
});
