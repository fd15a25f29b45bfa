//! Who the other ranks are, and whether they still live.

use serde::{Deserialize, Serialize};

/// A process of the group, as it says of itself at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    /// Of the program.
    pub version: String,
    pub host: String,
    pub process: u32,
    /// When the process began, as the kernel counts it: another one may get its number later.
    begun: Option<u64>,
}

impl Peer {
    /// This process.
    pub fn own() -> Self {
        let process = std::process::id();
        let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .into_iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .or_else(|| std::env::var("HOSTNAME").ok())
            .unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            host: host.trim().into(),
            process,
            begun: life(process).map(|life| life.begun),
        }
    }

    /// Whether this process can look at it: on the same machine, and not hidden by a container.
    pub fn is_seen(&self, host: &str) -> bool {
        self.host == host && self.begun.is_some() && self.is_alive()
    }

    /// Whether it is still there.
    pub fn is_alive(&self) -> bool {
        life(self.process).is_some_and(|life| life.alive && Some(life.begun) == self.begun)
    }

    /// Its number among the ranks, machine and process, to name it by.
    pub fn named(&self, rank: usize) -> String {
        format!("rank {rank} (process {} on {})", self.process, self.host)
    }
}

struct Life {
    alive: bool,
    begun: u64,
}

/// What Linux says of a process: `None` if there is none, or on another system.
fn life(process: u32) -> Option<Life> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; the state follows it, and the start is the 20th from there (proc(5)).
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    Some(Life { alive, begun: fields.nth(18)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_seen_until_it_ends() {
        let own = Peer::own();
        assert!(own.is_seen(&own.host) && !own.is_seen("elsewhere"));
        assert!(!Peer { begun: Some(0), ..own.clone() }.is_alive(), "another process of the same number");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = child.id();
        child.wait().unwrap();
        assert!(!Peer { process, ..own }.is_alive());
    }
}
