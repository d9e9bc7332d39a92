//! PEM as people write, paste, convert and cut it: taken whole, or a fault with its line.

use proptest::prelude::*;

use super::*;

/// A SEQUENCE with contents of its own.
fn sequence(seed: u8, length: usize) -> Vec<u8> {
    let content = vec![seed; length];
    let length = u16::try_from(length).expect("is short").to_be_bytes();
    [&[0x30, 0x82][..], &length, &content].concat()
}

fn block(label: &str, der: &[u8], width: usize, line_end: &str) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("is ASCII")).collect();
    format!("-----BEGIN {label}-----{line_end}{}{line_end}-----END {label}-----", lines.join(line_end))
}

fn certificate(seed: u8) -> String {
    block("CERTIFICATE", &sequence(seed, 300), 64, "\n")
}

fn key(seed: u8) -> String {
    block("PRIVATE KEY", &sequence(seed, 200), 64, "\n")
}

fn ders(blocks: &[Block]) -> Vec<Vec<u8>> {
    blocks.iter().map(|block| block.der.to_vec()).collect()
}

/// Both certificates are taken, in order.
fn taken(text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let blocks = authorities(text).unwrap_or_else(|fault| panic!("{}\na file {fault}", String::from_utf8_lossy(text)));
    assert_eq!(ders(&blocks), [sequence(1, 300), sequence(2, 300)]);
    // What another library, which is less strict, makes of what is handed on.
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let read: Vec<_> = CertificateDer::pem_slice_iter(&write(&blocks)).map(|der| der.expect("is PEM").to_vec()).collect();
    assert_eq!(read, ders(&blocks));
}

#[test]
fn what_people_write_is_taken_whole() {
    let (a, b) = (certificate(1), certificate(2));
    taken(format!("{a}\n{b}\n"));
    taken(format!("{a}{b}"));
    taken(format!("{a} \t {b}   \n"));
    taken(format!("{a}\n\u{feff}{b}"));
    taken(format!("\u{feff}{a}\u{feff}{b}"));
    taken(format!("\u{feff}{a}\n{b}").replace('\n', "\r\n"));
    taken(format!("{a}\n{b}\n").replace('\n', "\r"));
    taken(format!("  {a}\n{b}\n").replace('\n', "\n    "));
    taken(format!("{a}\n{b}\n").replace('\n', " \n\t"));
    taken(format!("{a}\n{b}\n").replace('\n', "\n\n"));
    taken(format!("{a}\n{b}\n").replace("CERTIFICATE", "X509 CERTIFICATE"));
    // All on one line, as an unquoted variable of a shell has it.
    taken(format!("{a} {b}").replace('\n', " "));
    for width in [1, 60, 76, 10_000] {
        taken(format!("{}\n{b}", block("CERTIFICATE", &sequence(1, 300), width, "\n")));
    }
    // What `openssl x509 -text`, `s_client -showcerts`, `pkcs12` and bundles have between blocks.
    let text =
        "Certificate:\n    Data:\n        Version: 3 (0x2)\n        Subject: CN=Z\u{fc}rich CA\n            30:82:01:0a:02:82\n";
    let bag = "Bag Attributes\n    friendlyName: the front-end's key\nsubject=CN = example.org\nissuer=CN = CA\n";
    let comments =
        "# --- Begin intermediate certificates ---\n# begin certificate\n------\n=====\n---\nServer certificate\n-----\n";
    taken(format!("{text}{a}\n 1 s:CN = CA\n   i:CN = CA\n{bag}{comments}{b}\n---\nfinished\n"));
    taken([b"# Z\xfcrich\n", a.as_bytes(), b"\n# \xe9\n", b.as_bytes()].concat());
}

/// Line (0 for none) of the fault, and a word of it.
fn faulty(text: impl AsRef<[u8]>, line: usize, word: &str) {
    let text = text.as_ref();
    let shown = String::from_utf8_lossy(text);
    let fault = authorities(text).map(|blocks| blocks.len()).expect_err(&shown);
    assert_eq!(fault.line.unwrap_or_default(), line, "{shown}\na file {fault}");
    assert!(fault.to_string().contains(word), "{shown}\na file {fault}\nlacks {word}");
    let body = STANDARD.encode([2; 20]);
    assert!(!fault.to_string().contains(&body[..16]), "{fault}");
}

#[test]
fn what_would_be_passed_over_is_a_fault_with_its_line() {
    let (a, b) = (certificate(1), certificate(2));
    // Where the second block begins.
    let second = a.lines().count() + 1;
    let instead = |from: &str, to: &str| format!("{a}\n{}\n", b.replace(from, to));
    for (text, line, word) in [
        // Markers that are none.
        (instead("-----BEGIN CERTIFICATE", "-----begin certificate"), second, "capitals"),
        (instead("CERTIFICATE", "certificate"), second, "capitals"),
        (instead("CERTIFICATE", "Certificate"), second, "capitals"),
        (instead("BEGIN CERTIFICATE", "BEGIN  CERTIFICATE"), second, "five dashes"),
        (instead("-----BEGIN", "----BEGIN"), second, "five dashes"),
        (instead("-----BEGIN", "------BEGIN"), second, "five dashes"),
        (instead("-----BEGIN", "----- BEGIN"), second, "five dashes"),
        (instead("-----BEGIN", "\u{2014}\u{2014}-BEGIN"), second, "five dashes"),
        (instead("-----", "\u{2013}\u{2013}\u{2013}"), second, "five dashes"),
        (instead("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE"), second, "five dashes"),
        (instead("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE----"), second, "five dashes"),
        (instead("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE------"), second, "base64"),
        (instead("-----BEGIN", "# -----BEGIN"), second, "nothing before"),
        (instead("-----BEGIN", "> -----BEGIN"), second, "nothing before"),
        (instead("-----BEGIN", "\"-----BEGIN"), second, "nothing before"),
        (instead("-----BEGIN", "\u{200b}-----BEGIN"), second, "nothing before"),
        (format!("{a},{b}"), second - 1, "nothing before"),
        (format!("{a}----{b}"), second - 1, "nothing before"),
        (format!("{a}{}", &b[5..]), second - 1, "five dashes"),
        (format!("{a}BEGIN CERTIFICATS"), second - 1, "five dashes"),
        (format!("{a}----BEGIN CERTIFICATS"), second - 1, "five dashes"),
        (instead("\n", "\n# "), second + 1, "base64"),
        // Markers that are gone.
        (instead("-----BEGIN CERTIFICATE-----", ""), second + 1, "outside"),
        (instead("-----BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE"), second + 1, "outside"),
        (instead("-----", "-"), second + 1, "outside"),
        (instead("-----END CERTIFICATE-----", ""), second, "does not end"),
        (instead("-----END CERTIFICATE-----", "-----END"), second + 8, "END line"),
        (instead("-----END", "----END"), second + 8, "END line"),
        (instead("-----END", "-----end"), second + 8, "END line"),
        (instead("END CERTIFICATE", "END X509 CERTIFICATE"), second + 8, "END line"),
        (format!("{a}\n-----END CERTIFICATE-----\n{b}"), second, "no line before"),
        (format!("{}\n{b}", a.replace("-----END CERTIFICATE-----", "")), 1, "does not end"),
        (format!("{a}\n-----BEGIN CERTIFICATE-----\n{b}"), second, "does not end"),
        // Bodies that are cut off or mangled.
        (format!("{a}\n{}", &b[..b.len() - 40]), second, "does not end"),
        (format!("{a}\n-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), second, "can't be read"),
        (instead(b.lines().nth(3).expect("a line"), ""), second, "cut off"),
        (instead(&b.lines().nth(3).expect("a line")[..3], ""), second, "cut off"),
        (instead("\n", "\\n"), second, "backslash"),
        (instead("AgIC", "Ag*C"), second + 1, "other than base64"),
        (instead("AgIC", "Ag\u{a0}C"), second + 1, "other than base64"),
        (instead("AgIC", "Ag-C"), second + 1, "other than base64"),
        // Blocks of other kinds.
        (instead("CERTIFICATE", "TRUSTED CERTIFICATE"), second, "openssl x509"),
        (instead("CERTIFICATE", "CERTIFICATE REQUEST"), second, "request"),
        (instead("CERTIFICATE", "X509 CRL"), second, "revoked"),
        (instead("CERTIFICATE", "PKCS7"), second, "openssl pkcs7"),
        (instead("CERTIFICATE", "PUBLIC KEY"), second, "public key"),
        (instead("CERTIFICATE", "DH PARAMETERS"), second, "no use"),
        (instead("CERTIFICATE", "SECRET OF MINE"), second, "no use"),
        (format!("{a}\n{}", key(1)), second, "private key"),
        (format!("{a}\n{}", block("EC PARAMETERS", b"\x06\x01\x01", 64, "\n")), second, "curve"),
        // Nothing at all.
        (String::new(), 0, "without a certificate"),
        ("secret".to_owned(), 0, "without a certificate"),
    ] {
        faulty(&text, line, word);
        faulty(text.replace('\n', "\r\n"), line, word);
        faulty(text.replace('\n', "\r"), line, word);
    }
    let wide: Vec<u8> = a.encode_utf16().flat_map(u16::to_le_bytes).collect();
    faulty(&wide, 0, "UTF-16");
    faulty([b"\xff\xfe", &*wide].concat(), 0, "UTF-16");
    faulty(sequence(0, 300), 0, "DER");
    faulty(format!("{a}\n\0{b}"), second, "NUL");
    assert!(
        !authorities(instead("CERTIFICATE", "SECRET OF MINE").as_bytes()).expect_err("a fault").to_string().contains("SECRET")
    );
}

#[test]
fn a_key_may_stand_with_its_certificate_and_with_no_other_key() {
    let (crt, other) = (certificate(1), certificate(2));
    let read = |text: &str| Key::read(text.as_bytes());
    let chain = |text: &str| Chain::read(text.as_bytes()).expect("is good");
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
        let key = block(label, &sequence(3, 200), 64, "\n");
        let curve = block("EC PARAMETERS", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 64, "\n");
        for text in [format!("{curve}\n{key}"), format!("{crt}{key}"), format!("\u{feff}{key}\r\n{crt}")] {
            let read = read(&text).unwrap_or_else(|fault| panic!("{text}\na file {fault}"));
            assert_eq!(*read.key.der, sequence(3, 200));
            assert_eq!(read.unused(&chain(&crt)), None);
            assert_eq!(chain(&format!("{crt}\n{text}")).goes_with(&read), Ok(()), "one file for both");
            assert_eq!(*write([&read.key]), *format!("{key}\n").as_bytes());
        }
        assert_eq!(read(&format!("{crt}\n{key}\n{other}")).expect("is good").unused(&chain(&crt)), Some(17));
        let fault = chain(&format!("{crt}\n{key}")).goes_with(&read(&self::key(4)).expect("is good")).expect_err("is another");
        assert_eq!((fault.line, fault.to_string().contains("other than")), (Some(10), true), "{fault}");
    }
    let headers = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0A\n\nAAAA\n-----END RSA PRIVATE KEY-----";
    for (text, line, word) in [
        (format!("{}\n{}", key(3), key(4)), 8, "second"),
        (headers.to_owned(), 1, "not encrypted"),
        (key(3).replace("PRIVATE", "ENCRYPTED PRIVATE"), 1, "not encrypted"),
        (key(3).replace("PRIVATE", "OPENSSH PRIVATE"), 1, "no use"),
        (crt.clone(), 0, "without a private key"),
        (key(3).replace("-----END PRIVATE KEY-----", ""), 1, "does not end"),
    ] {
        let fault = read(&text).map(|key| key.key.line).expect_err(&text);
        assert_eq!((fault.line.unwrap_or_default(), fault.to_string().contains(word)), (line, true), "{fault}");
    }
    assert!(Chain::read(key(1).as_bytes()).is_err_and(|fault| fault.to_string().contains("without a certificate")));
    assert!(!format!("{:?}", read(&key(3)).expect("is good").key).contains("3, 3"));
}

/// What may stand before, between and behind blocks.
fn joint() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        " ",
        "\t",
        "\n  ",
        "\u{feff}",
        "\n\u{feff}",
        "\nsubject=CN = a\n",
        "\n# a comment\n",
        "\n-----\n",
        ",",
        "-",
        "--",
        "-----",
        "\n# ",
        "\n> ",
        "\0",
        "\nMII",
        "x",
        "\\n",
        "\u{200b}",
        "\n-----BEGIN",
        "\n-----BEGIN CERTIFICATE-----\n",
        "\n-----END CERTIFICATE-----\n",
    ])
    .prop_map(str::to_owned)
}

/// What becomes of a block on its way.
fn mangled() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("\0", ""),
        ("\0", ""),
        ("\0", ""),
        ("\n", "\r\n"),
        ("\n", "\r"),
        ("\n", " "),
        ("\n", ""),
        ("\n", "\n  "),
        ("\n", "\\n"),
        ("CERTIFICATE", "certificate"),
        ("CERTIFICATE", "TRUSTED CERTIFICATE"),
        ("CERTIFICATE", "X509 CERTIFICATE"),
        ("CERTIFICATE", ""),
        ("BEGIN", "begin"),
        ("BEGIN", " BEGIN"),
        ("END", "end"),
        ("END", ""),
        ("-----B", "----B"),
        ("-----B", "--B"),
        ("-----", "\u{2014}"),
        ("E-----\n", "E\n"),
        ("-----E", ""),
        ("BAQEB", "BAQ"),
    ])
}

proptest! {
    /// Certificates with any joints: all of them are taken, or a line is named. Never fewer in silence.
    #[test]
    fn nothing_is_passed_over(parts in prop::collection::vec((joint(), mangled(), 100..400_usize, prop::sample::select(vec![1_usize, 48, 64, 76, 9_999])), 1..6), last in joint()) {
        let mut text = String::new();
        for (joint, (from, to), length, width) in &parts {
            text += joint;
            text += &block("CERTIFICATE", &sequence(1, *length), *width, "\n").replace(from, to);
        }
        text += &last;
        match authorities(text.as_bytes()) {
            Ok(blocks) => {
                let expected: Vec<_> = parts.iter().map(|(_, _, length, _)| sequence(1, *length)).collect();
                prop_assert_eq!(ders(&blocks), expected, "{}", text);
            }
            Err(fault) => {
                let lines = text.replace("\r\n", "\n").replace('\r', "\n").split('\n').count();
                prop_assert!(fault.line.is_some_and(|line| (1..=lines).contains(&line)), "{}\n{}", text, fault);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..600_usize) {
        let mut text = certificate(1).into_bytes();
        let at = at.min(text.len());
        text.splice(at..at, bytes.iter().copied());
        prop_assert!(blocks(&text).is_ok_and(|blocks| blocks.len() == 1) || blocks(&text).is_err());
        prop_assert!(blocks(&bytes).is_err() || blocks(&bytes).is_ok_and(|blocks| blocks.is_empty()));
    }

    #[test]
    fn what_is_written_is_read_again(lengths in prop::collection::vec(0..70_000_usize, 0..4)) {
        let kinds = [Kind::Certificate, Kind::Pkcs8, Kind::Pkcs1, Kind::Sec1];
        let made = lengths.iter().zip(kinds).map(|(length, kind)| Block { kind, line: 0, der: Zeroizing::new(sequence(7, (*length).min(65_535))) });
        let made: Vec<_> = made.collect();
        let read = blocks(&write(&made)).expect("is good");
        prop_assert_eq!(read.iter().map(|block| (block.kind, &block.der)).collect::<Vec<_>>(), made.iter().map(|block| (block.kind, &block.der)).collect::<Vec<_>>());
    }
}
