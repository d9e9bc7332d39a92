//! `/status` for a browser: one page, without scripts, that says at a glance whether tokens flow.
//!
//! Must never put text into the page but through the template, which escapes it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::status_json::{Merchant, Status, Stop, Verdict};

/// The page looks anew this often, in seconds, by itself.
const REFRESH: u32 = 10;

const STYLE: &str = include_str!("status_html.css");

/// Nothing but the page's own style takes effect.
pub(super) fn content_security_policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
}

pub(super) fn render(status: &Status) -> Markup {
    let (class, headline) = match status.verdict {
        Verdict::Flowing => ("good", "Tokens flow"),
        Verdict::Attention => ("warn", "Tokens flow, with something to look at"),
        Verdict::Trouble => ("bad", "Callers go without tokens"),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content=(REFRESH);
                title { (headline) " · token broker" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header class=(class) {
                    h1 { (headline) }
                    @if status.findings.is_empty() { p { "Nothing wants looking at." } }
                    @else { ul { @for finding in &status.findings { li { (finding) } } } }
                }
                main {
                    div.cards { (process(status)) (vault(status)) (configuration(status)) (work(status)) (certificates(status)) }
                    (faults(status))
                    (merchants(status))
                }
                footer { "Counts of this process alone; times in UTC. The page looks anew every " (REFRESH) " s. For programs: " a href="/status?format=json" { "JSON" } ", " a href="/metrics" { "metrics" } "." }
            }
        }
    }
}

fn card(title: &str, rows: &[(&str, String)]) -> Markup {
    html! {
        section {
            h2 { (title) }
            dl { @for (name, value) in rows { dt { (name) } dd { (value) } } }
        }
    }
}

fn process(status: &Status) -> Markup {
    let uptime = humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds)).to_string();
    card("This process", &[("State", status.phase.to_owned()), ("Up for", uptime), ("Version", status.version.to_owned())])
}

fn vault(status: &Status) -> Markup {
    let vault = &status.vault;
    let mut rows = vec![
        ("State", if vault.reachable { "answers" } else { "down" }.to_owned()),
        ("Last token", time(vault.last_token_at.as_deref())),
        ("Last failure", time(vault.last_failure_at.as_deref())),
    ];
    rows.extend(vault.last_failure.clone().map(|what| ("It was", what)));
    if let Some(tier) = &status.shared_tier {
        let state = if tier.usable {
            "is used".to_owned()
        } else {
            tier.why.clone().unwrap_or_else(|| "is being connected to".to_owned())
        };
        rows.push(("Shared tier", state));
    }
    card("Vault", &rows)
}

/// As people read it.
fn time(rfc3339: Option<&str>) -> String {
    rfc3339.map_or_else(|| "never".to_owned(), |time| time.replace('T', " ").replace('Z', ""))
}

fn configuration(status: &Status) -> Markup {
    let configuration = &status.configuration;
    card(
        "Configuration",
        &[
            ("Generation", configuration.generation.to_string()),
            ("Read", time(configuration.last_good_at.as_deref())),
            ("Users", configuration.users.to_string()),
            ("Callers", configuration.callers.to_string()),
        ],
    )
}

fn faults(status: &Status) -> Markup {
    let faults = &status.configuration.faults;
    html! {
        @if !faults.is_empty() {
            section {
                h2.warn { "Faults in the configuration's files as they are" }
                ul { @for fault in faults { li { (fault) } } }
            }
        }
    }
}

fn work(status: &Status) -> Markup {
    let renewals = &status.renewals;
    card(
        "Sign-ins",
        &[
            ("Under way", status.sign_ins.under_way.to_string()),
            ("Calls waiting", status.sign_ins.waiting_calls.to_string()),
            ("Renewals planned", renewals.planned.to_string()),
            ("Due within a minute", renewals.due_within_a_minute.to_string()),
            ("Overdue", renewals.overdue.to_string()),
        ],
    )
}

fn certificates(status: &Status) -> Markup {
    html! {
        @if !status.certificates.is_empty() {
            section {
                h2 { "Certificates" }
                dl {
                    @for end in &status.certificates {
                        dt { (end.certificate.replace('_', " ")) }
                        dd { (end.days_left) " days left" br; small { (time(end.not_after.as_deref())) } }
                    }
                }
            }
        }
    }
}

fn merchants(status: &Status) -> Markup {
    html! {
        section {
            h2 { "Merchants" }
            div.scroll {
                table {
                    thead { tr { th { "Merchant" } th.number { "Users" } th.number { "With a token" } th.number { "Dry" } th.number { "Held" } th.number { "Failing" } th { "Why" } } }
                    tbody { @for merchant in &status.merchants { (row(merchant)) } }
                }
            }
            @if status.merchants_not_listed > 0 { p { "and " (status.merchants_not_listed) " more without trouble, or with less" } }
            p.legend {
                "Dry: asked for lately, no good token, and not held. Held: no sign-in is tried, since repeating a refusal could lock the account, or the vault "
                "asked to wait. Failing: the last sign-in failed, and is tried again. One user may count in several."
            }
        }
    }
}

fn row(merchant: &Merchant) -> Markup {
    let users = |stops: &[Stop]| stops.iter().map(|stop| stop.users).sum::<usize>();
    let stops = || merchant.all_held.iter().chain(&merchant.held).chain(&merchant.failing);
    let count = |count: usize, class: &'static str| html! { td.number.(if count > 0 { class } else { "none" }) { (count) } };
    html! {
        tr {
            td.id { (merchant.merchant_id) }
            td.number { (merchant.users) }
            td.number { (merchant.cached) }
            (count(merchant.dry, "bad"))
            (count(users(&merchant.held), "warn"))
            (count(users(&merchant.failing), "warn"))
            td { @for stop in stops() { div { strong { (stop.reason) } " " (words(stop)) } } }
        }
    }
}

fn words(stop: &Stop) -> String {
    let who = match stop.users {
        0 => "all users".to_owned(),
        1 => "1 user".to_owned(),
        users => format!("{users} users"),
    };
    let wait = match stop.wait_seconds {
        0 => "tried again when asked for".to_owned(),
        seconds => format!("for {}", humantime::format_duration(std::time::Duration::from_secs(seconds))),
    };
    format!("{who}: {}; {wait}", stop.what)
}
