//! The cases of `inkwash doctor` in the page.

use super::{Engine, Failure, Result, json};
use crate::check;
use crate::gpu::{Device, Store};
use crate::graph::Dispatch;
use crate::ops::{self, Case};
use crate::shader::{Kernel, Target, expand};
use crate::tensor::Spec;
use serde_json::json as object;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wasm_bindgen::prelude::wasm_bindgen;

/// Cases of the catalogue on a device.
#[wasm_bindgen]
pub struct Doctor {
    device: Arc<Device>,
    cases: Vec<Case>,
}

/// The kernels that a case launches by any algorithm.
fn kernels(case: &Case, device: &Device) -> Vec<Kernel> {
    let x: Vec<Spec> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
    let Ok(y) = case.op.infer(&x) else { return Vec::new() };
    let candidates = case.op.candidates(&x, &y, &device.caps);
    candidates.iter().flat_map(|c| &c.program.dispatches).map(Dispatch::kernel).collect()
}

/// Whether a file is part of a kernel.
fn is_part(file: &str, kernel: &Kernel) -> bool {
    let imports = kernel.source.imports();
    kernel.source.name == file
        || imports.iter().any(|import| import.name == file)
        || kernel.variant.links().any(|(_, to)| to == file)
}

#[wasm_bindgen]
impl Doctor {
    /// The cases that the device can run and that launch a kernel of this file; all of them if it is empty.
    pub fn open(engine: &Engine, file: &str) -> Doctor {
        let device = engine.device.clone();
        let mut cases = ops::catalogue();
        let launches = |case: &Case| kernels(case, &device).iter().any(|kernel| is_part(file, kernel));
        cases.retain(|case| case.suits(&device.caps) && (file.is_empty() || launches(case)));
        Self { device, cases }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.cases.len()
    }

    /// Compiles every kernel that they launch, and says how many there are.
    ///
    /// # Errors
    /// The browser does not take one.
    pub async fn compile(&self) -> Result<usize> {
        let all: BTreeSet<Kernel> = self.cases.iter().flat_map(|case| kernels(case, &self.device)).collect();
        for kernel in &all {
            self.device.compile(kernel).await?;
        }
        Ok(all.len())
    }

    /// The texts that the browser is given for them, an array of pairs of kernel and text: for its compiler alone, which takes
    /// milliseconds where a driver takes seconds.
    ///
    /// # Errors
    /// A variant that its file cannot have.
    pub fn texts(&self) -> Result<String> {
        let all: BTreeSet<Kernel> = self.cases.iter().flat_map(|case| kernels(case, &self.device)).collect();
        let modules: BTreeMap<_, _> =
            all.into_iter().map(|kernel| ((kernel.source, kernel.variant.clone()), kernel)).collect();
        let text = |kernel: Kernel| {
            let expanded = expand(kernel.source, &kernel.variant, Target::Native)?;
            Ok((format!("{} [{}]", kernel.source.name, kernel.variant.describe()), expanded.text))
        };
        let texts: Vec<(String, String)> = modules.into_values().map(text).collect::<Result<_>>()?;
        Ok(json(&texts))
    }

    /// Runs a case by every algorithm: an object of its title and an array of outcomes.
    ///
    /// # Errors
    /// A number that no case has, or what the device says.
    pub async fn run(&self, number: usize) -> Result<String> {
        let case = self.cases.get(number).ok_or_else(|| Failure::input("there is no case of this number"))?;
        let outcomes = check::on_device(case, &Store::new(&self.device), &self.device.caps).await?;
        let told: Vec<_> = outcomes
            .iter()
            .map(|outcome| {
                object!({
                    "passed": outcome.passed(),
                    "algorithm": outcome.algorithm,
                    "of_limit": outcome.deviation.excess,
                    "relative_l2": outcome.deviation.relative_l2,
                    "guard_broken": outcome.guard_broken,
                    "kernels": outcome.kernels,
                })
            })
            .collect();
        Ok(json(&object!({ "title": case.title(), "outcomes": told })))
    }
}
