// Work on (images, pixels, channels) in runs: an invocation keeps one Vector of channels and walks along
// PIXELS pixels, so what belongs to the channels is loaded once, the divisions are done once, and
// neighbouring invocations read neighbouring channels. A run never leaves its image.

const PIXELS: u32 = 8u;
const RUN_INVOCATIONS: u32 = 64u; // of a workgroup

struct PixelRun {
    image: u32,
    vector: u32, // of the channels
    pixel: u32,  // the first one, within the image
    first: u32,  // its Vector, counted through the whole tensor; the next pixel's is `vectors` further
    end: u32,    // the run stops before this Vector
}

// Run `i` of images of so many pixels of so many Vectors each.
fn pixel_run(i: u32, pixels: u32, vectors: u32) -> PixelRun {
    let runs = (pixels + PIXELS - 1u) / PIXELS;
    let row = i / vectors;
    let image = row / runs;
    let vector = i % vectors;
    let pixel = (row % runs) * PIXELS;
    let start = image * pixels;
    return PixelRun(
        image,
        vector,
        pixel,
        (start + pixel) * vectors + vector,
        (start + min(pixel + PIXELS, pixels)) * vectors,
    );
}
