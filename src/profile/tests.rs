//! Tables, traces, files and comparisons of made-up profiles.

use super::diff::{Verdict, diff};
use super::table::{By, rows};
use super::{
    DeviceSpan, FORMAT, HostSpan, LaunchProfile, Limit, Memory, Profile, Roofs, Seconds, TensorLife,
    Timeline, page, report, trace,
};
use crate::gpu::Clock;
use crate::graph::Phase;
use crate::rng::{Philox, Stream};
use serde_json::json;
use std::collections::BTreeMap;

/// What disturbs a made-up measurement.
#[derive(Clone, Copy)]
struct Noise {
    seed: u64,
    /// Standard deviation of every sample, as part of it.
    spread: f64,
    /// The part of the samples that take two to four times as long.
    disturbed: f64,
    /// What all times are multiplied by.
    drift: f64,
    /// What a launch costs beside its work, in seconds.
    launch: f64,
    /// Standard deviation of a kernel's time among the rounds: where its code and its buffers lie.
    placed: f64,
}

const QUIET: Noise =
    Noise { seed: 1, spread: 0.005, disturbed: 0.0, drift: 1.0, launch: 30e-6, placed: 0.003 };

/// Twelve kernels, each in six modules, the first of them `slowed` times as slow as it was.
fn profile(noise: Noise, slowed: f64) -> Profile {
    const RUNS: usize = 24;
    const ROUNDS: usize = 6;
    let mut rng = Philox::new(noise.seed, Stream::Cases, 0);
    let placed: Vec<Vec<f64>> =
        (0..12).map(|_| (0..ROUNDS).map(|_| 1.0 + noise.placed * rng.normal()).collect()).collect();
    let mut launches: Vec<LaunchProfile> = Vec::new();
    for module in 0..6 {
        for kernel in 0..12 {
            let base = 2e-3 / f64::from(1 + kernel) * if kernel == 0 { slowed } else { 1.0 } * noise.drift;
            let samples: Vec<f64> = (0..RUNS)
                .map(|run| {
                    let late =
                        if rng.uniform(0.0, 1.0) < noise.disturbed { rng.uniform(2.0, 4.0) } else { 1.0 };
                    let placed = placed[kernel as usize][run * ROUNDS / RUNS];
                    (base * placed * (1.0 + noise.spread * rng.normal()) + noise.launch) * late
                })
                .collect();
            let phase = if kernel < 8 { Phase::Forward } else { Phase::Backward };
            launches.push(LaunchProfile {
                phase,
                module: format!("blocks.{module}"),
                op: format!("op{}", kernel / 2),
                shader: format!("shader{}", kernel / 2),
                entry: format!("entry{kernel}"),
                variant: "A=1u, B=\"2\"".into(),
                groups: [kernel + 1, 1, 1],
                node: launches.len(),
                calls: 1,
                seconds: Seconds::of(&samples),
                gap_seconds: 1e-6,
                share: 0.0,
                flops: 1000,
                bytes: 10,
                roof_share: 0.5,
                limit: Limit::Arithmetic,
                samples,
            });
        }
    }
    let sums: Vec<f64> = (0..RUNS).map(|run| launches.iter().map(|l| l.samples[run]).sum()).collect();
    for l in &mut launches {
        l.share = l.samples.iter().zip(&sums).map(|(s, sum)| s / sum).sum::<f64>() / RUNS as f64;
    }
    let mut at = 0.0;
    let device = launches.iter().enumerate().map(|(launch, l)| {
        let begin = at;
        at += l.seconds.median + 1e-6;
        DeviceSpan { launch, begin, end: at - 1e-6 }
    });
    let span = |name: &str, begin, end| HostSpan { name: name.into(), begin, end };
    let host =
        vec![span("upload", 0.0, 1e-4), span("encode and submit", 1e-4, 5e-4), span("wait", 5e-4, 0.05)];
    let timeline = Timeline { device: device.collect(), host, submitted: 5e-4 };
    let launched = Seconds::of(&sums);
    let tensor = |first: usize| TensorLife {
        name: format!("blocks.{}/op0", first / 12),
        phase: Phase::Forward,
        bytes: 1 << 10,
        first,
        last: 71 - first,
    };
    let memory = Memory {
        states: 1 << 20,
        working: 36 << 10,
        tensors: (0..36).map(tensor).collect(),
        ..Memory::default()
    };
    Profile {
        format: FORMAT,
        inkwash: "0".into(),
        date: "2026-11-26T18:00:00Z".into(),
        device: "made up".into(),
        backend: "vulkan".into(),
        driver: "none".into(),
        kernels: "registers".into(),
        shaders: BTreeMap::new(),
        subject: "training step".into(),
        config: json!({ "batch": 16 }),
        clock: Clock::TimestampsInPasses,
        notes: Vec::new(),
        runs: RUNS,
        rounds: ROUNDS,
        wall_seconds: launched.median + 1e-3,
        accounted_seconds: launched.median + 6e-4,
        wall: launched,
        profiled: launched,
        upload: Seconds { median: 1e-4, p5: 1e-4, p95: 1e-4 },
        encode: Seconds { median: 4e-4, p5: 4e-4, p95: 4e-4 },
        launched,
        gaps: Seconds { median: 1e-4, p5: 1e-4, p95: 1e-4 },
        timing_seconds: 1e-5,
        roofs: Roofs {
            flops_per_s: 1e12,
            bytes_per_s: 1e11,
            launch_seconds: 4e-6,
            clock_seconds: 1e-6,
            ..Roofs::default()
        },
        launches,
        memory,
        timeline,
    }
}

/// The names of what changed in ten comparisons.
fn changed(before: Noise, after: Noise, slowed: f64) -> Vec<Vec<(String, Verdict)>> {
    (0..10)
        .map(|i| {
            let a = profile(Noise { seed: 100 + i, ..before }, 1.0);
            let b = profile(Noise { seed: 200 + i, ..after }, slowed);
            diff(&a, &b, 0.03).changed().map(|c| (c.name.clone(), c.verdict)).collect()
        })
        .collect()
}

#[test]
fn a_build_compared_with_itself_has_not_changed() {
    let loaded = Noise { spread: 0.03, disturbed: 0.3, ..QUIET };
    for (before, after) in [
        (QUIET, QUIET),
        (QUIET, Noise { drift: 1.4, ..QUIET }),
        (loaded, loaded),
        (QUIET, Noise { drift: 1.2, ..loaded }),
        // Waking a thread costs 20 us more, a tenth of the smallest kernel; and code is placed badly now and then.
        (QUIET, Noise { launch: 50e-6, ..QUIET }),
        (Noise { placed: 0.03, ..QUIET }, Noise { placed: 0.03, ..QUIET }),
    ] {
        for names in changed(before, after, 1.0) {
            assert!(names.is_empty(), "{names:?}");
        }
    }
}

#[test]
fn a_slower_kernel_is_named_and_no_other() {
    let named = [("shader0:entry0".to_string(), Verdict::Slower)];
    let loaded = Noise { spread: 0.03, disturbed: 0.3, drift: 0.8, ..QUIET };
    for (noise, slowed) in [
        (QUIET, 1.035),
        (QUIET, 4.0 / 3.0),
        (loaded, 4.0 / 3.0),
        (Noise { launch: 50e-6, ..QUIET }, 4.0 / 3.0),
    ] {
        for names in changed(Noise { drift: 1.0, ..noise }, noise, slowed) {
            assert_eq!(names, named, "{slowed}");
        }
    }
    let faster = changed(QUIET, QUIET, 0.75);
    assert!(faster.iter().all(|names| names[..] == [("shader0:entry0".into(), Verdict::Faster)]));
    // Below the threshold.
    assert!(changed(QUIET, QUIET, 1.02).iter().all(Vec::is_empty));
}

#[test]
fn one_launch_of_a_kernel_is_named_by_its_place() {
    let (before, mut after) = (profile(QUIET, 1.0), profile(Noise { seed: 2, ..QUIET }, 1.0));
    let launch = after.launches.iter_mut().find(|l| l.module == "blocks.3" && l.entry == "entry0").unwrap();
    launch.samples.iter_mut().for_each(|s| *s *= 1.12);
    let found = diff(&before, &after, 0.03);
    let names: Vec<&str> = found.changed().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["forward blocks.3/op0 shader0:entry0"]);
    // What only one of the two has is told as well, and is not called slower.
    after.launches.iter_mut().filter(|l| l.entry == "entry11").for_each(|l| l.entry = "other".into());
    let found = diff(&before, &after, 0.03);
    let verdicts: Vec<Verdict> =
        found.kernels.iter().map(|k| k.verdict).filter(|v| *v != Verdict::Same).collect();
    assert_eq!(
        (verdicts.len(), verdicts.contains(&Verdict::New), verdicts.contains(&Verdict::Gone)),
        (2, true, true)
    );
}

#[test]
fn rounds_are_one_profile() {
    let rounds: Vec<Profile> = (0..3).map(|seed| profile(Noise { seed, ..QUIET }, 1.0)).collect();
    let together = Profile::together(rounds.clone()).unwrap();
    assert_eq!((together.runs, together.rounds), (72, 3));
    for (i, launch) in together.launches.iter().enumerate() {
        let samples: Vec<f64> = rounds.iter().flat_map(|round| round.launches[i].samples.clone()).collect();
        assert_eq!((&launch.samples, launch.seconds), (&samples, Seconds::of(&samples)));
    }
    let mut medians: Vec<f64> = rounds.iter().map(|round| round.launched.median).collect();
    medians.sort_by(f64::total_cmp);
    assert_eq!(together.launched.median, medians[1]);
    let mut other = rounds;
    other[2].launches[4].entry = "another".into();
    assert!(Profile::together(other).is_none() && Profile::together(Vec::new()).is_none());
}

#[test]
fn profiles_of_other_devices_are_compared_with_a_warning() {
    let (before, mut after) = (profile(QUIET, 1.0), profile(QUIET, 1.0));
    assert!(diff(&before, &after, 0.03).warnings.is_empty());
    after.rounds = 1;
    assert!(diff(&before, &after, 0.03).warnings[0].contains("1 of 3 rounds"));
    after.rounds = before.rounds;
    after.shaders = BTreeMap::from([("matmul".into(), "0123abcd".into())]);
    assert!(diff(&before, &after, 0.03).warnings[0].contains("compare two edited folders"));
    after.shaders.clear();
    after.device = "another".into();
    assert_eq!(diff(&before, &after, 0.03).warnings, ["the device differs: made up, then another"]);
}

#[test]
fn every_table_adds_up_to_the_step() {
    let profile = profile(Noise { disturbed: 0.3, ..QUIET }, 1.0);
    for by in [By::Phase, By::Module, By::Op, By::Shader, By::Launch] {
        let rows = rows(&profile, by, None);
        let share: f64 = rows.iter().map(|row| row.share).sum();
        assert!((share - 1.0).abs() < 1e-9, "{by:?}: {share}");
        assert_eq!(rows.iter().map(|row| row.flops).sum::<u64>(), 72_000);
        assert_eq!(rows.iter().map(|row| row.calls).sum::<usize>(), 72);
        assert!(rows.is_sorted_by(|a, b| a.seconds.median >= b.seconds.median));
    }
    let phases: Vec<String> = rows(&profile, By::Phase, None).into_iter().map(|row| row.name).collect();
    assert_eq!(phases, ["forward", "backward", "data"]);
    let filtered = rows(&profile, By::Launch, Some("BLOCKS.2/OP3"));
    assert_eq!(filtered.len(), 2);
    let shown = report::table(By::Launch, &rows(&profile, By::Launch, None), 5);
    assert!(shown.lines().count() == 7 && shown.contains("and 67 more"), "{shown}");
}

#[test]
fn spreadsheets_get_a_line_for_each_launch() {
    let profile = profile(QUIET, 1.0);
    let csv = report::csv(&profile);
    assert_eq!(csv.lines().count(), 73);
    assert!(csv.contains("\"A=1u, B=\"\"2\"\"\""), "{csv}");
    let markdown = report::markdown(&profile, By::Op, None, 3);
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| ")).count(), 4, "{markdown}");
}

/// What Perfetto asks of complete events on one track: each has a begin and a duration, and two of them are apart or one lies
/// within the other.
#[test]
fn a_trace_has_launches_within_modules_within_phases() {
    let profile = profile(QUIET, 1.0);
    let trace = trace::trace(&profile);
    let events = trace["traceEvents"].as_array().unwrap();
    let number = |event: &serde_json::Value, key: &str| event[key].as_f64().unwrap();
    for event in events {
        assert!(event["name"].is_string() && event["pid"].is_u64(), "{event}");
        match event["ph"].as_str().unwrap() {
            "M" => assert!(event["args"]["name"].is_string(), "{event}"),
            "X" => assert!(number(event, "ts") >= 0.0 && number(event, "dur") >= 0.0, "{event}"),
            other => panic!("{other}"),
        }
    }
    let tracks: Vec<u64> =
        events.iter().filter(|e| e["ph"] == "X").map(|e| e["tid"].as_u64().unwrap()).collect();
    assert!(tracks.contains(&1) && tracks.contains(&2));
    let on_device: Vec<_> = events.iter().filter(|e| e["ph"] == "X" && e["tid"] == 2).collect();
    let count = |category: &str| on_device.iter().filter(|e| e["cat"] == category).count();
    assert_eq!(count("launch"), 72);
    // Each of the six modules passes from forward to backward.
    assert_eq!(count("phase"), 12);
    assert_eq!(count("module"), 24);
    for (i, a) in on_device.iter().enumerate() {
        for b in &on_device[i + 1..] {
            let [a0, b0] = [a, b].map(|e| number(e, "ts"));
            let [a1, b1] = [a, b].map(|e| number(e, "ts") + number(e, "dur"));
            let (apart, within) = (a1 <= b0 + 1e-3 || b1 <= a0 + 1e-3, a0 <= b0 && b1 <= a1 + 1e-3);
            assert!(apart || within, "{a} {b}");
        }
    }
}

#[test]
fn a_profile_is_read_back_and_a_spoilt_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.json");
    let good = serde_json::to_value(profile(QUIET, 1.0)).unwrap();
    let read = |value: &serde_json::Value| {
        std::fs::write(&path, value.to_string()).unwrap();
        Profile::read(&path).map_err(|e| e.to_string())
    };
    let back = read(&good).unwrap();
    assert_eq!(serde_json::to_value(&back).unwrap(), good);
    let spoil = |pointer: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        read(&bad).unwrap_err()
    };
    assert!(spoil("/format", json!(9)).contains("format \"9\""));
    assert!(spoil("/rounds", json!(0)).contains("`rounds` 0 of 24"));
    assert!(spoil("/rounds", json!(25)).contains("`rounds` 25 of 24"));
    assert!(spoil("/launches/3/samples", json!([1.0])).contains("launches[3]"));
    assert!(spoil("/launches/3/samples/0", json!(-1.0)).contains("launches[3]"));
    assert!(spoil("/launches/3/phase", json!("tea")).contains("launches[3].phase"));
    assert!(spoil("/timeline/device/0/launch", json!(72)).contains("not listed"));
    assert!(spoil("/memory/tensors/0/last", json!(72)).contains("not listed"));
    assert!(spoil("/memory/tensors/0/first", json!(72)).contains("not listed"));
    std::fs::write(&path, "{").unwrap();
    assert!(Profile::read(&path).unwrap_err().to_string().contains("JSON"));
    assert!(Profile::read(folder.path()).is_err());
}

/// What a page embeds, as the script in it reads it.
fn embedded(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("<script id=\"profile\" type=\"application/json\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_page_holds_the_whole_profile_and_loads_nothing() {
    let profile = profile(QUIET, 1.0);
    let page = page::page(&profile).unwrap();
    assert_eq!(embedded(&page), serde_json::to_value(&profile).unwrap());
    // The one address is the name of SVG's elements, which nothing is loaded from.
    let addresses = page.replace("http://www.w3.org/2000/svg", "");
    for way_out in ["http:", "https:", "url(", "@import", "src=", "href=\"/", "fetch(", "import("] {
        assert!(!addresses.contains(way_out), "{way_out}");
    }
    assert!(page.contains("default-src 'none'"));
    for left_over in ["{{style}}", "{{script}}", "{{profile}}"] {
        assert!(!page.contains(left_over), "{left_over}");
    }
}

#[test]
fn names_of_any_kind_stay_within_the_data_of_a_page() {
    let mut profile = profile(QUIET, 1.0);
    let elements = |page: &str| ["<script", "</script", "<!--", "<img"].map(|tag| page.matches(tag).count());
    let plain = elements(&page::page(&profile).unwrap());
    let names = [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "\"quotes\" and 'such' \\",
        "<img src=x onerror=alert(1)>",
        "模块.块 \u{2028}\u{2029} é \u{1f58b}",
        "{{profile}} {{script}} $& $1",
        "\u{0} \n \t",
    ];
    for (launch, name) in profile.launches.iter_mut().zip(names.iter().cycle()) {
        (launch.module, launch.variant) = ((*name).into(), (*name).into());
    }
    (profile.device, profile.notes) = (names[0].into(), names.map(String::from).into());
    profile.memory.tensors[0].name = names[1].into();
    let page = page::page(&profile).unwrap();
    assert_eq!(embedded(&page), serde_json::to_value(&profile).unwrap());
    assert_eq!(elements(&page), plain);
}
