//! Work on all cores.

use std::sync::{Mutex, MutexGuard};
use std::thread;

/// Does `work` on each item, on all cores; they are begun in order.
pub(super) fn for_each<T>(items: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let items = Mutex::new(items);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(item) = lock(&items).next() else { break };
                    work(item);
                }
            });
        }
    });
}

/// Locks whether or not another thread panicked; the panic itself ends the scope.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
