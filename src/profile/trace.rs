//! A step as a Chrome trace, which Perfetto and chrome://tracing open: one track for the host, one for the device, where the
//! launches lie within their modules and these within their phases.

use super::{DeviceSpan, LaunchProfile, Profile};
use serde_json::{Value, json};

/// The process that both tracks belong to.
const PROCESS: u32 = 1;
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The trace of a profile's timeline, in the JSON object format of trace events: complete events (`X`), in microseconds since the
/// step began. The device's first launch is put where the host had submitted it.
pub fn trace(profile: &Profile) -> Value {
    let name = |thread: u32, name: &str| json!({ "ph": "M", "name": "thread_name", "pid": PROCESS, "tid": thread, "args": { "name": name } });
    let process =
        json!({ "ph": "M", "name": "process_name", "pid": PROCESS, "args": { "name": profile.subject } });
    let mut events = vec![process, name(HOST, "host"), name(DEVICE, &format!("device: {}", profile.device))];
    let timeline = &profile.timeline;
    events.extend(timeline.host.iter().map(|h| event(HOST, &h.name, "host", [h.begin, h.end], json!({}))));
    let spans: Vec<DeviceSpan> = timeline
        .device
        .iter()
        .map(|s| DeviceSpan { begin: s.begin + timeline.submitted, end: s.end + timeline.submitted, ..*s })
        .collect();
    nest(profile, &spans, 0, &mut events);
    json!({
        "displayTimeUnit": "ns",
        "otherData": {
            "device": profile.device, "driver": profile.driver, "clock": profile.clock, "date": profile.date,
            "inkwash": profile.inkwash,
        },
        "traceEvents": events,
    })
}

fn event(thread: u32, name: &str, category: &str, [begin, end]: [f64; 2], args: Value) -> Value {
    // Nanoseconds, which keep what lies within another event within it after rounding.
    let round = |seconds: f64| (seconds * 1e9).round() / 1e3;
    let (begin, end) = (round(begin), round(end));
    json!({
        "ph": "X", "name": name, "cat": category, "pid": PROCESS, "tid": thread, "ts": begin,
        "dur": (end - begin).max(0.0), "args": args,
    })
}

/// The names around a launch, outermost first: phase, then the parts of its module.
fn around(launch: &LaunchProfile) -> Vec<&str> {
    let parts = launch.module.split('.').filter(|part| !part.is_empty());
    std::iter::once(launch.phase.name()).chain(parts).collect()
}

/// Events for neighbours that share the name at this depth, and within them for what is deeper.
fn nest(profile: &Profile, spans: &[DeviceSpan], depth: usize, events: &mut Vec<Value>) {
    let name = |span: &DeviceSpan| around(&profile.launches[span.launch]).get(depth).copied();
    for group in spans.chunk_by(|a, b| name(a) == name(b)) {
        let Some(name) = name(&group[0]) else {
            events.extend(group.iter().map(|span| launched(&profile.launches[span.launch], span)));
            continue;
        };
        let end = group.iter().map(|span| span.end).fold(f64::NEG_INFINITY, f64::max);
        let category = if depth == 0 { "phase" } else { "module" };
        events.push(event(DEVICE, name, category, [group[0].begin, end], json!({ "launches": group.len() })));
        nest(profile, group, depth + 1, events);
    }
}

fn launched(launch: &LaunchProfile, span: &DeviceSpan) -> Value {
    let name = format!("{} {}", launch.op, launch.kernel());
    let args = json!({
        "op": launch.op, "shader": launch.shader, "entry": launch.entry, "variant": launch.variant,
        "groups": launch.groups, "flops": launch.flops, "bytes": launch.bytes, "limit": launch.limit,
        "roof_share": launch.roof_share,
    });
    event(DEVICE, &name, "launch", [span.begin, span.end], args)
}
