//! Working memory: tensors whose lives are known, laid into as few bytes as can be found.
//!
//! A slot is a buffer in which tensors lie one after another and side by side. WebGPU refuses one buffer bound both `read` and
//! `read_write` in a dispatch, even at ranges that do not overlap, so that what a node reads and what it writes never share a
//! slot.

use super::Placement;
use std::cmp::Reverse;
use std::collections::HashMap;

/// A tensor in want of working memory.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub bytes: u64,
    /// The node that makes it.
    pub first: usize,
    /// The last one that reads it.
    pub last: usize,
    /// The nodes whose launches bind it, each with a group: only tensors of one group of a node may share a slot.
    pub uses: Vec<(usize, usize)>,
}

/// Where requests were laid.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// Sizes, the largest first.
    pub bytes: Vec<u64>,
    /// The slot and the first byte of each request.
    pub places: Vec<Placement>,
}

/// No search for less where no more than this is lost.
const LOST: f64 = 0.045;
/// Changes that are tried of an order.
const TRIES: usize = 200;
/// What is moved in a search are so many of the first in the order: the rest fits into what they leave.
const MOVED: usize = 40;
/// No search where fewer bytes than these are planned.
const LEAST: u64 = 64 << 10;

/// The bytes that are alive at each node: no fewer than the most can hold the requests.
fn alive(requests: &[Request]) -> Vec<u64> {
    let mut alive = vec![0; requests.iter().map(|r| r.last + 1).max().unwrap_or(0)];
    for r in requests {
        alive[r.first..=r.last].iter_mut().for_each(|bytes| *bytes += r.bytes);
    }
    alive
}

impl Slots {
    /// Lays requests, each from a multiple of `alignment` on. Each in its turn goes where it leaves the smallest gap, or else into a
    /// slot of its own. The turns: the largest first; then those first that are alive with the most others; and if both lose too
    /// much, whichever changes of these orders lose no more, drawn at random, the same for the same requests.
    pub(super) fn of(requests: &[Request], alignment: u64) -> Self {
        let alive = alive(requests);
        let least = alive.iter().copied().max().unwrap_or(0);
        let enough = LEAST.max(least + (least as f64 * LOST) as u64);
        let most = |&i: &usize| alive[requests[i].first..=requests[i].last].iter().copied().max();
        let mut by_size: Vec<usize> = (0..requests.len()).collect();
        by_size.sort_by_key(|&i| Reverse(requests[i].bytes));
        let mut by_most = by_size.clone();
        by_most.sort_by_key(|i| Reverse(most(i)));
        // A linear congruential generator (D. Knuth's MMIX), of which the high bits are drawn.
        let mut state = 0u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below.max(1) as u64) as usize
        };
        let movable = MOVED.min(requests.len());
        let mut best: Option<(u64, Self)> = None;
        for tries in [0, TRIES] {
            for start in [&by_size, &by_most] {
                let mut order = start.clone();
                let (mut bytes, mut slots) = Self::in_order(requests, &order, alignment);
                for _ in 0..tries {
                    if bytes <= enough {
                        break;
                    }
                    let mut other = order.clone();
                    let moved = other.remove(draw(movable));
                    other.insert(draw(movable), moved);
                    let (found, laid) = Self::in_order(requests, &other, alignment);
                    if found <= bytes {
                        (bytes, slots, order) = (found, laid, other);
                    }
                }
                if bytes <= enough {
                    return slots;
                }
                if best.as_ref().is_none_or(|(least, _)| bytes < *least) {
                    best = Some((bytes, slots));
                }
            }
        }
        best.map(|(_, slots)| slots).unwrap_or_default()
    }

    /// Lays requests in this order. Returns the bytes that they take.
    fn in_order(requests: &[Request], order: &[usize], alignment: u64) -> (u64, Self) {
        let mut slots: Vec<Slot> = Vec::new();
        let mut places = vec![Placement { buffer: 0, offset: 0 }; requests.len()];
        for &i in order {
            let request = &requests[i];
            let gaps = slots.iter().enumerate().filter_map(|(k, slot)| {
                let (left, offset) = slot.gap(request, alignment)?;
                Some((left, k, offset))
            });
            let (slot, offset) = match gaps.min() {
                Some((_, slot, offset)) => (slot, offset),
                None => {
                    slots.push(Slot { bytes: request.bytes, ..Slot::default() });
                    (slots.len() - 1, 0)
                }
            };
            slots[slot].put(request, offset);
            places[i] = Placement { buffer: slot, offset };
        }
        let mut by_size: Vec<usize> = (0..slots.len()).collect();
        by_size.sort_by_key(|&slot| Reverse(slots[slot].bytes));
        let mut rank = vec![0; slots.len()];
        by_size.iter().enumerate().for_each(|(k, &slot)| rank[slot] = k);
        places.iter_mut().for_each(|place| place.buffer = rank.get(place.buffer).copied().unwrap_or(0));
        let bytes: Vec<u64> = by_size.iter().map(|&slot| slots[slot].bytes).collect();
        (bytes.iter().sum(), Self { bytes, places })
    }
}

/// A slot being filled.
#[derive(Default)]
struct Slot {
    bytes: u64,
    /// First byte, end, first and last node of what lies in it, by first byte.
    held: Vec<(u64, u64, usize, usize)>,
    /// The group that may be in it, by node.
    groups: HashMap<usize, usize>,
}

impl Slot {
    /// The smallest gap that is free for a request's whole life: the bytes that are left of it, and the first byte.
    fn gap(&self, request: &Request, alignment: u64) -> Option<(u64, u64)> {
        if request.uses.iter().any(|(node, group)| self.groups.get(node).is_some_and(|other| other != group))
        {
            return None;
        }
        let (mut smallest, mut free) = (None, 0);
        let alive = self.held.iter().filter(|held| held.2 <= request.last && request.first <= held.3);
        let ends = (self.bytes, self.bytes, 0, 0);
        for &(start, end, ..) in alive.chain([&ends]) {
            let offset = u64::next_multiple_of(free, alignment);
            if let Some(left) = start.checked_sub(offset + request.bytes)
                && smallest.is_none_or(|(least, _)| left < least)
            {
                smallest = Some((left, offset));
            }
            free = free.max(end);
        }
        smallest
    }

    fn put(&mut self, request: &Request, offset: u64) {
        let at = self.held.partition_point(|held| held.0 <= offset);
        self.held.insert(at, (offset, offset + request.bytes, request.first, request.last));
        self.groups.extend(request.uses.iter().copied());
    }
}

/// Sizes of the slots that plans on one store share, by rank. A slot that is too small for a later plan is
/// left to the plans that have it, and the larger one takes its place.
#[derive(Debug, Default)]
pub(crate) struct SlotPool(Vec<u64>);

impl SlotPool {
    /// Whether the slot of this rank is there and large enough.
    pub(crate) fn fits(&self, rank: usize, bytes: u64) -> bool {
        self.0.get(rank).is_some_and(|&size| size >= bytes)
    }

    /// Puts a slot at this rank and returns its size. Ranks come in order.
    pub(crate) fn add(&mut self, rank: usize, bytes: u64) -> u64 {
        match self.0.get_mut(rank) {
            Some(size) => *size = bytes,
            None => self.0.push(bytes),
        }
        bytes
    }
}
