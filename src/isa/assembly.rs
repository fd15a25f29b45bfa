//! The loops of a kernel, from the assembly of AMD's GPUs as RADV prints it.

use std::collections::BTreeSet;
use std::ops::AddAssign;

/// Instructions by kind, as they stand in the code: how often a loop turns and which branches it takes is unknown. Waits and hints
/// to the hardware are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Mix {
    /// Products by matrix units.
    pub matrix: u32,
    /// Fused multiply-adds of floats, and dot products. A pair that is issued together counts two.
    pub fma: u32,
    /// Other vector instructions, exchanges among a subgroup's invocations too.
    pub other: u32,
    /// Scalar instructions, branches and barriers.
    pub scalar: u32,
    /// Loads, stores and atomics of workgroup memory.
    pub workgroup: u32,
    /// Loads, stores and atomics of buffers and of scratch memory.
    pub memory: u32,
}

impl Mix {
    /// The part of FMAs and matrix products in all of them; 0 of none.
    pub fn fma_share(&self) -> f64 {
        let Self { matrix, fma, other, scalar, workgroup, memory } = *self;
        let all = matrix + fma + other + scalar + workgroup + memory;
        f64::from(matrix + fma) / f64::from(all.max(1))
    }

    fn of(opcode: &str) -> Self {
        let mut mix = Self::default();
        let has = |beginnings: &[&str]| beginnings.iter().any(|b| opcode.starts_with(b));
        let count =
            if has(&["s_wait", "s_nop", "s_clause", "s_delay_alu", "s_sleep", "s_sendmsg", "s_code_end"])
                || opcode.contains("inst_prefetch")
            {
                return mix;
            } else if has(&["v_wmma", "v_swmmac", "v_mfma"]) {
                &mut mix.matrix
            } else if is_fma(opcode) {
                &mut mix.fma
            } else if has(&["ds_"]) && !has(&["ds_bpermute", "ds_permute", "ds_swizzle"]) {
                &mut mix.workgroup
            } else if has(&["buffer_gl", "buffer_inv", "s_"]) {
                &mut mix.scalar
            } else if has(&["buffer_", "tbuffer_", "global_", "flat_", "scratch_", "image_"]) {
                &mut mix.memory
            } else {
                &mut mix.other
            };
        *count = 1;
        mix
    }
}

impl AddAssign for Mix {
    fn add_assign(&mut self, more: Self) {
        self.matrix += more.matrix;
        self.fma += more.fma;
        self.other += more.other;
        self.scalar += more.scalar;
        self.workgroup += more.workgroup;
        self.memory += more.memory;
    }
}

/// `v_fmac_f32_e32`, `v_dual_fmaak_f32`, `v_fma_mix_f32`, `v_pk_fma_f16`, `v_dot2_f32_f16`, and the `v_mad_f32` of older
/// chips; not `v_mad_u32_u24`, which is of integers.
fn is_fma(opcode: &str) -> bool {
    let Some(name) = opcode.strip_prefix("v_") else { return false };
    let name = name.strip_prefix("dual_").or(name.strip_prefix("pk_")).unwrap_or(name);
    let of_floats = name.contains("_f16") || name.contains("_f32") || name.contains("_f64");
    name.starts_with("dot")
        || of_floats && ["fma", "mac_", "mad_", "madak", "madmk"].iter().any(|b| name.starts_with(b))
}

/// A stretch of code that is entered at its beginning and left at its end.
#[derive(Debug, Default)]
struct Block<'a> {
    label: &'a str,
    mix: Mix,
    /// Labels that it may jump to.
    jumps: Vec<&'a str>,
    /// Whether it never goes on to the block below.
    ends: bool,
}

fn blocks(assembly: &str) -> Vec<Block<'_>> {
    let mut blocks = vec![Block::default()];
    for line in assembly.lines() {
        // Behind a semicolon stand the instruction's words.
        let code = line.split(';').next().unwrap_or_default().trim();
        if let Some(label) = code.strip_suffix(':') {
            blocks.push(Block { label, ..Block::default() });
            continue;
        }
        let Some(block) = blocks.last_mut() else { continue };
        // Two operations of one instruction are joined by ::.
        for operation in code.split("::") {
            let mut words = operation.split_whitespace();
            let Some(opcode) = words.next() else { continue };
            block.mix += Mix::of(opcode);
            if opcode.starts_with("s_cbranch") || opcode == "s_branch" {
                block.jumps.extend(words.next());
            }
            block.ends = matches!(opcode, "s_branch" | "s_endpgm" | "s_setpc_b64");
        }
    }
    blocks
}

/// A loop: the block that it begins with, and all blocks of its body, those of loops within it too.
struct Loop {
    header: usize,
    body: BTreeSet<usize>,
}

/// Blocks stand in the order of the source's structure, so that a jump to the same or an earlier block leads back to the header
/// of its loop; the body is all behind the header from which that jump is reached. A loop that was turned round is entered at the
/// test at its end, so that what lies before it reaches the jump too.
fn loops(blocks: &[Block<'_>]) -> Vec<Loop> {
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
    for (i, block) in blocks.iter().enumerate() {
        let targets = block.jumps.iter().filter_map(|label| blocks.iter().position(|b| b.label == *label));
        let below = (!block.ends && i + 1 < blocks.len()).then_some(i + 1);
        targets.chain(below).for_each(|target| before[target].push(i));
    }
    let mut loops: Vec<Loop> = Vec::new();
    for (header, from) in before.iter().enumerate() {
        let mut open: Vec<usize> = from.iter().copied().filter(|&i| i >= header).collect();
        if open.is_empty() {
            continue;
        }
        let mut body = BTreeSet::from([header]);
        while let Some(i) = open.pop() {
            if body.insert(i) {
                open.extend(before[i].iter().filter(|&&i| i > header));
            }
        }
        loops.push(Loop { header, body });
    }
    loops
}

/// What is in the loop that has the most matrix products, then the most FMAs, of its own, outside loops within it. These are
/// counted in, once. `None` where no loop has any. The assembly is what RADV prints.
pub fn hottest_loop(assembly: &str) -> Option<Mix> {
    let blocks = blocks(assembly);
    let loops = loops(&blocks);
    let sum = |body: &mut dyn Iterator<Item = usize>| {
        let mut mix = Mix::default();
        body.for_each(|i| mix += blocks[i].mix);
        mix
    };
    let own = |l: &Loop| {
        let inner: Vec<&Loop> =
            loops.iter().filter(|o| o.header != l.header && l.body.contains(&o.header)).collect();
        sum(&mut l.body.iter().copied().filter(|i| !inner.iter().any(|o| o.body.contains(i))))
    };
    let (mix, hottest) = loops.iter().map(|l| (own(l), l)).max_by_key(|(mix, _)| (mix.matrix, mix.fma))?;
    (mix.matrix + mix.fma > 0).then(|| sum(&mut hottest.body.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two loops, the second with one within it.
    const ASSEMBLY: &str = "BB0:
\ts_load_b128 s[8:11], s[2:3], null      ; f4080201 f8000000
BB1:
\tv_fmac_f32_e32 v1, v2, v3              ; 10020201
\tv_mad_u32_u24 v1, v2, v3, v4           ; 10020201
\ts_cbranch_scc0 BB1                     ; bfa1085d
BB2:
\ts_cbranch_execz BB6                    ; bfa1085d
BB3:
\tds_load_b128 v[0:3], v9                ; 10020201
\ts_waitcnt lgkmcnt(0)                   ; bf89fc07
\tv_dual_fmac_f32 v1, v2, v3 :: v_dual_add_f32 v4, v5, v6 ; c8000000
\tv_dual_fmac_f32 v1, v2, v3 :: v_dual_fmaak_f32 v4, v5, v6, 0x0 ; c8000000
BB4:
\tbuffer_load_b32 v4, v5, s[0:3], 0 offen ; e0500000
\ts_cbranch_scc1 BB4                     ; bfa1085d
BB5:
\ts_barrier                              ; bfbd0000
\ts_branch BB2                           ; bfa00000
BB6:
\tbuffer_store_b32 v4, v5, s[0:3], 0 offen ; e0500000
\ts_endpgm                               ; bfb00000
";

    #[test]
    fn the_hottest_loop_is_counted_with_the_loops_within_it() {
        let mix = hottest_loop(ASSEMBLY).expect("there are FMAs in loops");
        assert_eq!(mix, Mix { matrix: 0, fma: 3, other: 1, scalar: 4, workgroup: 1, memory: 1 });
        assert!((mix.fma_share() - 0.3).abs() < 1e-12);
        // The inner loop alone has none.
        let rest = ASSEMBLY.replace("fmac", "add").replace("fmaak", "add");
        assert_eq!(hottest_loop(&rest), None);
        assert_eq!(hottest_loop(""), None);
    }

    /// As Mesa 26.1 compiles some: the jump into the loop goes to its last block.
    #[test]
    fn a_loop_that_was_turned_round_begins_behind_the_jump_into_it() {
        let turned = "BB0:
\tv_mul_f32_e32 v1, v2, v3               ; 10020201
\ts_branch BB2                           ; bfa00000
BB1:
\tv_fmac_f32_e32 v1, v2, v3              ; 10020201
\ts_add_u32 s20, s20, -1                 ; 80148014
BB2:
\ts_cmp_eq_i32 s20, 0                    ; bf008014
\ts_cbranch_scc0 BB1                     ; bfa1085d
BB3:
\ts_endpgm                               ; bfb00000
";
        let mix = hottest_loop(turned).expect("there is an FMA in a loop");
        assert_eq!(mix, Mix { fma: 1, scalar: 3, ..Mix::default() });
    }

    #[test]
    fn instructions_are_told_apart() {
        for fma in [
            "v_fma_f32",
            "v_fmac_f32_e32",
            "v_fmaak_f32",
            "v_fma_mix_f32",
            "v_pk_fma_f16",
            "v_mad_f32",
            "v_mac_f32_e32",
        ] {
            assert!(is_fma(fma), "{fma}");
        }
        for other in
            ["v_mad_u32_u24", "v_mad_u64_u32", "v_mul_f32_e32", "v_max_f32_e32", "s_fmac_f32", "v_pk_mul_f16"]
        {
            assert!(!is_fma(other), "{other}");
        }
    }
}
