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
        let mut words = Words::new(&v);
        // A nonspacing mark that stands first goes, and takes the text off the fast way.
        words.plain(&format!("\u{301}{text}"));
        let (ids, hidden) = (words.ids.len(), words.beside.hidden - "\u{301}".len());
        (words.ids, Reading { ids, hidden, bytes: text.len(), ..words.beside })
    };
    let all: String = (0..128_u8).map(char::from).collect();
    for byte in 0..128_u8 {
        let c = char::from(byte);
        for text in [format!("un{c}able"), format!("{c}{c}b{c}"), format!("B{c}UN{all}")] {
            assert_eq!(v.read(&text), slow(&text), "{text:?}");
        }
    }
    for n in 98..104 {
        let text = format!("un {}!b", "b".repeat(n));
        assert_eq!(v.read(&text), slow(&text), "{n}");
    }
}

#[test]
fn what_ids_leave_out_counts_by_its_bytes() {
    let v = vocabulary();
    for (text, tokens) in [
        ("", 0),
        ("unaffable!", 4),
        ("[CLS] [UNK]", 2),
        ("un x", 2),
        ("un xxxx!", 4),
        // Spelled, a word of 100 characters has as many pieces; a longer one is unknown.
        (&"x".repeat(1_000_000), 333_334),
        (&"日".repeat(300), 300),
        ("ก", 1),
        (&"กข".repeat(50_000), 100_000),
        (&"กข ".repeat(50_000), 100_000),
        // Accents go with their letters, marks that stand by themselves do not.
        ("ún", 1),
        (&format!("un{}", "\u{301}".repeat(3_000)), 2_000),
        (&"\u{200b}".repeat(1_000), 1_000),
        (&"\u{1}".repeat(3_000), 1_000),
        (" ", 1),
        (&" ".repeat(1_000_000), 62_500),
        (&"\u{3000}\n\t".repeat(16_000), 5_000),
    ] {
        let (ids, counted) = v.encode_counted(text);
        let start: String = text.chars().take(12).collect();
        assert_eq!(counted, tokens, "{start:?}, {} bytes", text.len());
        assert_eq!(ids, v.encode(text));
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
