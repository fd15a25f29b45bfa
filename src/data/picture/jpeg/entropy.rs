//! The entropy-coded data of a JPEG scan: Huffman codes of baseline and progressive frames, walked block by block.

use super::{Fault, Frame, next_marker};
use std::ops::Range;

/// Equal bytes that may be left over after the last block: some cameras pad a scan, and every decoder steps over it.
const PADDING: usize = 16;

/// A Huffman table (T.81, annex C and F.2.2.3).
pub(super) struct Huffman {
    /// By the next 9 bits: symbol and length of the code they begin with; length 0 if it is longer.
    short: Vec<(u8, u8)>,
    /// By length: one past the largest code of this length, and what is added to a code to index `symbols`.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

const SHORT: u32 = 9;

impl Huffman {
    /// Reads a table from the body of a segment; also what comes after it. `None` if it is no prefix code.
    pub(super) fn new(body: &[u8]) -> Option<(Self, &[u8])> {
        let (counts, rest) = body.split_at_checked(16)?;
        let total = counts.iter().map(|&count| usize::from(count)).sum();
        let (symbols, rest) = rest.split_at_checked(total)?;
        let mut table =
            Self { short: vec![(0, 0); 1 << SHORT], limits: [(0, 0); 17], symbols: symbols.into() };
        let (mut code, mut index) = (0_u32, 0_i32);
        for (length, &count) in (1..).zip(counts) {
            let first = code;
            code += u32::from(count);
            if code > 1 << length {
                return None;
            }
            table.limits[length as usize] = (code, index - first as i32);
            if length <= SHORT {
                for code in first..code {
                    let symbol = symbols[(index + (code - first) as i32) as usize];
                    let from = (code << (SHORT - length)) as usize;
                    table.short[from..from + (1 << (SHORT - length))].fill((symbol, length as u8));
                }
            }
            index += i32::from(count);
            code <<= 1;
        }
        Some((table, rest))
    }
}

/// The bits of a scan up to the next marker.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next `count` bits are the lowest of this.
    held: u64,
    count: u32,
}

const ENDS_EARLY: &str = "its data end before the last block";
const NO_CODE: &str = "its data hold a code that does not exist";

impl Bits<'_> {
    /// Holds as many bits as fit, or all that are left before the next marker.
    fn fill(&mut self) {
        while self.count <= 48 {
            let (byte, length) = match self.bytes[self.at..] {
                [0xFF, 0x00, ..] => (0xFF, 2),
                [0xFF, ..] | [] => return,
                [byte, ..] => (byte, 1),
            };
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
            self.at += length;
        }
    }

    /// The next `n` bits, at most 16.
    fn take(&mut self, n: u32) -> Result<u32, Fault> {
        if self.count < n {
            self.fill();
        }
        self.count = self.count.checked_sub(n).ok_or(ENDS_EARLY)?;
        Ok((self.held >> self.count) as u32 & ((1 << n) - 1))
    }

    fn symbol(&mut self, table: &Huffman) -> Result<u8, Fault> {
        if self.count < 16 {
            self.fill();
        }
        // The next 16 bits; past the end there are ones, which by T.81 begin no code.
        let next = match self.count {
            16.. => (self.held >> (self.count - 16)) as u32 & 0xFFFF,
            held => (((self.held as u32) << (16 - held)) | ((1 << (16 - held)) - 1)) & 0xFFFF,
        };
        let (symbol, length) = table.short[(next >> (16 - SHORT)) as usize];
        if length != 0 {
            self.take(length.into())?;
            return Ok(symbol);
        }
        for length in SHORT + 1..=16 {
            let (end, offset) = table.limits[length as usize];
            let code = next >> (16 - length);
            if code < end {
                self.take(length)?;
                return Ok(table.symbols[(code as i32 + offset) as usize]);
            }
        }
        Err(if self.count < 16 { ENDS_EARLY.into() } else { NO_CODE.into() })
    }

    /// The signed number of `size` bits that follows its size (T.81, F.2.2.1).
    fn number(&mut self, size: u8) -> Result<i32, Fault> {
        let bits = self.take(size.into())? as i32;
        Ok(if size > 0 && bits >> (size - 1) == 0 { bits - (1 << size) + 1 } else { bits })
    }

    /// Drops what is left before the next marker, at most `padding` equal bytes, and moves past that; its second byte, if
    /// there is one.
    fn next_marker(&mut self, padding: usize) -> Result<Option<u8>, Fault> {
        let from = self.at - (self.count / 8) as usize;
        let marker = next_marker(self.bytes, &mut self.at);
        let left_over = self.bytes.get(from..self.at.saturating_sub(2)).unwrap_or_default();
        self.count = 0;
        let length = left_over.len();
        if length > padding || left_over.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Fault::Damaged(format!("{length} bytes are left over where its blocks have ended")));
        }
        Ok(marker)
    }
}

/// A scan, and the tables it is coded with.
pub(super) struct Scan<'a> {
    pub(super) frame: &'a mut Frame,
    /// Index of each component, and its two tables in the four-bit halves of a byte.
    pub(super) chosen: &'a [(usize, u8)],
    pub(super) dc: &'a [Option<Huffman>; 4],
    pub(super) ac: &'a [Option<Huffman>; 4],
    pub(super) quantization: &'a [[u16; 64]; 4],
    pub(super) restart_interval: usize,
    /// Coefficients, in zigzag order.
    pub(super) band: Range<usize>,
    /// Successive approximation: the bit sent before, or 0, and the bit sent now.
    pub(super) high: u8,
    pub(super) low: u8,
}

/// What one component needs while a scan is walked.
struct Track<'a> {
    component: usize,
    dc: Option<&'a Huffman>,
    ac: Option<&'a Huffman>,
    quantization: &'a [u16; 64],
    /// Largest root of the sum of squares of a block's coefficients.
    bound: i64,
    prediction: i32,
}

impl Scan<'_> {
    /// Walks through `data`; returns how many bytes come before the marker that ends the scan.
    pub(super) fn walk(mut self, data: &[u8]) -> Result<usize, Fault> {
        let (dc, ac, quantization) = (self.dc, self.ac, self.quantization);
        let mut tracks: Vec<Track> = self
            .chosen
            .iter()
            .map(|&(component, tables)| {
                let quantization = &quantization[self.frame.components[component].quantization];
                let rounding = quantization.iter().map(|&q| f64::from(q).powi(2)).sum::<f64>().sqrt() / 2.0;
                Track {
                    component,
                    dc: dc.get(usize::from(tables >> 4)).and_then(Option::as_ref),
                    ac: ac.get(usize::from(tables & 15)).and_then(Option::as_ref),
                    quantization,
                    bound: BRIGHTEST + rounding as i64,
                    prediction: 0,
                }
            })
            .collect();
        let mut bits = Bits { bytes: data, at: 0, held: 0, count: 0 };
        let (mut run, mut restarts) = (0, 0_u8);
        let (columns, rows) = match tracks[..] {
            // A scan of one component has no blocks beyond the picture.
            [Track { component, .. }] => {
                (self.frame.components[component].columns, self.frame.components[component].rows)
            }
            _ => (self.frame.columns, self.frame.rows),
        };
        for mcu in 0..columns * rows {
            if self.restart_interval > 0 && mcu > 0 && mcu.is_multiple_of(self.restart_interval) {
                if run > 0 || bits.next_marker(0)? != Some(0xD0 + restarts % 8) {
                    return Err("a restart marker is missing".into());
                }
                restarts = restarts.wrapping_add(1);
                tracks.iter_mut().for_each(|track| track.prediction = 0);
            }
            let (row, column) = (mcu / columns, mcu % columns);
            let alone = tracks.len() == 1;
            for track in &mut tracks {
                let component = &self.frame.components[track.component];
                let (across, down) = if alone { (1, 1) } else { (component.horizontal, component.vertical) };
                let stride = component.stride;
                for y in 0..down {
                    for x in 0..across {
                        self.block(
                            &mut bits,
                            track,
                            (row * down + y) * stride + column * across + x,
                            &mut run,
                        )?;
                    }
                }
            }
        }
        if run > 0 {
            return Err("its data end before the last block".into());
        }
        // A restart marker after the last interval is superfluous, and some encoders write it.
        while let Some(marker) = bits.next_marker(PADDING)? {
            if !(0xD0..=0xD7).contains(&marker) {
                return Ok(bits.at - 2);
            }
        }
        Ok(bits.at)
    }

    fn block(
        &mut self,
        bits: &mut Bits,
        track: &mut Track,
        index: usize,
        run: &mut u32,
    ) -> Result<(), Fault> {
        let mut first = self.band.start;
        if first == 0 {
            self.first_coefficient(bits, track)?;
            first = 1;
        }
        if first == self.band.end {
            return Ok(());
        }
        if !self.frame.progressive {
            return baseline_coefficients(bits, track);
        }
        let table = track.ac.ok_or(NO_TABLE)?;
        let mut nonzero = self.frame.components[track.component].nonzero[index];
        let end = self.band.end;
        let mut k = first;
        if *run == 0 {
            let mut equal = Equal::default();
            while k < end {
                let symbol = bits.symbol(table)?;
                let (zeros, size) = (u32::from(symbol >> 4), symbol & 15);
                if size == 0 && zeros < 15 {
                    // The band ends here, in this block and the next ones.
                    *run = (1 << zeros) + bits.take(zeros)?;
                    break;
                }
                if self.high == 0 {
                    k += zeros as usize;
                    let value = bits.number(size)?;
                    if k < end {
                        track.check(k, value << self.low)?;
                        equal.count(k, value)?;
                    }
                } else {
                    if size > 1 {
                        return Err(NO_CODE.into());
                    }
                    bits.take(size.into())?;
                    k = refine(bits, nonzero, k..end, zeros)?;
                }
                if k >= end {
                    return Err(PAST_END.into());
                }
                nonzero |= u64::from(size > 0) << k;
                k += 1;
            }
        }
        if *run > 0 {
            if self.high != 0 {
                refine(bits, nonzero, k..end, u32::MAX)?;
            }
            *run -= 1;
        }
        self.frame.components[track.component].nonzero[index] = nonzero;
        Ok(())
    }

    fn first_coefficient(&self, bits: &mut Bits, track: &mut Track) -> Result<(), Fault> {
        if self.high != 0 {
            bits.take(1)?;
            return Ok(());
        }
        let size = bits.symbol(track.dc.ok_or(NO_TABLE)?)?;
        if size > 11 {
            return Err(NO_CODE.into());
        }
        track.prediction += bits.number(size)?;
        track.check(0, track.prediction << self.low)
    }
}

impl Track<'_> {
    /// Checks one coefficient by itself.
    fn check(&self, k: usize, value: i32) -> Result<(), Fault> {
        let value = i64::from(value) * i64::from(self.quantization[k]);
        if value.abs() > self.bound + i64::from(self.quantization[k]) {
            Err(TOO_BRIGHT.into())
        } else {
            Ok(())
        }
    }
}

/// The coefficients of 64 pixels, each at most 128 from grey, have by Parseval a root sum of squares of at most 8 · 128;
/// encoders that sharpen edges go 31 beyond white.
const BRIGHTEST: i64 = 8 * (128 + 32);
const TOO_BRIGHT: &str = "its brightness leaves the range that 8 bits have";
const NO_TABLE: &str = "a Huffman table is missing";
const PAST_END: &str = "a block has more than 64 coefficients";

/// Reads the further bits of the coefficients that are not zero, past `zeros` others; where it stops.
fn refine(bits: &mut Bits, nonzero: u64, band: Range<usize>, mut zeros: u32) -> Result<usize, Fault> {
    for k in band.clone() {
        if nonzero >> k & 1 == 1 {
            bits.take(1)?;
        } else if zeros == 0 {
            return Ok(k);
        } else {
            zeros -= 1;
        }
    }
    Ok(band.end)
}

fn baseline_coefficients(bits: &mut Bits, track: &Track) -> Result<(), Fault> {
    let table = track.ac.ok_or(NO_TABLE)?;
    let square = |k: usize, value: i32| (i64::from(value) * i64::from(track.quantization[k])).pow(2);
    let mut squares = square(0, track.prediction);
    let mut equal = Equal::default();
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(table)?;
        let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
        k += zeros;
        match (zeros, size) {
            (0, 0) => break,
            (15, 0) if k < 64 => {}
            (_, 1..=10) if k < 64 => {
                let value = bits.number(size)?;
                squares += square(k, value);
                equal.count(k, value)?;
            }
            (15, 0) | (_, 1..=10) => return Err(PAST_END.into()),
            _ => return Err(NO_CODE.into()),
        }
        k += 1;
    }
    if squares > track.bound.pow(2) { Err(TOO_BRIGHT.into()) } else { Ok(()) }
}

/// Counts coefficients that follow each other and are equal. A hole of zeros is read as such; no picture has them.
#[derive(Default)]
struct Equal {
    last: (usize, i32),
    run: usize,
}

impl Equal {
    /// A faint point in a corner has the smooth half of a block's coefficients equal.
    const MOST: usize = 40;

    fn count(&mut self, k: usize, value: i32) -> Result<(), Fault> {
        self.run = if (k, value) == (self.last.0 + 1, self.last.1) { self.run + 1 } else { 0 };
        self.last = (k, value);
        if self.run > Self::MOST { Err("it has a hole of equal bits".into()) } else { Ok(()) }
    }
}
