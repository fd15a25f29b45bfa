// Sinusoidal time embedding (Vaswani et al., arXiv 1706.03762), f_i = 10000^(-i / (half - shift)):
//   time_embedding: y[n] = [sin(t_n f_i) | cos(t_n f_i)], the halves swapped on request, 0 in an odd last place
// and class embedding:
//   embedding: y[n] = table[label_n]       embedding_backward: dtable[k] = Σ_n dy[n] where label_n = k
// Labels past the last class count as the last class, in both.
//
// time_embedding: one invocation per time and frequency. embedding: one per Vector of y.
// embedding_backward: one per Vector of the table, which walks along all labels: the order is fixed.

#import lib/index
#import lib/vector4
#import lib/normal

struct TimeParams {
    width: u32,     // of one row
    half: u32,      // frequencies
    cos_first: u32, // 1 or 0
    count: u32,     // invocations with work
}

struct Params {
    width: u32,   // Vectors of one row
    classes: u32,
    count: u32,   // Vectors of y
}

struct BackwardParams {
    rows: u32,    // labels
    width: u32,   // Vectors of one row
    classes: u32,
    count: u32,   // Vectors of dtable
}

@group(0) @binding(0) var<uniform> time_params: TimeParams;
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> backward_params: BackwardParams;
@group(0) @binding(1) var<storage, read> times: array<f32>;       // (rows)
@group(0) @binding(2) var<storage, read> frequencies: array<f32>; // (2, half): upper and lower 16 bits
@group(0) @binding(3) var<storage, read_write> waves: array<Element>; // (rows, width)
@group(0) @binding(4) var<storage, read> labels: array<u32>;      // (rows)
@group(0) @binding(5) var<storage, read> table: array<Stored>;    // (classes, width)
@group(0) @binding(6) var<storage, read_write> y: array<Stored>;  // (rows, width)
@group(0) @binding(7) var<storage, read> dy: array<Stored>;       // (rows, width)
@group(0) @binding(8) var<storage, read_write> dtable: array<Vector>; // (classes, width), f32 always

// (cos tf, sin tf) for a frequency given in turns / 2^32. In f32 t f alone would be off by 3e-5 at
// t = 999; whole times in wrapping integers lose their whole turns exactly, and what is left is a fraction
// of a turn good to 2^-24. The table's rounding, 2^-33 turns, makes 7e-7 radians at t = 999.
fn wave(t: f32, frequency: u32) -> vec2<f32> {
    let whole = floor(t);
    let turns = f32(bitcast<u32>(i32(whole)) * frequency) + (t - whole) * f32(frequency);
    return unit_circle(turns * 2.3283064365386963e-10);
}

@compute @workgroup_size(64)
fn time_embedding(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let k = invocation_index(group, groups, lane, 64u);
    if k >= time_params.count { return; }
    let columns = (time_params.width + 1u) / 2u;
    let row = k / columns;
    let i = k % columns;
    let start = row * time_params.width;
    if i < time_params.half {
        let frequency = (u32(frequencies[i]) << 16u) | u32(frequencies[time_params.half + i]);
        let w = wave(times[row], frequency);
        let cos_first = time_params.cos_first != 0u;
        waves[start + i] = Element(select(w.y, w.x, cos_first));
        waves[start + time_params.half + i] = Element(select(w.x, w.y, cos_first));
    } else {
        waves[start + time_params.width - 1u] = Element(0.0);
    }
}

fn class_of(row: u32, classes: u32) -> u32 {
    return min(labels[row], classes - 1u);
}

@compute @workgroup_size(64)
fn embedding(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let k = invocation_index(group, groups, lane, 64u);
    if k >= params.count { return; }
    y[k] = table[class_of(k / params.width, params.classes) * params.width + k % params.width];
}

@compute @workgroup_size(64)
fn embedding_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let k = invocation_index(group, groups, lane, 64u);
    if k >= backward_params.count { return; }
    let own = k / backward_params.width;
    var sum = Vector();
    for (var n = 0u; n < backward_params.rows; n++) {
        if class_of(n, backward_params.classes) == own {
            sum += Vector(dy[n * backward_params.width + k % backward_params.width]);
        }
    }
    dtable[k] = sum;
}
