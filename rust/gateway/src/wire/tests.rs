//! Headers, true and forged.

use super::*;

fn deferral() -> Deferral {
    Deferral {
        id: "0123456789abcdef0123456789abcdef".into(),
        why: Why::Deferred,
        encoder: "ab".into(),
        router: "cd".into(),
        embedding: Some(vec![0.1, -0.0, f32::MIN_POSITIVE, 1e30]),
        input_tokens: Some(12),
        link: Measured { rtt_s: Some(0.018), rate_ul_bps: None, rate_dl_bps: Some(4e7) },
    }
}

#[test]
fn what_a_device_says_arrives_bit_for_bit() {
    let mut headers = HeaderMap::new();
    deferral().write(&mut headers);
    let back = Deferral::read(&headers).unwrap().unwrap();
    let bits =
        |d: &Deferral| -> Vec<u32> { d.embedding.iter().flatten().map(|x| x.to_bits()).collect() };
    assert_eq!(bits(&back), bits(&deferral()));
    assert_eq!(back, deferral());
    assert_eq!(Deferral::read(&HeaderMap::new()).unwrap(), None);
}

#[test]
fn forged_headers_are_named() {
    for (key, value, words) in [
        (SPEAKS, "1", "x-cr2fast-version: expected \"2\""),
        (REQUEST_ID, "short", "32 hexadecimal digits"),
        (WHY, "because", "a reason"),
        (EMBEDDING, "AAA", "base64 of little-endian float32"),
        (EMBEDDING, "AAAA", "base64 of little-endian float32"),
        (EMBEDDING, "%%%%", "base64"),
        (LINK, "rtt_s=-1", "x-cr2fast-link: expected"),
        (LINK, "rtt_s=NaN", "x-cr2fast-link: expected"),
        (LINK, "rate_ul_bps=0", "x-cr2fast-link: expected"),
        (LINK, "speed=1", "x-cr2fast-link: expected"),
    ] {
        let mut headers = HeaderMap::new();
        deferral().write(&mut headers);
        headers.insert(key, HeaderValue::from_static(value));
        let refusal = Deferral::read(&headers).unwrap_err();
        assert!(refusal.message.contains(words), "{}", refusal.message);
    }
    let mut headers = HeaderMap::new();
    deferral().write(&mut headers);
    headers.remove(SPEAKS);
    assert!(Deferral::read(&headers).is_err());
    deferral().write(&mut headers);
    headers.append(REQUEST_ID, HeaderValue::from_static("x"));
    assert!(Deferral::read(&headers).unwrap_err().message.contains("several"));
}

#[test]
fn clients_set_the_point_and_nothing_else() {
    let of = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (key, value) in pairs {
            headers.append(*key, HeaderValue::from_static(value));
        }
        wish(&headers, false)
    };
    let both = of(&[("x-cr2fast-lam", "0.3"), ("x-cr2fast-alpha", " 0.02"), ("accept", "*/*")]);
    assert_eq!(both.unwrap(), Wish { lam: Some(0.3), alpha: Some(0.02), ..Wish::default() });
    assert_eq!(of(&[("x-cr2fast-embedding", "AAAA")]).unwrap_err().status, 403);
    assert_eq!(of(&[("x-cr2fast-why", "accepted")]).unwrap_err().status, 403);
    let unknown = of(&[("x-cr2fast-max-eur", "1")]).unwrap_err();
    assert!(unknown.message.contains("does not know"), "{}", unknown.message);
    assert_eq!(of(&[("x-cr2fast-lam", "much")]).unwrap_err().status, 400);
    assert_eq!(of(&[("x-cr2fast-lam", "1"), ("x-cr2fast-lam", "2")]).unwrap_err().status, 400);
    assert_eq!(of(&[("x-cr2fast-lam", "1")]).unwrap().alpha, None);
    let limits = [
        ("x-cr2fast-max-latency-ms", "300"),
        ("x-cr2fast-max-energy-j", "0"),
        ("x-cr2fast-max-usd", "1e-3"),
    ];
    let wish = of(&limits).unwrap();
    let (latency_s, energy_j, usd) = (Some(0.3), Some(0.0), Some(0.001));
    assert_eq!(wish.budget(), Budget { latency_s, energy_j, usd });
    let mut headers = HeaderMap::new();
    wish.write_budget(&mut headers);
    assert_eq!(super::wish(&headers, true).unwrap(), wish, "the same bits at the edge");
    for value in ["-1", "NaN", "inf", "", "much", "1 2"] {
        let refusal = of(&[("x-cr2fast-max-usd", value)]).unwrap_err();
        assert!(refusal.message.contains("expected a number, at least 0"), "{value}");
    }
    let group = |value: &'static [u8]| {
        let mut headers = HeaderMap::new();
        headers.insert(GROUP, HeaderValue::from_bytes(value).unwrap());
        super::wish(&headers, false).map(|wish| wish.group)
    };
    assert_eq!(group(b"search").unwrap().as_deref(), Some("search"));
    assert_eq!(group("m\u{f6}bel".as_bytes()).unwrap().as_deref(), Some("m\u{f6}bel"));
    for bad in [&b""[..], b" ", b"\xff\xfe", &[b'a'; 201]] {
        assert_eq!(group(bad.to_vec().leak()).unwrap_err().code, "group");
    }
}
