//! Data of other programs, told by name or content, which is not read: what it is and what converts it.

use std::path::Path;

use super::{DataError, read_head};

/// Bytes from the start of a file that tell its kind: a tar archive says so at byte 257.
const HEAD: u64 = 264;

/// A kind of file that is not read.
struct Kind {
    what: &'static str,
    remedy: &'static str,
    extensions: &'static [&'static str],
    /// Where the content says what it is, and by which bytes.
    magics: &'static [(usize, &'static [u8])],
}

const SAVE: &str =
    "load it in Python and save numpy.savez('data.npz', images=…, labels=…), uint8 as (N, H, W, C)";
const UNPACK: &str = "unpack it and give the folder";

const KINDS: &[Kind] = &[
    Kind {
        what: "PyTorch data, a Python pickle, which can run any program when it is opened",
        remedy: SAVE,
        extensions: &["pt", "pth"],
        magics: &[],
    },
    Kind {
        what: "a Python pickle, which can run any program when it is opened",
        remedy: SAVE,
        extensions: &["pkl", "pickle"],
        magics: &[(0, b"\x80\x02"), (0, b"\x80\x03"), (0, b"\x80\x04"), (0, b"\x80\x05")],
    },
    Kind {
        what: "a MATLAB file",
        remedy: "in Python, m = scipy.io.loadmat('train_32x32.mat'), then numpy.savez('train.npz', \
                 images=m['X'].transpose(3, 0, 1, 2), labels=m['y'].ravel() % 10) for SVHN, the same by other names for others",
        extensions: &["mat"],
        magics: &[(0, b"MATLAB 5.0")],
    },
    Kind {
        what: "an HDF5 file",
        remedy: SAVE,
        extensions: &["h5", "hdf5", "hdf"],
        magics: &[(0, b"\x89HDF\r\n\x1a\n")],
    },
    Kind {
        what: "a Parquet table",
        remedy: "load it with the `datasets` library of Python and save the pictures into a folder for each class",
        extensions: &["parquet"],
        magics: &[(0, b"PAR1")],
    },
    Kind {
        what: "an Arrow table",
        remedy: "load it with the `datasets` library of Python and save the pictures into a folder for each class",
        extensions: &["arrow", "feather"],
        magics: &[(0, b"ARROW1")],
    },
    Kind {
        what: "TensorFlow records",
        remedy: "load them with tensorflow_datasets and save the pictures into a folder for each class",
        extensions: &["tfrecord", "tfrecords"],
        magics: &[],
    },
    Kind {
        what: "an LMDB database",
        remedy: "write its pictures into a folder for each class with the `lmdb` library of Python",
        extensions: &["mdb", "lmdb"],
        magics: &[],
    },
    Kind {
        what: "records of MXNet, FFCV or MosaicML",
        remedy: "write their pictures into a folder for each class with the library that made them",
        extensions: &["rec", "beton", "mds"],
        magics: &[],
    },
    Kind {
        what: "a tar archive",
        remedy: UNPACK,
        extensions: &["tar", "tgz", "tbz", "tbz2", "txz", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"],
        magics: &[(257, b"ustar")],
    },
    Kind {
        what: "a compressed archive",
        remedy: UNPACK,
        extensions: &["7z", "rar", "xz", "bz2", "zst"],
        magics: &[
            (0, b"7z\xBC\xAF\x27\x1C"),
            (0, b"Rar!"),
            (0, b"\xFD7zXZ\0"),
            (0, b"BZh"),
            (0, b"\x28\xB5\x2F\xFD"),
        ],
    },
    Kind {
        what: "a table of text",
        remedy: "where its rows are pictures, load it with numpy.loadtxt and save \
                 numpy.savez('data.npz', images=pixels.reshape(-1, H, W).astype('uint8'), labels=labels)",
        extensions: &["csv", "tsv"],
        magics: &[],
    },
];

/// STL-10's binary files.
const STL10: Kind = Kind {
    what: "STL-10 in its binary form",
    remedy: "in Python, x = numpy.fromfile('train_X.bin', 'uint8').reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1), then \
             numpy.savez('train.npz', images=x, labels=numpy.fromfile('train_y.bin', 'uint8') - 1)",
    extensions: &[],
    magics: &[],
};

/// What a file is, if it is of another program; an error if it cannot be read.
pub(super) fn recognise(path: &Path) -> Result<Option<DataError>, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let is = |Kind { what, remedy, .. }: &Kind| Some(DataError::Foreign { path: path.into(), what, remedy });
    if ["train_x.bin", "test_x.bin", "unlabeled_x.bin"].contains(&name.as_str()) {
        return Ok(is(&STL10));
    }
    let named = |extension: &&str| name.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.'));
    if let Some(kind) = KINDS.iter().find(|kind| kind.extensions.iter().any(named)) {
        return Ok(is(kind));
    }
    let head = read_head(path, HEAD)?;
    let holds = |(at, magic): &(usize, &[u8])| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    Ok(KINDS.iter().find(|kind| kind.magics.iter().any(&holds)).and_then(is))
}
