// A further tensor that is added to a result before it is stored: both as long as each other.
//
// `at` is the place in the result, in its elements; lib/added_per_image wants `row`. Import lib/out4 or the like before it.

@group(0) @binding(16) var<storage, read> added: array<StoredOut>; // as the result
@group(0) @binding(17) var<storage, read> added_elements: array<Element>; // the same, of results that are stored one by one

fn plus_added(value: Out, at: u32, row: u32) -> Out {
    return value + Out(added[at]);
}

fn plus_added_element(value: f32, at: u32) -> f32 {
    return value + f32(added_elements[at]);
}
