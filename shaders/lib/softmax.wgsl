// The largest number of a row, and the sum of the exponentials of all of them less it, in one pass: what was summed before a
// larger one came is scaled down to it (Milakov & Gimelshein, arXiv 1805.02867). Import lib/vector4 before it; the importer
// defines `score`, the Vector at a place.

const SCORES: u32 = 4u; // Vectors that are in registers together, and scale the sum once

struct RowMeasure {
    largest: f32,
    sum: f32,
}

fn measure_row(first: u32, vectors: u32) -> RowMeasure {
    var largest = Vector(-3.4e38); // less than any score
    var sum = Vector();
    var at = first;
    for (; at + SCORES <= first + vectors; at += SCORES) {
        var block: array<Vector, SCORES>;
        var most = largest;
        for (var i = 0u; i < SCORES; i++) {
            block[i] = score(at + i);
            most = max(most, block[i]);
        }
        sum *= exp(largest - most);
        for (var i = 0u; i < SCORES; i++) {
            sum += exp(block[i] - most);
        }
        largest = most;
    }
    for (; at < first + vectors; at++) {
        let value = score(at);
        let most = max(largest, value);
        sum = sum * exp(largest - most) + exp(value - most);
        largest = most;
    }
    let most = horizontal_max(largest);
    return RowMeasure(most, horizontal_sum(sum * exp(largest - Vector(most))));
}
