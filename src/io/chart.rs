//! Line charts as PNG and SVG.

use std::io::Write;
use std::path::Path;

use image::RgbImage;
use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    BitMapBackend, ChartBuilder, Circle, DrawingArea, DrawingBackend, IntoDrawingArea, LineSeries,
    PathElement, SVGBackend, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor, ShapeStyle, WHITE};

use super::FileError;
use super::atomic::write_atomic;
use super::axis::Axis;
use super::drawing::{font, one_line, text_width};
use super::palette::{reduced, save_png};

/// The chart's size in units: pixels of the SVG.
const SIZE: (u32, u32) = (800, 500);
/// The PNG is drawn at so many pixels a unit and then halved, which smooths the lines.
const DRAWN_SCALE: u32 = 3;

/// Tells apart for most colour-blind readers too (Okabe and Ito, 2008).
const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const GRID: RGBColor = RGBColor(225, 225, 225);
const AXIS: RGBColor = RGBColor(90, 90, 90);

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stroke {
    /// A thin pale line, for raw noisy values; it lies beneath all thick ones.
    Thin,
    /// A thick line in full colour.
    #[default]
    Thick,
    /// No line: each point a small pale dot, beneath all else.
    Dots,
    /// No line: each two points an arrow from the first to the second, above all else.
    Arrows,
}

/// One line of a chart, through its points in their order, or its points as dots or arrows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// For the legend; empty for none.
    pub name: String,
    /// `(x, y)`. Those that are not finite, or have no place on a logarithmic axis, are left out.
    pub points: Vec<(f64, f64)>,
    /// How its line is drawn.
    pub stroke: Stroke,
    /// Which colour of the palette, counted around: the same for the raw and the smoothed line of one run.
    pub colour: usize,
}

/// A line chart with a legend above it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    /// Above the plot.
    pub title: String,
    /// Below the plot, with the unit.
    pub x_label: String,
    /// Left of the plot, with the unit.
    pub y_label: String,
    /// Whether x is logarithmic.
    pub log_x: bool,
    /// Whether y is logarithmic.
    pub log_y: bool,
    /// The lines, drawn in this order.
    pub series: Vec<Series>,
}

/// The mean of each value and its neighbours, `window` points in all (one more if even) and fewer at the ends. Points
/// that are not finite are left out first.
pub fn smooth(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let points: Vec<_> = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let reach = window / 2;
    let mean = |index: usize| {
        let near = &points[index.saturating_sub(reach)..points.len().min(index.saturating_add(reach + 1))];
        near.iter().map(|(_, y)| y).sum::<f64>() / near.len() as f64
    };
    points.iter().enumerate().map(|(index, (x, _))| (*x, mean(index))).collect()
}

impl Chart {
    /// Adds two lines of one new colour: the points themselves, thin, and their mean over `window` points, thick.
    pub fn add_smoothed(&mut self, name: &str, points: &[(f64, f64)], window: usize) {
        let colour = self.series.iter().map(|series| series.colour + 1).max().unwrap_or(0);
        let mut add = |name, points, stroke| self.series.push(Series { name, points, stroke, colour });
        add(name.to_owned(), points.to_vec(), Stroke::Thin);
        add(format!("{name}, mean of {window}"), smooth(points, window), Stroke::Thick);
    }

    /// Saves the chart as a PNG of 1200 × 750 pixels.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn save_png(&self, path: &Path) -> Result<(), FileError> {
        let mut image = RgbImage::new(SIZE.0 * DRAWN_SCALE, SIZE.1 * DRAWN_SCALE);
        let size = image.dimensions();
        let root = BitMapBackend::with_buffer(&mut image, size).into_drawing_area();
        Painter { scale: DRAWN_SCALE, raster: true }.paint(self, &root).map_err(FileError::encoding(path))?;
        drop(root);
        save_png(path, &reduced(image::imageops::thumbnail(&image, size.0 / 2, size.1 / 2)))
    }

    /// Saves the chart as an SVG of 800 × 500 units.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn save_svg(&self, path: &Path) -> Result<(), FileError> {
        let mut text = String::new();
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        Painter { scale: 1, raster: false }.paint(self, &root).map_err(FileError::encoding(path))?;
        drop(root);
        write_atomic(path, |out| out.write_all(text.as_bytes()))
    }

    /// The points that have a place on the axes, for each series.
    fn visible(&self) -> Vec<(&Series, Vec<(f64, f64)>)> {
        let fits = |&(x, y): &(f64, f64)| Axis::accepts(self.log_x, x) && Axis::accepts(self.log_y, y);
        let points = |series: &Series| match series.stroke {
            // One end alone would pair with an end of the next arrow.
            Stroke::Arrows => {
                series.points.chunks_exact(2).filter(|p| p.iter().all(fits)).flatten().copied().collect()
            }
            _ => series.points.iter().copied().filter(fits).collect(),
        };
        self.series.iter().map(|series| (series, points(series))).collect()
    }
}

type Painted<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

/// Draws with all sizes in units, a unit being `scale` pixels.
struct Painter {
    scale: u32,
    /// Whether pixels are drawn, where the plotting library needs some help.
    raster: bool,
}

impl Painter {
    fn units(&self, count: u32) -> i32 {
        // At most a few thousand pixels.
        (count * self.scale).cast_signed()
    }

    fn text(&self, size: u32) -> TextStyle<'static> {
        TextStyle::from(font(f64::from(size * self.scale)))
    }

    /// The largest size from `size` down to a readable one at which `text` is at most `room` units wide.
    fn fitted(&self, text: &str, size: u32, room: u32) -> TextStyle<'static> {
        let fits = |style: &TextStyle| text_width(text, &style.font) <= room * self.scale;
        let sizes = (9..=size).rev().map(|size| self.text(size));
        sizes.into_iter().find(fits).unwrap_or_else(|| self.text(9))
    }

    fn paint<DB: DrawingBackend>(&self, chart: &Chart, root: &DrawingArea<DB, Shift>) -> Painted<DB> {
        root.fill(&WHITE)?;
        let visible = chart.visible();
        let points = || visible.iter().flat_map(|(_, points)| points);
        let x_axis = Axis::spanning(chart.log_x, points().map(|point| point.0), 0.0);
        let y_axis = Axis::spanning(chart.log_y, points().map(|point| point.1), 0.04);

        let (header, body) = root.split_vertically(self.units(34));
        let middle = Pos::new(HPos::Center, VPos::Center);
        let title = one_line(&chart.title);
        let style = self.fitted(&title, 20, SIZE.0 - 40).pos(middle);
        header.draw_text(&title, &style, (self.units(SIZE.0 / 2), self.units(20)))?;
        let body = self.paint_legend(&chart.series, &body)?;

        let label_style = self.text(13);
        let widest =
            y_axis.ticks().iter().map(|&tick| text_width(&y_axis.label(tick), &label_style.font)).max();
        let mut context = ChartBuilder::on(&body)
            .margin_top(self.units(8))
            .margin_right(self.units(30))
            .margin_bottom(self.units(8))
            .margin_left(self.units(10))
            .x_label_area_size(self.units(46))
            .y_label_area_size(widest.unwrap_or(0).cast_signed() + self.units(36))
            .build_cartesian_2d(x_axis, y_axis)?;
        context
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(self.scale))
            .light_line_style(WHITE.mix(0.0))
            .max_light_lines(0)
            .axis_style(AXIS.stroke_width(self.scale))
            .set_all_tick_mark_size(self.units(4))
            .label_style(label_style)
            .y_label_offset(self.text_drop(13))
            .axis_desc_style(self.text(14))
            .x_desc(one_line(&chart.x_label))
            .y_desc(one_line(&chart.y_label))
            .draw()?;

        for stroke in [Stroke::Dots, Stroke::Thin, Stroke::Thick, Stroke::Arrows] {
            for (series, points) in visible.iter().filter(|(series, _)| series.stroke == stroke) {
                let style = self.line(series);
                if stroke == Stroke::Dots {
                    let dot = |point: &(f64, f64)| Circle::new(*point, self.dot_radius(), style.filled());
                    context.draw_series(points.iter().map(dot))?;
                    continue;
                }
                if stroke == Stroke::Arrows {
                    let place = |point: &(f64, f64)| context.plotting_area().map_coordinate(point);
                    for ends in points.chunks_exact(2) {
                        self.paint_arrow(root, place(&ends[0]), place(&ends[1]), style)?;
                    }
                    continue;
                }
                // A line through one point would not show, and pixel lines get their joints rounded: plotters would
                // draw them as spikes that reach far beyond the plot.
                let radius =
                    if points.len() == 1 { self.units(4) } else { self.line_width(series).cast_signed() / 2 };
                if points.len() == 1 || self.raster {
                    let dot = |point: &(f64, f64)| Circle::new(*point, radius, style.filled());
                    context.draw_series(points.iter().map(dot))?;
                }
                if self.raster {
                    let segments = points.windows(2).map(|ends| PathElement::new(ends.to_vec(), style));
                    context.draw_series(segments)?;
                } else {
                    context.draw_series(LineSeries::new(points.iter().copied(), style))?;
                }
            }
        }
        if points().next().is_none() {
            let area = context.plotting_area().strip_coord_spec();
            let (width, height) = area.dim_in_pixel();
            let at = ((width / 2).cast_signed(), (height / 2).cast_signed());
            area.draw_text("no data", &self.text(18).pos(middle), at)?;
        }
        root.present()
    }

    /// Draws the names of the series from left to right over as many lines as they need, and returns what is left
    /// below: a legend of its own, because one within the plot would hide some of it.
    fn paint_legend<DB: DrawingBackend>(
        &self,
        series: &[Series],
        area: &DrawingArea<DB, Shift>,
    ) -> Result<DrawingArea<DB, Shift>, DrawingAreaErrorKind<DB::ErrorType>> {
        let (left, line_height, sample, gap) =
            (self.units(30), self.units(20), self.units(26), self.units(8));
        let right = self.units(SIZE.0 - 20);
        let (mut x, mut y) = (left, line_height / 2);
        let mut bottom = 0;
        for series in series.iter().filter(|series| !series.name.is_empty()) {
            let (name, room) = (one_line(&series.name), SIZE.0 - 100);
            let text_style = self.fitted(&name, 14, room).pos(Pos::new(HPos::Left, VPos::Center));
            let text = text_width(&name, &text_style.font).min(room * self.scale).cast_signed();
            let width = sample + gap + text;
            if x > left && x + width > right {
                (x, y) = (left, y + line_height);
            }
            let style = self.line(series);
            match series.stroke {
                Stroke::Dots => {
                    for part in 1..4 {
                        let at = (x + part * sample / 4, y);
                        area.draw(&Circle::new(at, self.dot_radius(), style.filled()))?;
                    }
                }
                Stroke::Arrows => self.paint_arrow(area, (x, y), (x + sample, y), style)?,
                _ => area.draw(&PathElement::new(vec![(x, y), (x + sample, y)], style))?,
            }
            area.draw_text(&name, &text_style, (x + sample + gap, y + self.text_drop(14)))?;
            x += width + 3 * gap;
            bottom = y + line_height / 2;
        }
        // Too many names may not squeeze out the plot itself.
        let (_, below) = area.split_vertically(bottom.min(self.units(SIZE.1 / 2)));
        Ok(below)
    }

    /// Draws an arrow between two pixels of `area`; none where they are the same.
    fn paint_arrow<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        from: (i32, i32),
        to: (i32, i32),
        style: ShapeStyle,
    ) -> Painted<DB> {
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy);
        if length == 0.0 {
            return Ok(());
        }
        area.draw(&PathElement::new(vec![from, to], style))?;
        // The barbs go back by this part of the arrow, and by half of it to either side. Within the arrow's length, so
        // they fit.
        let part = (f64::from(self.units(5)) / length).min(0.5);
        for side in [-0.5, 0.5] {
            let barb = (
                to.0 - (part * (dx + side * dy)).round() as i32,
                to.1 - (part * (dy - side * dx)).round() as i32,
            );
            area.draw(&PathElement::new(vec![barb, to], style))?;
        }
        Ok(())
    }

    fn line(&self, series: &Series) -> ShapeStyle {
        let colour = PALETTE[series.colour % PALETTE.len()];
        // Mixed with white and not transparent: overlaps would show as darker spots.
        let colour = match series.stroke {
            Stroke::Thin | Stroke::Dots => pale(colour),
            Stroke::Thick | Stroke::Arrows => colour,
        };
        colour.stroke_width(self.line_width(series))
    }

    /// In pixels.
    fn dot_radius(&self) -> i32 {
        (self.units(3) / 2).max(1)
    }

    /// In pixels.
    fn line_width(&self, series: &Series) -> u32 {
        match series.stroke {
            Stroke::Thin | Stroke::Dots | Stroke::Arrows => self.scale,
            Stroke::Thick => 2 * self.scale,
        }
    }

    /// By how many pixels centred text must be lowered: in pixel drawings plotters sets it too high.
    fn text_drop(&self, size: u32) -> i32 {
        if self.raster { self.units(size) / 6 } else { 0 }
    }
}

fn pale(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let mix = |channel: u8| 255 - (255 - channel) / 5 * 2;
    RGBColor(mix(r), mix(g), mix(b))
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
