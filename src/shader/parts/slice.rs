//! What of a kernel decides which statements run and which memory they touch: a backward slice (Weiser 1981) from all conditions
//! and all indices, through variables, memory and calls, regardless of order.

use super::walk::{Place, each_statement, operands_of, reachable, result_of, uses_of};
use naga::{
    AddressSpace, Expression, Function, GlobalVariable, Handle, LocalVariable, Module, Statement,
    StorageAccess, TypeInner,
};
use std::collections::HashMap;

/// What something decides: any of the two bits, or neither.
pub(super) type Decides = u8;

/// Which statements run, and how often.
pub(super) const CONTROL: Decides = 1;
/// Which element of memory or of an array is touched.
pub(super) const ADDRESS: Decides = 2;

/// What a pointer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    Local(Place, Handle<LocalVariable>),
    Global(Handle<GlobalVariable>),
    /// Whatever the caller's pointer leads to.
    Argument(Place, u32),
}

/// The slice of an entry point.
pub(super) struct Slice {
    values: HashMap<(Place, Handle<Expression>), Decides>,
    /// What is stored there decides.
    memory: HashMap<Memory, Decides>,
    /// What a function itself loads there decides, whoever calls it.
    loaded: HashMap<Memory, Decides>,
    /// Arguments that are values, and results of functions.
    arguments: HashMap<(Place, u32), Decides>,
    results: HashMap<Place, Decides>,
    /// Whether anything is decided by memory that invocations share and write.
    pub is_shared: bool,
    changed: bool,
}

/// Where a pointer leads; nothing for a value.
pub(super) fn root(module: &Module, place: Place, mut pointer: Handle<Expression>) -> Option<Memory> {
    let function: &Function = place.of(module);
    loop {
        match function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => pointer = base,
            Expression::LocalVariable(local) => return Some(Memory::Local(place, local)),
            Expression::GlobalVariable(global) => return Some(Memory::Global(global)),
            Expression::FunctionArgument(k) => {
                let ty = function.arguments.get(k as usize)?.ty;
                let pointer = matches!(
                    module.types[ty].inner,
                    TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. }
                );
                return pointer.then_some(Memory::Argument(place, k));
            }
            _ => return None,
        }
    }
}

impl Slice {
    pub(super) fn of(module: &Module, entry: Place) -> Self {
        let mut slice = Self {
            values: HashMap::new(),
            memory: HashMap::new(),
            loaded: HashMap::new(),
            arguments: HashMap::new(),
            results: HashMap::new(),
            is_shared: false,
            changed: true,
        };
        let places = reachable(module, entry);
        while slice.changed {
            slice.changed = false;
            for &place in &places {
                each_statement(&place.of(module).body, &mut |s| slice.statement(module, place, s));
                // Operands stand before what is computed from them, so that one way back reaches them all.
                for (handle, expression) in place.of(module).expressions.iter().rev() {
                    slice.expression(module, place, handle, expression);
                }
            }
        }
        slice.is_shared = slice.shares(module);
        slice
    }

    pub(super) fn value(&self, place: Place, value: Handle<Expression>) -> Decides {
        self.values.get(&(place, value)).copied().unwrap_or(0)
    }

    pub(super) fn memory(&self, memory: Memory) -> Decides {
        self.memory.get(&memory).copied().unwrap_or(0)
    }

    fn shares(&self, module: &Module) -> bool {
        self.memory.iter().any(|(memory, &decides)| match memory {
            Memory::Global(global) if decides != 0 => match module.global_variables[*global].space {
                AddressSpace::WorkGroup => true,
                AddressSpace::Storage { access } => access.contains(StorageAccess::STORE),
                _ => false,
            },
            _ => false,
        })
    }

    fn mark_value(&mut self, place: Place, value: Handle<Expression>, decides: Decides) {
        mark(&mut self.values, (place, value), decides, &mut self.changed);
    }

    fn mark_loaded(&mut self, memory: Option<Memory>, decides: Decides) {
        if let Some(memory) = memory {
            mark(&mut self.memory, memory, decides, &mut self.changed);
            mark(&mut self.loaded, memory, decides, &mut self.changed);
        }
    }

    fn expression(
        &mut self,
        module: &Module,
        place: Place,
        handle: Handle<Expression>,
        expression: &Expression,
    ) {
        // Every index is an address, also into an array that is a value.
        match expression {
            Expression::Access { index, .. } => self.mark_value(place, *index, ADDRESS),
            Expression::CooperativeLoad { data, .. } => self.mark_value(place, data.stride, ADDRESS),
            _ => {}
        }
        let decides = self.value(place, handle);
        if decides == 0 {
            return;
        }
        operands_of(expression).into_iter().for_each(|operand| self.mark_value(place, operand, decides));
        match expression {
            Expression::Load { pointer } => self.mark_loaded(root(module, place, *pointer), decides),
            Expression::CooperativeLoad { data, .. } => {
                self.mark_loaded(root(module, place, data.pointer), decides);
            }
            Expression::CallResult(function) => {
                mark(&mut self.results, Place::Function(*function), decides, &mut self.changed);
            }
            Expression::FunctionArgument(k) => {
                mark(&mut self.arguments, (place, *k), decides, &mut self.changed);
            }
            _ => {}
        }
    }

    fn statement(&mut self, module: &Module, place: Place, statement: &Statement) {
        // What decides by its result decides through all that it reads.
        if let Some(result) = result_of(statement)
            && !matches!(statement, Statement::Call { .. })
        {
            let decides = self.value(place, result);
            for operand in uses_of(statement) {
                self.mark_value(place, operand, decides);
                self.mark_loaded(root(module, place, operand), decides);
            }
        }
        match statement {
            Statement::If { condition: value, .. }
            | Statement::Switch { selector: value, .. }
            | Statement::Loop { break_if: Some(value), .. } => self.mark_value(place, *value, CONTROL),
            Statement::Return { value: Some(value) } => {
                let decides = self.results.get(&place).copied().unwrap_or(0);
                self.mark_value(place, *value, decides);
            }
            Statement::Store { pointer, value } => {
                let decides = root(module, place, *pointer).map_or(0, |memory| self.memory(memory));
                self.mark_value(place, *value, decides);
            }
            Statement::Atomic { pointer, .. } => {
                let decides = root(module, place, *pointer).map_or(0, |memory| self.memory(memory));
                uses_of(statement).into_iter().for_each(|operand| self.mark_value(place, operand, decides));
            }
            Statement::CooperativeStore { target, data } => {
                let decides = root(module, place, data.pointer).map_or(0, |memory| self.memory(memory));
                self.mark_value(place, *target, decides);
                self.mark_value(place, data.stride, ADDRESS);
            }
            Statement::Call { function, arguments, .. } => {
                let callee = Place::Function(*function);
                for (&argument, k) in arguments.iter().zip(0..) {
                    let decides = self.arguments.get(&(callee, k)).copied().unwrap_or(0);
                    self.mark_value(place, argument, decides);
                    // The two are one memory: what is loaded from it decides for all callers, what is stored for some.
                    if let Some(given) = root(module, place, argument) {
                        let taken = Memory::Argument(callee, k);
                        let loaded = self.loaded.get(&taken).copied().unwrap_or(0);
                        self.mark_loaded(Some(given), loaded);
                        let stored = self.memory(given);
                        mark(&mut self.memory, taken, stored, &mut self.changed);
                    }
                }
            }
            _ => {}
        }
    }
}

fn mark<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Decides>,
    key: K,
    decides: Decides,
    changed: &mut bool,
) {
    if decides != 0 {
        let found = map.entry(key).or_insert(0);
        *changed |= *found | decides != *found;
        *found |= decides;
    }
}
