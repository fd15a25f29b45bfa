//! What expressions and statements of naga's modules are made of.

use naga::{
    AtomicFunction, Block, CooperativeData, Expression, Function, GatherMode, Handle, Module, Statement,
};
use std::collections::HashSet;

type Operand = Handle<Expression>;

/// A function of a module: its number, or that of no function for the entry point in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Function(Handle<Function>),
    Entry(usize),
}

impl Place {
    pub(super) fn of(self, module: &Module) -> &Function {
        match self {
            Self::Function(handle) => &module.functions[handle],
            Self::Entry(number) => &module.entry_points[number].function,
        }
    }

    pub(super) fn of_mut(self, module: &mut Module) -> &mut Function {
        match self {
            Self::Function(handle) => module.functions.get_mut(handle),
            Self::Entry(number) => &mut module.entry_points[number].function,
        }
    }
}

/// A function and all those that it calls, itself or through others, in the order in which they are met.
pub(super) fn reachable(module: &Module, first: Place) -> Vec<Place> {
    let mut found = vec![first];
    let mut next = 0;
    while let Some(place) = found.get(next).copied() {
        next += 1;
        each_statement(&place.of(module).body, &mut |statement| {
            if let Statement::Call { function, .. } = statement
                && !found.contains(&Place::Function(*function))
            {
                found.push(Place::Function(*function));
            }
        });
    }
    found
}

/// The expressions that an expression is computed from. Textures and rays are not among what kernels have.
pub(super) fn operands(expression: &mut Expression, f: &mut impl FnMut(&mut Operand)) {
    match expression {
        Expression::Literal(_)
        | Expression::Constant(_)
        | Expression::Override(_)
        | Expression::ZeroValue(_)
        | Expression::FunctionArgument(_)
        | Expression::GlobalVariable(_)
        | Expression::LocalVariable(_)
        | Expression::CallResult(_)
        | Expression::AtomicResult { .. }
        | Expression::WorkGroupUniformLoadResult { .. }
        | Expression::SubgroupBallotResult
        | Expression::SubgroupOperationResult { .. }
        | Expression::RayQueryProceedResult
        | Expression::RayQueryVertexPositions { .. }
        | Expression::RayQueryGetIntersection { .. }
        | Expression::ImageSample { .. }
        | Expression::ImageLoad { .. }
        | Expression::ImageQuery { .. } => {}
        Expression::Compose { components, .. } => components.iter_mut().for_each(f),
        Expression::Access { base, index } => [base, index].into_iter().for_each(f),
        Expression::AccessIndex { base: operand, .. }
        | Expression::Splat { value: operand, .. }
        | Expression::Swizzle { vector: operand, .. }
        | Expression::Load { pointer: operand }
        | Expression::Unary { expr: operand, .. }
        | Expression::Derivative { expr: operand, .. }
        | Expression::Relational { argument: operand, .. }
        | Expression::As { expr: operand, .. }
        | Expression::ArrayLength(operand) => f(operand),
        Expression::Binary { left, right, .. } => [left, right].into_iter().for_each(f),
        Expression::Select { condition, accept, reject } => {
            [condition, accept, reject].into_iter().for_each(f);
        }
        Expression::Math { arg, arg1, arg2, arg3, .. } => {
            f(arg);
            [arg1, arg2, arg3].into_iter().flatten().for_each(f);
        }
        Expression::CooperativeLoad { data, .. } => of_data(data, f),
        Expression::CooperativeMultiplyAdd { a, b, c } => [a, b, c].into_iter().for_each(f),
    }
}

fn of_data(data: &mut CooperativeData, f: &mut impl FnMut(&mut Operand)) {
    [&mut data.pointer, &mut data.stride].into_iter().for_each(f);
}

/// The expressions that a statement reads, without those of the blocks within it.
pub(super) fn uses(statement: &mut Statement, f: &mut impl FnMut(&mut Operand)) {
    match statement {
        Statement::If { condition: operand, .. } | Statement::Switch { selector: operand, .. } => f(operand),
        Statement::Loop { break_if, .. } => break_if.iter_mut().for_each(f),
        Statement::Return { value } => value.iter_mut().for_each(f),
        Statement::Store { pointer, value } => [pointer, value].into_iter().for_each(f),
        Statement::Atomic { pointer, fun, value, .. } => {
            [pointer, value].into_iter().for_each(&mut *f);
            if let AtomicFunction::Exchange { compare } = fun {
                compare.iter_mut().for_each(f);
            }
        }
        Statement::WorkGroupUniformLoad { pointer, .. } => f(pointer),
        Statement::Call { arguments, .. } => arguments.iter_mut().for_each(f),
        Statement::SubgroupBallot { predicate, .. } => predicate.iter_mut().for_each(f),
        Statement::SubgroupGather { mode, argument, .. } => {
            f(argument);
            match mode {
                GatherMode::Broadcast(lane)
                | GatherMode::Shuffle(lane)
                | GatherMode::ShuffleDown(lane)
                | GatherMode::ShuffleUp(lane)
                | GatherMode::ShuffleXor(lane)
                | GatherMode::QuadBroadcast(lane) => f(lane),
                GatherMode::BroadcastFirst | GatherMode::QuadSwap(_) => {}
            }
        }
        Statement::SubgroupCollectiveOperation { argument, .. } => f(argument),
        Statement::CooperativeStore { target, data } => {
            f(target);
            of_data(data, f);
        }
        Statement::Emit(_)
        | Statement::Block(_)
        | Statement::Break
        | Statement::Continue
        | Statement::Kill
        | Statement::ControlBarrier(_)
        | Statement::MemoryBarrier(_)
        | Statement::ImageStore { .. }
        | Statement::ImageAtomic { .. }
        | Statement::RayQuery { .. }
        | Statement::RayPipelineFunction(_) => {}
    }
}

/// The expression that a statement other than `Emit` brings forth.
pub(super) fn result(statement: &mut Statement) -> Option<&mut Operand> {
    match statement {
        Statement::Atomic { result, .. } | Statement::Call { result, .. } => result.as_mut(),
        Statement::WorkGroupUniformLoad { result, .. }
        | Statement::SubgroupBallot { result, .. }
        | Statement::SubgroupGather { result, .. }
        | Statement::SubgroupCollectiveOperation { result, .. } => Some(result),
        _ => None,
    }
}

/// The blocks within a statement.
pub(super) fn blocks(statement: &Statement) -> Vec<&Block> {
    match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter().map(|case| &case.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => Vec::new(),
    }
}

/// The same, to change them.
pub(super) fn blocks_mut(statement: &mut Statement) -> Vec<&mut Block> {
    match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter_mut().map(|case| &mut case.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => Vec::new(),
    }
}

/// Every statement of these, and those within them.
pub(super) fn each_statement<'a>(
    statements: impl IntoIterator<Item = &'a Statement>,
    f: &mut impl FnMut(&'a Statement),
) {
    for statement in statements {
        f(statement);
        blocks(statement).into_iter().for_each(|block| each_statement(block, f));
    }
}

/// [`operands`] to read.
pub(super) fn operands_of(expression: &Expression) -> Vec<Operand> {
    let mut found = Vec::new();
    operands(&mut expression.clone(), &mut |operand| found.push(*operand));
    found
}

/// [`uses`] to read.
pub(super) fn uses_of(statement: &Statement) -> Vec<Operand> {
    let mut found = Vec::new();
    match statement {
        // Without a copy of the blocks within.
        Statement::If { condition: operand, .. } | Statement::Switch { selector: operand, .. } => {
            found.push(*operand);
        }
        Statement::Loop { break_if, .. } => found.extend(break_if),
        Statement::Block(_) => {}
        _ => uses(&mut statement.clone(), &mut |operand| found.push(*operand)),
    }
    found
}

/// [`result`] to read.
pub(super) fn result_of(statement: &Statement) -> Option<Operand> {
    if blocks(statement).is_empty() { result(&mut statement.clone()).copied() } else { None }
}

/// Neighbouring statements of a block. Blocks are counted in the order in which they begin, from that of the function on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub place: Place,
    pub block: usize,
    pub statements: std::ops::Range<usize>,
}

impl Run {
    /// Calls `f` with every statement of the function and whether it is in this run, or within a statement that is.
    fn each<'a>(
        &self,
        block: &'a Block,
        within: bool,
        count: &mut usize,
        f: &mut impl FnMut(&'a Statement, bool),
    ) {
        let number = *count;
        *count += 1;
        for (i, statement) in block.iter().enumerate() {
            let inside = within || (number == self.block && self.statements.contains(&i));
            f(statement, inside);
            for block in blocks(statement) {
                self.each(block, inside, count, f);
            }
        }
    }

    /// The statements of the run itself, without those within them.
    pub(super) fn of<'a>(&self, module: &'a Module) -> &'a [Statement] {
        fn find<'a>(block: &'a Block, wanted: usize, count: &mut usize) -> Option<&'a Block> {
            if *count == wanted {
                return Some(block);
            }
            *count += 1;
            block.iter().flat_map(blocks).find_map(|block| find(block, wanted, count))
        }
        find(&self.place.of(module).body, self.block, &mut 0).map_or(&[], |b| &b[self.statements.clone()])
    }

    /// What is computed in the run, and what is used outside it.
    pub(super) fn flow(&self, function: &Function) -> (HashSet<Operand>, HashSet<Operand>) {
        let (mut computed, mut used) = (HashSet::new(), HashSet::new());
        self.each(&function.body, false, &mut 0, &mut |statement, inside| {
            if !inside {
                used.extend(uses_of(statement));
            } else if let Statement::Emit(range) = statement {
                computed.extend(range.clone());
            } else {
                computed.extend(result_of(statement));
            }
        });
        for (handle, expression) in function.expressions.iter() {
            if !computed.contains(&handle) {
                used.extend(operands_of(expression));
            }
        }
        (computed, used)
    }
}
