//! What compilers made of the kernels: `instruction_mix.csv`, recorded with RADV, Mesa's compiler for AMD's GPUs.

use serde::Serialize;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Registers of a kernel, and the instructions in its hottest loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InstructionMix {
    /// Vector registers.
    pub registers: u32,
    /// Registers that were spilled.
    pub spills: u32,
    /// Bytes of scratch memory of an invocation.
    pub scratch: u32,
    /// Products by matrix units.
    pub matrix: u32,
    /// Multiply-adds.
    pub fma: u32,
    /// Other vector instructions.
    pub other: u32,
    /// Scalar instructions, which a unit of their own executes.
    pub scalar: u32,
    /// Loads and stores of workgroup memory.
    pub workgroup: u32,
    /// Loads and stores of buffers and scratch memory.
    pub memory: u32,
}

/// By kernel (`shader:entry`) and variant, as plans print them.
#[derive(Clone, Debug)]
pub struct InstructionMixes(HashMap<(String, String), InstructionMix>);

const HEAD: &str = "kernel,variant,registers,spills,scratch,matrix,fma,other,scalar,workgroup,memory";

impl InstructionMixes {
    /// What was recorded of this version's kernels.
    pub fn recorded() -> &'static Self {
        static RECORDED: LazyLock<InstructionMixes> = LazyLock::new(|| {
            InstructionMixes::read(include_str!("instruction_mix.csv")).expect("a test reads this file")
        });
        &RECORDED
    }

    /// Reads comma-separated values under a line of names; lines that begin with # are left out.
    ///
    /// # Errors
    /// The line that is wrong.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        if lines.next() != Some(HEAD) {
            return Err(format!("the first line must be {HEAD}"));
        }
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            let [kernel, variant, counts @ ..] = &fields[..] else { return None };
            let counts: Vec<u32> = counts.iter().map(|n| n.parse().ok()).collect::<Option<_>>()?;
            let [registers, spills, scratch, matrix, fma, other, scalar, workgroup, memory] = counts[..]
            else {
                return None;
            };
            let mix =
                InstructionMix { registers, spills, scratch, matrix, fma, other, scalar, workgroup, memory };
            Some((((*kernel).into(), (*variant).into()), mix))
        };
        let rows = lines.map(|line| row(line).ok_or_else(|| format!("not such a line: {line}")));
        Ok(Self(rows.collect::<Result<_, _>>()?))
    }

    /// What was recorded of a kernel.
    pub fn of(&self, kernel: &str, variant: &str) -> Option<InstructionMix> {
        self.0.get(&(kernel.into(), variant.into())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_or_refused() {
        let text = format!("# how it was made\n{HEAD}\nconv:forward,PASS=0u TILE=8u,96,1,2,3,4,5,6,7,8\n");
        let mix = InstructionMixes::read(&text).unwrap().of("conv:forward", "PASS=0u TILE=8u").unwrap();
        assert_eq!((mix.registers, mix.spills, mix.scratch, mix.matrix), (96, 1, 2, 3));
        assert_eq!((mix.fma, mix.other, mix.scalar, mix.workgroup, mix.memory), (4, 5, 6, 7, 8));
        assert!(InstructionMixes::read("kernel,variant\n").is_err());
        for line in ["a,b,1,2,3", "a,b,1,2,3,4,5,6,7,8,9,10", "a,b,1,2,3,4,5,6,7,8,-9", "a", ""] {
            let error = InstructionMixes::read(&format!("{HEAD}\n{line}\n")).unwrap_err();
            assert!(error.contains("not such a line"), "{error}");
        }
    }
}
