//! Which classes are drawn: by name or by index, one for all pictures or several in turn.

use crate::cli::Failure;

/// Names that a message lists at most.
const LISTED: usize = 20;

/// The classes of the pictures, in turn.
pub struct Classes {
    /// Picture i has label i modulo their number.
    pub labels: Vec<u32>,
    /// One for each label; empty if the model has no names.
    pub names: Vec<String>,
}

impl Classes {
    /// What `asked` names of a model with so many embeddings (none without classes): all of its classes in turn, without
    /// the label that stands for none, if nothing is asked. Notes are for the user.
    pub fn new(
        asked: Option<&str>,
        embeddings: Option<usize>,
        names: &[String],
        null_label: Option<u32>,
        note: &mut dyn FnMut(String),
    ) -> Result<Self, Failure> {
        let labels: Vec<u32> = match (asked, embeddings) {
            (Some(_), None) => {
                return Err("--class: this model was trained without classes; leave it out".into());
            }
            (Some(asked), Some(count)) => {
                // A name may have a comma in it.
                let parts = if named(asked, names).is_ok_and(|found| found.is_some()) {
                    vec![asked]
                } else {
                    asked.split(',').map(str::trim).collect()
                };
                parts.into_iter().map(|text| label(text, names, count, note)).collect::<Result<_, _>>()?
            }
            (None, _) => (0..).take(embeddings.unwrap_or(1)).filter(|&l| Some(l) != null_label).collect(),
        };
        let name = |&label: &u32| {
            names.get(label as usize).cloned().unwrap_or_else(|| format!("label {label}, of no name"))
        };
        let names = if names.is_empty() { Vec::new() } else { labels.iter().map(name).collect() };
        Ok(Self { labels, names })
    }

    /// The labels of so many pictures, from number `first` on.
    pub fn of_pictures(&self, first: usize, count: usize) -> Vec<u32> {
        (first..first + count).filter_map(|i| self.labels.get(i % self.labels.len()).copied()).collect()
    }

    /// What `count` pictures show, in lines: each class by its name with the number of its pictures.
    pub fn described(&self, count: usize) -> String {
        let of = |i: usize| count / self.names.len() + usize::from(i < count % self.names.len());
        let mut text = String::new();
        for (i, name) in self.names.iter().enumerate().take(LISTED) {
            text += &format!("class           {name} ({})\n", of(i));
        }
        if self.names.len() > LISTED {
            text += &format!("                and {} more classes\n", self.names.len() - LISTED);
        }
        text
    }
}

/// The class of this name, or of the only one that is written so but for capitals.
fn named(text: &str, names: &[String]) -> Result<Option<usize>, Failure> {
    if let Some(exact) = names.iter().position(|name| name == text) {
        return Ok(Some(exact));
    }
    let lower = text.to_lowercase();
    let alike: Vec<usize> = (0..names.len()).filter(|&i| names[i].to_lowercase() == lower).collect();
    match alike[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => {
            let names: Vec<&str> = alike.iter().map(|&i| names[i].as_str()).collect();
            Err(format!("--class {text}: which of {}? Write it with its capitals", names.join(", ")).into())
        }
    }
}

/// The label of a name, or else of an index.
fn label(text: &str, names: &[String], count: usize, note: &mut dyn FnMut(String)) -> Result<u32, Failure> {
    let index = text.parse::<u32>().ok().filter(|&index| (index as usize) < count);
    let found = named(text, names)?;
    if let (Some(name), Some(index)) = (found, index)
        && name != index as usize
    {
        let other =
            names.get(index as usize).map_or_else(String::new, |name| format!(", whose name is {name}"));
        note(format!(
            "--class {text} is the class of that name, number {name}, and not number {index}{other}"
        ));
    }
    let found = found.and_then(|name| u32::try_from(name).ok()).or(index);
    found.ok_or_else(|| {
        let last = count.saturating_sub(1);
        if names.is_empty() {
            return format!("--class {text}: this model has classes 0 to {last}").into();
        }
        let more = names.len().saturating_sub(LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let listed = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("--class {text}: this model has no such class. It has {listed}{more}; give a name, or a number from 0 to {last}")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(asked: Option<&str>, names: &[&str], null: Option<u32>) -> Result<(Vec<u32>, String), String> {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let count = names.len() + usize::from(null.is_some());
        let mut notes = String::new();
        let classes = Classes::new(asked, Some(count), &names, null, &mut |note| notes += &note);
        classes.map(|classes| (classes.labels, notes)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_class_is_a_name_and_else_an_index() {
        let names = ["cat", "Dog", "a,b", "10", "B", "b"];
        let labels = |asked| classes(Some(asked), &names, None).map(|(labels, _)| labels);
        assert_eq!(labels("cat"), Ok(vec![0]));
        assert_eq!(labels("CAT"), Ok(vec![0]));
        assert_eq!(labels("dog,cat, 3 ,cat"), Ok(vec![1, 0, 3, 0]));
        assert_eq!(labels("a,b"), Ok(vec![2]));
        assert_eq!((labels("b"), labels("B"), labels("4")), (Ok(vec![5]), Ok(vec![4]), Ok(vec![4])));
        assert_eq!(classes(None, &names, Some(6)).unwrap().0, [0, 1, 2, 3, 4, 5]);
        assert_eq!(classes(Some("6"), &names, Some(6)).unwrap().0, [6]);
        for (asked, words) in [
            ("dgo", "It has cat, Dog, "),
            ("6", "a number from 0 to 5"),
            ("-1", "no such"),
            ("cat,", "no such"),
        ] {
            let message = labels(asked).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        let message = classes(Some("ß"), &["SS", "ẞ", "ß ", "É", "é"], None).map(|(labels, _)| labels);
        assert_eq!(message, Ok(vec![1]));
        let message = classes(Some("AB"), &["aB", "Ab"], None).unwrap_err();
        assert!(message.contains("aB, Ab") && message.contains("capitals"), "{message}");
        let many: Vec<String> = (0..1000).map(|i| format!("n{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let message = classes(Some("x"), &many, None).unwrap_err();
        assert!(message.contains("n19 and 980 more") && !message.contains("n20"), "{message}");
    }

    #[test]
    fn a_number_that_is_a_name_is_the_name_and_said_to_be() {
        let (labels, note) = classes(Some("2"), &["0", "2", "4"], None).unwrap();
        assert_eq!(labels, [1]);
        assert!(note.contains("number 1, and not number 2, whose name is 4"), "{note}");
        assert_eq!(classes(Some("1"), &["0", "1", "2"], None).unwrap(), (vec![1], String::new()));
    }

    #[test]
    fn what_was_drawn_is_counted_by_name() {
        let classes = Classes { labels: vec![0, 5], names: ["cat", "dog"].map(String::from).to_vec() };
        assert_eq!(classes.described(5), "class           cat (3)\nclass           dog (2)\n");
        assert_eq!(classes.of_pictures(1, 4), [5, 0, 5, 0]);
        let unnamed = Classes { labels: vec![0], names: Vec::new() };
        assert_eq!(unnamed.described(5), "");
    }
}
