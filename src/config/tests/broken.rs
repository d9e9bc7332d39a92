//! Configurations that would open or break more than was meant, each with what is said of it.

use std::{
    collections::HashMap,
    os::unix::{
        fs::{chown, symlink},
        net::UnixListener,
    },
    process::Command,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use super::*;

/// What a configuration has wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Nothing at all.
    Nothing,
    /// It is taken, with this warning.
    Warning(&'static str, &'static str),
    /// It is refused, with this fault.
    Fault(&'static str, &'static str),
}

use Said::{Fault as Refused, Nothing, Warning as Warned};

const CALLER: &str = "[[callers]]\nid = 'cards.example.org'\nmerchants = ['m']\n";
const ACCOUNTS: &str = "[auth.service_accounts]\nissuer = 'https://i.example.org'\njwks_file = 'jwks'\n";

/// Files for every key: a certificate and its key, CAs, keys of a cluster, a password.
fn files() -> HashMap<&'static str, String> {
    let key = KeyPair::generate().expect("keys can be made");
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).expect("is a name").self_signed(&key).expect("is good").pem();
    HashMap::from([
        ("leaf", certificate.clone()),
        ("crt", certificate),
        ("key", key.serialize_pem()),
        ("ca", authority(&[])),
        ("ca-that-may-not-sign", authority(&[KeyUsagePurpose::DigitalSignature])),
        ("public-ca", ca()),
        ("bundle", format!("{}{}", authority(&[]), ca())),
        ("jwks", "{\"keys\": []}".to_owned()),
        ("token", "a.b.c\n".to_owned()),
        ("password", "1234Qwerty\n".to_owned()),
        ("more.toml", USER.replace("'m'", "'n'").replace("\"m\"", "\"n\"")),
    ])
}

/// A CA's certificate, for these purposes if any are given.
fn authority(purposes: &[KeyUsagePurpose]) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = purposes.to_vec();
    params.self_signed(&KeyPair::generate().expect("keys can be made")).expect("is good").pem()
}

/// With these files beside it, as they are once `prepare` is done with them.
fn said_of(files: &HashMap<&'static str, String>, text: &str, prepare: impl FnOnce(&Path)) -> Result<Vec<Fault>, Vec<Fault>> {
    let mut all = vec![("main.toml", text.as_bytes())];
    all.extend(files.iter().map(|(name, text)| (*name, text.as_bytes())));
    let directory = directory(&all);
    prepare(directory.path());
    let found = load_in(&directory);
    let shown = found.as_ref().map_or_else(ToString::to_string, |loaded| format!("{:?}", loaded.warnings));
    assert!(!shown.contains("1234Qwerty") && !shown.contains("S3CRET"), "{shown}");
    found.map(|loaded| loaded.warnings).map_err(|faults| faults.iter().cloned().collect())
}

#[track_caller]
fn expect(text: &str, found: &Result<Vec<Fault>, Vec<Fault>>, expected: Said) {
    let has = |faults: &[Fault], key: &str, words: &str| {
        let told: Vec<_> = faults.iter().filter(|fault| fault.key == key && fault.message.contains(words)).collect();
        // Each with what is wrong and what to do about it, on one line.
        told.iter().all(|fault| fault.message.contains([':', ';']) && fault.to_string().lines().count() == 1) && told.len() == 1
    };
    let good = match (found, expected) {
        (Ok(warnings), Nothing) => warnings.is_empty(),
        (Ok(warnings), Warned(key, words)) => has(warnings, key, words),
        (Err(faults), Refused(key, words)) => has(faults, key, words),
        (Ok(_), Refused(..)) | (Err(_), Nothing | Warned(..)) => false,
    };
    assert!(good, "{text}\nexpected {expected:?}\nfound {found:#?}");
}

/// Each: what stands beside a vault and a user, and what is said of it.
#[test]
fn what_is_written_is_taken_as_it_is_meant_or_told() {
    let files = files();
    let tls = "[grpc.tls]\ncertificate_file = 'crt'\nkey_file = 'key'\n";
    let mutual = &*format!("{tls}client_ca_file = 'ca'\n");
    let with_ca = |name: &str| format!("{tls}client_ca_file = '{name}'\n{CALLER}");
    let caller = |id: &str| format!("{mutual}{ACCOUNTS}[[callers]]\nid = \"{id}\"\nmerchants = ['m']\n");
    let entry = |rest: &str| format!("{mutual}[[callers]]\nid = 'cards.example.org'\n{rest}");
    let accounts =
        |rest: &str| format!("{ACCOUNTS}{rest}[[callers]]\nid = 'system:serviceaccount:cards:cards'\nmerchants = ['m']\n");
    let mut table: Vec<(String, Said)> = Vec::new();
    let mut add = |text: String, said: Said| table.push((text, said));

    // What limits an entry, by another name.
    for (rest, key, words) in [
        ("merchants = ['m']\nnumber = '+447871239999'\n", "callers.number", "did you mean `numbers`?"),
        ("merchants = ['m']\nnumber = ['+447871239999']\n", "callers.number", "did you mean `numbers`?"),
        ("merchants = ['m']\nNumbers = ['+447871239999']\n", "callers.Numbers", "did you mean `numbers`?"),
        ("merchants = ['m']\nphone_numbers = ['+447871239999']\n", "callers.phone_numbers", "did you mean `numbers`?"),
        ("merchants = ['m']\nusers = ['+447871239999']\n", "callers.users", "did you mean `numbers`?"),
        ("merchants = ['m']\nfor = 1\n", "callers.for", "id, merchants, numbers"),
        ("merchant = ['m']\n", "callers.merchant", "did you mean `merchants`?"),
        ("merchant_id = 'm'\n", "callers.merchant_id", "did you mean `merchants`?"),
        ("merchant_ids = ['m']\n", "callers.merchant_ids", "did you mean `merchants`?"),
        ("merchnts = ['m']\n", "callers.merchnts", "did you mean `merchants`?"),
        ("", "callers.merchants", "is missing: list the merchants whose users it may ask for; an empty list means none"),
        ("merchants = 'm'\n", "callers.merchants", "square brackets"),
        ("merchants = ['m*']\n", "callers.merchants", "`*` beside other characters"),
        ("merchants = ['*', 'm']\n", "callers.merchants", "keep that alone"),
        ("merchants = ['']\n", "callers.merchants", "is missing: give the merchant's id"),
        ("merchants = ['m']\nnumbers = ['*']\n", "callers.numbers", "does not begin with `+`"),
        ("merchants = ['m']\nnumbers = ['07871239999']\n", "callers.numbers", "does not begin with `+`"),
    ] {
        add(entry(rest), Refused(key, words));
    }
    add(entry("merchants = []\n"), Nothing);
    add(entry("merchants = ['m']\nnumbers = []\n"), Nothing);
    add(entry("merchants = ['*']\n"), Nothing);

    // Whom an entry means.
    for (id, words) in [
        ("*", "names nobody in particular"),
        ("*.*", "names nobody in particular"),
        ("spiffe://*/ns/cards/sa/cards", "no wildcard"),
        ("spiffe://example.org", "nobody in it"),
        ("spiffe://example.org/ns//sa/cards", "single slashes"),
        ("spiffe://example.org/ns/../sa/cards", "single slashes"),
        ("spiffe://example.org/ns/a%2Fb", "single slashes"),
        ("spiffe://example.org/ns/a*", "single slashes"),
        ("spiffe://example.org/a\\nb", "single slashes"),
        ("spiffe://Example.org/a", "trust domain"),
        (".wild.internal", "DNS name"),
        ("a..internal", "DNS name"),
        ("a*.wild.internal", "DNS name"),
        ("Cards.example.org", "DNS name"),
        ("system:serviceaccount:*", "NAMESPACE:NAME"),
        ("system:serviceaccount:cards:*:x", "NAMESPACE:NAME"),
        ("system:serviceaccounts:cards", "DNS name"),
        ("anonymous:all", "DNS name"),
    ] {
        add(caller(id), Refused("callers.id", words));
    }
    for (id, words) in [
        ("spiffe://example.org/*", "every workload of its trust domain"),
        ("spiffe://example.org/*/*/*/*", "every workload of its trust domain"),
        ("spiffe://example.org/ns/*/sa/*", "every workload of its trust domain"),
        ("spiffe://example.org/ns/*/sa/default", "each namespace has"),
        ("system:serviceaccount:*:*", "every service account of the cluster"),
        ("system:serviceaccount:*:default", "each namespace has"),
        ("*.com", "whose domain it is"),
        ("*.internal", "whose domain it is"),
        ("*.co.uk", "whose domain it is"),
        ("cards.*", "whose domain it is"),
    ] {
        add(caller(id), Warned("callers.id", words));
    }
    for id in ["spiffe://example.org/ns/*/sa/cards", "system:serviceaccount:cards:*", "*.wild.internal", "*.example.org"] {
        add(caller(id), Nothing);
    }

    // Entries beside each other.
    let wide = "[[callers]]\nid = '*.example.org'\nmerchants = ['*']\n";
    let limited = "[[callers]]\nid = 'cards.example.org'\nmerchants = ['m']\nnumbers = ['+447871239999']\n";
    let none = "[[callers]]\nid = 'cards.example.org'\nmerchants = []\n";
    let other = "[[callers]]\nid = 'cards.example.org'\nmerchants = ['n']\n";
    for two in [format!("{CALLER}{CALLER}"), format!("{CALLER}{limited}"), format!("{wide}{limited}"), format!("{none}{wide}")] {
        add(format!("{mutual}{two}"), Warned("callers", "no entry takes away what another allows"));
    }
    add(format!("{mutual}{limited}{other}"), Nothing);
    add(
        format!("{mutual}[[callers]]\nid = 'system:serviceaccount:a:b'\nmerchants = ['m']\n"),
        Warned("callers", "[auth.service_accounts]"),
    );
    add(format!("{ACCOUNTS}{CALLER}"), Warned("callers", "set grpc.tls.client_ca_file"));
    add(CALLER.to_owned(), Warned("callers", "nobody is let in"));

    // Who vouches for callers.
    add(with_ca("ca"), Nothing);
    add(with_ca("leaf"), Refused("grpc.tls.client_ca_file", "no CA's"));
    add(with_ca("crt"), Refused("grpc.tls.client_ca_file", "no CA's"));
    add(with_ca("ca-that-may-not-sign"), Refused("grpc.tls.client_ca_file", "no CA's"));
    add(with_ca("public-ca"), Refused("grpc.tls.client_ca_file", "strangers"));
    add(with_ca("bundle"), Refused("grpc.tls.client_ca_file", "strangers"));
    add(with_ca("key"), Refused("grpc.tls.client_ca_file", "private key"));
    add(with_ca("missing"), Refused("grpc.tls.client_ca_file", "does not exist"));
    add(format!("{mutual}[auth]\nallow_unauthenticated = true\n"), Refused("auth.allow_unauthenticated", "contradicts"));
    add(format!("[auth]\nallow_unauthenticated = true\n{CALLER}"), Refused("auth.allow_unauthenticated", "contradicts"));
    add(mutual.to_owned(), Refused("callers", "are missing"));

    // Tokens for whom.
    for audience in [
        "https://kubernetes.default.svc",
        "https://kubernetes.default.svc.cluster.local",
        "kubernetes.default.svc",
        "https://kubernetes.default",
        "kubernetes.svc.default",
        "k3s",
        "https://i.example.org",
    ] {
        add(accounts(&format!("audience = '{audience}'\n")), Refused("auth.service_accounts.audience", "API server's own"));
    }
    add(accounts("audience = ''\n"), Refused("auth.service_accounts.audience", "is empty"));
    add(accounts("audience = 'token-broker '\n"), Refused("auth.service_accounts.audience", "white space"));
    add(accounts("audience = 'broker.example.org'\n"), Nothing);
    add(accounts("jwks_url = 'https://i.example.org/k'\n"), Refused("auth.service_accounts.jwks_url", "keep one"));
    add(accounts("token_review_url = 'http://i.example.org'\n"), Refused("auth.service_accounts.token_review_url", "plaintext"));
    add(accounts("token_review_url = 'https://u:S3CRET@i'\n"), Refused("auth.service_accounts.token_review_url", "user"));

    // Where to listen.
    add("[grpc]\nlisten = '0.0.0.0:1'\n".to_owned(), Refused("grpc.listen", "not a loopback"));
    add(format!("[grpc]\nlisten = '0.0.0.0:1'\n{ACCOUNTS}{CALLER}"), Refused("grpc.listen", "plaintext"));
    add(format!("[grpc]\nlisten = '[::]:1'\n{tls}"), Refused("grpc.listen", "aren't asked"));
    add(
        "[grpc]\nlisten = '0.0.0.0:1'\n[auth]\nallow_unauthenticated = true\n".to_owned(),
        Warned("auth.allow_unauthenticated", "everyone"),
    );
    add(
        "[grpc]\nlisten = '127.0.0.1:1'\nhealth_listen = '0.0.0.0:1'\n".to_owned(),
        Refused("grpc.health_listen", "same address"),
    );
    add("[grpc]\nlisten = '127.0.0.1:1'\n[admin]\nlisten = '[::]:1'\n".to_owned(), Refused("admin.listen", "same address"));
    add("[grpc]\nlisten = 'localhost:1'\n".to_owned(), Refused("grpc.listen", "IP address"));

    // Times and numbers.
    for (text, key, words) in [
        ("lame_duck = '6m'", "grpc.lame_duck", "from 0s to 5m"),
        ("drain = '11m'", "grpc.drain", "from 0s to 10m"),
        ("drain = 20", "grpc.drain", "write \"20s\""),
        ("call_timeout = '0s'", "grpc.call_timeout", "from 1ms to 10m"),
        ("call_timeout = '-1s'", "grpc.call_timeout", "is not a duration"),
        ("max_connection_age = '2days'", "grpc.max_connection_age", "from 1s to 1day"),
    ] {
        add(format!("[grpc]\n{text}\n"), Refused(key, words));
    }
    for (text, said) in table {
        let whole = format!("{VAULT}{USER}{text}");
        expect(&text, &said_of(&files, &whole, |_| {}), said);
    }
}

/// Each: `[vault]`, and what is said of it.
#[test]
fn passwords_go_where_they_are_meant_to_go() {
    let files = files();
    for (vault, said) in [
        ("base_url = 'http://vault.example.org'", Refused("vault.base_url", "plaintext")),
        ("base_url = 'https://u:S3CRET@vault.example.org'", Refused("vault.base_url", "user")),
        ("base_url = 'https://vault.example.org?S3CRET'", Refused("vault.base_url", "query")),
        ("base_url = 'https://vault.example.org#S3CRET'", Refused("vault.base_url", "fragment")),
        ("base_url = 'https://vault.example.org/../x'", Refused("vault.base_url", "path")),
        ("base_url = 'http://localhost:1'\nca_file = 'ca'", Warned("vault.ca_file", "no effect")),
        ("base_url = 'https://v'\nca_file = 'key'", Refused("vault.ca_file", "private key")),
        ("base_url = 'https://v'\nheaders = { Host = 'S3CRET' }", Refused("vault.headers.Host", "by the broker itself")),
        (
            "base_url = 'https://v'\nheaders = { X-Merchant-ID = 'S3CRET' }",
            Refused("vault.headers.X-Merchant-ID", "by the broker itself"),
        ),
        (
            "base_url = 'https://v'\nheaders = { Content-Length = '1' }",
            Refused("vault.headers.Content-Length", "by the broker itself"),
        ),
        ("base_url = 'https://v'\nheaders = { traceparent = '1' }", Refused("vault.headers.traceparent", "by the broker itself")),
        ("base_url = 'https://v'\nheaders = { A = \"S3CRET\\r\\nB: 1\" }", Refused("vault.headers.A", "can't carry")),
        ("base_url = 'https://v'\ntimeout = '3m'", Refused("vault.timeout", "from 100ms to 2m")),
        ("base_url = 'https://v'\nmin_sign_in_interval = '2h'", Refused("vault.min_sign_in_interval", "from 0s to 1h")),
        ("base_url = 'https://v'\nmax_concurrent_sign_ins = 0", Refused("vault.max_concurrent_sign_ins", "from 1 to 10000")),
        ("base_url = 'https://v'\nassumed_lifetime = '8days'", Refused("vault.assumed_lifetime", "from 1s to 7days")),
    ] {
        expect(vault, &said_of(&files, &format!("[vault]\n{vault}\n{USER}"), |_| {}), said);
    }
    for (user, said) in [
        (USER.to_owned(), Refused("users", "configured already")),
        (
            "[[users]]\nmerchant_id = 'n'\nnumber = '+447871239999'\npassword_file = 'key'\n".to_owned(),
            Refused("users.password_file", "more than one line"),
        ),
    ] {
        expect(&user, &said_of(&files, &format!("{VAULT}{USER}{user}"), |_| {}), said);
    }
}

/// Each name leads to a file that the configuration reads, or that the trail can't be in.
#[test]
fn the_trail_goes_into_a_file_of_its_own() {
    const OURS: Said = Refused("audit.file", "that the configuration reads");
    let files = files();
    let main = format!(
        "credentials_files = ['more.toml', 'many/*.toml']\n{VAULT}ca_file = 'ca'\n[[users]]\nmerchant_id = 'm'\nnumber = '+447871239999'\n\
         password_file = 'password'\n[grpc.tls]\ncertificate_file = 'crt'\nkey_file = 'key'\nclient_ca_file = 'ca'\n\
         [auth.service_accounts]\nissuer = 'https://i.example.org'\njwks_file = 'jwks'\ntoken_file = 'token'\n{CALLER}[audit]\n"
    );
    let of = |name: &str, prepare: fn(&Path)| {
        let text = format!("{main}file = '{name}'\n");
        said_of(&files, &text, |directory| {
            fs::create_dir(directory.join("many")).expect("a directory");
            fs::write(directory.join("many/one.toml"), "users = []\n").expect("a file");
            prepare(directory);
        })
    };
    let in_itself = [
        "main.toml",
        "more.toml",
        "password",
        "crt",
        "key",
        "ca",
        "jwks",
        "token",
        "./password",
        "many/../password",
        "many/one.toml",
    ];
    for name in in_itself {
        expect(name, &of(name, |_| {}), OURS);
    }
    for name in ["main.toml", "more.toml", "password", "key", "jwks", "token"] {
        let text = format!("{main}file = 'trail'\n");
        let linked = |hard: bool| {
            said_of(&files, &text, |directory| {
                fs::create_dir(directory.join("many")).expect("a directory");
                let (from, to) = (directory.join(name), directory.join("trail"));
                if hard { fs::hard_link(from, to) } else { symlink(from, to) }.expect("a link");
            })
        };
        expect(name, &linked(true), OURS);
        expect(name, &linked(false), OURS);
    }
    // What isn't there yet, and would be read once it is.
    expect("jwks", &of("jwks", |directory| fs::remove_file(directory.join("jwks")).expect("is there")), OURS);
    expect("many", &of("many/audit.toml", |_| {}), Refused("audit.file", "credentials_files would read"));
    expect("directory", &of("many", |_| {}), Refused("audit.file", "names a directory"));
    expect("nowhere", &of("nowhere/trail", |_| {}), Refused("audit.file", "which is no directory"));
    let pipe = |directory: &Path| {
        assert!(Command::new("mkfifo").arg(directory.join("pipe")).status().expect("there is mkfifo").success());
    };
    expect("pipe", &of("pipe", pipe), Refused("audit.file", "pipe"));
    let socket = |directory: &Path| drop(UnixListener::bind(directory.join("socket")).expect("a socket"));
    expect("socket", &of("socket", socket), Refused("audit.file", "pipe"));
    expect("device", &of("/dev/null", |_| {}), Warned("audit.file", "device"));
    expect("good", &of("trail", |_| {}), Nothing);
    expect(
        "good",
        &of("many/audit.jsonl", |directory| fs::write(directory.join("many/audit.jsonl"), "").expect("a file")),
        Nothing,
    );
}

/// What all may write is refused, whatever it is to the broker; what Kubernetes mounts is not.
#[test]
fn nobody_else_writes_what_is_sent_or_trusted() {
    let files = files();
    let main = format!(
        "credentials_files = ['more.toml']\n{VAULT}[[users]]\nmerchant_id = 'm'\nnumber = '+447871239999'\npassword_file = 'password'\n\
         [grpc.tls]\ncertificate_file = 'crt'\nkey_file = 'key'\nclient_ca_file = 'ca'\n\
         [auth.service_accounts]\nissuer = 'https://i.example.org'\njwks_file = 'jwks'\ntoken_file = 'token'\nca_file = 'leaf'\n{CALLER}"
    );
    let with = |name: &str, mode: u32, group: Option<u32>| {
        said_of(&files, &main, |directory| {
            let path = directory.join(name);
            if group.is_some() {
                chown(&path, None, group).expect("this process may");
            }
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
        })
    };
    for (name, key) in [
        ("main.toml", ""),
        ("more.toml", ""),
        ("password", "users.password_file"),
        ("crt", "grpc.tls.certificate_file"),
        ("key", "grpc.tls.key_file"),
        ("ca", "grpc.tls.client_ca_file"),
        ("jwks", "auth.service_accounts.jwks_file"),
        ("token", "auth.service_accounts.token_file"),
        ("leaf", "auth.service_accounts.ca_file"),
    ] {
        for mode in [0o666, 0o602, 0o777] {
            expect(name, &with(name, mode, None), Refused(key, "every user of this machine may write"));
        }
        for mode in [0o600, 0o400, 0o440, 0o640] {
            expect(name, &with(name, mode, None), Nothing);
        }
        assert!(with(name, 0o644, None).is_ok_and(|warnings| warnings.iter().all(|warning| !warning.message.contains("write"))));
        // Root alone can give a file to a group that it isn't in.
        if rustix::process::geteuid().is_root() {
            expect(name, &with(name, 0o660, Some(54_321)), Warned(key, "its group, which is not made for the broker, may write"));
        }
    }
}
