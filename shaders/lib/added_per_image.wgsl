// One row of channels for each image, which is added to all of its pixels before they are stored.
//
// `row` is the place of the image's channel in it; lib/added wants `at`. Import lib/out4 or the like before it.

@group(0) @binding(16) var<storage, read> added: array<StoredOut>; // (images, channels)

fn plus_added(value: Out, at: u32, row: u32) -> Out {
    return value + Out(added[row]);
}

fn plus_added_element(value: f32, at: u32) -> f32 {
    return value;
}
