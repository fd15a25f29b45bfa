//! The `inkwash` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    inkwash::cli::main()
}
