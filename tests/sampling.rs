//! What `inkwash sample` can begin from and keep: pictures, masks, noise.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::diffusion::{Sampler, Trajectory};
use inkwash::gpu::{Blocking as _, Device, Store};
use inkwash::model::Model;
use inkwash::sample::{Drawing, GuidanceOptions, Inpaint, PictureSampler, Start};
use inkwash::train::built_in_model;
use std::sync::Arc;

mod common;

const COUNT: usize = 3;
const LABELS: [u32; COUNT] = [3, 6, 8];
/// 16x16 grey.
const ITEM: usize = 256;

fn draw(device: &Arc<Device>, trajectory: Trajectory, drawing: &Drawing) -> Vec<f32> {
    let Model { unet, weights, .. } = built_in_model().unwrap();
    let store = Store::new(device);
    let state = unet.parameters.state("weights");
    store.write(&state, &weights).unwrap();
    let sampler = PictureSampler::new(&store, &unet, &state, 2, trajectory).block_on().unwrap();
    sampler.draw(drawing, async |_| Ok(())).block_on().unwrap()
}

fn trajectory(sampler: Sampler, steps: usize) -> Trajectory {
    Trajectory::new(&built_in_model().unwrap().scheduler.with_sampler(sampler), steps, 0.0).unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

#[test]
fn a_picture_with_little_noise_stays_and_with_much_changes() {
    let Some(device) = common::open_device() else { return };
    let pictures = draw(&device, trajectory(Sampler::Ddim, 10), &Drawing::new(COUNT, 0, &LABELS));
    for sampler in Sampler::ALL.into_iter().filter(|sampler| sampler.order().is_some()) {
        let again = |walked: usize| {
            let whole = trajectory(sampler, 20);
            let all = whole.steps.len();
            let drawing = Drawing { start: Start::Picture(&pictures), ..Drawing::new(COUNT, 1, &LABELS) };
            distance(&draw(&device, whole.from_step(all - walked), &drawing), &pictures)
        };
        let (little, much) = (again(2), again(18));
        println!("{sampler:?}: {little:.3} after 2 steps, {much:.3} after 18");
        assert!(little < 0.1 && much > 2.0 * little, "{sampler:?}: {little} and {much}");
    }
}

#[test]
fn what_is_known_is_kept_to_the_bit() {
    let Some(device) = common::open_device() else { return };
    let known = draw(&device, trajectory(Sampler::Ddim, 10), &Drawing::new(COUNT, 0, &LABELS));
    // The left half.
    let mask: Vec<f32> = (0..COUNT * ITEM).map(|i| f32::from(u8::from(i % 16 < 8))).collect();
    for (sampler, resamples) in [(Sampler::Ddpm, 1), (Sampler::Ddpm, 3), (Sampler::Euler, 2)] {
        let inpaint = Some(Inpaint { known: &known, mask: &mask, resamples });
        let drawing = Drawing { inpaint, ..Drawing::new(COUNT, 5, &LABELS) };
        let drawn = draw(&device, trajectory(sampler, 6), &drawing);
        let mut changed = 0;
        for (i, (a, b)) in drawn.iter().zip(&known).enumerate() {
            assert!(a.is_finite());
            if mask[i] == 1.0 {
                assert_eq!(a, b, "{sampler:?}, element {i}");
            } else {
                changed += usize::from(a != b);
            }
        }
        assert!(changed > COUNT * ITEM / 4, "{sampler:?}: the other half is the same");
    }
}

#[test]
fn noise_that_is_given_is_begun_from() {
    let Some(device) = common::open_device() else { return };
    let noise: Vec<f32> = (0..COUNT * ITEM).map(|i| ((i * 37 % 101) as f32 - 50.0) / 29.0).collect();
    let drawing = |seed| Drawing { start: Start::Noise(&noise), ..Drawing::new(COUNT, seed, &LABELS) };
    let (a, b) = (drawing(1), drawing(2));
    let first = draw(&device, trajectory(Sampler::Ddim, 4), &a);
    // DDIM draws nothing on the way, so that the seed does not matter.
    assert_eq!(first, draw(&device, trajectory(Sampler::Ddim, 4), &b));
    assert!(
        distance(&first, &draw(&device, trajectory(Sampler::Ddim, 4), &Drawing::new(COUNT, 1, &LABELS)))
            > 0.01
    );
}

/// f = u + w (c - u): with w = 1 and outside its interval guidance changes nothing, with w = 0 it draws the class that
/// stands for none, and beyond 1 something else.
#[test]
fn guidance_lies_on_the_line_between_two_classes() {
    let Some(device) = common::open_device() else { return };
    let Model { unet, weights, .. } = built_in_model().unwrap();
    let store = Store::new(&device);
    let state = unet.parameters.state("weights");
    store.write(&state, &weights).unwrap();
    let null_label = 2;
    let draw = |labels: &[u32], guidance: Option<(f64, (f64, f64))>| {
        let mut sampler = PictureSampler::new(&store, &unet, &state, 2, trajectory(Sampler::DpmSolver, 6))
            .block_on()
            .unwrap();
        if let Some((weight, interval)) = guidance {
            let options = GuidanceOptions { weight, interval, null_label };
            sampler = sampler.guided_by(&unet, &state, options).block_on().unwrap();
        }
        sampler.draw(&Drawing::new(COUNT, 0, labels), async |_| Ok(())).block_on().unwrap()
    };
    let everywhere = (0.0, f64::INFINITY);
    let (with, without) = (draw(&LABELS, None), draw(&[null_label; COUNT], None));
    assert!(distance(&with, &without) > 0.1);
    assert!(distance(&draw(&LABELS, Some((1.0, everywhere))), &with) < 1e-4);
    assert_eq!(draw(&LABELS, Some((0.0, everywhere))), without);
    assert_eq!(draw(&LABELS, Some((3.0, (1e6, 1e7)))), with);
    let (guided, partly) = (draw(&LABELS, Some((3.0, everywhere))), draw(&LABELS, Some((3.0, (0.3, 3.0)))));
    assert!(distance(&guided, &with) > 0.01 && distance(&partly, &with) > 0.01);
    assert!(distance(&guided, &partly) > 0.001);
}
