// The scale of the loss after a step (Micikevicius et al., arXiv 1710.03740, section 3.2; PyTorch's GradScaler):
//
//     halved, but not below `least`, where the gradient was not finite; doubled, but not above `most`, after `grows_after`
//     steps in which it was
//
// One invocation.

#import lib/clipping
#import lib/loss_scale

struct Params {
    grows_after: f32, // steps
    least: f32,
    most: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> loss_scale: LossScale;
@group(0) @binding(2) var<storage, read> clipping: Clipping;

@compute @workgroup_size(1)
fn adjust() {
    var next = loss_scale;
    next.steps += 1.0;
    if clipping.finite == 0.0 {
        next.skips += select(0.0, 1.0, next.scale > params.least);
        next.scale = max(0.5 * next.scale, params.least);
        next.steps = 0.0;
    } else if next.steps >= params.grows_after {
        next.scale = min(2.0 * next.scale, params.most);
        next.steps = 0.0;
    }
    loss_scale = next;
}
