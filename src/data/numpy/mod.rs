//! NumPy's arrays: `.npy` files and `.npz` archives of pictures, with labels beside them.

mod container;
mod header;
mod names;
mod pixels;
mod problem;

use std::io::Read;
use std::path::{Path, PathBuf};

pub(super) use container::Container;
use header::Header;
pub(super) use header::MAGIC;
use names::{Role, role};
use pixels::{Pictures, Range, Scale};
pub use problem::Problem;

use super::split::{self, Part};
use super::{DataError, Dataset, MAX_BYTES, Opening, PassedOver, raw};

/// Reads the pictures of a container: those called `images`, or else those that their name says are pictures, of the part
/// that is asked for; with their labels if there are any.
pub(super) fn dataset(
    container: &Container,
    images: Option<&str>,
    opening: &mut Opening,
) -> Result<Dataset, DataError> {
    let names = container.names()?;
    let images = match images {
        Some(images) => {
            let part = Part::of(role(images).map_or(Part::WHOLE, |(_, part)| part));
            split::choose(
                &PathBuf::from(container.place(images)),
                &[part],
                opening.options.split.as_deref(),
            )?;
            images.to_owned()
        }
        None => choose(container, &names, opening)?,
    };
    let labels = labels_of(&images, &names);
    if let [_, _, ..] = labels[..] {
        return Err(several(container, "several arrays of labels", labels.into_iter()));
    }
    read(container, &images, labels.first().copied(), &names, opening)
}

fn several<'a>(container: &Container, what: &'static str, names: impl Iterator<Item = &'a str>) -> DataError {
    DataError::Arrays { path: container.path().into(), what, found: raw::listed(names) }
}

/// The pictures of the part that is asked for.
fn choose(container: &Container, names: &[String], opening: &mut Opening) -> Result<String, DataError> {
    let refuse = |what| Err(several(container, what, names.iter().map(String::as_str)));
    let mut images: Vec<(&String, Part)> = names
        .iter()
        .filter_map(|name| match role(name) {
            Some((Role::Images, part)) => Some((name, Part::of(part))),
            _ => None,
        })
        .collect();
    if images.is_empty() {
        // A single file of any name is what is meant, apart from its labels.
        let mut pictures = names.iter().filter(|name| {
            let labels = role(name).is_some_and(|(role, _)| role == Role::Labels);
            !labels && !name.to_ascii_lowercase().ends_with("_labels")
        });
        return match (container, pictures.next(), pictures.next()) {
            (Container::Folder(..), Some(only), None) => Ok(only.clone()),
            (Container::Folder(..), Some(_), Some(_)) => {
                refuse("several arrays, none of a name for pictures")
            }
            _ => refuse("no array of a name for pictures"),
        };
    }
    images.sort_by(|a, b| a.1.cmp(&b.1));
    let parts: Vec<Part> = images.iter().map(|(_, part)| part.clone()).collect();
    if parts.windows(2).any(|pair| pair[0] == pair[1]) {
        return refuse("several arrays of pictures of the same part");
    }
    let chosen = split::choose(container.path(), &parts, opening.options.split.as_deref())?;
    let places: Vec<PathBuf> = images.iter().map(|(name, _)| container.place(name).into()).collect();
    let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
    split::report_others(opening.report, &parts, &places, chosen);
    Ok(images[chosen].0.clone())
}

/// The labels of the pictures `images`: `NAME_labels`, or what is named as labels of the same part.
fn labels_of<'a>(images: &str, names: &'a [String]) -> Vec<&'a str> {
    let own = format!("{images}_labels");
    let names = || names.iter().map(String::as_str);
    if let Some(own) = names().find(|name| *name == own) {
        return vec![own];
    }
    let part = role(images).map_or(Part::WHOLE, |(_, part)| part);
    names().filter(|name| role(name) == Some((Role::Labels, part))).collect()
}

fn read(
    container: &Container,
    images: &str,
    labels: Option<&str>,
    names: &[String],
    opening: &mut Opening,
) -> Result<Dataset, DataError> {
    let place = container.place(images);
    let numpy = |problem| DataError::Numpy { place: place.clone(), problem };
    let header = container.with(images, |stream, bytes| open(stream, bytes))?;
    let pictures = Pictures::of(&header.shape).map_err(numpy)?;
    let Pictures { count, height, width, channels, .. } = pictures;
    let colours = if channels == 1 { "grey" } else { "RGB" };
    opening.report.layout = format!("NumPy array {place}: {count} pictures of {height} x {width}, {colours}");

    let (class_names, labels) = match labels {
        Some(labels) => raw::number_classes(&read_labels(container, &place, labels, count)?, opening),
        None => {
            let others = raw::listed(names.iter().map(String::as_str).filter(|name| *name != images));
            let among = if others.is_empty() { others } else { format!(" among {others}") };
            opening
                .report
                .notes
                .push(format!("no labels of {place} were found{among}: there are no classes"));
            (Vec::new(), Vec::new())
        }
    };
    for other in names.iter().filter(|name| role(name).is_none() && *name != images) {
        if let Container::Npz(_) = container {
            let reason = "an array of a name that is neither for pictures nor for labels".into();
            opening.report.passed_over.push(PassedOver { path: container.place(other).into(), reason });
        }
    }

    let certain = matches!(container, Container::Folder(..));
    let mut collector = raw::Collector::new(&place, count, (height, width), certain, opening)?;
    let element = header.element;
    let (scale, range) = match Scale::of_type(element) {
        Some(scale) => (scale, None),
        None => {
            let range = container.with(images, |stream, bytes| range(stream, bytes))?;
            (Scale::of_range(element, range).map_err(numpy)?, Some(range))
        }
    };
    opening.report.notes.push(scale.describe(element, range));
    let (mut picture, mut highest) = (Vec::new(), 0);
    container.with(images, |stream, bytes| {
        let header = open(stream, bytes)?;
        each(stream, &header, |row| {
            picture.clear();
            picture.extend(pictures.order().map(|at| {
                let raw = &row[at * element.bytes..][..element.bytes];
                if scale == Scale::Bytes && element.bytes == 1 {
                    raw[0]
                } else {
                    scale.byte(element.number(raw))
                }
            }));
            highest = picture.iter().fold(highest, |highest, &byte| highest.max(byte));
            collector.push(&picture, opening);
            Ok(())
        })
    })?;
    if highest <= 1 {
        opening.report.notes.push(format!(
            "no value of {place} is above {highest} of 255, so every picture is black; masks of 0 and 1 can be saved as bool"
        ));
    }
    Ok(collector.finish("NumPy", class_names, labels, opening))
}

/// Reads a header and compares it with the number of bytes that there are, where that is known.
fn open(stream: &mut dyn Read, bytes: Option<u64>) -> Result<Header, Problem> {
    let header = Header::read(stream)?;
    let expected = header.body_bytes().and_then(|body| body.checked_add(header.bytes)).unwrap_or(u64::MAX);
    match bytes {
        Some(found) if found != expected => Err(Problem::Length { found, expected }),
        _ => Ok(header),
    }
}

/// Gives the bytes of each item of the first axis, its numbers in the order of the other axes.
fn each(
    stream: &mut dyn Read,
    header: &Header,
    mut take: impl FnMut(&[u8]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let size = header.element.bytes;
    let body = header.body_bytes().unwrap_or(u64::MAX);
    let count = header.shape[0] as u64;
    let item_bytes = body.checked_div(count).unwrap_or(0);
    let cut_short = |found: u64| Problem::Length {
        found: header.bytes + found,
        expected: header.bytes.saturating_add(body),
    };
    let mut item = Vec::new();
    // What is read grows with what is there, whatever the header says.
    let mut fill = |bytes: u64, item: &mut Vec<u8>| {
        item.clear();
        stream.take(bytes).read_to_end(item)
    };
    if header.fortran_order && header.shape.len() > 1 {
        if body > MAX_BYTES {
            return Err(Problem::Fortran { bytes: body, limit: MAX_BYTES });
        }
        let mut whole = Vec::new();
        if (fill(body, &mut whole)? as u64) < body {
            return Err(cut_short(whole.len() as u64));
        }
        let places = fortran_places(&header.shape);
        for i in 0..header.shape[0] {
            item.clear();
            for place in &places {
                item.extend_from_slice(&whole[(place + i) * size..][..size]);
            }
            take(&item)?;
        }
    } else {
        for i in 0..count {
            if (fill(item_bytes, &mut item)? as u64) < item_bytes {
                return Err(cut_short(i * item_bytes + item.len() as u64));
            }
            take(&item)?;
        }
    }
    // Reading to the end also checks the sum that an archive keeps of its member.
    match fill(1, &mut item)? {
        0 => Ok(()),
        more => Err(cut_short(body + more as u64)),
    }
}

/// Where, in an array of this shape whose first index runs fastest, the numbers of its first item lie, in the order in which
/// the last index runs fastest.
fn fortran_places(shape: &[usize]) -> Vec<usize> {
    let mut places = vec![0];
    let mut stride = shape[0];
    let mut strides = Vec::new();
    for &size in &shape[1..] {
        strides.push((size, stride));
        stride *= size;
    }
    for (size, stride) in strides {
        places = places.iter().flat_map(|place| (0..size).map(move |i| place + i * stride)).collect();
    }
    places
}

/// The least and the greatest value.
fn range(stream: &mut dyn Read, bytes: Option<u64>) -> Result<Range, Problem> {
    let header = open(stream, bytes)?;
    let mut range = Range { low: f64::INFINITY, high: f64::NEG_INFINITY };
    let mut picture = 0;
    each(stream, &header, |item| {
        for raw in item.chunks_exact(header.element.bytes) {
            let value = header.element.number(raw);
            if !value.is_finite() {
                return Err(Problem::NotFinite { picture });
            }
            range = Range { low: range.low.min(value), high: range.high.max(value) };
        }
        picture += 1;
        Ok(())
    })?;
    Ok(range)
}

/// The class numbers of `count` pictures.
fn read_labels(container: &Container, images: &str, name: &str, count: usize) -> Result<Vec<u64>, DataError> {
    let header = container.with(name, |stream, bytes| open(stream, bytes))?;
    let found = header.shape.first().copied().unwrap_or(0);
    if found != count && !header.shape.is_empty() {
        let (images, labels) = (images.into(), container.place(name).into());
        return Err(DataError::LabelCount { images, labels, found, expected: count });
    }
    container.with(name, |stream, bytes| {
        let header = open(stream, bytes)?;
        let element = header.element;
        let wrong =
            |hint| Err(Problem::Labels { element: element.name(), shape: header.shape.clone(), hint });
        match header.shape[..] {
            [_] | [_, 1] if element.integer(&[]).is_some() => {}
            [_, _] => return wrong("; of one column for each class, save y.argmax(1)"),
            [_] => return wrong("; save y.astype(numpy.int64)"),
            _ => return wrong(""),
        }
        let mut labels = Vec::new();
        each(stream, &header, |item| {
            let label = element.integer(item).unwrap_or(0);
            match u64::try_from(label) {
                Ok(label) => labels.push(label),
                Err(_) => return Err(Problem::NegativeLabel { index: labels.len(), label }),
            }
            Ok(())
        })?;
        Ok(labels)
    })
}
