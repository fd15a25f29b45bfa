//! What compilers made of the kernels: `instruction_mix.csv`, recorded with RADV, Mesa's compiler for AMD's GPUs; and
//! `matrix_mix.csv`, of the kernels on matrix units, with a later version that knows them.

use crate::isa::Mix;
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
    /// Instructions of the hottest loop.
    #[serde(flatten)]
    pub hottest: Mix,
}

/// By kernel (`shader:entry`) and variant, as plans print them.
#[derive(Clone, Debug)]
pub struct InstructionMixes(HashMap<(String, String), InstructionMix>);

const HEAD: &str = "kernel,variant,registers,spills,scratch,matrix,fma,other,scalar,workgroup,memory";

impl InstructionMixes {
    /// What was recorded of this version's kernels.
    pub fn recorded() -> &'static Self {
        static RECORDED: LazyLock<InstructionMixes> = LazyLock::new(|| {
            let files = [include_str!("instruction_mix.csv"), include_str!("matrix_mix.csv")];
            let read = |text| InstructionMixes::read(text).expect("a test reads these files").0;
            InstructionMixes(files.into_iter().flat_map(read).collect())
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
            let hottest = Mix { matrix, fma, other, scalar, workgroup, memory };
            let mix = InstructionMix { registers, spills, scratch, hottest };
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
        assert_eq!((mix.registers, mix.spills, mix.scratch), (96, 1, 2));
        assert_eq!(mix.hottest, Mix { matrix: 3, fma: 4, other: 5, scalar: 6, workgroup: 7, memory: 8 });
        assert!(InstructionMixes::read("kernel,variant\n").is_err());
        for line in ["a,b,1,2,3", "a,b,1,2,3,4,5,6,7,8,9,10", "a,b,1,2,3,4,5,6,7,8,-9", "a", ""] {
            let error = InstructionMixes::read(&format!("{HEAD}\n{line}\n")).unwrap_err();
            assert!(error.contains("not such a line"), "{error}");
        }
    }
}
