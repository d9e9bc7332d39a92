//! Files as people write, paste and convert them: taken whole, or a fault that says where and what to do; never a part of them.

use std::{fs, path::Path, process::Output};

use tempfile::TempDir;
use token_broker::client::{Client, Security};
use tokio::process::Command;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Setting,
    authority::{Authority, Issued, Name},
    process::BINARY,
    user,
};

/// What the binary says and ends with.
async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(BINARY).args(arguments).output().await.expect("the binary runs");
    let text = [stdout, stderr].map(|text| String::from_utf8(text).expect("is UTF-8")).concat();
    (status.code(), text)
}

/// `check` of a configuration with these files beside it.
async fn check(config: &[u8], files: &[(&str, &[u8])]) -> (Option<i32>, String) {
    let directory = written(&[files, &[("config.toml", config)]].concat());
    run(&["check", "--config", directory.path().join("config.toml").to_str().expect("is UTF-8")]).await
}

/// A directory with these files, their owner's alone.
fn written(files: &[(&str, &[u8])]) -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    for (name, contents) in files {
        let path = directory.path().join(name);
        fs::write(&path, contents).expect("is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("is its owner's");
    }
    directory
}

/// The ways in which files are put together by `cat`, editors and scripts, each without a line break at the end of the first.
fn joined(first: &str, second: &str) -> [String; 5] {
    let (first, second) = (first.trim_end(), second.trim_end());
    [
        format!("{first}{second}"),
        format!("\u{feff}{first}\n\u{feff}{second}"),
        format!("  {first}\n{second}").replace('\n', "\r\n  "),
        format!("{first}\n{second}").replace('\n', "\r"),
        format!("Bag Attributes\n    friendlyName: a\n{first}\nsubject=CN = b\n\n{second}\n"),
    ]
}

/// The broker's certificate and the caller's are each signed by an intermediate CA, which whoever knows the root alone has to be
/// sent in the handshake; and of the CAs in a file the second one counts as well.
#[tokio::test]
async fn of_joined_certificates_all_are_sent_and_all_are_trusted() {
    let (root, other) = (Authority::new(), Authority::new());
    let (servers, clients) = (root.intermediate(), root.intermediate());
    for (way, trusted) in joined(&other.pem, &root.pem).into_iter().enumerate() {
        let Issued { certificate, key } = servers.server();
        let chain = joined(&certificate, &servers.pem)[way].clone();
        let pair = Issued { certificate: chain, key };
        let cas = trusted.clone();
        let prepare = move |directory: &Path| {
            pair.write(directory);
            fs::write(directory.join("ca.crt"), &cas).expect("is written");
        };
        let tls = "lame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";
        let rest = format!("[[callers]]\nid = \"cards.example.org\"\nmerchants = [\"*\"]\n{}", user(NUMBER, PASSWORD));
        let setting = Setting { grpc: tls.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() };
        let stage = setting.start().await;

        let issued = clients.client(&[Name::Dns("cards.example.org")]);
        let chain = joined(&issued.certificate, &clients.pem)[way].clone();
        let identity_pem = Some((chain.clone().into_bytes(), issued.key.clone().into_bytes()));
        let security = Security { ca_pem: Some(trusted.clone().into_bytes()), identity_pem, token_file: None };
        let client = Client::with_security(&stage.secure_endpoint(), security).expect("is an endpoint").timeout(PATIENCE);
        client.token(MERCHANT, NUMBER).await.unwrap_or_else(|error| panic!("way {way}: {}", error.in_words()));

        let files = [("ca", trusted), ("crt", chain), ("key", format!("{}{}", issued.key, issued.certificate))];
        let files = written(&files.each_ref().map(|(name, text)| (*name, text.as_bytes())));
        let at = |name: &str| files.path().join(name).to_str().expect("is UTF-8").to_owned();
        let (ca, crt, key, endpoint) = (at("ca"), at("crt"), at("key"), stage.secure_endpoint());
        let get = ["get", "--endpoint", &endpoint, "--merchant-id", MERCHANT, "--number", NUMBER, "--ca-file", &ca];
        let (code, said) = run(&[&get[..], &["--certificate-file", &crt, "--key-file", &key]].concat()).await;
        assert_eq!(code, Some(0), "way {way}: {said}");
    }
}

#[tokio::test]
async fn pem_that_would_be_passed_over_is_a_fault_with_its_line_wherever_it_is_read() {
    let (ca, second) = (Authority::new(), Authority::new());
    let issued = ca.server();
    let line = ca.pem.lines().count() + 1;
    for (lame, word) in [
        (second.pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), "openssl x509"),
        (second.pem.replace("BEGIN", "begin"), "capitals"),
        (second.pem.replace("-----END CERTIFICATE-----", ""), "does not end"),
        (second.pem.replace("-----BEGIN", "#-----BEGIN"), "nothing before"),
    ] {
        let bad = format!("{}{lame}", ca.pem);
        let vault = "[vault]\nbase_url = \"https://vault.example.org\"\n";
        let tls = "[grpc.tls]\ncertificate_file = \"crt\"\nkey_file = \"key\"\n";
        let bad_chain = format!("{}{lame}", issued.certificate);
        let bad_key = format!("{}{lame}", issued.key);
        for (config, files, key, line) in [
            (format!("{vault}ca_file = \"bad\""), vec![], "vault.ca_file", line),
            (format!("{vault}{tls}client_ca_file = \"bad\""), vec![], "grpc.tls.client_ca_file", line),
            (
                format!("{vault}{tls}"),
                vec![("crt", &bad_chain)],
                "grpc.tls.certificate_file",
                1 + issued.certificate.lines().count(),
            ),
            (format!("{vault}{tls}"), vec![("key", &bad_key)], "grpc.tls.key_file", 1 + issued.key.lines().count()),
            (
                format!("{vault}[auth.service_accounts]\nissuer = \"a\"\njwks_file = \"a\"\nca_file = \"bad\"\n"),
                vec![],
                "auth.service_accounts.ca_file",
                line,
            ),
            #[cfg(feature = "traces")]
            (format!("{vault}[traces]\nendpoint = \"https://a\"\nca_file = \"bad\"\n"), vec![], "traces.ca_file", line),
        ] {
            let mut all = vec![("bad", bad.as_bytes()), ("crt", issued.certificate.as_bytes()), ("key", issued.key.as_bytes())];
            all.extend(files.into_iter().map(|(name, text)| (name, text.as_bytes())));
            let (code, said) = check(config.as_bytes(), &all).await;
            assert_eq!(code, Some(78), "{config}\n{said}");
            let place = format!("{key}: names a file whose line {line} ");
            assert!(
                said.lines().any(|said| said.contains(&place) && said.contains(word)),
                "{config}\n{said}\nlacks {place:?} {word}"
            );
        }
        let files = written(&[
            ("bad", bad.as_bytes()),
            ("ca", ca.pem.as_bytes()),
            ("key", issued.key.as_bytes()),
            ("bad key", bad_key.as_bytes()),
        ]);
        let at = |name: &str| files.path().join(name).to_str().expect("is UTF-8").to_owned();
        for (ca, certificate, key) in [("bad", "ca", "key"), ("ca", "bad", "key"), ("ca", "ca", "bad key")] {
            let get = ["get", "--endpoint", "https://127.0.0.1:1", "--merchant-id", MERCHANT, "--number", NUMBER];
            let (ca, certificate, key) = (at(ca), at(certificate), at(key));
            let rest = ["--ca-file", &ca, "--certificate-file", &certificate, "--key-file", &key];
            let (code, said) = run(&[&get[..], &rest].concat()).await;
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("a file whose line ") && said.contains(word), "{said}\nlacks {word}");
        }
    }
}

#[tokio::test]
async fn a_secret_that_is_not_what_it_looks_like_is_a_fault_that_says_so() {
    let user = |rest: &str| format!("[[users]]\nmerchant_id = \"m\"\nnumber = \"+447871239999\"\n{rest}\n");
    let vault = "[vault]\nbase_url = \"https://vault.example.org\"\n";
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (contents, word) in [
        (b"\xef\xbb\xbfhunter2\n".to_vec(), "byte-order mark"),
        (wide("hunter2\n"), "UTF-16"),
        (wide("\u{feff}hunter2\n"), "UTF-16"),
        (b"hunter2\0\n".to_vec(), "NUL"),
        (b"hunter2\nhunter3\n".to_vec(), "more than one line"),
        (b"hunter2\n\n".to_vec(), "more than one line"),
        (b"hunter2\xe4\n".to_vec(), "UTF-8"),
    ] {
        // In a file of its own, named by the main file and by a credentials file.
        let by_file = user("password_file = \"secret\"");
        let apart = format!("credentials_files = [\"users\"]\n{vault}");
        for (config, users) in [(format!("{vault}{by_file}"), ""), (apart, &*by_file)] {
            let (code, said) = check(config.as_bytes(), &[("secret", &contents), ("users", users.as_bytes())]).await;
            assert_eq!(code, Some(78), "{word}: {said}");
            assert!(said.contains("users.password_file: names a file that ") && said.contains(word), "{said}\nlacks {word}");
            assert!(!said.contains("hunter"), "{said}");
        }
        // The broker's own token, and a caller's.
        let accounts = "[auth.service_accounts]\nissuer = \"a\"\njwks_file = \"a\"\ntoken_file = \"secret\"\n";
        let (code, said) = check(format!("{vault}{accounts}").as_bytes(), &[("secret", &contents)]).await;
        if contents != b"hunter2\n\n" {
            assert!(code == Some(78) && said.contains("auth.service_accounts.token_file: names a file that "), "{said}");
        }
        let files = written(&[("secret", &contents)]);
        let secret = files.path().join("secret").to_str().expect("is UTF-8").to_owned();
        let get = ["get", "--endpoint", "http://127.0.0.1:1", "--merchant-id", MERCHANT, "--number", NUMBER];
        let (code, said) = run(&[&get[..], &["--token-file", &secret]].concat()).await;
        if contents != b"hunter2\n\n" {
            assert!(code == Some(1) && said.contains("the service-account token can't be read"), "{said}");
            assert!(!said.contains("hunter"), "{said}");
        }
    }
    // Spaces are the password's: it is sent as it is.
    let secret = " 1234 Qwerty \t";
    let prepare = move |directory: &Path| fs::write(directory.join("secret"), format!("{secret}\r\n")).expect("is written");
    let rest = format!("[[users]]\nmerchant_id = \"{MERCHANT}\"\nnumber = \"{NUMBER}\"\npassword_file = \"secret\"\n");
    let mut setting = Setting { rest, prepare: Some(Box::new(prepare)), ..Setting::default() };
    setting.options.users = vec![token_broker_sandbox::User::new(MERCHANT, NUMBER, secret)];
    setting.start().await.good_token().await;
}

#[tokio::test]
async fn hosts_are_taken_with_a_dot_at_their_end_and_refused_where_nobody_could_be_asked() {
    for (url, words) in [
        ("https://vault.example.org.", None),
        ("https://vault.example.org.:8443/v1/", None),
        ("https://vault.example.org..", Some("neither a DNS name nor an IP address")),
        ("https://192.0.2.1.", Some("leave that out")),
        ("https://xn--a.example.org", Some("neither a DNS name nor an IP address")),
    ] {
        let accounts = |key: &str| {
            format!("[vault]\nbase_url = \"https://a\"\n[auth.service_accounts]\nissuer = \"a\"\n{key} = \"{url}\"\n")
        };
        let callers = "[[callers]]\nid = \"a\"\nmerchants = []\n";
        for (config, key) in [
            (format!("[vault]\nbase_url = \"{url}\"\n"), "vault.base_url"),
            (accounts("jwks_url") + callers, "auth.service_accounts.jwks_url"),
            (accounts("token_review_url") + callers, "auth.service_accounts.token_review_url"),
            #[cfg(feature = "traces")]
            (
                format!("[vault]\nbase_url = \"https://a\"\n[traces]\nendpoint = \"{}\"\n", url.replace("https", "http")),
                "traces.endpoint",
            ),
        ] {
            let (code, said) = check(config.as_bytes(), &[]).await;
            assert_eq!(code, Some(if words.is_some() { 78 } else { 0 }), "{config}\n{said}");
            assert!(words.is_none_or(|words| said.contains(&format!(": {key}: ")) && said.contains(words)), "{config}\n{said}");
        }
    }
    // This machine's own name is in no DNS, whatever stands behind it.
    let stage = Setting::default().start().await;
    let port = stage.sandbox.url().rsplit_once(':').expect("has a port").1.to_owned();
    let config =
        format!("[vault]\nbase_url = \"http://localhost.:{port}\"\n[grpc]\nlame_duck = \"0s\"\n{}", user(NUMBER, PASSWORD));
    let files = written(&[("config.toml", config.as_bytes())]);
    let broker = crate::support::Running::start(&files.path().join("config.toml")).await;
    broker.client.token(MERCHANT, NUMBER).await.expect("there is a token");
}
