//! A kernel in parts, from whole loops down to lines, each of which can be compiled behind a switch.
//!
//! A part that is off leaves every condition and every index what it was: parts that these are computed from are kept
//! ([`Kept`]). So what still runs does so as often, and touches the same memory, as in the kernel itself, whose loops end
//! and whose accesses stay within bounds. Only numbers become wrong.

mod slice;
mod source_text;
mod switch;
mod walk;

pub use switch::SWITCH_GROUP;

use super::{Expanded, ShaderError, Variant, parse, validate};
use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{Expression, Statement, TypeInner};
use slice::{CONTROL, Decides, Memory, Slice, root};
use source_text::SourceText;
use std::collections::HashMap;
use std::ops::Range;
use walk::{Place, Run, blocks, each_statement, reachable};

/// Why a part cannot be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Conditions outside it are computed from it.
    Condition,
    /// Indices outside it are computed from it.
    Index,
    /// It leaves the function, or a loop around it.
    Leaves,
    /// Invocations would no longer agree about what conditions or indices are computed from.
    Barrier,
}

impl Kept {
    /// In a few words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Condition => "decides what runs",
            Self::Index => "decides an index",
            Self::Leaves => "leaves a loop or function",
            Self::Barrier => "orders what decides",
        }
    }
}

/// Statements of a kernel that stand together in its source.
#[derive(Clone, Debug)]
pub struct Part {
    /// The function that they are in.
    pub function: String,
    /// Their lines in the expanded text, from 0.
    pub lines: Range<usize>,
    /// The part that they are within.
    pub parent: Option<usize>,
    /// Whether they are a block, as a loop or a condition, with parts within it.
    pub is_block: bool,
    /// Why they stay on, if they must.
    pub kept: Option<Kept>,
    run: Run,
}

/// The parts of an entry point and of the functions that it calls.
pub struct Parts {
    expanded: Expanded,
    variant: Variant,
    module: naga::Module,
    info: ModuleInfo,
    entry: usize,
    parts: Vec<Part>,
}

/// A module in which some parts run only where the u32 at binding 0 of group [`SWITCH_GROUP`] is not zero.
#[derive(Clone, Debug)]
pub struct Switched {
    pub(crate) module: naga::Module,
}

impl Parts {
    /// Divides an entry point.
    pub fn of(entry: &'static str, variant: &Variant, expanded: Expanded) -> Result<Self, ShaderError> {
        let (module, info) = parse(variant, &expanded)?;
        let Some(number) = module.entry_points.iter().position(|point| point.name == entry) else {
            let names: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
            let message = format!("the file has no such entry point; it has: {}", names.join(", "));
            return Err(ShaderError::Interface { file: expanded.file.to_string(), entry, message });
        };
        let mut parts = Vec::new();
        let text = SourceText::of(&expanded.text);
        for place in reachable(&module, Place::Entry(number)) {
            let function = place.of(&module);
            let name = function.name.clone().unwrap_or_else(|| entry.into());
            let mut divide = Divide { text: &text, place, name, blocks: 0, parts: &mut parts };
            divide.block(&function.body, None, None);
        }
        let slice = Slice::of(&module, Place::Entry(number));
        let kept: Vec<Option<Kept>> = parts
            .iter()
            .map(|part| kept(&module, &slice, info_of(&info, part.run.place), &part.run))
            .collect();
        parts.iter_mut().zip(kept).for_each(|(part, kept)| part.kept = kept);
        Ok(Self { expanded, variant: variant.clone(), module, info, entry: number, parts })
    }

    /// All parts: function by function, the entry point first, each part before those within it.
    pub fn list(&self) -> &[Part] {
        &self.parts
    }

    /// The expanded text.
    pub fn expanded(&self) -> &Expanded {
        &self.expanded
    }

    /// The names of the entry point and of the functions that it calls, in the order of the parts, and their lines.
    pub fn functions(&self) -> Vec<(&str, Range<usize>)> {
        let text = SourceText::of(&self.expanded.text);
        let names = reachable(&self.module, Place::Entry(self.entry))
            .into_iter()
            .filter_map(|place| place.of(&self.module).name.as_deref());
        names.map(|name| (name, text.function(name))).collect()
    }

    /// The module with these parts, none of which may be kept or within another, behind the switch.
    ///
    /// # Errors
    /// naga does not accept what came out, which is a defect.
    pub fn switched(&self, parts: &[usize]) -> Result<Switched, ShaderError> {
        let mut module = self.module.clone();
        let switch = switch::add_switch(&mut module);
        let mut runs: HashMap<Place, Vec<Run>> = HashMap::new();
        for &part in parts {
            let run = &self.parts[part].run;
            runs.entry(run.place).or_default().push(run.clone());
        }
        for place in reachable(&self.module, Place::Entry(self.entry)) {
            if let Some(runs) = runs.get(&place) {
                switch::put_behind(&mut module, info_of(&self.info, place), switch, place, runs);
            }
        }
        validate(&self.variant, &self.expanded, &module)?;
        Ok(Switched { module })
    }
}

fn info_of(info: &ModuleInfo, place: Place) -> &FunctionInfo {
    match place {
        Place::Function(handle) => &info[handle],
        Place::Entry(number) => info.get_entry_point(number),
    }
}

/// Divides a function into parts.
struct Divide<'a> {
    text: &'a SourceText<'a>,
    place: Place,
    name: String,
    /// Blocks that have begun.
    blocks: usize,
    parts: &'a mut Vec<Part>,
}

impl Divide<'_> {
    /// `header` is the source statement (`for (…) {`) that the block belongs to: what it computes is no part of its own.
    fn block(&mut self, block: &naga::Block, parent: Option<usize>, header: Option<usize>) {
        let number = self.blocks;
        self.blocks += 1;
        let mut source = header;
        let sources: Vec<Option<usize>> = block
            .span_iter()
            .map(|(_, span)| {
                // What naga gives no place belongs to what comes before.
                source = span.to_range().map(|range| self.text.statement(range.start)).or(source);
                source
            })
            .collect();
        let spans: Vec<Option<Range<usize>>> = block.span_iter().map(|(_, span)| span.to_range()).collect();
        let mut line: Option<usize> = None;
        let mut first = 0;
        while first < block.len() {
            let end = (first..block.len()).find(|&i| sources[i] != sources[first]).unwrap_or(block.len());
            let control = |statement: &Statement| {
                blocks(statement).is_empty() && leaves(std::slice::from_ref(statement), false, false)
            };
            let run = first..(first..end).find(|&i| control(&block[i])).unwrap_or(end);
            let source = sources[first];
            first = end;
            let inner = || block[run.clone()].iter().flat_map(blocks);
            let Some(source) = source.filter(|_| source != header) else {
                inner().for_each(|block| self.block(block, parent, header));
                line = None;
                continue;
            };
            let mut lines = self.text.lines(source);
            if self.text.opens_a_block(source) && !run.is_empty() {
                let last = spans[run.clone()].iter().flatten().map(|span| span.end).max().unwrap_or(0);
                lines.end = lines.end.max(self.text.line(last.saturating_sub(1)) + 1);
                let part = self.push(number, run.clone(), lines, parent, true);
                inner().for_each(|block| self.block(block, Some(part), Some(source)));
                line = None;
                continue;
            }
            // Blocks of one statement, as `&&` has, are no parts. They are counted.
            inner().for_each(|block| self.blocks += count(block));
            match line.map(|part| &mut self.parts[part]) {
                _ if run.is_empty() => {}
                Some(before) if before.lines.start == lines.start => {
                    before.lines.end = before.lines.end.max(lines.end);
                    before.run.statements.end = run.end;
                }
                _ => line = Some(self.push(number, run, lines, parent, false)),
            }
        }
    }

    fn push(
        &mut self,
        block: usize,
        statements: Range<usize>,
        lines: Range<usize>,
        parent: Option<usize>,
        is_block: bool,
    ) -> usize {
        let run = Run { place: self.place, block, statements };
        self.parts.push(Part { function: self.name.clone(), lines, parent, is_block, kept: None, run });
        self.parts.len() - 1
    }
}

/// A block and those within it.
fn count(block: &naga::Block) -> usize {
    1 + block.iter().flat_map(blocks).map(count).sum::<usize>()
}

/// Why a run must stay on.
fn kept(module: &naga::Module, slice: &Slice, info: &FunctionInfo, run: &Run) -> Option<Kept> {
    let function = run.place.of(module);
    let (computed, used) = run.flow(function);
    if leaves(run.of(module), false, false) {
        return Some(Kept::Leaves);
    }
    // A variable that no other statement names is nothing to them.
    let is_own = |memory: Memory| {
        match memory {
        Memory::Local(place, local) => {
            place == run.place
                && !used.iter().any(|&value| {
                    matches!(function.expressions[value], Expression::LocalVariable(other) if other == local)
                })
        }
        _ => false,
    }
    };
    let mut found = None;
    each_statement(run.of(module), &mut |statement| {
        found = found.or_else(|| touched(module, slice, run.place, statement, &is_own));
        let Statement::Call { function, .. } = statement else { return };
        for place in reachable(module, Place::Function(*function)) {
            each_statement(&place.of(module).body, &mut |statement| {
                let is_own = |memory| matches!(memory, Memory::Local(..));
                found = found.or_else(|| touched(module, slice, place, statement, &is_own));
            });
        }
    });
    found.or_else(|| {
        computed.intersection(&used).find_map(|&value| {
            let inner = info[value].ty.inner_with(&module.types);
            let pointer = matches!(inner, TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. });
            reason(slice.value(run.place, value)).or(pointer.then_some(Kept::Index))
        })
    })
}

fn reason(decides: Decides) -> Option<Kept> {
    match decides {
        0 => None,
        decides if decides & CONTROL != 0 => Some(Kept::Condition),
        _ => Some(Kept::Index),
    }
}

/// What must go on of what a statement itself does to memory, other than to that for which `is_own` holds.
fn touched(
    module: &naga::Module,
    slice: &Slice,
    place: Place,
    statement: &Statement,
    is_own: &impl Fn(Memory) -> bool,
) -> Option<Kept> {
    let pointer = match statement {
        Statement::ControlBarrier(_)
        | Statement::MemoryBarrier(_)
        | Statement::WorkGroupUniformLoad { .. } => return slice.is_shared.then_some(Kept::Barrier),
        Statement::Store { pointer, .. } | Statement::Atomic { pointer, .. } => pointer,
        Statement::CooperativeStore { data, .. } => &data.pointer,
        _ => return None,
    };
    let memory = root(module, place, *pointer).filter(|&memory| !is_own(memory))?;
    reason(slice.memory(memory))
}

/// Whether statements end something around them: a function, or a loop or `switch` that they are in.
fn leaves(statements: &[Statement], in_loop: bool, in_switch: bool) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::Return { .. } | Statement::Kill => true,
        Statement::Break => !in_loop && !in_switch,
        Statement::Continue => !in_loop,
        Statement::Loop { body, continuing, .. } => {
            leaves(body, true, false) || leaves(continuing, true, false)
        }
        Statement::Switch { cases, .. } => cases.iter().any(|case| leaves(&case.body, in_loop, true)),
        _ => blocks(statement).into_iter().any(|block| leaves(block, in_loop, in_switch)),
    })
}

#[cfg(test)]
mod tests;
