//! The `inkwash` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    silence_mesa();
    inkwash::cli::main()
}

/// Mesa's Vulkan drivers look for a display when they are opened. Where `XDG_RUNTIME_DIR` is not set, as on a server,
/// the Wayland library prints two error lines that look like this program's. A folder that does not exist is looked into
/// without a word, and nobody else can put a socket there, as into /tmp.
#[cfg(target_os = "linux")]
fn silence_mesa() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    if std::env::var_os(NAME).is_none_or(|folder| folder.is_empty()) {
        // SAFETY: `main` calls this before anything else, so that there is no other thread that could read the
        // environment meanwhile.
        #[expect(unsafe_code, reason = "the Wayland library takes this from the environment alone")]
        unsafe {
            std::env::set_var(NAME, "/nonexistent");
        }
    }
}
