//! Several rates in a row, and the search for the highest rate.

use serde_json::Value;

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::blaster::expect_documented;
use crate::{assert_balanced, blaster, counts, number, stderr};

fn series(flags: &str) -> Value {
    let output = blaster(&format!("{flags} --json - --quiet"));
    let series: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    expect_documented(&series);
    assert_eq!((&series["schema"], &series["version"]), (&"blaster-series".into(), &2.into()));
    for run in series["runs"].as_array().unwrap() {
        assert_balanced(&run["report"]["totals"]);
    }
    series
}

#[test]
fn each_step_is_a_run_of_its_own() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let found = series(&format!("udp {} --steps 300:1s,600:500ms,1k:1s --timeout 5s", server.addr));
    let runs: Vec<_> = found["runs"].as_array().unwrap().iter().collect();
    let of = |run: &Value| {
        (run["name"].as_str().unwrap().to_string(), run["report"]["load"]["rate_per_s"].as_f64())
    };
    assert_eq!(
        runs.iter().map(|run| of(run)).collect::<Vec<_>>(),
        [("300/s".into(), Some(300.0)), ("600/s".into(), Some(600.0)), ("1,000/s".into(), Some(1_000.0))]
    );
    for (run, sent) in runs.iter().zip([300, 300, 1_000]) {
        assert_eq!(counts(&run["report"]), [("sent", sent), ("ok", sent)]);
    }
    assert!(found["found"].is_null());

    let output =
        blaster(&format!("udp {} --steps 300:200ms,400:200ms --fail-if sent>70 --timeout 5s", server.addr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "the second step fails it: {table}");
    assert!(table.contains("passed  300/s") && table.contains("FAILED  400/s"), "{table}");
}

#[test]
fn what_a_search_finds_decides_the_exit_status() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Carries(500.0));
    let load = format!(
        "udp {} --find-max --rate 2k --duration 100ms --repeat 1 --precision 100% --timeout 100ms --linger 1ms",
        server.addr
    );
    for (condition, status, word) in [("found<1G", 3, "FAILED"), ("found>1G", 0, "passed")] {
        let output = blaster(&format!("{load} --fail-if {condition}"));
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{table}");
        assert_eq!(table.matches(word).count(), 1, "once for the search, not for each run: {table}");
    }
    // without a search there is no result
    let output = blaster(&format!("udp {} --count 5 --fail-if found>1G", server.addr));
    assert_eq!(output.status.code(), Some(3));
}

/// However busy the machine is, the result is never more than the server's limit, and blaster never takes its own limit
/// for the server's.
#[test]
fn the_search_finds_what_a_server_carries() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Carries(2_000.0));
    let found = series(&format!(
        "udp {} --find-max --rate 500 --duration 500ms --loss 1% --repeat 3 --precision 20% --timeout 1s --linger 300ms",
        server.addr
    ));
    let answer = &found["found"];
    // 500 ms of its rate, the answers that it gives at once, and the allowed loss
    let most = 2_000.0 * (0.5 + 0.1) / 0.5 * 1.05;
    let met = answer["met"]["rate_per_s"].as_f64().unwrap_or(0.0);
    assert!(met <= most, "{answer}");
    let verdicts: Vec<_> =
        found["runs"].as_array().unwrap().iter().map(|run| &run["verdict"]["outcome"]).collect();
    if answer["limit"] == "server" {
        assert!(met >= 500.0, "{answer} {verdicts:?}");
        assert!(number(&answer["not_met"]["runs"]["missed"]) >= 2, "{answer}");
        assert!(answer["confidence"].as_f64().unwrap() <= 0.75, "three runs of a kind are no more: {answer}");
    } else {
        assert_eq!(answer["limit"], "generator", "there is a limit: {answer}");
        assert!(verdicts.iter().any(|verdict| **verdict == "generator"), "{answer} {verdicts:?}");
    }
    assert!(found["runs"].as_array().unwrap().iter().all(|run| {
        let rate = run["report"]["load"]["rate_per_s"].as_f64().unwrap();
        run["verdict"]["outcome"] != "met" || rate <= most
    }));
}
