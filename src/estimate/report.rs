//! An estimate as text for a terminal.

use super::{Estimate, MemoryByLife, OnGpu, Sums, WorkingMemory};
use crate::io::{columns, short};
use std::fmt::Write as _;

/// Sums by phase and operator, with their times and those by kernel if a GPU was named, the memory, and what was taken for granted.
pub fn text(estimate: &Estimate) -> String {
    let Estimate { totals, phases, operators, kernels, memory, on, .. } = estimate;
    let mut text = String::new();
    for (heading, sums) in [("phase", phases), ("operator", operators)] {
        let _ = writeln!(text, "{}", table(heading, sums, totals, on.as_ref()));
    }
    if let Some(on) = on {
        let _ = writeln!(text, "{}", table("kernel", kernels, totals, Some(on)));
    }
    let _ = writeln!(text, "{}", memory_table(memory));
    let _ = writeln!(text, "{}", working_table(&estimate.working_memory));
    if let Some(on) = on {
        text.push_str(&step(estimate, on));
    }
    text
}

/// A row for each sum, and one for all of them.
fn table(heading: &str, sums: &[Sums], totals: &Sums, on: Option<&OnGpu>) -> String {
    let counted = ["launches", "GFLOP", "other GFLOP", "MB read", "MB written"];
    let timed = ["ms", "share", "of f32 peak", "of bandwidth"];
    let heads = match on {
        Some(_) => [&timed[..], &counted, &["bound", heading]].concat(),
        None => [&counted[..], &[heading]].concat(),
    };
    let rows: Vec<Vec<String>> = sums.iter().chain([totals]).map(|row| cells(row, totals, on)).collect();
    columns(&heads, &rows, if on.is_some() { 2 } else { 1 })
}

fn cells(row: &Sums, totals: &Sums, on: Option<&OnGpu>) -> Vec<String> {
    let mut cells = Vec::new();
    if let (Some(on), Some(seconds)) = (on, row.seconds) {
        let percent = |part: f64, whole: f64| format!("{:.1} %", 100.0 * part / whole.max(f64::MIN_POSITIVE));
        let flops = (row.matrix_flops + row.other_flops) as f64;
        cells.push(format!("{:.3}", seconds * 1e3));
        cells.push(percent(seconds, totals.seconds.unwrap_or(0.0)));
        cells.push(percent(flops / on.gpu.flops_per_s, seconds));
        cells.push(percent(row.moved_bytes as f64 / on.gpu.bytes_per_s, seconds));
    }
    cells.push(row.launches.to_string());
    cells.push(short(row.matrix_flops as f64 * 1e-9));
    cells.push(short(row.other_flops as f64 * 1e-9));
    cells.push(short(row.bytes_read as f64 * 1e-6));
    cells.push(short(row.bytes_written as f64 * 1e-6));
    cells.extend(row.bound.map(|bound| bound.name().into()));
    cells.push(row.name.clone());
    cells
}

fn memory_table(memory: &MemoryByLife) -> String {
    let rows = [
        (memory.parameters, "parameters"),
        (memory.gradients, "their gradients"),
        (memory.optimizer, "optimizer: both moments, moving average"),
        (memory.log, "losses and log"),
        (memory.inputs, "inputs"),
        (memory.constants, "constants"),
        (memory.outputs, "outputs"),
        (memory.activations, "activations kept for the backward pass, in the launch that needs most"),
        (memory.passing, "other tensors in that launch"),
        (memory.scratch, "scratch in that launch"),
        (memory.unfilled, "left over in buffers that tensors of other sizes share"),
        (memory.step, "a training step"),
        (memory.evaluation, "evaluation and sampling, beside it"),
    ];
    let cells = rows.map(|(bytes, name)| vec![format!("{:.3}", bytes as f64 * 1e-6), name.into()]);
    columns(&["MB", "memory"], &cells, 1)
}

fn working_table(working: &[WorkingMemory]) -> String {
    let cells: Vec<Vec<String>> = working
        .iter()
        .map(|WorkingMemory { plan, planned, alive }| {
            let more = 100.0 * (*planned as f64 / (*alive).max(1) as f64 - 1.0);
            let mb = |bytes: u64| format!("{:.3}", bytes as f64 * 1e-6);
            vec![mb(*planned), mb(*alive), format!("{more:.1} %"), (*plan).into()]
        })
        .collect();
    columns(&["MB planned", "MB alive at most", "lost", "working memory"], &cells, 1)
}

/// How long the step takes, and why it might not.
fn step(estimate: &Estimate, on: &OnGpu) -> String {
    let mut text = String::new();
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let launches = estimate.totals.seconds.unwrap_or(0.0);
    let _ = writeln!(
        text,
        "modelled step on {}: {}, of which launches {} and gaps {}; {:.0} pictures/s\n",
        on.gpu.name,
        ms(on.step_seconds),
        ms(launches),
        ms(on.gap_seconds),
        on.pictures_per_s
    );
    for assumption in &on.assumptions {
        let _ = writeln!(text, "assumed         {assumption}");
    }
    for kernel in &on.unrecorded {
        let _ = writeln!(text, "not recorded    {kernel}");
    }
    text.push('\n');
    text
}
