//! `[traces]`, in a broker that was built with traces and in one that was not.

use super::{VAULT, expect_faults, load_text};

const BUILT_IN: bool = cfg!(feature = "traces");

fn faults(table: &str, expected: &[(usize, &str, &str)]) {
    expect_faults(&format!("[traces]\n{table}\n{VAULT}"), expected);
}

#[test]
fn traces_are_refused_where_they_are_not_built_in() {
    if !BUILT_IN {
        faults("endpoint = 'http://collector:4317'", &[(1, "traces.endpoint", "built without traces")]);
    }
}

#[test]
fn the_collector_is_an_address_and_the_ratio_a_part_of_a_whole() {
    if !BUILT_IN {
        return;
    }
    let traces =
        |table: &str| load_text(&format!("[traces]\n{table}\n{VAULT}")).expect("is good").config.traces.expect("is there");
    let plain = traces("endpoint = 'http://collector:4317/'");
    assert_eq!((plain.endpoint.as_str(), plain.sample_ratio, plain.ca_file), ("http://collector:4317", 0.01, None));
    for (ratio, expected) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
        assert_eq!(traces(&format!("endpoint = 'http://c:1'\nsample_ratio = {ratio}")).sample_ratio, expected);
    }
    assert!(load_text(VAULT).expect("is good").config.traces.is_none());

    let endpoint = "traces.endpoint";
    faults("sample_ratio = 0.5", &[(1, endpoint, "is missing")]);
    faults("endpoint = 'collector:4317'", &[(2, endpoint, "https://")]);
    faults("endpoint = 'https://collector:4317'", &[(2, endpoint, "ca_file")]);
    for ratio in ["1.01", "-0.1", "nan", "2", "inf"] {
        faults(&format!("endpoint = 'http://c:1'\nsample_ratio = {ratio}"), &[(3, "traces.sample_ratio", "from 0.0 to 1.0")]);
    }
    faults("endpoint = 'http://c:1'\nsample_ratio = '1'", &[(3, "traces.sample_ratio", "a number")]);
    faults("endpoint = 'http://c:1'\nratio = 1", &[(3, "traces.ratio", "not a known key")]);
}
