use super::*;

fn line(points: &[(f64, f64)]) -> Series {
    Series { name: "loss".into(), points: points.to_vec(), ..Default::default() }
}

fn chart(series: Vec<Series>, log_x: bool, log_y: bool) -> Chart {
    let text = |text: &str| text.to_owned();
    Chart { title: text("Loss"), x_label: text("step"), y_label: text("loss"), log_x, log_y, series }
}

/// The chart as SVG, which is quicker than PNG in a debug build and comes from the same code.
fn drawn(chart: &Chart) -> String {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("a.svg");
    chart.save_svg(&svg).unwrap();
    let text = std::fs::read_to_string(svg).unwrap();
    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
    text
}

fn lines(svg: &str) -> usize {
    svg.matches("stroke=\"#0072B2\"").count()
}

#[test]
fn a_line_is_drawn_with_its_words() {
    let svg = drawn(&chart(vec![line(&[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)])], false, false));
    for word in ["Loss", "step", "loss", "0.5", "1.5"] {
        assert!(svg.contains(word), "no {word}");
    }
    let awkward = drawn(&Chart { title: "a <b> & \u{1}".into(), ..Default::default() });
    assert!(!awkward.contains("<b>") && !awkward.contains("& ") && !awkward.contains('\u{1}'));
    assert_eq!(lines(&svg), 2, "one line in the plot and one in the legend");
}

#[test]
fn a_png_holds_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    chart(vec![line(&[(0.0, 1.0), (1.0, 3.0)])], false, true).save_png(&path).unwrap();
    let image = image::open(path).unwrap().to_rgb8();
    assert_eq!(image.dimensions(), (1200, 750));
    assert!(image.pixels().filter(|pixel| pixel.0 == [0, 114, 178]).count() > 1000);
}

#[test]
fn odd_data_is_drawn_too() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for (log_x, log_y) in [(false, false), (true, false), (false, true), (true, true)] {
        let nothing = drawn(&chart(vec![], log_x, log_y));
        assert!(nothing.contains("no data"));
        let lost = drawn(&chart(vec![line(&[(nan, 1.0), (1.0, inf), (-inf, nan)])], log_x, log_y));
        assert!(lost.contains("no data"));
        let one = drawn(&chart(vec![line(&[(3.0, 4.0), (nan, 1.0)])], log_x, log_y));
        assert_eq!(one.matches("<circle").count(), 1);
        drawn(&chart(vec![line(&[(1.0, 2.0), (5.0, 2.0)])], log_x, log_y));
        drawn(&chart(
            vec![line(&[(1e-300, f64::MIN_POSITIVE), (f64::MAX, 1e300), (1e300, -1e300)])],
            log_x,
            log_y,
        ));
    }
    let positive = drawn(&chart(vec![line(&[(0.0, 1.0), (1.0, -1.0), (2.0, 5.0)])], true, true));
    assert_eq!(positive.matches("<circle").count(), 1, "one point is left on logarithmic axes");
}

#[test]
fn dots_and_arrows_are_drawn_one_by_one() {
    let points: Vec<_> = (0..6).map(|i| (f64::from(i), f64::from(i * i))).collect();
    let of = |stroke, points: &[(f64, f64)]| {
        drawn(&chart(vec![Series { stroke, name: String::new(), ..line(points) }], false, false))
    };
    let dots = of(Stroke::Dots, &points);
    assert_eq!((dots.matches("<circle").count(), lines(&dots)), (6, 0), "pale, and without a line");
    assert_eq!(lines(&of(Stroke::Arrows, &points)), 9, "a shaft and two barbs for each two points");
    // Were the lost end left out alone, the others would pair anew.
    let mut lost = points;
    lost[1] = (f64::NAN, 0.0);
    assert_eq!(lines(&of(Stroke::Arrows, &lost)), 6);
    assert_eq!(lines(&of(Stroke::Arrows, &[(1.0, 2.0), (1.0, 2.0), (3.0, 4.0)])), 0, "no length, and no end");
    // The head lies at the second point: both barbs end where the shaft does.
    let ends = |svg: &str| -> Vec<String> {
        svg.lines()
            .filter(|l| l.contains("#0072B2"))
            .filter_map(|l| {
                l.split("points=\"").nth(1)?.split('"').next()?.split_whitespace().last().map(str::to_owned)
            })
            .collect()
    };
    let arrow = ends(&of(Stroke::Arrows, &[(0.0, 0.0), (1.0, 1.0)]));
    assert!(arrow.len() == 3 && arrow.iter().all(|end| *end == arrow[0]), "{arrow:?}");
}

#[test]
fn many_long_names_leave_room_for_the_plot() {
    let series =
        |index: usize| Series { name: format!("{index} {}", "name ".repeat(40)), ..line(&[(0.0, 1.0)]) };
    drawn(&chart((0..100).map(series).collect(), false, false));
}

#[test]
fn smoothing_is_a_centred_mean() {
    let points = [(0.0, 3.0), (1.0, 0.0), (2.0, f64::NAN), (3.0, 3.0), (4.0, 9.0)];
    assert_eq!(smooth(&points, 3), [(0.0, 1.5), (1.0, 2.0), (3.0, 4.0), (4.0, 6.0)]);
    assert_eq!(smooth(&points, 1), [(0.0, 3.0), (1.0, 0.0), (3.0, 3.0), (4.0, 9.0)]);
    assert_eq!(smooth(&points, usize::MAX)[0], (0.0, 3.75));
    assert!(smooth(&[], 5).is_empty());
}

#[test]
fn the_raw_and_the_smoothed_line_share_a_colour() {
    let mut chart = Chart::default();
    chart.add_smoothed("train", &[(0.0, 1.0)], 9);
    chart.add_smoothed("held out", &[(0.0, 1.0)], 9);
    assert_eq!(chart.series.iter().map(|series| series.colour).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_eq!(chart.series[3].name, "held out, mean of 9");
}

/// For looking at: `INKWASH_SAMPLES=folder cargo test --lib io::chart -- samples`.
#[test]
fn samples() {
    let Some(folder) = std::env::var_os("INKWASH_SAMPLES") else { return };
    let folder = Path::new(&folder);
    let run = |seed: u32, floor: f64| -> Vec<(f64, f64)> {
        let mut state = seed;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state) / f64::from(u32::MAX) - 0.5
        };
        let steps = (1..4000).map(|index| f64::from(index) * 5.0);
        steps.map(|step| (step, (floor + 1.2 * (-step / 900.0).exp()) * (1.0 + 0.5 * noise()))).collect()
    };
    let mut loss = chart(vec![], false, true);
    loss.title = "Training loss of a small U-Net on handwritten digits".into();
    loss.y_label = "mean squared error".into();
    loss.add_smoothed("train", &run(1, 0.03), 101);
    loss.add_smoothed("held out", &run(2, 0.05), 101);
    loss.save_png(&folder.join("loss.png")).unwrap();
    loss.save_svg(&folder.join("loss.svg")).unwrap();
    loss.log_y = false;
    loss.save_png(&folder.join("linear.png")).unwrap();
    chart(vec![], true, false).save_png(&folder.join("empty.png")).unwrap();
    chart(vec![line(&[(2500.0, 0.00012)])], false, false).save_png(&folder.join("one.png")).unwrap();
    let series = |index: usize| Series {
        name: format!("learning rate {index}e-4"),
        points: (1..50)
            .map(|x| (f64::from(x) * 1e-4, 1e6 * f64::from(x).powi(2) * (index + 1) as f64))
            .collect(),
        colour: index,
        ..Default::default()
    };
    chart((0..9).map(series).collect(), true, true).save_png(&folder.join("many.png")).unwrap();
}
