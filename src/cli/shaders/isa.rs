//! `inkwash shaders isa`: what the driver's compiler makes of kernels.

use super::{DeviceArgs, Failure, find, of_runs, used, variant};
use crate::cli::operator::OperatorArgs;
use crate::cli::train::plan;
use crate::diffusion::Preset;
use crate::estimate::Gpu;
use crate::graph::{Caps, Kernels};
use crate::isa::{Compiler, Executable, IsaError, Mix, Property};
use crate::nn::Precision;
use crate::shader::{Folder, Kernel};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, clap::Args)]
pub struct IsaArgs {
    /// Shader file, and an entry point of it: conv2d_vectors, group_norm:normalize; all kernels of the presets if left out
    #[arg(value_name = "NAME[:ENTRY]")]
    name: Option<String>,
    /// A variant of NAME of your own, as for `shaders show`; repeatable
    #[arg(long, value_name = "NAME=VALUE", requires = "name", conflicts_with_all = ["preset", "batch", "precision", "on", "op"])]
    variant: Vec<String>,
    /// Kernels of a run of this network: training, held-out loss, sampling; repeatable
    #[arg(long, value_enum, value_name = "PRESET")]
    preset: Vec<Preset>,
    /// Pictures per micro-batch, by which kernels are chosen; several are joined by commas; 16 if left out
    #[arg(long, value_name = "B", value_delimiter = ',', value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch: Vec<usize>,
    /// Type in which activations and the weights of products are stored; several are joined by commas; f32 if left out
    #[arg(long, value_enum, value_name = "PRECISION", value_delimiter = ',')]
    precision: Vec<Precision>,
    /// Kernels that `train --dry-run --on GPU` plans there, those of matrix units too
    #[arg(long, value_name = "GPU")]
    on: Option<String>,
    /// Kernels of this operator, as `doctor -v` names it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["preset", "batch", "precision", "on"])]
    op: Option<String>,
    /// Print one JSON object, with all that the driver tells
    #[arg(long)]
    json: bool,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print the assembly of the one kernel that is asked for
    #[arg(long, conflicts_with_all = ["json", "csv"])]
    asm: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// What a driver made of a kernel.
struct Row {
    kernel: Kernel,
    executable: Executable,
    hottest: Option<Mix>,
}

impl Row {
    fn new(kernel: Kernel, executable: Executable) -> Self {
        Self { hottest: executable.hottest_loop(), kernel, executable }
    }

    fn name(&self) -> String {
        format!("{}:{}", self.kernel.source.name, self.kernel.entry)
    }
}

pub fn run(args: &IsaArgs, device: &DeviceArgs) -> Result<(), Failure> {
    let kernels = kernels(args, device)?;
    let compiler = Compiler::open(device.device.as_deref())?;
    if args.asm {
        return assembly(&compiler, &kernels, device.folder.as_deref());
    }
    let rows = compile(&compiler, &kernels, device.folder.as_deref())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&to_json(&compiler, &rows))?);
    } else if args.csv {
        print!("{}", to_csv(&compiler, &rows));
    } else {
        print!("{}", table(&compiler, &rows));
    }
    Ok(())
}

/// The kernels that were asked for; never none.
fn kernels(args: &IsaArgs, device: &DeviceArgs) -> Result<Vec<Kernel>, Failure> {
    let Some(name) = &args.name else {
        return Ok(chosen(args, device)?.into_iter().collect());
    };
    let (file, entry) = name.split_once(':').map_or((name.as_str(), None), |(f, e)| (f, Some(e)));
    let source = find(file)?;
    // A file that is named alone is looked for in all that is ever launched.
    let of_no_run =
        args.preset.is_empty() && args.batch.is_empty() && args.precision.is_empty() && args.on.is_none();
    let anywhere = of_no_run && args.op.is_none();
    let mut kernels = if anywhere { used()? } else { chosen(args, device)? };
    kernels.retain(|kernel| kernel.source == source);
    if kernels.is_empty() {
        return Err(format!("none of the kernels that were asked for is of {}", source.file()).into());
    }
    let entries: BTreeSet<&str> = kernels.iter().map(|kernel| kernel.entry).collect();
    let entries = entries.into_iter().collect::<Vec<_>>().join(", ");
    kernels.retain(|kernel| entry.is_none_or(|entry| kernel.entry == entry));
    if kernels.is_empty() {
        return Err(format!("{name}: {} has the entry points {entries}", source.file()).into());
    }
    if !args.variant.is_empty() {
        let variant = variant(source, &args.variant)?;
        kernels = kernels.into_iter().map(|k| Kernel { variant: variant.clone(), ..k }).collect();
    }
    Ok(kernels.into_iter().collect())
}

/// The kernels of an operator, or of runs.
fn chosen(args: &IsaArgs, device: &DeviceArgs) -> Result<BTreeSet<Kernel>, Failure> {
    if let Some(op) = &args.op {
        let caps = Caps::webgpu(device.kernels().unwrap_or(Kernels::Workgroup)).with_f16();
        let mut kernels = BTreeSet::new();
        for case in args.operator.cases(op, Precision::F32)? {
            let inputs: Vec<_> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
            let outputs = case.op.infer(&inputs)?;
            let candidates = case.op.candidates(&inputs, &outputs, &caps);
            kernels.extend(candidates.iter().flat_map(|c| &c.program.dispatches).map(|d| d.kernel()));
        }
        return Ok(kernels);
    }
    let batches = if args.batch.is_empty() { &[16] } else { args.batch.as_slice() };
    let presets = if args.preset.is_empty() { &Preset::ALL } else { args.preset.as_slice() };
    let precisions = if args.precision.is_empty() { &[Precision::F32] } else { args.precision.as_slice() };
    let gpu = args.on.as_deref().map(Gpu::parse).transpose().map_err(|e| format!("--on {e}"))?;
    of_runs(presets, batches, precisions, |config| plan(config, gpu.as_ref(), device))
}

/// What the driver makes of each, on all processors.
fn compile(compiler: &Compiler, kernels: &[Kernel], folder: Option<&Folder>) -> Result<Vec<Row>, IsaError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let work = || -> Result<(), IsaError> {
            while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                let made = compiler.kernel(kernel, folder)?;
                let mut rows = rows.lock().expect("no thread panics");
                rows.extend(made.into_iter().map(|executable| Row::new(kernel.clone(), executable)));
            }
            Ok(())
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    let mut rows = rows.into_inner().expect("no thread panics");
    rows.sort_by_cached_key(|row| (row.name(), row.kernel.variant.clone(), row.executable.name.clone()));
    Ok(rows)
}

fn assembly(compiler: &Compiler, kernels: &[Kernel], folder: Option<&Folder>) -> Result<(), Failure> {
    let [kernel] = kernels else {
        let names: Vec<String> = kernels
            .iter()
            .map(|k| format!("{}:{} [{}]", k.source.name, k.entry, k.variant.describe()))
            .collect();
        return Err(format!(
            "--asm prints one kernel; give NAME:ENTRY and --variant for one of these {}:\n{}",
            names.len(),
            names.join("\n")
        )
        .into());
    };
    for executable in compiler.kernel(kernel, folder)? {
        let Some(text) = executable.assembly else {
            return Err(format!("{} ({}) prints no assembly", compiler.device, compiler.driver).into());
        };
        print!("{text}");
    }
    Ok(())
}

fn to_json(compiler: &Compiler, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let mut object = Map::new();
        object.insert("kernel".into(), row.name().into());
        object.insert("variant".into(), row.kernel.variant.describe().into());
        object.insert("executable".into(), row.executable.name.as_str().into());
        object.insert("subgroup_size".into(), row.executable.subgroup_size.into());
        for property in Property::ALL {
            object.insert(property.name().into(), row.executable.property(property).into());
        }
        object.insert("loop".into(), json!(row.hottest));
        object.insert("fma_share".into(), json!(row.hottest.map(|mix| mix.fma_share())));
        let told = row.executable.statistics.iter().map(|s| (s.name.clone(), s.value.clone()));
        object.insert("statistics".into(), told.collect::<Map<_, _>>().into());
        Value::Object(object)
    };
    json!({
        "device": compiler.device,
        "driver": compiler.driver,
        "kernels": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// A line for each kernel, under a line that names the driver and one of names.
fn to_csv(compiler: &Compiler, rows: &[Row]) -> String {
    let mut text = format!("# {}, {}\n", compiler.driver, compiler.device);
    text += "kernel,variant,registers,spills,scratch,matrix,fma,other,scalar,workgroup,memory\n";
    for row in rows {
        let property = |p| row.executable.property(p).map_or(String::new(), |n| n.to_string());
        let Mix { matrix, fma, other, scalar, workgroup, memory } = row.hottest.unwrap_or_default();
        let told = [Property::Registers, Property::Spills, Property::Scratch].map(property).join(",");
        let (name, variant) = (row.name(), row.kernel.variant.describe());
        text += &format!("{name},{variant},{told},{matrix},{fma},{other},{scalar},{workgroup},{memory}\n");
    }
    text
}

fn table(compiler: &Compiler, rows: &[Row]) -> String {
    let mut text = format!("{}   {}\n\n", compiler.device, compiler.driver);
    text += "             registers        spills             bytes of              \
             |      instructions of the hottest loop              FMA |\n";
    text += "subgroup vector scalar vector scalar scratch workgroup   code occupancy \
             | matrix  FMA other scalar workgroup memory share | kernel\n";
    for row in rows {
        let of = |p| row.executable.property(p).map_or("-".into(), |n: u64| n.to_string());
        let [registers, scalar, spills, scalar_spills, scratch, workgroup, code, occupancy] =
            Property::ALL.map(of);
        text += &format!(
            "{:>8} {registers:>6} {scalar:>6} {spills:>6} {scalar_spills:>6} {scratch:>7} {workgroup:>9} {code:>6} {occupancy:>9} | ",
            row.executable.subgroup_size
        );
        text += &match row.hottest {
            Some(mix) if mix != Mix::default() => {
                let Mix { matrix, fma, other, scalar, workgroup, memory } = mix;
                format!(
                    "{matrix:>6} {fma:>4} {other:>5} {scalar:>6} {workgroup:>9} {memory:>6} {:>4.0}%",
                    100.0 * mix.fma_share()
                )
            }
            _ => format!("{:>6} {:>4} {:>5} {:>6} {:>9} {:>6} {:>5}", "-", "-", "-", "-", "-", "-", "-"),
        };
        text += &format!(" | {} [{}]\n", row.name(), row.kernel.variant.describe());
    }
    if let [row] = rows {
        text += "\nas the driver says it\n";
        for statistic in &row.executable.statistics {
            let value = statistic.value.to_string();
            text += &format!("  {:<22} {value:<20} {}\n", statistic.name, statistic.description);
        }
    }
    text
}
