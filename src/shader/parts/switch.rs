//! A module in which parts of a kernel run only if a uniform is not zero.

use super::walk::{Place, Run, blocks_mut, operands, result, uses};
use naga::proc::TypeResolution;
use naga::valid::FunctionInfo;
use naga::{
    AddressSpace, Arena, BinaryOperator, Block, Expression, GlobalVariable, Handle, Literal, LocalVariable,
    Module, Range, ResourceBinding, Scalar, Span, Statement, Type, TypeInner,
};
use std::collections::HashMap;

/// The group of the uniform, a u32 at binding 0: what launches bind themselves is in group 0.
pub const SWITCH_GROUP: u32 = 1;

/// Adds the uniform to a module.
pub(super) fn add_switch(module: &mut Module) -> Handle<GlobalVariable> {
    let ty = module.types.insert(Type { name: None, inner: TypeInner::Scalar(Scalar::U32) }, Span::UNDEFINED);
    let variable = GlobalVariable {
        name: Some("part_is_on".into()),
        space: AddressSpace::Uniform,
        binding: Some(ResourceBinding { group: SWITCH_GROUP, binding: 0 }),
        ty,
        init: None,
        memory_decorations: naga::MemoryDecorations::empty(),
    };
    module.global_variables.append(variable, Span::UNDEFINED)
}

/// Puts runs of one function, apart from each other, behind the switch. What other statements use of them passes through
/// variables, which stay zero while the runs are off.
pub(super) fn put_behind(
    module: &mut Module,
    info: &FunctionInfo,
    switch: Handle<GlobalVariable>,
    place: Place,
    runs: &[Run],
) {
    let mut function = std::mem::take(place.of_mut(module));
    let mut rewrite = Rewrite::new(switch, runs);
    let mut escaping = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let (computed, used) = run.flow(&function);
        escaping.extend(computed.intersection(&used).copied());
        rewrite.last.push(computed.iter().max().copied());
        rewrite.owner.extend(computed.into_iter().map(|value| (value, number)));
    }
    // In the order of the function, so that the module is the same every time.
    escaping.sort_unstable();
    for value in escaping {
        let ty = match info[value].ty.clone() {
            TypeResolution::Handle(handle) => handle,
            TypeResolution::Value(inner) => module.types.insert(Type { name: None, inner }, Span::UNDEFINED),
        };
        let local = LocalVariable { name: None, ty, init: None };
        let local = function.local_variables.append(local, Span::UNDEFINED);
        let pointer = rewrite.expressions.append(Expression::LocalVariable(local), Span::UNDEFINED);
        rewrite.spilled.push((value, pointer));
    }
    for (value, expression) in function.expressions.iter() {
        rewrite.append(value, expression.clone(), function.expressions.get_span(value));
    }
    for (_, local) in function.local_variables.iter_mut() {
        local.init = local.init.map(|init| rewrite.fresh[&init]);
    }
    let names = std::mem::take(&mut function.named_expressions);
    function.named_expressions =
        names.into_iter().map(|(value, name)| (rewrite.fresh[&value], name)).collect();
    let body = rewrite.block(std::mem::take(&mut function.body), None, &mut 0);
    function.body.push(Statement::Emit(rewrite.prelude), Span::UNDEFINED);
    function.body.extend_block(body);
    function.expressions = rewrite.expressions;
    *place.of_mut(module) = function;
}

type Value = Handle<Expression>;

/// A function on its way behind the switch. Its expressions are numbered anew, since what is loaded must stand before its uses.
struct Rewrite<'a> {
    runs: &'a [Run],
    /// The run that each of the old expressions is computed in.
    owner: HashMap<Value, usize>,
    /// The last of them in each run.
    last: Vec<Option<Value>>,
    /// What leaves its run, and the variable that it passes through.
    spilled: Vec<(Value, Value)>,
    expressions: Arena<Expression>,
    /// The new expression of each old one.
    fresh: HashMap<Value, Value>,
    /// The load that stands for it outside its run.
    loaded: HashMap<Value, Value>,
    /// Whether the runs are on, computed once at the begin of the function.
    is_on: Value,
    prelude: Range<Expression>,
}

impl<'a> Rewrite<'a> {
    fn new(switch: Handle<GlobalVariable>, runs: &'a [Run]) -> Self {
        let mut expressions = Arena::new();
        let mut append = |expression| expressions.append(expression, Span::UNDEFINED);
        let pointer = append(Expression::GlobalVariable(switch));
        let zero = append(Expression::Literal(Literal::U32(0)));
        let word = append(Expression::Load { pointer });
        let is_on = append(Expression::Binary { op: BinaryOperator::NotEqual, left: word, right: zero });
        Self {
            runs,
            owner: HashMap::new(),
            last: Vec::new(),
            spilled: Vec::new(),
            expressions,
            fresh: HashMap::new(),
            loaded: HashMap::new(),
            is_on,
            prelude: Range::new_from_bounds(word, is_on),
        }
    }

    /// The new expression that stands for an old one where it is used in this run, or outside all of them.
    fn seen(&self, value: Value, run: Option<usize>) -> Value {
        match self.loaded.get(&value) {
            Some(&load) if self.owner.get(&value).copied() != run => load,
            _ => self.fresh[&value],
        }
    }

    fn append(&mut self, value: Value, mut expression: Expression, span: Span) {
        let run = self.owner.get(&value).copied();
        operands(&mut expression, &mut |operand| *operand = self.seen(*operand, run));
        self.fresh.insert(value, self.expressions.append(expression, span));
        let Some(run) = run.filter(|&run| self.last[run] == Some(value)) else { return };
        for &(value, pointer) in self.spilled.iter().filter(|(value, _)| self.owner[value] == run) {
            let load = self.expressions.append(Expression::Load { pointer }, Span::UNDEFINED);
            self.loaded.insert(value, load);
        }
    }

    fn block(&self, block: Block, within: Option<usize>, count: &mut usize) -> Block {
        let number = *count;
        *count += 1;
        let (mut rewritten, mut accept) = (Block::new(), Block::new());
        for (i, (statement, span)) in block.span_into_iter().enumerate() {
            let begun = |run: &Run| run.block == number && run.statements.contains(&i);
            let Some(run) = self.runs.iter().position(begun).filter(|_| within.is_none()) else {
                rewritten.push(self.statement(statement, within, count), span);
                continue;
            };
            accept.push(self.statement(statement, Some(run), count), span);
            if i + 1 == self.runs[run].statements.end {
                self.close(run, std::mem::take(&mut accept), &mut rewritten);
            }
        }
        rewritten
    }

    /// Ends a run: what leaves it is stored within the condition, and loaded behind it.
    fn close(&self, run: usize, mut accept: Block, rewritten: &mut Block) {
        let mut loads = Vec::new();
        for &(value, pointer) in self.spilled.iter().filter(|(value, _)| self.owner[value] == run) {
            accept.push(Statement::Store { pointer, value: self.fresh[&value] }, Span::UNDEFINED);
            loads.push(self.loaded[&value]);
        }
        let guarded = Statement::If { condition: self.is_on, accept, reject: Block::new() };
        rewritten.push(guarded, Span::UNDEFINED);
        if let (Some(&first), Some(&last)) = (loads.first(), loads.last()) {
            rewritten.push(Statement::Emit(Range::new_from_bounds(first, last)), Span::UNDEFINED);
        }
    }

    fn statement(&self, mut statement: Statement, run: Option<usize>, count: &mut usize) -> Statement {
        uses(&mut statement, &mut |operand| *operand = self.seen(*operand, run));
        if let Some(value) = result(&mut statement) {
            *value = self.fresh[value];
        }
        if let Statement::Emit(range) = &mut statement
            && let Some((first, last)) = range.first_and_last()
        {
            *range = Range::new_from_bounds(self.fresh[&first], self.fresh[&last]);
        }
        for block in blocks_mut(&mut statement) {
            *block = self.block(std::mem::take(block), run, count);
        }
        statement
    }
}
