//! OpenMetrics rewritten as Prometheus' older text format, which some programs read alone.
//!
//! Must never touch a sample: the two differ in how a family is announced, and in nothing else that is used here.

/// The same, in the format 0.0.4: a counter is announced by the name of its samples, units and the end are not.
pub(super) fn rewritten(text: &str) -> String {
    // A family's help comes before its type, and both name the samples.
    let mut suffix = "";
    let mut lines = text.lines().peekable();
    let mut classic = String::with_capacity(text.len());
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            suffix = match lines.peek().and_then(|next| next.rsplit_once(' ')) {
                Some((_, "counter")) => "_total",
                Some((_, "info")) => "_info",
                _ => "",
            };
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            push(&mut classic, &["# HELP ", name, suffix, " ", help]);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|family| family.split_once(' ')) {
            push(&mut classic, &["# TYPE ", name, suffix, " ", if kind == "info" { "gauge" } else { kind }]);
        } else if !line.starts_with('#') {
            push(&mut classic, &[line]);
        }
    }
    classic
}

fn push(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_announced_by_the_names_of_their_samples() {
        let open = "# HELP a_calls Calls, of all kinds.\n# TYPE a_calls counter\na_calls_total{x=\"# TYPE y\"} 1\n\
                    # HELP a_took_seconds Time.\n# TYPE a_took_seconds histogram\n# UNIT a_took_seconds seconds\n\
                    a_took_seconds_sum 0.5\n# HELP a_build It.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n# EOF\n";
        let classic = "# HELP a_calls_total Calls, of all kinds.\n# TYPE a_calls_total counter\na_calls_total{x=\"# TYPE y\"} 1\n\
                       # HELP a_took_seconds Time.\n# TYPE a_took_seconds histogram\na_took_seconds_sum 0.5\n\
                       # HELP a_build_info It.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n";
        assert_eq!(rewritten(open), classic);
    }
}
