//! Whether a JPEG is whole (ITU-T T.81). Decoders make up what is missing, so that a browser shows something; a data
//! set must not learn it. Every scan is therefore walked through once, without making pixels: each block must be
//! there, each coefficient must come in its turn and reach its last bit, and nothing may be left over before the next
//! marker. A hole of zeros or of noise holds another number of blocks than what it replaces, and is found by that.

mod entropy;

use super::PictureError;
use entropy::{Huffman, Scan};

/// What is wrong with a JPEG: words for [`PictureError::Damaged`], or a coding that is not read.
enum Fault {
    Damaged(String),
    NotRead(&'static str),
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Self::Damaged(what.into())
    }
}

/// One colour component of the frame.
struct Component {
    id: u8,
    /// Sampling factors, 1 to 4.
    horizontal: usize,
    vertical: usize,
    quantization: usize,
    /// Blocks that cover the picture.
    columns: usize,
    rows: usize,
    /// Blocks in a row of whole MCUs.
    stride: usize,
    /// Of a progressive frame: which coefficients of each block are not zero so far, a bit each.
    nonzero: Vec<u64>,
    /// Of each coefficient, the lowest bit that was sent; `None` before its first scan.
    lowest_bit: [Option<u8>; 64],
}

struct Frame {
    progressive: bool,
    /// MCUs of an interleaved scan.
    columns: usize,
    rows: usize,
    components: Vec<Component>,
}

/// Refuses a JPEG that is not whole, or whose coding is not read.
pub(super) fn check(bytes: &[u8]) -> Result<(), PictureError> {
    let walk = Walk {
        frame: None,
        quantization: [[1; 64]; 4],
        dc: [None, None, None, None],
        ac: [None, None, None, None],
        restart_interval: 0,
    };
    walk.run(bytes).map_err(|fault| match fault {
        Fault::Damaged(what) => PictureError::Damaged { format: "JPEG", what },
        Fault::NotRead(what) => PictureError::NotRead {
            what: what.into(),
            remedy: "convert it to a usual JPEG or to PNG (`djpeg`, `magick FILE OUT.png`)",
        },
    })
}

/// What the marker segments have said so far.
struct Walk {
    frame: Option<Frame>,
    /// In zigzag order.
    quantization: [[u16; 64]; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    /// MCUs between restart markers; 0 for none.
    restart_interval: usize,
}

impl Walk {
    /// Follows the marker segments to the end of the image. Segments are stepped over, so that an embedded thumbnail
    /// does not count.
    fn run(mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut at = 2;
        loop {
            // Fill bytes may stand before any marker. Cameras also leave stray bytes there, which no decoder minds.
            let marker = next_marker(bytes, &mut at)
                .ok_or_else(|| format!("its {} bytes have no end-of-image marker (FF D9)", bytes.len()))
                .map_err(Fault::Damaged)?;
            match marker {
                0xD9 => return self.finish(),
                // TEM, restart markers and the start of the image carry no length.
                0x01 | 0xD0..=0xD8 => continue,
                _ => {}
            }
            let body = segment(bytes, &mut at)?;
            match marker {
                0xC0..=0xC2 => self.start_frame(marker == 0xC2, body)?,
                0xC3 | 0xC7 => return Err(Fault::NotRead("lossless coding of a JPEG")),
                0xC5 | 0xC6 => return Err(Fault::NotRead("hierarchical coding of a JPEG")),
                0xC9..=0xCB | 0xCD..=0xCF => return Err(Fault::NotRead("arithmetic coding of a JPEG")),
                0xF7 => return Err(Fault::NotRead("JPEG-LS")),
                0xC4 => self.define_huffman(body)?,
                0xDB => self.define_quantization(body)?,
                0xDC => return Err(Fault::NotRead("a JPEG whose height follows the picture (DNL)")),
                0xDD => match body {
                    &[high, low] => self.restart_interval = usize::from(u16::from_be_bytes([high, low])),
                    _ => return Err("its restart interval is malformed".into()),
                },
                0xDA => at += self.scan(body, &bytes[at..])?,
                _ => {}
            }
        }
    }

    fn start_frame(&mut self, progressive: bool, body: &[u8]) -> Result<(), Fault> {
        if self.frame.is_some() {
            return Err("it has two frames".into());
        }
        let &[precision, h1, h0, w1, w0, count, ref components @ ..] = body else {
            return Err("its frame header is cut short".into());
        };
        if precision != 8 {
            return Err(Fault::NotRead("a JPEG of more than 8 bits"));
        }
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        let (height, width) = (usize::from(height), usize::from(width));
        if height == 0 {
            return Err(Fault::NotRead("a JPEG whose height follows the picture (DNL)"));
        }
        if width == 0 || !(1..=4).contains(&count) || components.len() != usize::from(count) * 3 {
            return Err("its frame header is malformed".into());
        }
        let factors = |c: &[u8]| (usize::from(c[1] >> 4), usize::from(c[1] & 15));
        let largest = |pick: fn((usize, usize)) -> usize| {
            components.chunks_exact(3).map(|c| pick(factors(c))).max().unwrap_or(1)
        };
        let (most_horizontal, most_vertical) = (largest(|f| f.0), largest(|f| f.1));
        let valid = |factor| (1..=4).contains(&factor);
        if !components.chunks_exact(3).all(|c| valid(factors(c).0) && valid(factors(c).1) && c[2] < 4) {
            return Err("its frame header is malformed".into());
        }
        let columns = width.div_ceil(8 * most_horizontal);
        let rows = height.div_ceil(8 * most_vertical);
        let components = components
            .chunks_exact(3)
            .map(|c| {
                let (horizontal, vertical) = factors(c);
                let stride = columns * horizontal;
                Component {
                    id: c[0],
                    horizontal,
                    vertical,
                    quantization: usize::from(c[2]),
                    columns: (width * horizontal).div_ceil(8 * most_horizontal),
                    rows: (height * vertical).div_ceil(8 * most_vertical),
                    stride,
                    nonzero: if progressive { vec![0; stride * rows * vertical] } else { Vec::new() },
                    lowest_bit: [None; 64],
                }
            })
            .collect();
        self.frame = Some(Frame { progressive, columns, rows, components });
        Ok(())
    }

    fn define_huffman(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let Some((&target, rest)) = body.split_first() {
            let (huffman, rest) = Huffman::new(rest).ok_or("a Huffman table is malformed")?;
            let tables = if target >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(target & 15)).ok_or("a Huffman table is malformed")? = Some(huffman);
            body = rest;
        }
        Ok(())
    }

    fn define_quantization(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let Some((&target, rest)) = body.split_first() {
            let wide = target >> 4 != 0;
            let length = if wide { 128 } else { 64 };
            let (table, rest) = rest.split_at_checked(length).ok_or("a quantization table is cut short")?;
            let numbers = self.quantization.get_mut(usize::from(target & 15));
            let numbers = numbers.ok_or("a quantization table is malformed")?;
            for (number, bytes) in numbers.iter_mut().zip(table.chunks_exact(table.len() / 64)) {
                *number = bytes.iter().fold(0, |high, &low| high << 8 | u16::from(low));
            }
            body = rest;
        }
        Ok(())
    }

    /// Walks the scan whose header is `header` and whose entropy-coded data begin `data`. Returns how many bytes of
    /// `data` it has, up to the marker that ends it.
    fn scan(&mut self, header: &[u8], data: &[u8]) -> Result<usize, Fault> {
        let malformed = || Fault::from("a scan header is malformed");
        let frame = self.frame.as_mut().ok_or("a scan comes before the frame header")?;
        if !self.dc.iter().chain(&self.ac).any(Option::is_some) {
            return Err(Fault::NotRead("a JPEG without Huffman tables, as a frame of a film is,"));
        }
        let (&count, rest) = header.split_first().ok_or_else(malformed)?;
        let (selectors, rest) = rest.split_at_checked(usize::from(count) * 2).ok_or_else(malformed)?;
        let &[start, end, approximation] = rest else { return Err(malformed()) };
        let (high, low) = (approximation >> 4, approximation & 15);
        let band = match frame.progressive {
            // A baseline scan has all 64, whatever the header says.
            false => 0..64,
            true => usize::from(start)..usize::from(end) + 1,
        };
        let well_formed = band.start < band.end
            && band.end <= 64
            && (1..=4).contains(&count)
            && (!frame.progressive || band.start > 0 || band.end == 1)
            && (band.start == 0 || count == 1)
            && low <= 13;
        if !well_formed {
            return Err(malformed());
        }
        let (high, low) = if frame.progressive { (high, low) } else { (0, 0) };
        let mut chosen = Vec::new();
        for selector in selectors.chunks_exact(2) {
            let index = frame
                .components
                .iter()
                .position(|c| c.id == selector[0])
                .ok_or("a scan has an unknown colour")?;
            if chosen.iter().any(|&(i, _)| i == index) {
                return Err(malformed());
            }
            chosen.push((index, selector[1]));
            for bit in &mut frame.components[index].lowest_bit[band.clone()] {
                let expected = (high != 0).then_some(high);
                if *bit != expected || (high != 0 && low + 1 != high) {
                    return Err("a scan is missing".into());
                }
                *bit = Some(low);
            }
        }
        Scan {
            frame,
            chosen: &chosen,
            dc: &self.dc,
            ac: &self.ac,
            quantization: &self.quantization,
            restart_interval: self.restart_interval,
            band,
            high,
            low,
        }
        .walk(data)
    }

    /// Whether every coefficient of every colour was sent down to its last bit.
    fn finish(self) -> Result<(), Fault> {
        let frame = self.frame.ok_or("it ends before its frame header")?;
        let complete = frame.components.iter().all(|c| c.lowest_bit.iter().all(|&bit| bit == Some(0)));
        if complete { Ok(()) } else { Err("a scan is missing".into()) }
    }
}

/// The next marker at or after `at`, which is moved past it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let &[first, second] = bytes.get(*at..*at + 2)? else { return None };
        match (first, second) {
            (0xFF, 0x00) => *at += 2,
            (0xFF, 0xFF) => *at += 1,
            (0xFF, marker) => {
                *at += 2;
                return Some(marker);
            }
            _ => *at += 1,
        }
    }
}

/// The body of the segment whose length word is at `at`, which is moved past it.
fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], Fault> {
    let cut = || Fault::from("a marker segment is cut short");
    let &[high, low] = bytes.get(*at..*at + 2).ok_or_else(cut)? else { return Err(cut()) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let body = bytes.get(*at + 2..*at + length).ok_or_else(cut)?;
    *at += length;
    Ok(body)
}
