//! The calls of MPI that a link needs, with their errors. One thread makes all of them: the one that started MPI.

#![expect(unsafe_code, reason = "MPI is a C library; the safe calls of the crate drop its error codes")]

use bytemuck::Pod;
use mpi::ffi;
use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

/// MPI, started.
pub(super) struct Mpi {
    pub rank: usize,
    pub size: usize,
}

/// What MPI says of a call.
fn check(call: &str, code: c_int) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    let mut text = [0 as c_char; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the array is as long as MPI asks for.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    let words: String = text[..length].iter().map(|&c| char::from(c as u8)).collect();
    Err(format!("{call} failed: {words}"))
}

fn int(value: usize) -> c_int {
    c_int::try_from(value).expect("messages are cut below 2 GiB, and ranks are fewer")
}

/// A message on its way, with its memory.
pub(super) struct Transfer<T: Pod> {
    pub peer: usize,
    pub buffer: Vec<T>,
    request: ffi::MPI_Request,
    pub done: bool,
}

impl<T: Pod> Transfer<T> {
    /// Whether it has arrived or gone.
    pub fn test(&mut self) -> Result<bool, String> {
        if !self.done {
            let mut flag = 0;
            // SAFETY: the request is one that MPI gave and that is not done.
            let code = unsafe { ffi::MPI_Test(&mut self.request, &mut flag, ffi::RSMPI_STATUS_IGNORE) };
            check("MPI_Test", code)?;
            self.done = flag != 0;
        }
        Ok(self.done)
    }
}

/// MPI may still write to the memory of a message that is given up.
impl<T: Pod> Drop for Transfer<T> {
    fn drop(&mut self) {
        if !self.done {
            std::mem::forget(std::mem::take(&mut self.buffer));
        }
    }
}

impl Mpi {
    /// Starts MPI for calls from this thread.
    pub fn start() -> Result<Self, String> {
        let (mut provided, mut rank, mut size) = (0, 0, 0);
        // SAFETY: it is called once, and null stands for the arguments of the program.
        unsafe {
            let (argc, argv) = (std::ptr::null_mut(), std::ptr::null_mut());
            check(
                "MPI_Init_thread",
                ffi::MPI_Init_thread(argc, argv, ffi::RSMPI_THREAD_FUNNELED, &mut provided),
            )?;
            let world = ffi::RSMPI_COMM_WORLD;
            check("MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN))?;
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(world, &mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(world, &mut size))?;
        }
        if provided < unsafe { ffi::RSMPI_THREAD_FUNNELED } {
            return Err("it does not allow a program to have threads".into());
        }
        Ok(Self { rank: usize::try_from(rank).unwrap_or(0), size: usize::try_from(size).unwrap_or(1) })
    }

    /// Begins to send.
    pub fn send<T: Pod>(&self, buffer: Vec<T>, peer: usize, tag: c_int) -> Result<Transfer<T>, String> {
        let mut request = MaybeUninit::uninit();
        // SAFETY: the transfer keeps the memory until MPI is done with it.
        let code = unsafe {
            ffi::MPI_Isend(
                buffer.as_ptr().cast::<c_void>(),
                int(size_of_val(buffer.as_slice())),
                ffi::RSMPI_UINT8_T,
                int(peer),
                tag,
                ffi::RSMPI_COMM_WORLD,
                request.as_mut_ptr(),
            )
        };
        check("MPI_Isend", code)?;
        // SAFETY: MPI has written the request.
        Ok(Transfer { peer, buffer, request: unsafe { request.assume_init() }, done: false })
    }

    /// Begins to receive so many elements.
    pub fn receive<T: Pod>(&self, elements: usize, peer: usize, tag: c_int) -> Result<Transfer<T>, String> {
        let mut buffer = vec![T::zeroed(); elements];
        let mut request = MaybeUninit::uninit();
        // SAFETY: the transfer keeps the memory until MPI is done with it; every pattern of bits is a T.
        let code = unsafe {
            ffi::MPI_Irecv(
                buffer.as_mut_ptr().cast::<c_void>(),
                int(size_of_val(buffer.as_slice())),
                ffi::RSMPI_UINT8_T,
                int(peer),
                tag,
                ffi::RSMPI_COMM_WORLD,
                request.as_mut_ptr(),
            )
        };
        check("MPI_Irecv", code)?;
        // SAFETY: MPI has written the request.
        Ok(Transfer { peer, buffer, request: unsafe { request.assume_init() }, done: false })
    }

    /// Whether a message of this tag has come: from whom, and its bytes.
    pub fn probe(&self, tag: c_int) -> Result<Option<(usize, usize)>, String> {
        let (mut flag, mut count) = (0, 0);
        let mut status = MaybeUninit::<ffi::MPI_Status>::uninit();
        // SAFETY: MPI writes the status where it sets the flag, and only then it is read.
        unsafe {
            let world = ffi::RSMPI_COMM_WORLD;
            let code = ffi::MPI_Iprobe(ffi::RSMPI_ANY_SOURCE, tag, world, &mut flag, status.as_mut_ptr());
            check("MPI_Iprobe", code)?;
            if flag == 0 {
                return Ok(None);
            }
            let status = status.assume_init();
            check("MPI_Get_count", ffi::MPI_Get_count(&status, ffi::RSMPI_UINT8_T, &mut count))?;
            let number = |value: c_int| usize::try_from(value).unwrap_or(0);
            Ok(Some((number(status.MPI_SOURCE), number(count))))
        }
    }

    /// Ends every process of the job with this code.
    pub fn abort(code: u8) -> ! {
        // Where the others cannot be reached, MPI_Abort may not return either.
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_secs(5));
            exit_now(code);
        });
        // SAFETY: there is no way back from here.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code.into()) };
        exit_now(code)
    }

    /// Leaves in order; returns once all processes do.
    pub fn finish(self) -> Result<(), String> {
        // SAFETY: no message is on its way any more, and no other call follows.
        check("MPI_Finalize", unsafe { ffi::MPI_Finalize() })
    }
}

/// Ends this process without what is usually done at its end, which may wait for others.
pub(super) fn exit_now(code: u8) -> ! {
    unsafe extern "C" {
        fn _exit(code: c_int) -> !;
    }
    // SAFETY: the function of POSIX, which takes any code.
    unsafe { _exit(code.into()) }
}
