//! Every operator, case by case: gradients in f64 (no device), and values on a device.

use inkwash::gpu::{Choice, Device, Store};
use inkwash::graph::{Caps, Kernels};
use inkwash::{check, ops};

/// Central differences with h = 1e-5 in f64 are good to about h² + 1e-16/h = 1e-10 of the scale.
#[test]
fn gradients_agree_with_finite_differences() {
    let mut checked = 0;
    let mut failures = Vec::new();
    for case in ops::catalogue() {
        if case.large || case.gradients.is_empty() {
            continue;
        }
        let error = check::gradient(&case).unwrap_or_else(|e| panic!("{}: {e}", case.title()));
        if error.is_nan() || error > 1e-6 {
            failures.push(format!("{}: {error:.2e}", case.title()));
        }
        checked += 1;
    }
    assert!(checked > 0 && failures.is_empty(), "{}", failures.join("\n"));
}

fn values_on_device(kernels: Kernels) {
    let device = match Device::open(&Choice::default()) {
        Ok(device) => device,
        Err(e) => {
            assert!(std::env::var_os("INKWASH_REQUIRE_DEVICE").is_none(), "a device is required: {e}");
            eprintln!("SKIPPED, no device: {e}");
            return;
        }
    };
    let caps = Caps { kernels, ..device.caps.clone() };
    let filter = std::env::var("INKWASH_CASE").unwrap_or_default();
    let mut failures = Vec::new();
    let mut checked = 0;
    for case in ops::catalogue().iter().filter(|c| c.title().contains(&filter)) {
        checked += 1;
        match check::on_device(case, &Store::new(&device), &caps) {
            Ok(o) if o.passed() => {}
            Ok(o) => {
                let d = o.deviation;
                failures.push(format!(
                    "{} in {}: element {} is {} instead of {}, {:.2} times the tolerance, relative L2 {:.1e}{}; {}",
                    case.title(), o.output, d.worst, d.got, d.expected, d.excess, d.relative_l2,
                    if o.guard_broken { ", WROTE PAST ITS END" } else { "" }, o.kernels
                ));
            }
            Err(e) => failures.push(format!("{}: {e}", case.title())),
        }
    }
    assert!(checked > 0, "no case has a title that contains `{filter}`");
    assert!(failures.is_empty(), "{} failures on {:?}\n{}", failures.len(), device, failures.join("\n"));
}

#[test]
fn values_agree_with_references_in_registers() {
    values_on_device(Kernels::Registers);
}

#[test]
fn values_agree_with_references_in_workgroup_memory() {
    values_on_device(Kernels::Workgroup);
}
