//! The folder of a run: what is never replaced or done twice in it, and what is refused with the way out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::records;
use common::training::{Finished, copy, cut_log, end_of, files, losses, resumed, run, tiny};
use inkwash::diffusion::UNet;
use inkwash::io::tensor_file;
use inkwash::train::{ModelFolder, RunOptions, TrainConfig, TrainEvent, read_config, train};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

#[test]
fn a_finished_run_is_left_as_it_is() {
    let Some(finished) = Finished::new() else { return };
    let before = files(&finished.path());
    for steps in [6, 4] {
        let config = TrainConfig { steps, data: "no such pictures".into(), ..finished.config.clone() };
        let mut told = Vec::new();
        let options = resumed(&finished.path());
        let no_device = || panic!("a device was opened");
        train(no_device, &config, &options, &AtomicBool::new(false), |event| {
            told.push(matches!(event, TrainEvent::NothingToDo { step: 6, .. }));
        })
        .unwrap();
        assert_eq!(told, [true]);
        assert!(files(&finished.path()) == before, "files were changed");
    }
    // It goes on where more steps are asked for, with a word on the learning rate, which had come down to nothing.
    let longer = TrainConfig { steps: 9, ..finished.config.clone() };
    let told = run(&finished.device, &longer, &resumed(&finished.path())).unwrap();
    assert!(
        told.contains("warning: the learning rate jumps from ") && told.contains("steps was 6 and is 9"),
        "{told}"
    );
    assert!(told.contains("\nstarted 6\ncheckpoint 9\n"), "{told}");
    assert_eq!(losses(&finished.path()).iter().map(|l| l.0).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
}

/// Whatever has become of the newest checkpoint, the one before it is named, and taken only when it is asked for.
#[test]
fn a_damaged_checkpoint_leads_to_the_one_before() {
    let Some(finished) = Finished::new() else { return };
    let path = finished.path();
    let newest = path.join("checkpoints/step-000006.safetensors");
    let whole = std::fs::read(&newest).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    let data = whole.len() / 2;
    let damages = [
        Vec::new(),
        whole[..whole.len() - 1].to_vec(),
        whole[..100].to_vec(),
        flipped(3),
        flipped(40),
        flipped(data),
        flipped(whole.len() - 1),
    ];
    let resume = |options: &RunOptions| run(&finished.device, &finished.config, options);
    for damaged in damages {
        std::fs::write(&newest, &damaged).unwrap();
        let before = files(&path);
        let e = resume(&resumed(&path)).unwrap_err().to_string();
        for words in ["step-000006.safetensors", "Nothing was changed", "is of step 3", "--from-step 3"] {
            assert!(e.contains(words), "no `{words}` in: {e}");
        }
        assert!(files(&path) == before, "files were changed");
    }
    let from = |step| RunOptions { from_step: Some(step), ..resumed(&path) };
    let e = resume(&from(4)).unwrap_err().to_string();
    assert!(e.contains("no checkpoint of step 4; --from-step can be 3 or 6"), "{e}");

    // The damaged one is set aside, under a name that was free, and its steps are taken again.
    let aside = |number: &str| path.join(format!("checkpoints/step-000006.safetensors.set-aside{number}"));
    let damaged = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &whole).unwrap();
    let expected = (end_of(&path), records(&path));
    std::fs::write(&newest, &damaged).unwrap();
    std::fs::write(aside(""), "earlier").unwrap();
    let told = resume(&from(3)).unwrap();
    assert!(told.starts_with("started 3\ncheckpoint 6\n"), "{told}");
    assert!((end_of(&path), records(&path)) == expected, "another run");
    assert_eq!(std::fs::read(aside("")).unwrap(), b"earlier");
    assert!(std::fs::read(aside("-2")).unwrap() == damaged);
    assert!(path.join("checkpoints/step-000003.safetensors").is_file(), "a set-aside checkpoint counted");

    // Without an older one there is no flag to take.
    std::fs::remove_file(path.join("checkpoints/step-000003.safetensors")).unwrap();
    std::fs::write(&newest, "").unwrap();
    let e = resume(&resumed(&path)).unwrap_err().to_string();
    assert!(
        e.contains("no older checkpoint") && e.contains("a copy of the file") && !e.contains("--from-step"),
        "{e}"
    );
}

/// A run that ended before its first checkpoint: both obvious commands begin it again.
#[test]
fn a_run_without_a_checkpoint_begins_again() {
    let Some(finished) = Finished::new() else { return };
    let begun = |name: &str| {
        let path = finished.folder.path().join(name);
        copy(&finished.path(), &path);
        std::fs::remove_dir_all(path.join("checkpoints")).unwrap();
        std::fs::create_dir(path.join("checkpoints")).unwrap();
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        path
    };
    let resume = begun("resumed");
    let told = finished.catches_up(&resume);
    assert!(told.starts_with("note: ") && told.contains("begins again at step 0\nstarted 0\n"), "{told}");

    let anew = begun("anew");
    let shorter = TrainConfig { steps: 2, warmup_steps: 0, sample_every: 0, ..finished.config.clone() };
    let told = run(&finished.device, &shorter, &RunOptions::new(&anew)).unwrap();
    assert!(told.starts_with("note: ") && told.contains("a new one takes its place\nstarted 0\n"), "{told}");
    assert_eq!(losses(&anew).len(), 2);
    assert_eq!(read_config(&anew.join("config.toml")).unwrap(), shorter);
    let samples: Vec<PathBuf> = files(&anew.join("samples")).into_keys().collect();
    assert_eq!(samples, [anew.join("samples/step-000002.png")], "a grid of the run before is left");

    // Anything of the user's is not replaced, and neither are weights.
    for name in ["notes.txt", "model.safetensors"] {
        let path = begun(name);
        std::fs::write(path.join(name), "mine").unwrap();
        let before = files(&path);
        let e = run(&finished.device, &finished.config, &RunOptions::new(&path)).unwrap_err().to_string();
        assert!(e.contains("already holds files"), "{e}");
        let e = run(&finished.device, &finished.config, &resumed(&path)).unwrap_err().to_string();
        assert!(e.contains("holds no checkpoint; put one back"), "{e}");
        assert!(files(&path) == before);
    }
}

#[test]
fn a_folder_is_not_trained_in_twice_at_once() {
    let Some(finished) = Finished::new() else { return };
    let lock = std::fs::File::open(finished.path().join(".inkwash-lock")).unwrap();
    lock.lock().unwrap();
    let longer = TrainConfig { steps: 8, ..finished.config.clone() };
    let before = files(&finished.path());
    let e = run(&finished.device, &longer, &resumed(&finished.path())).unwrap_err().to_string();
    assert!(e.contains("another process is training in"), "{e}");
    assert!(files(&finished.path()) == before);
    drop(lock);
    run(&finished.device, &longer, &resumed(&finished.path())).unwrap();
}

/// A grid and a curve that cannot be written cost neither the training nor its checkpoint.
#[test]
fn pictures_that_fail_do_not_end_the_training() {
    let Some(finished) = Finished::new() else { return };
    let path = finished.killed("failing", |path| {
        std::fs::remove_file(path.join("samples/step-000003.png")).unwrap();
        cut_log(path, |_| false);
    });
    // A folder where the file should be: whoever may write anywhere cannot rename over it.
    for name in ["samples/step-000006.png", "loss.png"] {
        std::fs::create_dir_all(path.join(name).join("in the way")).unwrap();
    }
    let e = run(&finished.device, &finished.config, &resumed(&path)).unwrap_err().to_string();
    for words in
        ["step-000006.png", "All steps are done", "2 of the sample grids", "checkpoint of step 6 is whole"]
    {
        assert!(e.contains(words), "no `{words}` in: {e}");
    }
    assert!(end_of(&path) == end_of(&finished.path()));
    assert_eq!(records(&path), records(&finished.path()));
    for name in ["samples/step-000006.png", "loss.png"] {
        std::fs::remove_dir_all(path.join(name)).unwrap();
    }
    assert_eq!(finished.catches_up(&path), "started 6\ngrid 6\n");
}

/// Pictures of one grey each, in a folder for each class.
fn write_classes(folder: &Path, classes: &[(&str, u8)]) {
    for &(class, count) in classes {
        std::fs::create_dir_all(folder.join(class)).unwrap();
        for i in 0..count {
            let picture = image::GrayImage::from_pixel(8, 8, image::Luma([40 * i]));
            picture.save(folder.join(class).join(format!("{i}.png"))).unwrap();
        }
    }
}

/// A label stands for the class of a name, whatever else lies in the folder later.
#[test]
fn a_run_goes_on_with_the_classes_it_began_with() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    write_classes(&data, &[("cat", 3), ("dog", 3), ("eel", 3)]);
    let config = TrainConfig {
        data: data.to_str().unwrap().into(),
        class_conditional: true,
        steps: 2,
        batch: 4,
        sample_count: 3,
        sample_steps: 1,
        ..tiny()
    };
    run(&device, &config, &RunOptions::new(&out)).unwrap();
    let names = ["cat", "dog", "eel"];
    let saved = read_config(&out.join("config.toml")).unwrap();
    assert_eq!(saved.class_names, names);
    assert_eq!(records(&out)[0]["class_names"], serde_json::json!(names));
    let unet = UNet::new(&saved.unet_config(0)).unwrap();
    let kept = || ModelFolder::new(&out).load_checkpoint(&unet.parameters).unwrap().pictures.unwrap();
    assert_eq!(kept().class_names, names);
    let longer = TrainConfig { steps: 3, ..saved };

    // 1. Missing, renamed, new.
    let before = files(&out);
    let refused = |words: &[&str]| {
        let e = run(&device, &longer, &resumed(&out)).unwrap_err().to_string();
        for word in ["\"cat\", \"dog\", \"eel\"", "Give the data back"].iter().chain(words) {
            assert!(e.contains(word), "no `{word}` in: {e}");
        }
        assert!(files(&out) == before, "files were changed");
    };
    let rename = |from: &str, to: &str| std::fs::rename(data.join(from), data.join(to)).unwrap();
    std::fs::rename(data.join("cat"), folder.path().join("cat")).unwrap();
    refused(&["missing: \"cat\"", "Label 0 was \"cat\" and would now be \"dog\""]);
    std::fs::rename(folder.path().join("cat"), data.join("cat")).unwrap();
    rename("dog", "hound");
    refused(&["missing: \"dog\"", "new: \"hound\""]);
    rename("hound", "dog");
    write_classes(&data, &[("ant", 2)]);
    refused(&["new: \"ant\"", "Label 0 was \"cat\" and would now be \"ant\""]);
    std::fs::remove_dir_all(data.join("ant")).unwrap();

    // 2. More pictures of the same classes are said.
    write_classes(&data, &[("eel", 5)]);
    let told = run(&device, &longer, &resumed(&out)).unwrap();
    assert!(told.contains("warning: the data has 11 pictures, and had 9"), "{told}");
    assert_eq!(kept().training, 11);

    // 3. From a version that kept no names.
    let checkpoint = out.join("checkpoints/step-000003.safetensors");
    let mut file = tensor_file::read(&checkpoint).unwrap();
    file.metadata.retain(|key, _| key == "next_step" || key == "steps_taken");
    tensor_file::write(&checkpoint, &file).unwrap();
    let old = TrainConfig { steps: 4, class_names: Vec::new(), ..longer.clone() };
    let told = run(&device, &old, &resumed(&out)).unwrap();
    assert!(told.contains("warning: the run has not kept the names of its classes"), "{told}");
    assert_eq!(kept().class_names, names);

    // 4. Names in a configuration that somebody wrote.
    let other = TrainConfig { class_names: vec!["dog".into(), "cat".into(), "eel".into()], ..config };
    let e = run(&device, &other, &RunOptions::new(folder.path().join("other"))).unwrap_err().to_string();
    for words in ["class_names in the configuration", "in another order", "Leave class_names out"] {
        assert!(e.contains(words), "no `{words}` in: {e}");
    }
}
