//! A chain without noise: pictures are blurred, or lose resolution, step by step, and a network walks back (Bansal et al.,
//! "Cold Diffusion", arXiv 2208.09392).

mod chain;
mod measures;
mod restoration;

use self::chain::{Chain, Degrader};
use self::measures::{detail, error, greys, largest, of_each_class, recognised, unevenness};
use self::restoration::{Algorithm, Restorer, train};
use super::reverse::{differing, spread};
use super::training::{CLASSES, small_run};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::Dataset;
use crate::gpu::Store;
use crate::io::{Chart, Series, save_rows};
use crate::rng::{Philox, Stream};
use crate::train::{TrainConfig, open_data};
use serde_json::json;
use std::sync::Arc;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "cold",
    title: "A chain without noise: blur and loss of resolution, undone",
    see: "In blur_error.png algorithm 2 comes nearer to the picture than algorithm 1 from every severity, and than one \
          answer of the network from the low ones. In blur_pictures.png a plain grey becomes a sharp glyph of the class \
          that was asked for; without noise in the start those of a class are nearly alike.",
    equation: "x_s = D(x_0, s); back by x_{s-1} = D(R(x_s, s), s-1) or by x_{s-1} = x_s - D(R(x_s, s), s) + \
               D(R(x_s, s), s-1)   (Cold Diffusion, arXiv 2208.09392, algorithms 1 and 2)",
    shaders: &["degrade.wgsl", "loss.wgsl"],
    minutes: 2,
    run,
};

/// Pixels of a side.
const SIDE: usize = 16;
const ELEMENTS: usize = SIDE * SIDE;
/// Steps of training for each chain.
const STEPS: u32 = 250;
/// Pictures of each class that are restored and drawn.
const PER_CLASS: usize = 3;
const COUNT: usize = CLASSES * PER_CLASS;
/// Training pictures of each class by which the means and the spread of the data are measured.
const REFERENCES: usize = 100;
/// Standard deviations of the little noise by which the pixels of a start come to differ (the paper's section 5).
const NOISES: [f64; 2] = [0.01, 0.03];
/// Pictures whose walks are shown: a person, a mouth, a tree.
const WALKS: [usize; 3] = [4 * PER_CLASS, 6 * PER_CLASS, 9 * PER_CLASS];

/// What is the same for every chain.
struct Setup {
    config: TrainConfig,
    training: Arc<Dataset>,
    /// Training pictures, REFERENCES of each class.
    references: Vec<f32>,
    /// Held-out pictures, PER_CLASS of each class.
    x_0: Vec<f32>,
}

fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let config = TrainConfig { steps: STEPS, batch: 8, ..small_run(lab.seed) };
    let (training, held_out) = open_data(&config)?;
    let setup = Setup {
        references: of_each_class(&training, REFERENCES),
        x_0: of_each_class(&held_out, PER_CLASS),
        training: Arc::new(training),
        config,
    };
    findings.number("spread_of_data", spread(&setup.references, REFERENCES, ELEMENTS));
    findings.number("detail_of_data", detail(&setup.references));
    findings.number("recognised_of_held_out", recognised(&setup.x_0, &setup.references));
    for chain in [Chain::blur(), Chain::downsample()] {
        let trainer = train(lab, &chain, &setup.config, &setup.training)?;
        let restorer = Restorer::new(&trainer)?;
        restore(lab, findings, &chain, &setup.x_0, &trainer.store, &restorer)?;
        draw(lab, findings, &chain, &setup, &restorer)?;
    }
    Ok(())
}

/// Held-out pictures, degraded to each severity and restored.
fn restore(
    lab: &Lab,
    findings: &mut Findings,
    chain: &Chain,
    x_0: &[f32],
    store: &Store,
    restorer: &Restorer,
) -> Result<(), LabError> {
    let (name, last) = (chain.name, chain.last());
    let degrader = Degrader::new(store, &chain.matrices)?;
    let stepper = Degrader::new(store, &chain.steps)?;

    // 1. Errors.
    const METHODS: [&str; 4] = ["degraded", "one answer of R", "algorithm 1", "algorithm 2"];
    let mut errors: [Vec<f64>; 4] = Default::default();
    let mut degraded = vec![x_0.to_vec()];
    let mut unevennesses = vec![unevenness(x_0)];
    let (mut stepped, mut differences) = (x_0.to_vec(), Vec::new());
    let mut details = [0.0; 4];
    // The first picture of each class.
    let first =
        |x: &[f32]| x.chunks_exact(PER_CLASS * ELEMENTS).flat_map(|c| &c[..ELEMENTS]).copied().collect();
    let mut rows: Vec<(String, Vec<f32>)> = vec![("held out".into(), first(x_0))];
    for s in 1..=last {
        let x_s = degrader.apply(x_0, s)?;
        stepped = stepper.apply(&stepped, s)?;
        differences.push(largest(x_s.iter().zip(&stepped).map(|(a, b)| f64::from((a - b).abs()))));
        let naive = restorer.walk(Algorithm::Naive, &x_s, s)?.remove(s);
        let improved = restorer.walk(Algorithm::Improved, &x_s, s)?.remove(s);
        let restored = [x_s.clone(), restorer.directly(&x_s, s)?, naive, improved];
        for (method, x) in restored.iter().enumerate() {
            errors[method].push(error(x, x_0));
            details[method] = detail(x);
            if chain.restored.contains(&s) {
                rows.push((format!("{s}: {}", METHODS[method]), first(x)));
            }
        }
        unevennesses.push(unevenness(&x_s));
        degraded.push(x_s);
    }
    (lab.progress)(&format!("{name}: restored from {last} severities"));

    // 2. Verdicts.
    let [left, direct, naive, improved] = &errors;
    let worst = |a: &[f64], b: &[f64]| largest(a.iter().zip(b).map(|(a, b)| a / b));
    let mut claim =
        |words: &str, value, expected| findings.verdict(format!("{name}: {words}"), value, expected);
    // Pixels lie within ±1, and a step is two sums of 16 products.
    let roundings = largest(differences.into_iter()) * 2f64.powi(24);
    claim(
        "severity s is s single steps: largest difference of a pixel, in roundings of 1",
        roundings,
        Expected::AtMost(64.0),
    );
    claim(
        "the last severity leaves one grey: largest difference of a pixel from it",
        unevennesses[last],
        Expected::AtMost(1e-4),
    );
    claim(
        "from severity 2 on R comes nearer to the picture than what it was given is: worst ratio of errors",
        worst(&direct[1..], &left[1..]),
        Expected::AtMost(0.6),
    );
    claim(
        "from every severity algorithm 2 comes nearer than algorithm 1: worst ratio of errors",
        worst(improved, naive),
        Expected::AtMost(1.0),
    );
    claim(
        "from severity 1 algorithm 2 comes nearer than one answer of R: ratio of errors",
        improved[0] / direct[0],
        Expected::AtMost(1.0),
    );
    claim(
        "from the last one answer of R comes nearer, the mean of what may have been: algorithm 2 in its error",
        improved[last - 1] / direct[last - 1],
        Expected::AtLeast(1.0),
    );
    claim(
        "but algorithm 2 has the detail that a mean lacks: its detail in that of one answer of R",
        details[3] / details[1],
        Expected::AtLeast(1.3),
    );
    let table: serde_json::Map<_, _> =
        METHODS.iter().zip(&errors).map(|(&method, errors)| (method.into(), json!(errors))).collect();
    findings.number(&format!("{name}_errors_from_severity_1_on"), table);
    findings.number(&format!("{name}_unevenness_from_severity_0_on"), &unevennesses);

    // 3. Pictures and the chart.
    save_rows(&findings.file(&format!("{name}_restoration.png")), &rows, SIDE, SIDE, 1, 48)?;
    let walks = walk_rows(chain, name, &|s| &degraded[s]);
    save_rows(&findings.file(&format!("{name}_degradation.png")), &walks, SIDE, SIDE, 1, 64)?;
    let series = |(colour, errors): (usize, &Vec<f64>)| Series {
        name: METHODS[colour].into(),
        points: (1u32..).zip(errors).map(|(s, &e)| (f64::from(s), e)).collect(),
        colour,
        ..Series::default()
    };
    findings.chart(
        &format!("{name}_error"),
        &Chart {
            title: format!("Restored from {name}, held-out pictures"),
            x_label: "severity s".into(),
            y_label: "mean squared error of a pixel".into(),
            log_y: true,
            series: errors.iter().enumerate().map(series).collect(),
            ..Chart::default()
        },
    )
}

/// The severities to show of the pictures to show: a row for each.
fn walk_rows<'a>(chain: &Chain, label: &str, at: &dyn Fn(usize) -> &'a Vec<f32>) -> Vec<(String, Vec<f32>)> {
    let row = |&picture: &usize| {
        let part = |&s: &usize| at(s)[picture * ELEMENTS..(picture + 1) * ELEMENTS].to_vec();
        (label.to_string(), chain.shown.iter().flat_map(part).collect())
    };
    WALKS.iter().map(row).collect()
}

/// Pictures from a plain grey.
fn draw(
    lab: &Lab,
    findings: &mut Findings,
    chain: &Chain,
    setup: &Setup,
    restorer: &Restorer,
) -> Result<(), LabError> {
    let (name, last, references) = (chain.name, chain.last(), &setup.references);
    let data = spread(references, REFERENCES, ELEMENTS);

    // 1. Starts: one grey for each class, a grey for each picture, and that with a little noise.
    let grey = greys(references, lab.seed);
    let one: Vec<f32> = grey.iter().enumerate().map(|(i, _)| grey[i - i % (PER_CLASS * ELEMENTS)]).collect();
    let mut random = Philox::new(lab.seed, Stream::Initial, 1);
    let noise: Vec<f64> = grey.iter().map(|_| random.normal()).collect();
    let noised =
        |size: f64| -> Vec<f32> { grey.iter().zip(&noise).map(|(&g, z)| g + (size * z) as f32).collect() };
    let mut starts = vec![("one grey a class".to_string(), one), ("greys".to_string(), grey.clone())];
    starts.extend(NOISES.map(|size| (format!("greys, noise {size}"), noised(size))));

    // 2. Walks.
    let mut rows = vec![("held out".to_string(), setup.x_0.clone())];
    let mut measure = |findings: &mut Findings, what: &str, pictures: Vec<f32>| -> [f64; 2] {
        let (right, share) =
            (recognised(&pictures, references), spread(&pictures, PER_CLASS, ELEMENTS) / data);
        let found =
            json!({ "recognised": right, "spread_in_that_of_data": share, "detail": detail(&pictures) });
        findings.number(&format!("{name}_drawn_{}", what.replace([' ', ','], "_")), found);
        rows.push((what.to_string(), pictures));
        [right, share]
    };
    measure(findings, "R alone from greys", restorer.directly(&grey, last)?);
    let naive = restorer.walk(Algorithm::Naive, &grey, last)?;
    measure(findings, "algorithm 1 from greys", naive[last].clone());
    let mut measured = Vec::new();
    let mut walks = Vec::new();
    for (start, x) in &starts {
        let walk = restorer.walk(Algorithm::Improved, x, last)?;
        measured.push(measure(findings, &format!("algorithm 2 from {start}"), walk[last].clone()));
        walks.push(walk);
    }
    let again = restorer.walk(Algorithm::Improved, &grey, last)?;
    (lab.progress)(&format!("{name}: drawn from {} starts", starts.len()));

    // 3. Verdicts.
    let [_, of_one] = measured[0];
    let [right, of_greys] = measured[1];
    let [_, of_noise] = measured[3];
    let mut claim =
        |words: &str, value, expected| findings.verdict(format!("{name}: {words}"), value, expected);
    claim(
        "the same start ends in the same bits: share of values that differ",
        differing(&walks[1][last], &again[last]),
        Expected::AtMost(0.0),
    );
    claim(
        "from grey come glyphs of the class asked for: share of pictures that its mean is nearest to",
        right,
        Expected::AtLeast(0.9),
    );
    // The same sums in the same order; a device whose compiler orders them by place would make small differences.
    claim(
        "from one grey a class has one picture: its spread in that of the data",
        of_one,
        Expected::AtMost(1e-3),
    );
    claim(
        "other greys give little more: spread of a class in that of the data",
        of_greys,
        Expected::AtMost(0.5),
    );
    if name == "blur" {
        // Averages over the whole picture leave R nothing of it to see.
        claim(
            &format!("noise of {} in the start gives more: spread of a class in that without it", NOISES[1]),
            of_noise / of_greys,
            Expected::AtLeast(1.5),
        );
    }

    // 4. Pictures.
    save_rows(&findings.file(&format!("{name}_pictures.png")), &rows, SIDE, SIDE, 1, 32)?;
    let mut strip = walk_rows(chain, "algorithm 1", &|s| &naive[last - s]);
    strip.extend(walk_rows(chain, "algorithm 2", &|s| &walks[1][last - s]));
    for (_, row) in &mut strip {
        *row = row.rchunks_exact(ELEMENTS).flatten().copied().collect();
    }
    save_rows(&findings.file(&format!("{name}_walk.png")), &strip, SIDE, SIDE, 1, 64)?;
    Ok(())
}
