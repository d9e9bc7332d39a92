//! What a scraper reads.

use super::*;

fn text(metrics: &Metrics) -> String {
    metrics.text(Gauges::default(), Format::OpenMetrics).expect("can be written")
}

#[test]
fn names_beyond_the_limit_share_a_label_and_the_first_keep_theirs() {
    let metrics = Metrics::default();
    for n in 0..MERCHANTS_MAX + 50 {
        metrics.sign_in(&format!("m{n}"), "granted", Duration::ZERO);
    }
    metrics.sign_in("m0", "granted", Duration::ZERO);
    let text = text(&metrics);
    assert_eq!(text.matches("token_broker_sign_ins_total{").count(), MERCHANTS_MAX + 1);
    assert!(text.contains("token_broker_sign_ins_total{merchant_id=\"_other\",result=\"granted\"} 50\n"));
    assert!(text.contains("token_broker_sign_ins_total{merchant_id=\"m0\",result=\"granted\"} 2\n"));
}

#[test]
fn a_label_cannot_break_out_of_its_quotes() {
    let metrics = Metrics::default();
    metrics.sign_in("a\"} 1\\", "granted", Duration::ZERO);
    assert!(text(&metrics).contains("token_broker_sign_ins_total{merchant_id=\"a\\\"} 1\\\\\",result=\"granted\"} 1\n"));
}

#[test]
fn durations_fall_into_buckets_from_50_microseconds_to_30_seconds() {
    let metrics = Metrics::default();
    let ended = CallEnd { code: "OK", reason: "", outcome: "hit" };
    for took in [Duration::from_micros(40), Duration::from_micros(60), Duration::from_secs(31)] {
        metrics.call(&ended, took);
    }
    let text = text(&metrics);
    for (le, count) in [("0.00005", 1), ("0.0001", 2), ("30.0", 2), ("+Inf", 3)] {
        let line = format!("token_broker_call_duration_seconds_bucket{{le=\"{le}\",outcome=\"hit\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}
