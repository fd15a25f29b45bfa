//! The folder of `inkwash sample`: what is there already, and how pictures are added to it. Pictures are on the disk as soon
//! as they are drawn; grid and npz are made of what is there at the end, so that an interruption changes nothing in them.

use super::classes::Classes;
use super::record::{Record, differences};
use crate::cli::Failure;
use crate::data::to_unit;
use crate::io::atomic::{write_atomic, write_new};
use crate::io::npz::{NpzArray, read_npz_array, write_npz};
use crate::io::{
    GridExtent, encode_grid, is_whole_png, read_single, remove_abandoned, save_single, to_bytes, write_json,
};
use crate::train::grid_columns;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;

const RECORD: &str = "samples.json";
/// All pictures, or the first of them, in one.
pub const GRID: &str = "grid.png";
const NPZ: &str = "samples.npz";
/// Pixels of the pictures so far, one after the other, where each has no file of its own.
const PARTIAL: &str = ".samples.partial";
/// The shorter side that pictures in the grid have at least.
const GRID_PICTURE_SIDE: usize = 64;
/// Names that a message lists at most.
const NAMED: usize = 4;

/// What is written of the pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file each, and the grid.
    Png,
    /// One npz file, and the grid.
    Npz,
    /// The grid alone.
    Grid,
}

/// The folder and what is to be in it.
pub struct Output {
    pub folder: PathBuf,
    pub kind: Kind,
    /// Pictures asked for.
    pub count: usize,
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Whether an npz has labels.
    pub with_labels: bool,
    pub classes: Classes,
}

/// What is in the folder.
pub struct Found {
    /// None in a folder without.
    pub record: Option<Record>,
    /// Which of the pictures are there.
    pub present: Vec<bool>,
    /// Whether nothing is left to be done.
    pub complete: bool,
}

impl Output {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn picture(&self, i: usize) -> PathBuf {
        self.folder.join(picture_name(i))
    }

    /// The grid.
    pub fn grid_path(&self) -> PathBuf {
        self.path(GRID)
    }

    /// The pictures in one file.
    pub fn npz_path(&self) -> PathBuf {
        self.path(NPZ)
    }

    /// What the grid of so many pictures shows.
    pub fn extent(&self, count: usize) -> GridExtent {
        let columns = grid_columns(count, self.classes.labels.len());
        GridExtent::new(count, columns, self.shape[0], self.shape[1], GRID_PICTURE_SIDE)
    }

    /// Pictures that are drawn: no more than are written.
    pub fn drawn(&self) -> usize {
        if self.kind == Kind::Grid { self.extent(self.count).shown } else { self.count }
    }

    fn item(&self) -> usize {
        self.shape.iter().product()
    }

    /// Looks at what is in the folder, and refuses whatever is in the way, before anything is drawn or written.
    pub fn survey(&self, settings: &Map<String, Value>) -> Result<Found, Failure> {
        let names = self.names()?;
        let has = |name: &str| names.contains(&OsString::from(name));
        let Some(record) = Record::read(&self.path(RECORD))? else {
            let own = [GRID, NPZ, PARTIAL].map(String::from);
            self.refuse_foreign(own.into_iter().chain(self.picture_names(0)), &names)?;
            return Ok(Found { record: None, present: vec![false; self.drawn()], complete: false });
        };
        let differences = differences(&record.settings, settings);
        if !differences.is_empty() {
            return Err(format!(
                "{} holds pictures of other settings: {differences}; choose another --out, or the settings of its {RECORD}",
                self.folder.display()
            )
            .into());
        }
        if self.count < record.count {
            let (folder, count) = (self.folder.display(), record.count);
            return Err(format!(
                "{folder} was begun with -n {count}; give -n {count} or more, or choose another --out"
            )
            .into());
        }
        self.refuse_foreign(self.picture_names(record.count), &names)?;

        let mut present = vec![false; self.drawn()];
        match self.kind {
            Kind::Png => {
                for (i, present) in present.iter_mut().enumerate().take(record.count) {
                    *present = has(&picture_name(i)) && self.is_whole(i)?;
                }
            }
            Kind::Npz | Kind::Grid => {
                let there = self.partial_pictures()?.max(self.npz_pictures(record.finished)?);
                present.iter_mut().take(there).for_each(|present| *present = true);
            }
        }
        let finished = record.finished == self.count && has(GRID);
        let complete = match self.kind {
            Kind::Png => finished && !present.contains(&false),
            Kind::Npz => finished && has(NPZ) && !has(PARTIAL),
            Kind::Grid => finished && !has(PARTIAL),
        };
        if self.kind == Kind::Png && record.finished != self.count {
            self.grid_pictures(record.finished, &present, None)?;
        }
        Ok(Found { record: Some(record), present, complete })
    }

    /// The names in the folder; none if there is no folder yet.
    fn names(&self) -> Result<HashSet<OsString>, Failure> {
        let unreadable = |e| format!("{}: {e}; choose another --out", self.folder.display());
        match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(e) => Err(unreadable(e).into()),
            Ok(entries) => entries.map(|e| Ok(e.map_err(unreadable)?.file_name())).collect(),
        }
    }

    /// The pictures' own files from number `first` on.
    fn picture_names(&self, first: usize) -> impl Iterator<Item = String> + use<> {
        let files = if self.kind == Kind::Png { first..self.count } else { 0..0 };
        files.map(picture_name)
    }

    /// Refuses names that are in the folder and that would be written.
    fn refuse_foreign(
        &self,
        ours: impl Iterator<Item = String>,
        names: &HashSet<OsString>,
    ) -> Result<(), Failure> {
        let taken: Vec<String> = ours.filter(|name| names.contains(&OsString::from(name))).collect();
        if taken.is_empty() {
            return Ok(());
        }
        let more = taken.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(format!(
            "{} already holds {}{more}, which this would write; nothing is replaced: choose another --out, or move them away",
            self.folder.display(),
            taken[..taken.len().min(NAMED)].join(", ")
        )
        .into())
    }

    fn is_whole(&self, i: usize) -> Result<bool, Failure> {
        let [height, width, _] = self.shape;
        if is_whole_png(&self.picture(i), height, width)? {
            return Ok(true);
        }
        Err(format!(
            "{} is no whole PNG of {height} x {width} pixels; move it away, and the same command draws the picture again",
            self.picture(i).display()
        )
        .into())
    }

    /// Whole pictures in the partial file.
    fn partial_pictures(&self) -> Result<usize, Failure> {
        match std::fs::metadata(self.path(PARTIAL)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(format!("{}: {e}", self.path(PARTIAL).display()).into()),
            Ok(about) => Ok(usize::try_from(about.len() / self.item() as u64)?.min(self.drawn())),
        }
    }

    /// The axes of the npz's pictures.
    fn npz_shape(&self, count: usize) -> [usize; 4] {
        let [height, width, channels] = self.shape;
        [count, height, width, channels]
    }

    /// Pictures in the npz file: all, or those of a smaller `-n`.
    fn npz_pictures(&self, finished: usize) -> Result<usize, Failure> {
        let path = self.npz_path();
        if self.kind != Kind::Npz || !path.exists() {
            return Ok(0);
        }
        for count in [self.count, finished] {
            if count > 0 && read_npz_array(&path, "arr_0", "|u1", &self.npz_shape(count), |_| Ok(()))? {
                return Ok(count);
            }
        }
        Err(format!(
            "{} holds other arrays than this command writes; choose another --out, or move it away",
            path.display()
        )
        .into())
    }

    /// Makes the folder and writes down what is to be in it. The partial file, where there is one, is then open and holds
    /// whole pictures alone.
    pub fn begin(&self, found: &Found, record: &Record) -> Result<Writer<'_>, Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|e| format!("{}: {e}", self.folder.display()))?;
        remove_abandoned(&self.folder);
        let path = self.path(RECORD);
        let value = serde_json::to_value(record)?;
        match &found.record {
            None => write_new(&path, |out| writeln!(out, "{value:#}"))?,
            Some(before) if before == record => {}
            Some(_) => write_json(&path, &value)?,
        }
        let partial = if self.kind == Kind::Png { None } else { Some(self.open_partial(record.finished)?) };
        Ok(Writer { output: self, record: record.clone(), partial })
    }

    fn open_partial(&self, finished: usize) -> Result<File, Failure> {
        let path = self.path(PARTIAL);
        let io = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(format!("{}: another inkwash draws into this folder", self.folder.display()).into());
        }
        let (there, item) = (self.partial_pictures()?, self.item() as u64);
        file.set_len(there as u64 * item).map_err(io)?;
        let in_npz = self.npz_pictures(finished)?;
        if in_npz > there {
            // Pictures of a smaller -n: what follows is added to them.
            file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
            read_npz_array(&self.npz_path(), "arr_0", "|u1", &self.npz_shape(in_npz), |pixels| {
                std::io::copy(pixels, &mut file).map(drop)
            })?;
        }
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok(file)
    }

    /// The bytes of the grid of the first `count` pictures, read back from the disk.
    fn grid(&self, count: usize, partial: Option<&File>) -> Result<Vec<u8>, Failure> {
        let [height, width, channels] = self.shape;
        let GridExtent { columns, shown } = self.extent(count);
        let mut pixels = Vec::new();
        match partial {
            Some(mut file) => {
                let io = |e: std::io::Error| format!("{}: {e}", self.path(PARTIAL).display());
                file.rewind().map_err(io)?;
                let bytes = (shown * self.item()) as u64;
                file.take(bytes).read_to_end(&mut pixels).map_err(io)?;
            }
            None => {
                for i in 0..shown {
                    pixels.extend(read_single(&self.picture(i), height, width, channels)?);
                }
            }
        }
        let pictures: Vec<f32> = pixels.into_iter().map(to_unit).collect();
        Ok(encode_grid(&self.grid_path(), &pictures, height, width, channels, columns, GRID_PICTURE_SIDE)?)
    }

    /// Of how many pictures the grid was made that is there, if one is. One that is of neither this command nor a smaller
    /// `-n` is refused, as far as the pictures that would be in it are `present`.
    fn grid_pictures(
        &self,
        finished: usize,
        present: &[bool],
        partial: Option<&File>,
    ) -> Result<Option<usize>, Failure> {
        let path = self.grid_path();
        let there = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            there => there.map_err(|e| format!("{}: {e}", path.display()))?,
        };
        let mut known = false;
        for count in [self.count, finished] {
            if count > 0 && present.iter().take(self.extent(count).shown).all(|&present| present) {
                known = true;
                if self.grid(count, partial)? == there {
                    return Ok(Some(count));
                }
            }
        }
        if known {
            return Err(format!(
                "{} shows other pictures than this command draws; choose another --out, or move it away",
                path.display()
            )
            .into());
        }
        Ok(None)
    }

    fn partial_error(&self, error: &std::io::Error) -> Failure {
        format!("{}: {error}", self.path(PARTIAL).display()).into()
    }

    fn write_npz(&self, pixels: &mut File, replace: bool) -> Result<(), Failure> {
        let labels = self.classes.of_pictures(0, self.count);
        let labels: Vec<u8> = labels.into_iter().flat_map(|label| i64::from(label).to_le_bytes()).collect();
        let mut labels = labels.as_slice();
        let mut pixels = BufReader::with_capacity(1 << 20, pixels);
        let shape = self.npz_shape(self.count);
        let mut arrays = vec![NpzArray { name: "arr_0", dtype: "|u1", shape: &shape, data: &mut pixels }];
        if self.with_labels {
            arrays.push(NpzArray { name: "arr_1", dtype: "<i8", shape: &shape[..1], data: &mut labels });
        }
        Ok(write_npz(&self.npz_path(), replace, &mut arrays)?)
    }
}

/// Adds pictures to the folder.
pub struct Writer<'a> {
    output: &'a Output,
    record: Record,
    /// Open at its end.
    partial: Option<File>,
}

impl Writer<'_> {
    /// Writes those of pictures `range`, which have just been drawn, that are not `present` yet.
    pub fn add(
        &mut self,
        range: Range<usize>,
        pictures: &[f32],
        present: &mut [bool],
    ) -> Result<(), Failure> {
        let [height, width, channels] = self.output.shape;
        let of_item = pictures.chunks_exact(self.output.item());
        for (i, picture) in range.zip(of_item).filter(|(i, _)| !present[*i]).collect::<Vec<_>>() {
            let path = self.output.picture(i);
            match &mut self.partial {
                None => save_single(&path, picture, height, width, channels)?,
                Some(partial) => {
                    let bytes = to_bytes(&path, picture, height, width, channels)?;
                    partial.write_all(&bytes).map_err(|e| self.output.partial_error(&e))?;
                }
            }
            present[i] = true;
        }
        if let Some(partial) = &self.partial {
            partial.sync_data().map_err(|e| self.output.partial_error(&e))?;
        }
        Ok(())
    }

    /// Makes the files of all pictures, once they are all there.
    pub fn finish(mut self, present: &[bool]) -> Result<(), Failure> {
        let Output { kind, count, .. } = *self.output;
        let output = self.output;
        if let (Kind::Npz, Some(partial)) = (kind, &mut self.partial) {
            let there = output.npz_pictures(self.record.finished)?;
            if there != count {
                partial.rewind().map_err(|e| output.partial_error(&e))?;
                output.write_npz(partial, there > 0)?;
            }
        }
        if self.record.finished != count || !output.grid_path().exists() {
            let path = output.grid_path();
            let there = output.grid_pictures(self.record.finished, present, self.partial.as_ref())?;
            if there != Some(count) {
                let bytes = output.grid(count, self.partial.as_ref())?;
                let write = |out: &mut std::io::BufWriter<&File>| out.write_all(&bytes);
                if there.is_some() { write_atomic(&path, write)? } else { write_new(&path, write)? }
            }
            self.record.finished = count;
            write_json(&output.path(RECORD), &serde_json::to_value(&self.record)?)?;
        }
        if self.partial.take().is_some() {
            std::fs::remove_file(output.path(PARTIAL)).map_err(|e| output.partial_error(&e))?;
        }
        Ok(())
    }
}

fn picture_name(i: usize) -> String {
    format!("{i:05}.png")
}
